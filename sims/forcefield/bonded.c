/* Bonds, angles and torsions. Positions and forces are V[atoms][3]; forces are added if asked for.
 */

INLINE V dot(const V a[3], const V b[3]) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

INLINE void cross(const V a[3], const V b[3], V c[3])
{
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
}

INLINE void between(const V from[3], const V to[3], V d[3])
{
    for (int c = 0; c < 3; c++) d[c] = to[c] - from[c];
}

INLINE V bonds(const Model *m, V (*x)[3], V (*f)[3], int forces)
{
    V energy = splat(0);
    for (int b = 0; b < m->bonds; b++) {
        const int32_t *at = m->bond_atoms + 2 * b;
        V d[3];
        between(x[at[0]], x[at[1]], d);
        V r2 = larger(dot(d, d), splat(MIN_DISTANCE * MIN_DISTANCE));
        V inverse = rsqrt(r2);
        V stretch = r2 * inverse - m->bond[2 * b];
        V pull = m->bond[2 * b + 1] * stretch;
        energy += R(0.5) * pull * stretch;
        if (!forces) continue;
        pull *= inverse;
        for (int c = 0; c < 3; c++) {
            f[at[0]][c] += pull * d[c];
            f[at[1]][c] -= pull * d[c];
        }
    }
    return energy;
}

INLINE V angles(const Model *m, V (*x)[3], V (*f)[3], int forces)
{
    V energy = splat(0), tiny = splat(R(1e-12));
    for (int k = 0; k < m->angles; k++) {
        const int32_t *at = m->angle_atoms + 3 * k;
        V a[3], b[3], c[3];
        between(x[at[1]], x[at[0]], a);
        between(x[at[1]], x[at[2]], b);
        cross(a, b, c);
        V inverse = rsqrt(larger(dot(c, c), splat(TINY)));
        V ab = dot(a, b);
        V bend = angle_of(dot(c, c) * inverse, ab) - m->angle[2 * k];
        V torque = m->angle[2 * k + 1] * bend;
        energy += R(0.5) * torque * bend;
        if (!forces) continue;
        torque *= inverse;
        V along_a = torque * ab * rcp(larger(dot(a, a), tiny));
        V along_b = torque * ab * rcp(larger(dot(b, b), tiny));
        for (int c3 = 0; c3 < 3; c3++) {
            V fa = torque * b[c3] - along_a * a[c3], fb = torque * a[c3] - along_b * b[c3];
            f[at[0]][c3] += fa;
            f[at[2]][c3] += fb;
            f[at[1]][c3] -= fa + fb;
        }
    }
    return energy;
}

/* Energy of a Fourier series and its derivative in the angle, from cos and sin of the angle. */
INLINE V series(const real *a, int order, V cos1, V sin1, V *slope)
{
    V c = cos1, s = sin1, energy = splat(a[0]), sum = splat(0);
    for (int n = 1; n <= order; n++) {
        real in_cos = a[n], in_sin = a[MAX_PERIODICITY + 1 + n];
        energy += in_cos * c + in_sin * s;
        sum += R(n) * in_sin * c - R(n) * in_cos * s;
        V next = c * cos1 - s * sin1;
        s = s * cos1 + c * sin1;
        c = next;
    }
    *slope = sum;
    return energy;
}

/* Forces after Blondel and Karplus 1996, free of singularities but for collinear atoms. */
INLINE V torsions(const Model *m, V (*x)[3], V (*f)[3], int forces)
{
    V energy = splat(0), tiny = splat(R(1e-12));
    for (int k = 0; k < m->torsions; k++) {
        const int32_t *at = m->torsion_atoms + 4 * k;
        V b1[3], b2[3], b3[3], u[3], v[3], slope;
        between(x[at[0]], x[at[1]], b1);
        between(x[at[1]], x[at[2]], b2);
        between(x[at[2]], x[at[3]], b3);
        cross(b1, b2, u);
        cross(b2, b3, v);
        V uu = dot(u, u), vv = dot(v, v), axis2 = larger(dot(b2, b2), tiny);
        V scale = rsqrt(larger(uu * vv, splat(TINY)));
        V inverse = rsqrt(axis2), axis = axis2 * inverse;
        const real *coefficients = m->torsion + 2 * (MAX_PERIODICITY + 1) * k;
        energy += series(coefficients, m->torsion_order[k], dot(u, v) * scale,
                         dot(b1, v) * axis * scale, &slope);
        if (!forces) continue;
        V on_u = slope * axis * rcp(larger(uu, tiny));
        V on_v = slope * axis * rcp(larger(vv, tiny));
        V s = dot(b1, b2) * inverse * inverse, t = dot(b3, b2) * inverse * inverse;
        for (int c = 0; c < 3; c++) {
            V first = on_u * u[c], last = -on_v * v[c], middle = t * last - s * first;
            f[at[0]][c] += first;
            f[at[1]][c] += middle - first;
            f[at[2]][c] -= middle + last;
            f[at[3]][c] += last;
        }
    }
    return energy;
}
