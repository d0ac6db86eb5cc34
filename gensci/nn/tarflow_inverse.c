/* Inverse of one TarFlow block for a tile of LANES samples of one system, in single precision.
 *
 * Samples lie innermost: an activation is (channels, LANES), so every loop runs over samples and
 * a sample's arithmetic does not depend on how many there are. The order of the pointers in
 * `Layer` and `Block` is that of native_inverse.py; matrices are (rows, columns).
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 64
#define ROWS 8      /* outputs that the matrix product forms together */
#define COLUMNS 128 /* inputs that it reads before it goes to other outputs */
#if defined(__AVX512F__)
#define WIDTH 16
#define VECTORS 2
#elif defined(__AVX__)
#define WIDTH 8
#define VECTORS 1
#else
#define WIDTH 4
#define VECTORS 2
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH), may_alias));

typedef struct {
    const float *scale1, *shift1, *gate1; /* adaptive terms (atoms, channels); null: additive */
    const float *additive;
    const float *scale2, *shift2, *gate2; /* of the transition */
    const float *norm_scale, *norm_shift, *qkv, *qkv_bias;
    const float *q_scale, *q_shift, *k_scale, *k_shift, *out, *out_bias;
    const float *mlp_scale, *mlp_shift, *mlp_in, *mlp_in_bias, *mlp_out, *mlp_out_bias;
    const float *value_gate, *transition_out; /* null: no transition */
} Layer;

typedef struct {
    const float *enter;         /* (channels, 3) */
    const float *offsets;       /* (atoms, channels) */
    const float *leave, *leave_bias;
    const Layer *layers;
    int64_t num_layers, atoms, channels, heads, mlp_width, transition_width;
} Block;

/* out = W in + bias (+ out) for columns c0 to c1 of W (rows, columns). */
static void panel(const float *w, const float *bias, const float *in, float *out,
                  int64_t columns, int64_t c0, int64_t c1, int64_t rows, int add)
{
    for (int64_t o = 0; o < rows; o += ROWS) {
        const float *row = w + o * columns;
        for (int64_t l = 0; l < LANES; l += WIDTH * VECTORS) {
            vec acc[ROWS][VECTORS];
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++) {
                    vec start = {0};
                    if (bias) start += bias[o + i];
                    if (add) start += *(const vec *)(out + (o + i) * LANES + l + j * WIDTH);
                    acc[i][j] = start;
                }
            for (int64_t c = c0; c < c1; c++) {
                vec x[VECTORS];
                for (int j = 0; j < VECTORS; j++)
                    x[j] = *(const vec *)(in + c * LANES + l + j * WIDTH);
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                    for (int j = 0; j < VECTORS; j++) acc[i][j] += row[i * columns + c] * x[j];
            }
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < VECTORS; j++)
                    *(vec *)(out + (o + i) * LANES + l + j * WIDTH) = acc[i][j];
        }
    }
}

/* out = W in + bias (+ out), in panels of columns whose inputs stay in the first cache. */
static void product(const float *w, const float *bias, const float *in, float *out,
                    int64_t columns, int64_t rows, int add)
{
    for (int64_t c = 0; c < columns; c += COLUMNS) {
        int64_t end = c + COLUMNS < columns ? c + COLUMNS : columns;
        panel(w, c ? 0 : bias, in, out, columns, c, end, rows, add || c);
    }
}

/* Layer norm over n channels with scale and shift for each channel. */
static void normalise(const float *restrict in, float *restrict out, const float *scale,
                      const float *shift, int64_t n)
{
    float mean[LANES] = {0}, rate[LANES] = {0};
    for (int64_t c = 0; c < n; c++)
        for (int l = 0; l < LANES; l++) mean[l] += in[c * LANES + l];
    for (int l = 0; l < LANES; l++) mean[l] /= (float)n;
    for (int64_t c = 0; c < n; c++)
        for (int l = 0; l < LANES; l++) {
            float d = in[c * LANES + l] - mean[l];
            rate[l] += d * d;
        }
    for (int l = 0; l < LANES; l++) rate[l] = 1.0f / sqrtf(rate[l] / (float)n + 1e-5f);
    for (int64_t c = 0; c < n; c++)
        for (int l = 0; l < LANES; l++)
            out[c * LANES + l] = (in[c * LANES + l] - mean[l]) * rate[l] * scale[c] + shift[c];
}

/* e^x to single precision, held in the range of normal numbers. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float k = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest integer */
    float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float p = 0.0013814276f;
    p = p * r + 0.00836866599f;
    p = p * r + 0.0416683889f;
    p = p * r + 0.166665211f;
    p = p * r + 0.499999935f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } power = {((int32_t)k + 127) << 23};
    return p * power.f;
}

/* x Phi(x). With y = |x| / sqrt 2, the tail of Phi is e^{-y^2} / 2 times a function of
 * t = 1 / (1 + 0.45 y) that a polynomial meets to 4e-8 (fitted for this file). */
static void gelu(float *x, int64_t n)
{
    for (int64_t c = 0; c < n; c++) {
        float *row = x + c * LANES;
        for (int l = 0; l < LANES; l++) {
            float v = row[l], y = fabsf(v) * 0.707106781f, t = 1.0f / (1.0f + 0.45f * y);
            float p = -0.261637529f;
            p = p * t + 1.0162055f;
            p = p * t - 0.566700778f;
            p = p * t + 0.649677525f;
            p = p * t + 0.151613094f;
            p = p * t + 0.0108421442f;
            float tail = 0.5f * exponential(-y * y) * p;
            row[l] = v * (v < 0.0f ? tail : 1.0f - tail);
        }
    }
}

/* value *= SiLU(gate), for n channels. */
static void gate_values(float *restrict value, const float *restrict gate, int64_t n)
{
    for (int64_t i = 0; i < n * LANES; i++)
        value[i] *= gate[i] / (1.0f + exponential(-gate[i]));
}

/* Attention of one token to `count` cached ones, cache (token, channels, LANES). */
static void attend(const float *q, const float *keys, const float *values, float *restrict out,
                   float *restrict score, int64_t count, int64_t channels, int64_t heads)
{
    int64_t width = channels / heads, stride = channels * LANES;
    float root = 1.0f / sqrtf((float)width);
    for (int64_t h = 0; h < heads; h++) {
        int64_t first = h * width * LANES;
        float top[LANES], sum[LANES] = {0};
        for (int l = 0; l < LANES; l++) top[l] = -INFINITY;
        for (int64_t t = 0; t < count; t++) {
            const float *restrict k = keys + t * stride + first;
            float dot[LANES] = {0};
            for (int64_t d = 0; d < width * LANES; d += LANES)
                for (int l = 0; l < LANES; l++) dot[l] += q[first + d + l] * k[d + l];
            for (int l = 0; l < LANES; l++) {
                float s = dot[l] * root;
                score[t * LANES + l] = s;
                top[l] = s > top[l] ? s : top[l];
            }
        }
        for (int64_t t = 0; t < count; t++)
            for (int l = 0; l < LANES; l++) {
                float p = exponential(score[t * LANES + l] - top[l]);
                score[t * LANES + l] = p;
                sum[l] += p;
            }
        for (int l = 0; l < LANES; l++) sum[l] = 1.0f / sum[l];
        memset(out + first, 0, (size_t)(width * LANES) * sizeof(float));
        for (int64_t t = 0; t < count; t++) {
            const float *restrict v = values + t * stride + first;
            float p[LANES];
            for (int l = 0; l < LANES; l++) p[l] = score[t * LANES + l] * sum[l];
            for (int64_t d = 0; d < width * LANES; d += LANES)
                for (int l = 0; l < LANES; l++) out[first + d + l] += p[l] * v[d + l];
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

/* One token through one layer. Scratch: v, w (channels each), wide (3 channels or more). */
static void step(const Block *b, const Layer *y, int64_t i, float *u, float *cache, float *scratch)
{
    int64_t n = b->channels, token = n * LANES, at = i * n;
    float *keys = cache, *values = cache + b->atoms * token;
    float *v = scratch, *w = v + token, *score = w + token, *wide = score + b->atoms * LANES;
    if (y->scale1)
        normalise(u, v, y->scale1 + at, y->shift1 + at, n);
    else
        for (int64_t c = 0; c < n; c++)
            for (int l = 0; l < LANES; l++)
                v[c * LANES + l] = u[c * LANES + l] + y->additive[at + c];
    normalise(v, w, y->norm_scale, y->norm_shift, n);
    product(y->qkv, y->qkv_bias, w, wide, n, 3 * n, 0);
    normalise(wide, w, y->q_scale, y->q_shift, n);
    normalise(wide + token, keys + i * token, y->k_scale, y->k_shift, n);
    memcpy(values + i * token, wide + 2 * token, (size_t)token * sizeof(float));
    attend(w, keys, values, wide, score, i + 1, n, b->heads);
    product(y->out, y->out_bias, wide, v, n, n, 1);
    normalise(v, w, y->mlp_scale, y->mlp_shift, n);
    product(y->mlp_in, y->mlp_in_bias, w, wide, n, b->mlp_width, 0);
    gelu(wide, b->mlp_width);
    product(y->mlp_out, y->mlp_out_bias, wide, v, b->mlp_width, n, 1);
    merge(u, v, y->gate1 ? y->gate1 + at : 0, n);
    if (!y->value_gate) return;
    normalise(u, v, y->scale2 + at, y->shift2 + at, n);
    product(y->value_gate, 0, v, wide, n, 2 * b->transition_width, 0);
    gate_values(wide, wide + b->transition_width * LANES, b->transition_width);
    product(y->transition_out, 0, wide, w, b->transition_width, n, 0);
    merge(u, w, y->gate2 + at, n);
}

/* Turn noise x (atoms, 3, LANES) into positions in place and add the log-scales to total (LANES).
 * Scratch holds the caches, then what `step` needs. */
void gensci_invert_block(const Block *b, float *x, double *total, float *scratch)
{
    int64_t n = b->channels, cache = 2 * b->atoms * n * LANES;
    float *u = scratch + b->num_layers * cache, *rest = u + n * LANES;
    for (int64_t i = 0; i + 1 < b->atoms; i++) {
        const float *from = x + i * 3 * LANES;
        float *to = x + (i + 1) * 3 * LANES, affine[ROWS * LANES] __attribute__((aligned(64)));
        for (int64_t c = 0; c < n; c++) {
            const float *w = b->enter + 3 * c;
            for (int l = 0; l < LANES; l++)
                u[c * LANES + l] = b->offsets[i * n + c] + w[0] * from[l] +
                                   w[1] * from[LANES + l] + w[2] * from[2 * LANES + l];
        }
        for (int64_t k = 0; k < b->num_layers; k++)
            step(b, b->layers + k, i, u, scratch + k * cache, rest);
        product(b->leave, b->leave_bias, u, affine, n, ROWS, 0);
        for (int d = 0; d < 3; d++)
            for (int l = 0; l < LANES; l++) {
                float a = affine[d * LANES + l];
                to[d * LANES + l] = to[d * LANES + l] * expf(a) + affine[(3 + d) * LANES + l];
                total[l] += a;
            }
    }
}
