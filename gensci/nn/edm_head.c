/* Denoised points of slots by the network of edm_head.py, in single precision.
 *
 * A row is one slot. Rows are taken in tiles whose activations (row, channel) stay in the caches.
 * Matrices come in panels of PANEL outputs, (panel, input, output), so that the product reads them
 * in order. The order of the pointers in `Head` is that of native_edm_head.py.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TILE 64  /* rows */
#define PANEL 32 /* outputs */
#if defined(__AVX512F__)
#define WIDTH 16
#define ROWS 8
#elif defined(__AVX__)
#define WIDTH 8
#define ROWS 4
#else
#define WIDTH 4
#define ROWS 4
#endif
#define VECTORS 2 /* formed together for ROWS rows: as many sums as there are registers */

typedef float vec __attribute__((vector_size(4 * WIDTH), may_alias, aligned(4)));

typedef struct {
    const float *enter, *enter_bias;  /* inputs to width */
    const float *inner, *inner_bias;  /* (depth) matrices of the blocks */
    const float *outer, *outer_bias;
    const float *leave, *leave_bias;  /* (3, width), not in panels */
    int64_t inputs, width, depth, frequencies;
    double damping;
} Head;

typedef struct {
    const float *x, *hint, *hinted; /* (rows, 3), (rows, 3), (rows) */
    const float *terms;             /* (rows, depth + 1, 2, width) by the condition */
    const int64_t *level;           /* (rows) into the next four */
    const float *level_terms;       /* (levels, depth + 1, 2, width) */
    const float *sigma, *unit;      /* (levels); unit is that of the torus */
    const uint8_t *torus;           /* (levels) */
    int64_t rows;
} Slots;

/* out = W in + bias (+ out) for `rows` rows, rounded up to ROWS. */
static void product(const float *restrict w, const float *bias, const float *restrict in,
                    float *restrict out, int64_t inputs, int64_t outputs, int64_t rows, int add)
{
    for (int64_t p = 0; p < outputs; p += PANEL, w += inputs * PANEL)
        for (int64_t r = 0; r < rows; r += ROWS)
            for (int64_t o = 0; o < PANEL; o += WIDTH * VECTORS) {
                vec sum[ROWS][VECTORS];
                const float *restrict x = in + r * inputs;
                float *y = out + r * outputs + p + o;
                for (int i = 0; i < ROWS; i++)
                    for (int j = 0; j < VECTORS; j++) {
                        sum[i][j] = *(const vec *)(bias + p + o + j * WIDTH);
                        if (add) sum[i][j] += *(const vec *)(y + i * outputs + j * WIDTH);
                    }
                for (int64_t c = 0; c < inputs; c++) {
                    vec part[VECTORS];
                    for (int j = 0; j < VECTORS; j++)
                        part[j] = *(const vec *)(w + c * PANEL + o + j * WIDTH);
#pragma GCC unroll 8
                    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                        for (int j = 0; j < VECTORS; j++) sum[i][j] += x[i * inputs + c] * part[j];
                }
                for (int i = 0; i < ROWS; i++)
                    for (int j = 0; j < VECTORS; j++)
                        *(vec *)(y + i * outputs + j * WIDTH) = sum[i][j];
            }
}

/* Layer norm of n channels, times one plus a scale, plus a shift; each the sum of two terms. */
static void modulate(const float *restrict in, float *restrict out, const float *restrict a,
                     const float *restrict b, int64_t n)
{
    vec sum = {0}, square = {0};
    for (int64_t c = 0; c < n; c += WIDTH) sum += *(const vec *)(in + c);
    float mean = 0, variance = 0;
    for (int i = 0; i < WIDTH; i++) mean += sum[i];
    mean /= (float)n;
    for (int64_t c = 0; c < n; c += WIDTH) {
        vec d = *(const vec *)(in + c) - mean;
        square += d * d;
    }
    for (int i = 0; i < WIDTH; i++) variance += square[i];
    float rate = 1.0f / sqrtf(variance / (float)n + 1e-5f);
    for (int64_t c = 0; c < n; c++)
        out[c] = (in[c] - mean) * rate * (1.0f + a[c] + b[c]) + a[n + c] + b[n + c];
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

static void silu(float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] /= 1.0f + exponential(-x[i]);
}

/* Features of three numbers: themselves, then sines and cosines of their octaves, all times `by`;
 * `spanned` is how much of a wave the noise spans, at the first octave. */
static float *fourier(const float *x, int torus, float scale, float by, float spanned,
                      int64_t count, float *out)
{
    float *sine = out + 3, *cosine = sine + 3 * count;
    for (int d = 0; d < 3; d++, sine += count, cosine += count) {
        /* On the torus whole turns are dropped first, where single precision knows them. */
        float turned = torus ? 6.283185307f * (x[d] - rintf(x[d])) : x[d];
        float s = sinf(turned), c = cosf(turned);
        out[d] = torus ? 0.0f : x[d] * scale * by;
        float octave = spanned;
        for (int64_t k = 0; k < count; k++, octave *= 2.0f) {
            float share = octave > 0.0f ? by * expf(-0.5f * octave * octave) : by;
            sine[k] = s * share;
            cosine[k] = c * share;
            float doubled = 2.0f * s * c;
            c = 1.0f - 2.0f * s * s;
            s = doubled;
        }
    }
    return cosine;
}

static void features(const Head *h, const Slots *slots, int64_t row, float *out)
{
    int64_t level = slots->level[row];
    int torus = slots->torus[level];
    const float *x = slots->x + 3 * row, *hint = slots->hint + 3 * row;
    float sigma = slots->sigma[level], scale = 1.0f / sqrtf(1.0f + sigma * sigma);
    float away[3], hinted = slots->hinted[row];
    float spanned = (float)h->damping * sigma * (torus ? 6.283185307f : 1.0f);
    for (int d = 0; d < 3; d++) away[d] = x[d] - hint[d];
    out = fourier(x, torus, scale, 1.0f, spanned, h->frequencies, out);
    out = fourier(away, torus, scale, hinted, spanned, h->frequencies, out);
    out[0] = hinted;
    out[1] = (float)torus;
}

/* The denoised point from the last activations of a row. */
static void leave(const Head *h, const Slots *slots, int64_t row, const float *v, float *out)
{
    int64_t level = slots->level[row];
    float s = slots->sigma[level], whole = 1.0f + s * s;
    for (int d = 0; d < 3; d++) {
        const float *w = h->leave + d * h->width;
        vec sum = {0};
        for (int64_t c = 0; c < h->width; c += WIDTH)
            sum += *(const vec *)(w + c) * *(const vec *)(v + c);
        float f = h->leave_bias[d], x = slots->x[3 * row + d];
        for (int i = 0; i < WIDTH; i++) f += sum[i];
        out[3 * row + d] = slots->torus[level] ? x + slots->unit[level] * f
                                               : (x + s * sqrtf(whole) * f) / whole;
    }
}

/* Rows `first` to `first + n` through block k, or the last norm for k = depth. */
static void tile_norm(const Head *h, const Slots *slots, int64_t first, int64_t n, int64_t k,
                      const float *u, float *v)
{
    int64_t stride = 2 * h->width * (h->depth + 1);
    for (int64_t i = 0; i < n; i++) {
        const float *own = slots->terms + (first + i) * stride + 2 * k * h->width;
        const float *level =
            slots->level_terms + slots->level[first + i] * stride + 2 * k * h->width;
        modulate(u + i * h->width, v + i * h->width, own, level, h->width);
    }
}

/* Numbers that one instruction computes: with few, other libraries are faster. */
int64_t gensci_edm_lanes(void) { return WIDTH; }

/* Denoised points (rows, 3). Scratch holds TILE rows of the inputs and three times the width. */
void gensci_edm_denoise(const Head *h, const Slots *slots, float *out, float *scratch)
{
    int64_t width = h->width, square = width * width;
    float *in = scratch, *u = in + TILE * h->inputs, *v = u + TILE * width, *w = v + TILE * width;
    /* Rows that fill up a tile are computed and not read; numbers keep them fast. */
    memset(scratch, 0, sizeof(float) * (size_t)(TILE * (h->inputs + 3 * width)));
    for (int64_t first = 0; first < slots->rows; first += TILE) {
        int64_t n = slots->rows - first < TILE ? slots->rows - first : TILE;
        for (int64_t i = 0; i < n; i++) features(h, slots, first + i, in + i * h->inputs);
        product(h->enter, h->enter_bias, in, u, h->inputs, width, n, 0);
        for (int64_t k = 0; k < h->depth; k++) {
            tile_norm(h, slots, first, n, k, u, v);
            product(h->inner + k * square, h->inner_bias + k * width, v, w, width, width, n, 0);
            silu(w, n * width);
            product(h->outer + k * square, h->outer_bias + k * width, w, u, width, width, n, 1);
        }
        tile_norm(h, slots, first, n, h->depth, u, v);
        for (int64_t i = 0; i < n; i++) leave(h, slots, first + i, v + i * width, out);
    }
}
