/* Arithmetic of C kernels that keep LANES samples side by side, in single precision.
 *
 * A row is one number for each sample: NV vectors. An activation is rows one after the other, so
 * every operation runs over samples, and a sample's arithmetic does not depend on the others.
 */

#ifndef GENSCI_KERNEL_MATH_H
#define GENSCI_KERNEL_MATH_H

#include "vector_math.h"

#ifndef LANES
#define LANES 32
#endif
#define ROWS 8 /* outputs that the matrix product forms together */
#if defined(__AVX512F__) || !defined(__AVX__)
#define VECTORS 2
#else
#define VECTORS 1
#endif
#define NV (LANES / WIDTH)

/* out = W in + bias (+ out). W comes in panels of ROWS outputs, (panel, input, output); rows of
 * `out` lie `stride` rows apart. */
static void product(const float *restrict w, const float *restrict bias, const vec *restrict in,
                    vec *restrict out, int64_t inputs, int64_t outputs, int64_t stride, int add)
{
    for (int64_t o = 0; o < outputs; o += ROWS, w += inputs * ROWS)
        for (int64_t v = 0; v < NV; v += VECTORS) {
            vec sum[ROWS][VECTORS], *y = out + o * stride * NV + v;
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++) {
                    sum[i][j] = all(bias[o + i]);
                    if (add) sum[i][j] += y[i * stride * NV + j];
                }
            for (int64_t c = 0; c < inputs; c++) {
                vec x[VECTORS];
                __builtin_prefetch(w + (c + 64) * ROWS); /* weights come from a far cache */
                for (int j = 0; j < VECTORS; j++) x[j] = in[c * NV + v + j];
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                    for (int j = 0; j < VECTORS; j++) sum[i][j] += w[c * ROWS + i] * x[j];
            }
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++) y[i * stride * NV + j] = sum[i][j];
        }
}

/* Layer norm over n rows with a scale and a shift for each. */
static void normalise(const vec *restrict in, vec *restrict out, const float *scale,
                      const float *shift, int64_t n)
{
    vec mean[NV] = {{0}}, rate[NV] = {{0}};
    for (int64_t c = 0; c < n; c++)
        for (int v = 0; v < NV; v++) mean[v] += in[c * NV + v];
    for (int v = 0; v < NV; v++) mean[v] *= 1.0f / (float)n;
    for (int64_t c = 0; c < n; c++)
        for (int v = 0; v < NV; v++) {
            vec d = in[c * NV + v] - mean[v];
            rate[v] += d * d;
        }
    for (int v = 0; v < NV; v++) rate[v] = reciprocal_root(rate[v] * (1.0f / (float)n) + 1e-5f);
    for (int64_t c = 0; c < n; c++)
        for (int v = 0; v < NV; v++)
            out[c * NV + v] = (in[c * NV + v] - mean[v]) * rate[v] * scale[c] + shift[c];
}

#endif
