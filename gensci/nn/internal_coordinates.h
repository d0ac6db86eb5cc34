/* Torsion, bend and distance of the atom being placed: their conditional mixtures, draws, densities.
 * The equations are those of internal_heads.py, steric.py and internal_temperature.py. */

#ifndef GENSCI_INTERNAL_COORDINATES_H
#define GENSCI_INTERNAL_COORDINATES_H

#include "internal_draws.h"

/* Where member `m` of a rotor's group would be: along the axis and across it. */
static void reach(const Molecule *mol, const Tile *t, int64_t m, vec *along, vec *across)
{
    float d = mol->length0[m], s = mol->bend0[m];
    for (int v = 0; v < NV; v++) {
        vec b = at_least(t->between[v], 0.05f), cosine = all(cosf(s));
        if (mol->closing[m]) cosine = (d * d + b * b - s * s) * reciprocal(2.0f * d * b);
        cosine = within(cosine, -0.99f, 0.99f);
        along[v] = d * cosine;
        across[v] = d * root(1.0f - cosine * cosine);
    }
}

/* Adds what member `m` of a group feels of placed atom `k` at each torsion of the grid. */
static void add_energies(const Network *net, const Molecule *mol, const Tile *t, int64_t m,
                         int64_t k, const vec *along, const vec *across)
{
    int64_t pair = m * mol->atoms + k;
    float sigma2 = mol->sigma2[pair], depth = mol->depth[pair], charge = mol->charge[pair];
    float united = (float)net->united;
    const float *turn = mol->turn + 2 * m * GRID;
    if (depth == 0.0f && charge == 0.0f) return;
    for (int v = 0; v < NV; v++) {
        vec a = t->local[3 * k * NV + v], b = t->local[(3 * k + 1) * NV + v];
        vec c = t->local[(3 * k + 2) * NV + v], x = along[v], y = across[v];
        vec same = (a - x) * (a - x) + y * y + b * b + c * c;
        b *= -2.0f * y;
        c *= -2.0f * y;
        for (int g = 0; g < GRID; g++) {
            vec square = at_least(same + turn[g] * b + turn[GRID + g] * c, 1e-4f);
            vec inverse = reciprocal_root(square), *sum = t->energy + g * STERIC * NV + v;
            vec ratio = at_most(sigma2 * inverse * inverse, 4.0f);
            ratio *= ratio * ratio;
            sum[0] += depth * (ratio * ratio - ratio);
            ratio = at_most(ratio, 8.0f) * united;
            sum[NV] += depth * (ratio * ratio - ratio);
            sum[2 * NV] += charge * inverse;
        }
    }
}

/* Energies of rotor i and of what turns with it, bounded, minus sign: (GRID, STERIC). */
static void steric(const Network *net, const Molecule *mol, const Tile *t, int64_t i)
{
    float largest = (float)net->largest;
    memset(t->energy, 0, sizeof(vec) * GRID * STERIC * NV);
    for (int64_t j = 0; j < mol->members; j++) {
        int64_t m = mol->group[i * mol->members + j];
        vec along[NV], across[NV];
        if (m < 0) continue;
        reach(mol, t, m, along, across);
        for (int64_t k = 0; k < i; k++) add_energies(net, mol, t, m, k, along, across);
    }
    for (int64_t r = 0; r < GRID * STERIC * NV; r++)
        t->energy[r] = -largest * hyperbolic_tangent(t->energy[r] * (1.0f / largest));
}

/* Two layers with SiLU between; the outputs are rounded up to ROWS. */
static vec *head(const Tile *t, const float *in, const float *in_bias, const float *out,
                 const float *out_bias, int64_t inputs, int64_t n, int64_t outputs)
{
    vec *result = t->wide + n * NV;
    product(in, in_bias, t->hidden, t->wide, inputs, n, 1, 0);
    for (int64_t r = 0; r < n * NV; r++) t->wide[r] = silu(t->wide[r]);
    product(out, out_bias, t->wide, result, n, outputs, 1, 0);
    return result;
}

/* Centres about their mean, further apart by the square root of the ratio of temperatures. */
static void stretch(const Molecule *mol, const Tile *t, int64_t count)
{
    vec total[NV];
    float by = (float)sqrt(mol->ratio);
    log_sum(t->logits, count, total);
    for (int v = 0; v < NV; v++) {
        vec mean = {0};
        for (int64_t k = v; k < count * NV; k += NV)
            mean += exponential(t->logits[k] - total[v]) * t->centre[k];
        for (int64_t k = v; k < count * NV; k += NV)
            t->centre[k] = mean + by * (t->centre[k] - mean);
    }
}

static vec bounded_log(vec x) { return within(x, -4.0f, 11.0f); }

/* The mixture of a torsion that bonding fixes, from the outputs of its head. */
static int64_t rigid_torsion(const Network *net, const Molecule *mol, const Tile *t, int64_t i,
                             const vec *given)
{
    int64_t free = net->free;
    for (int64_t k = 0; k < free; k++)
        for (int v = 0; v < NV; v++) {
            const vec *of = given + k * NV + v;
            int64_t at = k * NV + v;
            t->logits[at] = of[0];
            t->centre[at] =
                mol->torsion0[i] + (float)net->rigid_width * (net->around[k] + of[free * NV]);
            t->spread[at] = bounded_log(of[2 * free * NV] + (float)net->rigid_log_kappa);
        }
    if (mol->ratio == 1.0) return free;
    stretch(mol, t, free);
    for (int64_t k = 0; k < free * NV; k++) t->spread[k] -= (float)log(mol->ratio);
    return free;
}

/* The mixture of a rotor to the power of one over the ratio of temperatures. */
static void temper_rotor(const Network *net, const Molecule *mol, const Tile *t)
{
    double power = 1.0 / mol->ratio;
    float p = (float)power, cell = (float)((1.0 - power) * log(2.0 * PI / GRID));
    float turn = (float)((1.0 - power) * LOG_2PI);
    for (int64_t k = 0; k < GRID * NV; k++) t->logits[k] = p * t->logits[k] + cell;
    for (int64_t k = GRID * NV; k < (GRID + net->free) * NV; k++) {
        vec kappa = exponential(t->spread[k]);
        t->logits[k] = p * t->logits[k] + turn + log_bessel(p * kappa) - p * log_bessel(kappa);
        t->spread[k] += (float)log(power);
    }
}

/* The mixture of a rotor, from the outputs of its head and the energies on the grid. */
static int64_t rotor(const Network *net, const Molecule *mol, const Tile *t, int64_t i,
                     vec *given)
{
    int64_t free = net->free;
    const vec *kappa = given + 3 * free * NV, *gates = kappa + NV;
    vec *on_grid = given + rounded(3 * free + 1 + STERIC, ROWS) * NV;
    steric(net, mol, t, i);
    product(net->grid, net->grid_bias, t->hidden, on_grid, net->channels, rounded(GRID, ROWS), 1,
            0);
    for (int64_t k = 0; k < GRID * NV; k++) {
        int64_t v = k % NV, first = (k / NV) * STERIC * NV + v;
        vec energy = {0};
        for (int64_t f = 0; f < STERIC; f++)
            energy += (net->gate[f] + gates[f * NV + v]) * t->energy[first + f * NV];
        t->logits[k] = on_grid[k] + energy;
        t->centre[k] = all((float)((k / NV + 0.5) * (2.0 * PI / GRID) - PI));
        t->spread[k] = bounded_log(kappa[v] + (float)net->grid_log_kappa);
    }
    for (int64_t k = 0; k < free * NV; k++) {
        int64_t at = GRID * NV + k;
        t->logits[at] = given[k] + (float)net->free_logit;
        t->centre[at] = (float)PI * net->around[k / NV] + given[free * NV + k];
        t->spread[at] = bounded_log(given[2 * free * NV + k] + (float)net->free_log_kappa);
    }
    if (mol->ratio != 1.0) temper_rotor(net, mol, t);
    return GRID + free;
}

/* What the network is told of torsions: (TORSION). */
static void torsion_features(const Network *net, const Molecule *mol, int64_t i,
                             const vec *torsion, vec *out)
{
    for (int v = 0; v < NV; v++) {
        vec sine, cosine, swing, unused;
        sine_cosine(torsion[v] - mol->torsion0[i], &swing, &unused);
        sine_cosine(torsion[v], &sine, &cosine);
        swing = within(swing * (float)(1.0 / net->rigid_width), -8.0f, 8.0f);
        out[v] = mol->rigid[i] ? swing : all(0.0f);
        out[NV + v] = sine;
        out[2 * NV + v] = cosine;
        out[3 * NV + v] = 2.0f * sine * cosine;
        out[4 * NV + v] = 2.0f * cosine * cosine - 1.0f;
    }
}

/* The mixture of a bend or distance about `base` in units of `width`. */
static int64_t stiff(const Network *net, const Molecule *mol, const Tile *t, const vec *given,
                     float base, float width)
{
    int64_t n = net->stiff;
    float wider = logf(width) + 0.5f * (float)log(mol->ratio);
    for (int64_t k = 0; k < n * NV; k++) {
        t->logits[k] = given[k];
        t->centre[k] = base + width * (net->spread[k / NV] + given[n * NV + k]);
        t->spread[k] = within(given[2 * n * NV + k] - 0.3f, -5.0f, 3.0f) + wider;
    }
    if (mol->ratio != 1.0) stretch(mol, t, n);
    return n;
}

/* How far off its equilibrium a coordinate is, in thermal widths. */
static void scaled(const vec *x, float base, float width, vec *out)
{
    for (int v = 0; v < NV; v++) out[v] = within((x[v] - base) * (1.0f / width), -8.0f, 8.0f);
}

/* The coordinates of atom i where they are given, else neutral ones. */
static void begin(const Tile *t, int64_t i)
{
    for (int v = 0; v < NV; v++) {
        const vec *given = t->given ? t->given + 3 * i * NV + v : 0;
        t->torsion[v] = given ? given[0] : all(0.0f);
        t->bend[v] = given ? given[NV] : all((float)(0.5 * PI));
        t->distance[v] = given ? given[2 * NV] : all(1.0f);
    }
}

/* Torsion, bend and distance of atom i given `hidden`, drawn if they are not given; their
 * log-densities are added. */
static void coordinates(const Network *net, const Molecule *mol, const Tile *t, int64_t i)
{
    int64_t n = net->channels, few = rounded(3 * net->stiff, ROWS), count;
    vec *told = t->hidden + n * NV, *from;
    begin(t, i);
    if (i > 2) {
        from = head(t, net->torsion, net->torsion_bias, net->torsion_out, net->torsion_out_bias, n,
                    n, rounded(3 * net->free + 1 + STERIC, ROWS));
        count = mol->rigid[i] ? rigid_torsion(net, mol, t, i, from) : rotor(net, mol, t, i, from);
        if (!t->given) draw_von_mises(t, count, i, t->torsion);
        add_von_mises(t, count, t->torsion);
    }
    torsion_features(net, mol, i, t->torsion, told);
    if (i > 1) {
        from = head(t, net->bend, net->bend_bias, net->bend_out, net->bend_out_bias, n + TORSION, n,
                    few);
        count = stiff(net, mol, t, from, mol->bend0[i], mol->bend_scale[i]);
        if (!t->given)
            draw_normal(t, count, t->uniform + (3 * i + 1) * LANES, t->normal + 2 * i * LANES,
                        t->bend);
        add_normal(t, count, t->bend);
    }
    scaled(t->bend, mol->bend0[i], mol->bend_scale[i], told + TORSION * NV);
    if (i > 0) {
        from = head(t, net->length, net->length_bias, net->length_out, net->length_out_bias,
                    n + TORSION + 1, n, few);
        count = stiff(net, mol, t, from, mol->length0[i], mol->length_scale[i]);
        if (!t->given)
            draw_normal(t, count, t->uniform + (3 * i + 2) * LANES,
                        t->normal + (2 * i + 1) * LANES, t->distance);
        add_normal(t, count, t->distance);
    }
}

#endif
