/* Products of matrices in bfloat16, of processors with tiles (AMX) or pairs (AVX512_BF16) of it. */

#ifndef GENSCI_TARFLOW_TILES_H
#define GENSCI_TARFLOW_TILES_H

#include "tarflow_arithmetic.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#define TILES
#define PACKED
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__AVX512BF16__)
#define PACKED
#include <immintrin.h>
#endif

/* The bits of the bfloat16 number nearest to x, as those of a float. */
static inline uint32_t nearest(float x)
{
    union { float f; uint32_t i; } u = {x};
    return (u.i + 0x7fff + (u.i >> 16 & 1)) & 0xffff0000u;
}

static inline float from_bits(uint32_t bits)
{
    union { uint32_t i; float f; } u = {bits};
    return u.f;
}

#ifdef TILES
/* Ask the system for the processor's matrix tiles; 1 where they may be used. */
int gensci_tiles(void)
{
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* permission for the tile data */
}

static void open_tiles(void)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } all = {1};
    for (int i = 0; i < 8; i++) all.bytes[i] = 64, all.rows[i] = 16;
    _tile_loadconfig(&all);
}
#else
int gensci_tiles(void) { return 0; }
#endif

/* Whether vectors, and no tiles, multiply bfloat16 numbers. */
int gensci_pairs(void)
{
#if defined(PACKED) && !defined(TILES)
    return 1;
#else
    return 0;
#endif
}

#ifdef PACKED
#define SIDE 32 /* rows and columns of a packed block: two tiles below each other */

/* Write w (rows, columns) as sums of `parts` bfloat16 numbers, in blocks of SIDE by SIDE as (row
 * block, column block, part, row, column). Three parts hold all bits of a float. */
void gensci_pack(const float *w, uint16_t *out, int64_t rows, int64_t columns, int64_t parts)
{
    for (int64_t o = 0; o < rows; o += SIDE)
        for (int64_t c = 0; c < columns; c += SIDE, out += parts * SIDE * SIDE)
            for (int i = 0; i < SIDE; i++)
                for (int j = 0; j < SIDE; j++) {
                    float rest = w[(o + i) * columns + c + j];
                    for (int64_t p = 0; p < parts; p++) {
                        uint32_t bits = nearest(rest);
                        out[(p * SIDE + i) * SIDE + j] = (uint16_t)(bits >> 16);
                        rest -= from_bits(bits);
                    }
                }
}

/* The same for activations (channels, LANES), as (part, 16 lanes, pair of channels, lane). */
static void split(const float *in, uint32_t *out, int64_t channels, int64_t parts)
{
    int64_t pairs = channels / 2, part = pairs * LANES;
    for (int64_t k = 0; k < pairs; k++)
        for (int64_t l = 0; l < LANES; l += 16) {
            const float *first = in + 2 * k * LANES + l, *second = first + LANES;
            uint32_t *to = out + (l * pairs + k * 16);
            float a[16], b[16];
            for (int j = 0; j < 16; j++) a[j] = first[j], b[j] = second[j];
            for (int64_t p = 0; p < parts; p++)
                for (int j = 0; j < 16; j++) {
                    uint32_t low = nearest(a[j]), high = nearest(b[j]);
                    to[p * part + j] = low >> 16 | high;
                    a[j] -= from_bits(low), b[j] -= from_bits(high);
                }
        }
}

#ifdef TILES
/* out += W in, packed and split. Products of parts that reach less far than the last are left out:
 * with three parts the result is as near as float arithmetic comes, with two to 2^-16. */
static void tile_product(Part m, const uint32_t *in, Span out, int64_t tiles, int64_t parts)
{
    int64_t steps = m.columns / SIDE, slice = m.columns / 2 * 16, part = slice * (LANES / 16);
    int64_t block = parts * SIDE * SIDE, passes = tiles * (LANES / SIDE);
    int64_t ahead = (block * 2 / 64 + passes - 1) / passes; /* lines to fetch in each step */
    for (int64_t o = 0; o < m.rows; o += SIDE) {
        int64_t first = (m.row + o) / SIDE * (m.stride / SIDE) + m.column / SIDE;
        const uint16_t *w = (const uint16_t *)m.w + first * block;
        const char *next = (const char *)(w + m.stride / SIDE * block);
        for (int64_t pass = 0; pass < passes; pass++) {
            int64_t g = pass / (LANES / SIDE), l = pass % (LANES / SIDE) * 2;
            const uint32_t *from = in + (g * parts * (LANES / 16) + l) * slice;
            float *c = out.at + g * out.tile + o * LANES + l * 16, *d = c + 16 * LANES;
            _tile_loadd(0, c, 4 * LANES);
            _tile_loadd(1, c + 16, 4 * LANES);
            _tile_loadd(2, d, 4 * LANES);
            _tile_loadd(3, d + 16, 4 * LANES);
            for (int64_t k = 0; k < steps; k++) {
                if (o + SIDE < m.rows)
                    for (int64_t i = 0; i < ahead; i++, next += 64) _mm_prefetch(next, _MM_HINT_T1);
                for (int64_t p = parts - 1, q = 0; p >= 0; p--) {
                    const uint16_t *a = w + (k * parts + p) * SIDE * SIDE;
                    _tile_loadd(4, a, 64);
                    _tile_loadd(5, a + 16 * SIDE, 64);
                    for (int64_t j = 0; j < parts - p; j++) { /* begins with the q at hand */
                        if (j || p == parts - 1) {
                            q = (q + (j > 0)) % (parts - p);
                            const uint32_t *x = from + q * part + k * 256;
                            _tile_loadd(6, x, 64);
                            _tile_loadd(7, x + slice, 64);
                        }
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                }
            }
            _tile_stored(0, c, 4 * LANES);
            _tile_stored(1, c + 16, 4 * LANES);
            _tile_stored(2, d, 4 * LANES);
            _tile_stored(3, d + 16, 4 * LANES);
        }
    }
}
#else
#define SUMS 12 /* rows whose sums are kept in registers, for two vectors of lanes */

/* Rows `from` to before `to` of a block of rows, for 32 lanes. */
static inline __attribute__((always_inline)) void pair_rows(const uint16_t *w, const uint32_t *x,
                                                            float *out, int64_t steps,
                                                            int64_t slice, int from, int to)
{
    __m512 sum[SUMS][2];
    for (int i = from; i < to; i++)
        for (int j = 0; j < 2; j++) sum[i - from][j] = _mm512_loadu_ps(out + i * LANES + 16 * j);
    for (int64_t k = 0; k < steps; k++, w += SIDE * SIDE)
        for (int c = 0; c < SIDE / 2; c++, x += 16) {
            __m512bh a = (__m512bh)_mm512_loadu_si512(x), b = (__m512bh)_mm512_loadu_si512(x + slice);
#pragma GCC unroll 12
            for (int i = from; i < to; i++) {
                int32_t pair;
                memcpy(&pair, w + i * SIDE + 2 * c, sizeof pair);
                __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                sum[i - from][0] = _mm512_dpbf16_ps(sum[i - from][0], both, a);
                sum[i - from][1] = _mm512_dpbf16_ps(sum[i - from][1], both, b);
            }
        }
    for (int i = from; i < to; i++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(out + i * LANES + 16 * j, sum[i - from][j]);
}

/* out += W in, packed in one part and split likewise. */
static void tile_product(Part m, const uint32_t *in, Span out, int64_t tiles, int64_t parts)
{
    int64_t steps = m.columns / SIDE, slice = m.columns / 2 * 16, all = slice * (LANES / 16);
    (void)parts; /* one, see native_inverse.py: more would be slower than floats */
    for (int64_t o = 0; o < m.rows; o += SIDE) {
        int64_t first = (m.row + o) / SIDE * (m.stride / SIDE) + m.column / SIDE;
        const uint16_t *w = (const uint16_t *)m.w + first * SIDE * SIDE;
        for (int64_t g = 0; g < tiles; g++)
            for (int64_t l = 0; l < LANES / 16; l += 2) {
                const uint32_t *from = in + g * all + l * slice;
                float *to = out.at + g * out.tile + o * LANES + l * 16;
                pair_rows(w, from, to, steps, slice, 0, 12);
                pair_rows(w, from, to, steps, slice, 12, 24);
                pair_rows(w, from, to, steps, slice, 24, 32);
            }
    }
}
#endif

/* Put bias (+ out) where a product will add to it. */
static void start(Part m, Span out, int64_t tiles, int add)
{
    for (int64_t g = 0; g < tiles; g++)
        for (int64_t o = 0; o < m.rows; o++) {
            float *row = out.at + g * out.tile + o * LANES, b = m.bias ? m.bias[o] : 0.0f;
            for (int l = 0; l < LANES; l++) row[l] = add ? row[l] + b : b;
        }
}
#endif

#endif
