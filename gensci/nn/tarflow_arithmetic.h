/* Arithmetic of the inverse of the TarFlow: activations of LANES samples side by side. */

#ifndef GENSCI_TARFLOW_ARITHMETIC_H
#define GENSCI_TARFLOW_ARITHMETIC_H

#define LANES 64
#include "kernel_math.h"

#define COLUMNS 128 /* inputs that the matrix product reads before it goes to other outputs */
#define PANEL 192   /* hidden channels of a feed-forward network that are made at once */
#define ROW NV      /* vectors of a tile's samples */
#define AT(x, l) (*(vec *)((x) + (l)))

/* A part of a matrix with `stride` columns, and the biases of its rows or null. */
typedef struct {
    const void *w;
    int64_t stride, row, column, rows, columns;
    const float *bias;
} Part;

/* Activations (tiles, channels, LANES), tiles that many floats apart. */
typedef struct {
    float *at;
    int64_t tile;
} Span;

/* out = W in + bias (+ out) for one tile. */
static void panel(const float *w, int64_t stride, const float *bias, const float *in, float *out,
                  int64_t columns, int64_t rows, int add)
{
    for (int64_t o = 0; o < rows; o += ROWS) {
        const float *row = w + o * stride;
        for (int64_t l = 0; l < LANES; l += WIDTH * VECTORS) {
            vec acc[ROWS][VECTORS];
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++) {
                    vec start = {0};
                    if (bias) start += bias[o + i];
                    if (add) start += *(const vec *)(out + (o + i) * LANES + l + j * WIDTH);
                    acc[i][j] = start;
                }
            for (int64_t c = 0; c < columns; c++) {
                vec x[VECTORS];
                for (int j = 0; j < VECTORS; j++)
                    x[j] = *(const vec *)(in + c * LANES + l + j * WIDTH);
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                    for (int j = 0; j < VECTORS; j++) acc[i][j] += row[i * stride + c] * x[j];
            }
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++)
                    *(vec *)(out + (o + i) * LANES + l + j * WIDTH) = acc[i][j];
        }
    }
}

/* out = W in + bias (+ out) of plain floats, in panels of columns whose inputs stay in the first
 * cache. */
static void plain_product(Part m, Span in, Span out, int64_t tiles, int add)
{
    const float *w = (const float *)m.w + m.row * m.stride + m.column;
    for (int64_t c = 0; c < m.columns; c += COLUMNS) {
        int64_t wide = c + COLUMNS < m.columns ? COLUMNS : m.columns - c;
        for (int64_t g = 0; g < tiles; g++)
            panel(w + c, m.stride, c ? 0 : m.bias, in.at + g * in.tile + c * LANES,
                  out.at + g * out.tile, wide, m.rows, add || c);
    }
}

/* Layer norm over n channels with scale and shift for each channel. */
static void normalised(const float *in, float *out, const float *scale, const float *shift,
                       int64_t n)
{
    normalise((const vec *)in, (vec *)out, scale, shift, n);
}

/* x Phi(x) of n channels. */
static void gelu_channels(float *x, int64_t n)
{
    for (int64_t i = 0; i < n * LANES; i += WIDTH) AT(x, i) = gelu(AT(x, i));
}

/* value *= SiLU(gate), for n channels. */
static void gate_values(float *value, const float *gate, int64_t n)
{
    for (int64_t i = 0; i < n * LANES; i += WIDTH) AT(value, i) *= silu(AT(gate, i));
}

/* Attention of one token to `count` cached ones, cache (token, channels, LANES). Heads have an even
 * number of channels; the cache is read in the order in which it lies. */
static void attend(const float *q, const float *keys, const float *values, float *out,
                   float *score, int64_t count, int64_t channels, int64_t heads)
{
    int64_t width = channels / heads, stride = channels * LANES;
    float root = 1.0f / sqrtf((float)width);
    for (int64_t first = 0; first < stride; first += width * LANES) {
        vec top[ROW], sum[ROW];
        for (int j = 0; j < ROW; j++) top[j] = (vec){0} - INFINITY, sum[j] = (vec){0};
        for (int64_t t = 0; t < count; t++) {
            const float *k = keys + t * stride + first;
            vec dot[ROW] = {{0}};
            for (int64_t d = 0; d < width * LANES; d += LANES)
                for (int j = 0; j < ROW; j++)
                    dot[j] += AT(q, first + d + j * WIDTH) * AT(k, d + j * WIDTH);
            for (int j = 0; j < ROW; j++) {
                vec s = dot[j] * root;
                AT(score, t * LANES + j * WIDTH) = s;
                top[j] = pick(s > top[j], s, top[j]);
            }
        }
        for (int64_t t = 0; t < count; t++)
            for (int j = 0; j < ROW; j++) {
                vec p = fading(AT(score, t * LANES + j * WIDTH) - top[j]);
                AT(score, t * LANES + j * WIDTH) = p;
                sum[j] += p;
            }
        for (int64_t d = 0; d < width * LANES; d += 2 * LANES) {
            vec acc[2 * ROW] = {{0}};
            for (int64_t t = 0; t < count; t++) {
                const float *v = values + t * stride + first + d;
                for (int j = 0; j < 2 * ROW; j++)
                    acc[j] += AT(score, t * LANES + j % ROW * WIDTH) * AT(v, j * WIDTH);
            }
            for (int j = 0; j < 2 * ROW; j++) AT(out, first + d + j * WIDTH) = acc[j] / sum[j % ROW];
        }
    }
}

/* u += w * gate, or u = w without a gate. */
static void merge(float *restrict u, const float *restrict w, const float *gate, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        for (int l = 0; l < LANES; l++)
            u[c * LANES + l] =
                gate ? u[c * LANES + l] + w[c * LANES + l] * gate[c] : w[c * LANES + l];
}

#endif
