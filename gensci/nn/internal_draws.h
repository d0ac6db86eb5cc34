/* Draws from mixtures of normals and of von Mises densities, and log-densities of what was drawn.
 * Rows of parameters are components; the equations are those of mixtures.py. */

#ifndef GENSCI_INTERNAL_DRAWS_H
#define GENSCI_INTERNAL_DRAWS_H

#include "internal_network.h"

#define LOG_2PI 1.83787706640934548

/* Log of the sum of e^row. */
static void log_sum(const vec *rows, int64_t count, vec *out)
{
    for (int v = 0; v < NV; v++) {
        vec top = rows[v], sum = {0};
        for (int64_t k = 1; k < count; k++) top = greater(top, rows[k * NV + v]);
        for (int64_t k = 0; k < count; k++) sum += exponential(rows[k * NV + v] - top);
        out[v] = top + logarithm(sum);
    }
}

/* A component for each sample, by a uniform number; its centre and spread go to rows of their own.
 * Weights below e^-87 of the largest count as that. */
static void choose(const Tile *t, int64_t count, const double *uniform, float *centre,
                   float *spread)
{
    for (int v = 0; v < NV; v++) {
        vec top = t->logits[v];
        for (int64_t k = 1; k < count; k++) top = greater(top, t->logits[k * NV + v]);
        for (int64_t k = 0; k < count; k++)
            t->work[k * NV + v] = exponential(t->logits[k * NV + v] - top);
    }
    const float *weight = (const float *)t->work;
    for (int l = 0; l < LANES; l++) {
        double total = 0.0, sum = 0.0;
        int64_t k = 0;
        for (int64_t c = 0; c < count; c++) total += weight[c * LANES + l];
        for (double until = uniform[l] * total; k < count - 1; k++) {
            sum += weight[k * LANES + l];
            if (sum > until) break;
        }
        centre[l] = ((const float *)t->centre)[k * LANES + l];
        spread[l] = ((const float *)t->spread)[k * LANES + l];
    }
}

/* Adds a log-density: `work` holds those of the components. */
static void add_log_prob(const Tile *t, int64_t count)
{
    vec all_of_it[NV], density[NV];
    log_sum(t->logits, count, all_of_it);
    for (int64_t k = 0; k < count * NV; k++) t->work[k] += t->logits[k];
    log_sum(t->work, count, density);
    for (int v = 0; v < NV; v++) density[v] -= all_of_it[v];
    for (int l = 0; l < LANES; l++) t->log_prob[l] += ((const float *)density)[l];
}

/* One draw from normal components whose log-scales are `spread`. */
static void draw_normal(const Tile *t, int64_t count, const double *uniform, const float *normal,
                        vec *out)
{
    vec centre[NV], spread[NV];
    choose(t, count, uniform, (float *)centre, (float *)spread);
    for (int v = 0; v < NV; v++)
        out[v] = centre[v] + exponential(spread[v]) * ((const vec *)normal)[v];
}

/* Adds the log-density of x under those components. */
static void add_normal(const Tile *t, int64_t count, const vec *x)
{
    for (int64_t k = 0; k < count * NV; k++) {
        vec z = (x[k % NV] - t->centre[k]) * exponential(-t->spread[k]);
        t->work[k] = -0.5f * z * z - t->spread[k] - (float)(0.5 * LOG_2PI);
    }
    add_log_prob(t, count);
}

/* A stream of uniform numbers: splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195). */
static uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static double next_uniform(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15ull;
    return (double)(mixed(*state) >> 11) * 0x1p-53;
}

/* A von Mises draw about zero, as in mixtures.py (Best and Fisher 1979, doi:10.2307/2346732). */
static double von_mises(double kappa, uint64_t state)
{
    if (!(kappa < INFINITY)) return NAN; /* of a network that is broken */
    kappa = kappa < 1e-6 ? 1e-6 : kappa;
    double tau = 1.0 + sqrt(1.0 + 4.0 * kappa * kappa);
    double rho = (tau - sqrt(2.0 * tau)) / (2.0 * kappa), r = (1.0 + rho * rho) / (2.0 * rho);
    for (;;) {
        double z = cos(PI * next_uniform(&state)), u = next_uniform(&state);
        double side = next_uniform(&state) > 0.5 ? 1.0 : -1.0;
        double f = fmin(fmax((1.0 + r * z) / (r + z), -1.0), 1.0), c = kappa * (r - f);
        if (c * (2.0 - c) > u || log(c / u) + 1.0 - c >= 0.0) return side * acos(f);
    }
}

/* One draw from von Mises components whose log-concentrations are `spread`, in [-pi, pi]. */
static void draw_von_mises(const Tile *t, int64_t count, int64_t atom, vec *out)
{
    float centre[LANES], spread[LANES];
    choose(t, count, t->uniform + 3 * atom * LANES, centre, spread);
    for (int l = 0; l < LANES; l++) {
        uint64_t state = mixed(t->seed[l] + (uint64_t)(atom + 1) * 0xD1342543DE82EF95ull);
        double angle = centre[l] + von_mises(exp(spread[l]), state) + PI;
        ((float *)out)[l] = (float)(angle - 2.0 * PI * floor(angle / (2.0 * PI)) - PI);
    }
}

/* Adds the log-density of angles under those components. */
static void add_von_mises(const Tile *t, int64_t count, const vec *x)
{
    for (int64_t k = 0; k < count * NV; k++) {
        vec half, unused, kappa = exponential(t->spread[k]);
        sine_cosine(0.5f * (x[k % NV] - t->centre[k]), &half, &unused);
        t->work[k] = -2.0f * kappa * half * half - (float)LOG_2PI - log_bessel(kappa);
    }
    add_log_prob(t, count);
}

#endif
