/* Single-precision arithmetic of C kernels that compute several numbers side by side.
 *
 * Functions are good to some 1e-7, relative or absolute, as the tests tell of each; polynomials
 * were fitted for this file. Where division and square root are slow they are Newton's.
 */

#ifndef GENSCI_VECTOR_MATH_H
#define GENSCI_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH), may_alias));

static inline vec all(float x) { return (vec){0} + x; }

/* a where the mask is set, else b. */
static inline vec pick(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

#if defined(__AVX512F__)
static inline vec lesser(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
static inline vec greater(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vec near_reciprocal(vec x) { return (vec)_mm512_rcp14_ps((__m512)x); }
static inline vec near_reciprocal_root(vec x) { return (vec)_mm512_rsqrt14_ps((__m512)x); }
#define NEWTON 1 /* steps that take the above to single precision */
#else
static inline vec lesser(vec a, vec b) { return pick(a < b, a, b); }
static inline vec greater(vec a, vec b) { return pick(a > b, a, b); }
static inline vec near_reciprocal(vec x) { return (vec)(0x7EF311C7 - (ivec)x); }
static inline vec near_reciprocal_root(vec x) { return (vec)(0x5F3759DF - ((ivec)x >> 1)); }
#define NEWTON 3
#endif

/* Of two operands the instructions give the second where one is no number: bounds keep NaN. */
static inline vec at_most(vec x, float bound) { return lesser(all(bound), x); }
static inline vec at_least(vec x, float bound) { return greater(all(bound), x); }
static inline vec within(vec x, float low, float high) { return at_most(at_least(x, low), high); }

/* 1 / x of a normal number below 1e37. */
static inline vec reciprocal(vec x)
{
    vec y = near_reciprocal(x);
    for (int i = 0; i < NEWTON; i++) y *= 2.0f - x * y;
    return y;
}

/* 1 / sqrt(x) of a positive normal number. */
static inline vec reciprocal_root(vec x)
{
    vec y = near_reciprocal_root(x), half = 0.5f * x;
    for (int i = 0; i < NEWTON; i++) y *= 1.5f - half * y * y;
    return y;
}

/* Square root of a number that is not negative. */
static inline vec root(vec x) { return x * reciprocal_root(at_least(x, 1e-30f)); }

/* e^x for x in -87 to 88. */
static inline vec plain_exponential(vec x)
{
    vec whole = x * 1.44269504f + 12582912.0f; /* the nearest integer is in the low bits */
    vec k = whole - 12582912.0f, r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    vec p = all(0.0013814276f);
    p = p * r + 0.00836866599f;
    p = p * r + 0.0416683889f;
    p = p * r + 0.166665211f;
    p = p * r + 0.499999935f;
    p = p * r * r + r + 1.0f;
    return (vec)((ivec)p + ((ivec)whole << 23));
}

/* e^x, held in the range of normal numbers. */
static inline vec exponential(vec x) { return plain_exponential(within(x, -87.0f, 88.0f)); }

/* e^x of x that is not above 88. */
static inline vec fading(vec x) { return plain_exponential(at_least(x, -87.0f)); }

/* Natural logarithm of a positive normal number. */
static inline vec logarithm(vec x)
{
    ivec bits = (ivec)x, e = (bits - 0x3F3504F3) >> 23; /* mantissa in sqrt(1/2) to sqrt(2) */
    vec k = __builtin_convertvector(e, vec), f = (vec)(bits - (e << 23)) - 1.0f;
    vec p = all(0.0714975372f);
    p = p * f - 0.115712009f;
    p = p * f + 0.116615109f;
    p = p * f - 0.124110505f;
    p = p * f + 0.142499372f;
    p = p * f - 0.166684806f;
    p = p * f + 0.200007081f;
    p = p * f - 0.249999896f;
    p = p * f + 0.333333313f;
    vec small = p * f * f * f - 0.5f * f * f + k * -2.12194440e-4f;
    return k * 0.693359375f + (f + small) + (x - x); /* the last keeps NaN */
}

/* Sine and cosine of an angle of some turns. */
static inline void sine_cosine(vec x, vec *sine, vec *cosine)
{
    vec whole = x * 0.636619772f + 12582912.0f, k = whole - 12582912.0f;
    vec r = ((x - k * 1.5703125f) - k * 4.83751297e-4f) - k * 7.54978995e-8f, z = r * r;
    vec s = ((-1.9582917e-4f * z + 0.008332725f) * z - 0.16666664f) * z * r + r;
    vec c = ((2.4542942e-5f * z - 0.0013888279f) * z + 0.041666664f) * z * z - 0.5f * z + 1.0f;
    ivec quarter = (ivec)whole, swap = -(quarter & 1);
    ivec flip_sine = (quarter & 2) << 30, flip_cosine = ((quarter + 1) & 2) << 30;
    *sine = (vec)((ivec)pick(swap, c, s) ^ flip_sine);
    *cosine = (vec)((ivec)pick(swap, s, c) ^ flip_cosine);
}

/* tanh(x), to 3e-7 absolute. */
static inline vec hyperbolic_tangent(vec x)
{
    return 1.0f - 2.0f * reciprocal(1.0f + plain_exponential(within(2.0f * x, -60.0f, 60.0f)));
}

/* Log of exp(-x) I0(x), the Bessel function, for x not negative. */
static inline vec log_bessel(vec x)
{
    vec z = x * x, y = reciprocal_root(at_least(x, 1.0f)), s = y * y;
    vec low = all(3.53674610e-12f);
    low = low * z + 4.22092046e-10f;
    low = low * z + 6.88808688e-8f;
    low = low * z + 6.76899481e-6f;
    low = low * z + 4.34109465e-4f;
    low = low * z + 0.015624743f;
    low = low * z + 0.250000298f;
    low = low * z + 1.0f;
    vec high = all(-27.1764145f);
    high = high * s + 17.0384617f;
    high = high * s - 3.63456273f;
    high = high * s + 0.444856495f;
    high = high * s + 0.00738654425f;
    high = high * s + 0.028614236f;
    high = high * s + 0.0498623624f;
    high = high * s + 0.398942292f;
    ivec small = x < 5.0f;
    return logarithm(pick(small, low, high * y)) - pick(small, x, all(0.0f));
}

/* x times the logistic function. */
static inline vec silu(vec x)
{
    return x * reciprocal(1.0f + plain_exponential(within(-x, -60.0f, 60.0f)));
}

/* x Phi(x). With y = |x| / sqrt 2, the tail of Phi is e^{-y^2} / 2 times a function of
 * t = 1 / (1 + 0.45 y) that a polynomial meets to 4e-8. */
static inline vec gelu(vec x)
{
    vec y = (vec)((ivec)x & 0x7FFFFFFF) * 0.707106781f, t = reciprocal(1.0f + 0.45f * y);
    vec p = all(-0.261637529f);
    p = p * t + 1.0162055f;
    p = p * t - 0.566700778f;
    p = p * t + 0.649677525f;
    p = p * t + 0.151613094f;
    p = p * t + 0.0108421442f;
    vec tail = 0.5f * fading(-y * y) * p;
    return x * pick(x < 0.0f, tail, 1.0f - tail);
}

#endif
