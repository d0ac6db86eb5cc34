/* Energies and forces of many conformations of one molecule.
 *
 * A block holds LANES conformations side by side, so every instruction does useful work in every
 * lane and all indices and parameters are shared. Three passes over the pairs of atoms:
 * Born integrals with their derivatives; pair energies, their slopes and the derivatives in the
 * Born radii; and the accumulation of forces. What a pass hands to the next is three vectors for
 * a pair, which fit the second-level cache for peptides of up to some ten residues.
 */
#include "lanes.c"

#define MAX_PERIODICITY 6
#define MIN_DISTANCE R(2e-3) /* nm, as in terms.py */
#define TINY R(1e-18)
#define PROBE R(0.14)

/* Must match model_class in layout.py. */
typedef struct {
    int32_t atoms, bonds, angles, torsions, has_born, has_cutoff;
    const int32_t *bond_atoms, *angle_atoms, *torsion_atoms, *torsion_order;
    const real *bond;    /* length, k */
    const real *angle;   /* theta, k */
    const real *torsion; /* cosine then sine coefficients, 0 .. MAX_PERIODICITY */
    const real *pair;    /* PAIR_* below, rows of the upper triangle */
    const real *atom;    /* ATOM_* below */
    real alpha[3], surface, cutoff, krf, crf;
} Model;

enum { PAIR_COULOMB, PAIR_LJ12, PAIR_LJ6, PAIR_POLAR, PAIR_CUT, PAIR_FAR, PAIR_WIDTH = 8 };
enum { ATOM_OFFSET, ATOM_SCALED, ATOM_RADIUS, ATOM_POLAR, ATOM_WIDTH };

typedef struct {
    V (*x)[3], (*f)[3];
    V *sum;     /* Born integral of each atom, nm^-1 */
    V *radius;  /* Born radius, nm */
    V *inverse; /* its inverse */
    V *chain;   /* dE/dB, then dE/dI */
    V *slope;   /* of pairs: r^2, then -dE/dr / r at fixed Born radii */
    V *own;     /* of pairs i < j: dI_i/dr / r */
    V *other;   /* and dI_j/dr / r */
} Block;

#include "bonded.c"

INLINE D wide(V x) { return __builtin_convertvector(x, D); }

typedef struct { V value, slope; } Integral; /* I in nm^-1 and dI/dr / r */

/* Descreening of an atom by a distant one, with ratio = (s/r)^2 and outer = 1/(1 - ratio):
 * there L = r - s and the formula of Hawkins et al. is (s / 2r^2) (outer - atanh(s/r) r/s). */
INLINE Integral far_integral(V ratio, V outer, V weight, V inverse2)
{
    V log_part = atanh_ratio(ratio);
    V slope = weight * inverse2 * (outer * (R(1.0) - R(2.0) * outer) + log_part);
    return (Integral){weight * (outer - log_part), slope};
}

/* The general case (Hawkins, Cramer, Truhlar 1995). */
static Integral near_integral(V r, V inverse, real own, real scaled)
{
    V upper = r + scaled, gap = r - scaled;
    V size = larger(gap, -gap);
    M engulfed = size < own; /* the lower limit is then the atom's own surface */
    V lower = choose(engulfed, splat(own), size);
    V common = rcp(lower * upper);
    V l = upper * common, u = lower * common;
    V moving = choose(engulfed, splat(0), choose(gap < 0, splat(-1), splat(1)));
    V ratio = scaled * scaled * inverse;
    V spread = R(0.25) * (r - ratio), squares = u * u - l * l;
    V log_part = R(0.5) * inverse * logarithm(lower * lower * common);
    V value = R(0.5) * (l - u + spread * squares + log_part);
    V rate = u * u - l * l * moving + R(0.25) * (R(1.0) + ratio * inverse) * squares;
    rate += R(2.0) * spread * (l * l * l * moving - u * u * u);
    rate += inverse * (R(0.5) * (l * moving - u) - log_part);
    M counted = upper > own;
    return (Integral){keep(counted, value), keep(counted, R(0.5) * rate * inverse)};
}

/* What atoms a and b do to each other. Which formula serves a lane depends on its own distance
 * alone, so the bits of a conformation do not depend on its neighbours in the block. */
INLINE void both_integrals(const real *a, const real *b, V r2, real far, Integral *on_a,
                           Integral *on_b)
{
    V inverse = rsqrt(r2), inverse2 = inverse * inverse;
    V by_a = a[ATOM_SCALED] * inverse2, by_b = b[ATOM_SCALED] * inverse2;
    M apart = r2 > far;
    if (any(apart)) {
        V ratio_a = by_b * b[ATOM_SCALED], ratio_b = by_a * a[ATOM_SCALED];
        V common = rcp((R(1.0) - ratio_a) * (R(1.0) - ratio_b));
        V outer_a = common * (R(1.0) - ratio_b), outer_b = common * (R(1.0) - ratio_a);
        *on_a = far_integral(ratio_a, outer_a, R(0.5) * by_b, inverse2);
        *on_b = far_integral(ratio_b, outer_b, R(0.5) * by_a, inverse2);
        if (all(apart)) return;
    }
    V r = r2 * inverse;
    Integral near_a = near_integral(r, inverse, a[ATOM_OFFSET], b[ATOM_SCALED]);
    Integral near_b = near_integral(r, inverse, b[ATOM_OFFSET], a[ATOM_SCALED]);
    *on_a = (Integral){choose(apart, on_a->value, near_a.value),
                       choose(apart, on_a->slope, near_a.slope)};
    *on_b = (Integral){choose(apart, on_b->value, near_b.value),
                       choose(apart, on_b->slope, near_b.slope)};
}

INLINE V squared_distance(const V a[3], const V b[3])
{
    V d[3];
    between(a, b, d);
    return larger(dot(d, d), splat(MIN_DISTANCE * MIN_DISTANCE));
}

static void distances(const Model *m, Block *w)
{
    V *r2 = w->slope;
    for (int i = 0; i < m->atoms; i++)
        for (int j = i + 1; j < m->atoms; j++) *r2++ = squared_distance(w->x[i], w->x[j]);
}

/* First pass: distances, Born integrals and their derivatives. */
static void born_integrals(const Model *m, Block *w)
{
    long p = 0;
    for (int i = 0; i < m->atoms; i++) w->sum[i] = splat(0);
    for (int i = 0; i < m->atoms; i++) {
        const real *a = m->atom + ATOM_WIDTH * i;
        V sum = w->sum[i];
        for (int j = i + 1; j < m->atoms; j++, p++) {
            const real *b = m->atom + ATOM_WIDTH * j;
            V r2 = squared_distance(w->x[i], w->x[j]);
            Integral on_i = {r2, r2}, on_j = {r2, r2};
            both_integrals(a, b, r2, m->pair[PAIR_WIDTH * p + PAIR_FAR], &on_i, &on_j);
            if (m->has_cutoff) {
                M inside = r2 <= m->cutoff * m->cutoff;
                on_i = (Integral){keep(inside, on_i.value), keep(inside, on_i.slope)};
                on_j = (Integral){keep(inside, on_j.value), keep(inside, on_j.slope)};
            }
            sum += on_i.value;
            w->sum[j] += on_j.value;
            w->slope[p] = r2, w->own[p] = on_i.slope, w->other[p] = on_j.slope;
        }
        w->sum[i] = sum;
    }
}

/* Born radii, dB/dI, and the energies of single atoms with their derivatives in B. */
static V born_radii(const Model *m, Block *w, V *radius_rate)
{
    V energy = splat(0);
    for (int i = 0; i < m->atoms; i++) {
        const real *a = m->atom + ATOM_WIDTH * i;
        V psi = w->sum[i] * a[ATOM_OFFSET];
        V inner = psi * (m->alpha[0] + psi * (m->alpha[1] + psi * m->alpha[2]));
        V inner_rate = m->alpha[0] + psi * (R(2.0) * m->alpha[1] + R(3.0) * psi * m->alpha[2]);
        /* 1 - tanh(inner), kept apart: the inverse radius is a small difference. */
        V rest = R(2.0) * rcp(exponential(R(2.0) * smaller(inner, splat(40))) + R(1.0));
        real outside = R(1.0) / a[ATOM_RADIUS];
        V inverse = (R(1.0) / a[ATOM_OFFSET] - outside) + rest * outside;
        V born = rcp(inverse);
        V ratio = a[ATOM_RADIUS] * inverse;
        V cube = ratio * ratio * ratio;
        real reach = a[ATOM_RADIUS] + PROBE;
        V surface = m->surface * reach * reach * cube * cube;
        V polar = R(0.5) * a[ATOM_POLAR] * inverse;
        energy += surface + polar;
        w->radius[i] = born;
        w->inverse[i] = inverse;
        w->chain[i] = -(R(6.0) * surface + polar) * inverse;
        radius_rate[i] =
            born * born * outside * a[ATOM_OFFSET] * rest * (R(2.0) - rest) * inner_rate;
    }
    return energy;
}

/* Energy and -dE/dr / r of Lennard-Jones and Coulomb for one pair. */
INLINE V direct_pair(const Model *m, const real *q, V r2, V *slope)
{
    V inverse = rsqrt(r2), inverse2 = inverse * inverse;
    V sixth = inverse2 * inverse2 * inverse2;
    V repulsion = q[PAIR_LJ12] * sixth * sixth, attraction = q[PAIR_LJ6] * sixth;
    V coulomb = q[PAIR_COULOMB] * inverse;
    V energy = repulsion - attraction + coulomb;
    *slope = (R(12.0) * repulsion - R(6.0) * attraction + coulomb) * inverse2;
    if (m->has_cutoff && q[PAIR_CUT] != 0) { /* exceptions know no cutoff */
        M inside = r2 <= m->cutoff * m->cutoff;
        energy = keep(inside, energy + q[PAIR_COULOMB] * (m->krf * r2 - m->crf));
        *slope = keep(inside, *slope - R(2.0) * m->krf * q[PAIR_COULOMB]);
    }
    return energy;
}

/* Second pass: all pair energies; slopes replace squared distances. */
static D pair_energies(const Model *m, Block *w)
{
    D total = {0};
    const real *q = m->pair;
    V *slope = w->slope;
    for (int i = 0; i < m->atoms; i++) {
        V row = splat(0), chain = splat(0), born = w->radius[i];
        V quarter = m->has_born ? R(-0.25) * w->inverse[i] : splat(0);
        for (int j = i + 1; j < m->atoms; j++, q += PAIR_WIDTH, slope++) {
            V r2 = *slope, energy = direct_pair(m, q, r2, slope);
            if (m->has_born) {
                V exponent = r2 * quarter * w->inverse[j];
                V decay = exponential(exponent);
                V f = rsqrt(r2 + born * w->radius[j] * decay);
                V polar = q[PAIR_POLAR] * f;
                V rate = polar * f * f;
                if (m->has_cutoff) {
                    M inside = r2 <= m->cutoff * m->cutoff;
                    polar = keep(inside, polar - q[PAIR_POLAR] / m->cutoff);
                    rate = keep(inside, rate);
                }
                energy += polar;
                *slope += rate * (R(1.0) - R(0.25) * decay);
                rate *= R(-0.5) * decay * (R(1.0) - exponent);
                chain += rate * w->radius[j];
                w->chain[j] += rate * born;
            }
            row += energy;
        }
        if (m->has_born) w->chain[i] += chain;
        total += wide(row);
    }
    return total;
}

/* Third pass: forces along every pair, through the Born radii too. */
static void pair_forces(const Model *m, Block *w)
{
    long p = 0;
    for (int i = 0; i < m->atoms; i++) {
        V at[3] = {w->x[i][0], w->x[i][1], w->x[i][2]}, sum[3] = {splat(0), splat(0), splat(0)};
        V chain = m->has_born ? w->chain[i] : splat(0);
        for (int j = i + 1; j < m->atoms; j++, p++) {
            V slope = w->slope[p];
            if (m->has_born) slope -= chain * w->own[p] + w->chain[j] * w->other[p];
            for (int c = 0; c < 3; c++) {
                V push = slope * (at[c] - w->x[j][c]);
                sum[c] += push;
                w->f[j][c] -= push;
            }
        }
        for (int c = 0; c < 3; c++) w->f[i][c] += sum[c];
    }
}
