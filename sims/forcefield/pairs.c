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
    int32_t atoms, bonds, angles, torsions;
    int32_t has_born, has_tanh, has_neck, has_salt, has_cutoff, has_switch;
    const int32_t *bond_atoms, *angle_atoms, *torsion_atoms, *torsion_order;
    const real *bond;    /* length, k */
    const real *angle;   /* theta, k */
    const real *torsion; /* cosine then sine coefficients, 0 .. MAX_PERIODICITY */
    const real *pair;    /* PAIR_* below, rows of the upper triangle */
    const real *neck;    /* NECK_* below, likewise */
    const real *atom;    /* ATOM_* below */
    real surface, kappa, cutoff, krf, crf, switch_start, switch_scale;
} Model;

enum {
    PAIR_COULOMB, PAIR_LJ12, PAIR_LJ6, PAIR_POLAR, PAIR_CUT, PAIR_FAR, PAIR_SCREENED,
    PAIR_WIDTH = 8
};
enum { NECK_ON_I, NECK_AT_I, NECK_ON_J, NECK_AT_J, NECK_END, NECK_WIDTH };
enum {
    ATOM_OFFSET, ATOM_SCALED, ATOM_RADIUS, ATOM_POLAR, ATOM_SCREENED, ATOM_ALPHA,
    ATOM_WIDTH = ATOM_ALPHA + 3
};

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
INLINE Integral near_formula(V r, V inverse, real own, real scaled, int slopes)
{
    V upper = r + scaled, gap = r - scaled;
    V size = larger(gap, -gap);
    M engulfed = size < own; /* the lower limit is then the atom's own surface */
    V lower = choose(engulfed, splat(own), size);
    V common = rcp(lower * upper);
    V l = upper * common, u = lower * common;
    V ratio = rounded(scaled * scaled * inverse), ll = rounded(l * l), uu = rounded(u * u);
    V spread = R(0.25) * (r - ratio), squares = uu - ll;
    V log_part = R(0.5) * inverse * logarithm(lower * lower * common);
    V value = R(0.5) * (l - u + spread * squares + log_part);
    M counted = upper > own;
    if (!slopes) return (Integral){keep(counted, value), splat(0)};
    V moving = choose(engulfed, splat(0), choose(gap < 0, splat(-1), splat(1)));
    V rate = uu - ll * moving + R(0.25) * (R(1.0) + ratio * inverse) * squares;
    rate += R(2.0) * spread * (ll * l * moving - uu * u);
    rate += inverse * (R(0.5) * (l * moving - u) - log_part);
    return (Integral){keep(counted, value), keep(counted, R(0.5) * rate * inverse)};
}

static Integral near_integral(V r, V inverse, real own, real scaled)
{
    return near_formula(r, inverse, own, scaled, 1);
}

static V near_value(V r, V inverse, real own, real scaled)
{
    return near_formula(r, inverse, own, scaled, 0).value;
}

/* What atoms a and b do to each other. Which formula serves a lane depends on its own distance
 * alone, so the bits of a conformation do not depend on its neighbours in the block. */
INLINE void both_integrals(const real *a, const real *b, V r2, real far, Integral *on_a,
                           Integral *on_b, int slopes)
{
    V inverse = rsqrt(r2), inverse2 = inverse * inverse;
    V by_a = a[ATOM_SCALED] * inverse2, by_b = b[ATOM_SCALED] * inverse2;
    M apart = r2 > far;
    if (any(apart)) {
        V ratio_a = by_b * b[ATOM_SCALED], ratio_b = by_a * a[ATOM_SCALED];
        V common = rcp((R(1.0) - ratio_a) * (R(1.0) - ratio_b));
        V outer_a = rounded(common * (R(1.0) - ratio_b));
        V outer_b = rounded(common * (R(1.0) - ratio_a));
        *on_a = far_integral(ratio_a, outer_a, R(0.5) * by_b, inverse2);
        *on_b = far_integral(ratio_b, outer_b, R(0.5) * by_a, inverse2);
        if (all(apart)) return;
    }
    V r = r2 * inverse;
    if (!slopes) {
        V near_a = near_value(r, inverse, a[ATOM_OFFSET], b[ATOM_SCALED]);
        V near_b = near_value(r, inverse, b[ATOM_OFFSET], a[ATOM_SCALED]);
        on_a->value = choose(apart, on_a->value, near_a);
        on_b->value = choose(apart, on_b->value, near_b);
        return;
    }
    Integral near_a = near_integral(r, inverse, a[ATOM_OFFSET], b[ATOM_SCALED]);
    Integral near_b = near_integral(r, inverse, b[ATOM_OFFSET], a[ATOM_SCALED]);
    *on_a = (Integral){choose(apart, on_a->value, near_a.value),
                       choose(apart, on_a->slope, near_a.slope)};
    *on_b = (Integral){choose(apart, on_b->value, near_b.value),
                       choose(apart, on_b->slope, near_b.slope)};
}

/* What a neck adds to an integral (Mongan et al. 2007), at d from where it is greatest. */
INLINE void add_neck(Integral *on, M reached, real height, V d, V inverse)
{
    V d2 = d * d, d4 = d2 * d2;
    V fall = rcp(R(1.0) + d2 * (R(100.0) + R(0.3e6) * d4));
    V value = keep(reached, height * fall);
    on->value += value;
    on->slope -= value * fall * d * (R(200.0) + R(1.8e6) * d4) * inverse;
}

INLINE void add_necks(const real *neck, V r2, Integral *on_i, Integral *on_j)
{
    V inverse = rsqrt(r2), r = r2 * inverse;
    M reached = r <= neck[NECK_END];
    if (!any(reached)) return;
    add_neck(on_i, reached, neck[NECK_ON_I], r - neck[NECK_AT_I], inverse);
    add_neck(on_j, reached, neck[NECK_ON_J], r - neck[NECK_AT_J], inverse);
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

/* Body of the first pass; a feature that the compiler knows to be absent costs nothing. */
INLINE void integrals(const Model *m, Block *w, int slopes, int cutoff, int neck)
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
            both_integrals(a, b, r2, m->pair[PAIR_WIDTH * p + PAIR_FAR], &on_i, &on_j,
                           slopes);
            if (neck) add_necks(m->neck + NECK_WIDTH * p, r2, &on_i, &on_j);
            if (cutoff) {
                M inside = r2 <= m->cutoff * m->cutoff;
                on_i = (Integral){keep(inside, on_i.value), keep(inside, on_i.slope)};
                on_j = (Integral){keep(inside, on_j.value), keep(inside, on_j.slope)};
            }
            sum += on_i.value;
            w->sum[j] += on_j.value;
            w->slope[p] = r2;
            if (slopes) w->own[p] = on_i.slope, w->other[p] = on_j.slope;
        }
        w->sum[i] = sum;
    }
}

/* First pass: distances, Born integrals and, with slopes, their derivatives. */
INLINE void born_integrals(const Model *m, Block *w, int slopes)
{
    if (m->has_neck) integrals(m, w, slopes, m->has_cutoff, 1);
    else if (m->has_cutoff) integrals(m, w, slopes, 1, 0);
    else integrals(m, w, slopes, 0, 0);
}

/* Inverse Born radius from psi = I * offset radius, and d(1/B)/dpsi. */
INLINE V inverse_radius(const Model *m, const real *a, V psi, V *slope)
{
    const real *alpha = a + ATOM_ALPHA;
    real within = R(1.0) / a[ATOM_OFFSET], outside = R(1.0) / a[ATOM_RADIUS];
    if (!m->has_tanh) {
        *slope = splat(-within);
        return within - within * psi;
    }
    V inner = psi * (alpha[0] + psi * (alpha[1] + psi * alpha[2]));
    V inner_rate = alpha[0] + psi * (R(2.0) * alpha[1] + R(3.0) * psi * alpha[2]);
    /* 1 - tanh(inner), kept apart: the inverse radius is a small difference. */
    V rest = R(2.0) * rcp(exponential(R(2.0) * smaller(inner, splat(40))) + R(1.0));
    *slope = -outside * rest * (R(2.0) - rest) * inner_rate;
    return (within - outside) + rest * outside;
}

/* Born radii, dB/dI, and the energies of single atoms with their derivatives in B. */
static V born_radii(const Model *m, Block *w, V *radius_rate)
{
    V energy = splat(0);
    for (int i = 0; i < m->atoms; i++) {
        const real *a = m->atom + ATOM_WIDTH * i;
        V slope, inverse = inverse_radius(m, a, w->sum[i] * a[ATOM_OFFSET], &slope);
        V born = rcp(inverse);
        V ratio = a[ATOM_RADIUS] * inverse;
        V cube = ratio * ratio * ratio;
        real reach = a[ATOM_RADIUS] + PROBE;
        V surface = m->surface * reach * reach * cube * cube;
        V polar = R(0.5) * a[ATOM_POLAR] * inverse;
        V rate = -(R(6.0) * surface + polar) * inverse;
        if (m->has_salt) {
            V fade = exponential(-m->kappa * born);
            V screened = R(0.5) * a[ATOM_SCREENED] * inverse;
            polar -= screened * (R(1.0) - fade);
            rate += screened * ((R(1.0) - fade) * inverse - m->kappa * fade);
        }
        energy += surface + polar;
        w->radius[i] = born;
        w->inverse[i] = inverse;
        w->chain[i] = rate;
        radius_rate[i] = -born * born * a[ATOM_OFFSET] * slope;
    }
    return energy;
}

/* Takes a Lennard-Jones energy, and its -r dE/dr, to zero at the cutoff. */
INLINE void switch_off(const Model *m, V r, V *energy, V *push)
{
    V t = (r - m->switch_start) * m->switch_scale;
    t = smaller(larger(t, splat(0)), splat(1));
    V left = R(1.0) - t * t * t * (R(10.0) - t * (R(15.0) - R(6.0) * t));
    V fall = R(30.0) * m->switch_scale * t * t * (R(1.0) - t) * (R(1.0) - t);
    *push = *push * left + *energy * fall * r;
    *energy = rounded(*energy * left);
}

/* Energy and -dE/dr / r of Lennard-Jones and Coulomb for one pair. */
INLINE V direct_pair(const Model *m, const real *q, V r2, V *slope, int cutoff)
{
    int cut = cutoff && q[PAIR_CUT] != 0; /* exceptions know no cutoff */
    V inverse = rsqrt(r2), inverse2 = inverse * inverse;
    V sixth = inverse2 * inverse2 * inverse2;
    V repulsion = rounded(q[PAIR_LJ12] * sixth * sixth), attraction = rounded(q[PAIR_LJ6] * sixth);
    V coulomb = rounded(q[PAIR_COULOMB] * inverse);
    V lj = repulsion - attraction, push = R(12.0) * repulsion - R(6.0) * attraction;
    if (cut && m->has_switch) switch_off(m, rounded(r2 * inverse), &lj, &push);
    V energy = lj + coulomb;
    *slope = (push + coulomb) * inverse2;
    if (cut) {
        M inside = r2 <= m->cutoff * m->cutoff;
        energy = keep(inside, energy + q[PAIR_COULOMB] * (m->krf * r2 - m->crf));
        *slope = keep(inside, *slope - R(2.0) * m->krf * q[PAIR_COULOMB]);
    }
    return energy;
}

/* Polar energy of a pair with salt, where 1/f is known; *rate gets -dE/df / f. */
INLINE V salted(const Model *m, const real *q, V f2, V inverse, V *rate, int cutoff)
{
    V f = f2 * inverse, fade = exponential(-m->kappa * f);
    V strength = q[PAIR_POLAR] - q[PAIR_SCREENED] * (R(1.0) - fade);
    V beyond = cutoff ? inverse - R(1.0) / m->cutoff : inverse;
    *rate = inverse * (strength * inverse * inverse + m->kappa * q[PAIR_SCREENED] * fade * beyond);
    return strength * beyond;
}

/* Polar energy of a pair; *rate gets -dE/df / f. */
INLINE V polar_pair(const Model *m, const real *q, V r2, V f2, V *rate, int cutoff, int salt)
{
    V f = rsqrt(f2), energy;
    if (salt) {
        energy = salted(m, q, f2, f, rate, cutoff);
    } else {
        energy = rounded(q[PAIR_POLAR] * f);
        *rate = energy * f * f;
        if (cutoff) energy -= q[PAIR_POLAR] / m->cutoff;
    }
    if (cutoff) {
        M inside = r2 <= m->cutoff * m->cutoff;
        energy = keep(inside, energy);
        *rate = keep(inside, *rate);
    }
    return energy;
}

/* Body of the second pass, likewise. */
INLINE D energies(const Model *m, Block *w, int slopes, int cutoff, int salt)
{
    D total = {0};
    const real *q = m->pair;
    V *slope = w->slope;
    for (int i = 0; i < m->atoms; i++) {
        V row = splat(0), chain = splat(0), born = w->radius[i];
        V quarter = m->has_born ? R(-0.25) * w->inverse[i] : splat(0);
        for (int j = i + 1; j < m->atoms; j++, q += PAIR_WIDTH, slope++) {
            V r2 = *slope, push, energy = direct_pair(m, q, r2, &push, cutoff);
            if (m->has_born) {
                V exponent = r2 * quarter * w->inverse[j];
                V decay = exponential(exponent);
                V rate;
                V f2 = r2 + born * w->radius[j] * decay;
                energy += polar_pair(m, q, r2, f2, &rate, cutoff, salt);
                push += rate * (R(1.0) - R(0.25) * decay);
                rate *= R(-0.5) * decay * (R(1.0) - exponent);
                if (slopes) {
                    chain += rate * w->radius[j];
                    w->chain[j] += rate * born;
                }
            }
            if (slopes) *slope = push;
            row += energy;
        }
        if (slopes && m->has_born) w->chain[i] += chain;
        total += wide(row);
    }
    return total;
}

/* Second pass: all pair energies; with slopes, these replace the squared distances. */
INLINE D pair_energies(const Model *m, Block *w, int slopes)
{
    if (m->has_salt) return energies(m, w, slopes, m->has_cutoff, 1);
    if (m->has_cutoff) return energies(m, w, slopes, 1, 0);
    return energies(m, w, slopes, 0, 0);
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
