/* Arithmetic on lanes: one vector holds the same quantity of LANES conformations.
 *
 * GCC and Clang vector types compile on any processor; where AVX-512 or AVX is there, its
 * reciprocal estimates are used, refined by one Newton step. The single-precision functions are
 * polynomials, because calls into the C library would handle one lane at a time; their
 * coefficients are minimax fits made for this project, with relative errors below 1e-7.
 */
#include <math.h>
#include <stdint.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

#ifdef GENSCI_DOUBLE
typedef double real;
typedef int64_t word;
#else
typedef float real;
typedef int32_t word;
#endif
#define LANES ((int)(WIDTH / sizeof(real)))

#define R(x) ((real)(x))
#define INLINE static inline __attribute__((always_inline))

typedef real V __attribute__((vector_size(WIDTH)));
typedef word M __attribute__((vector_size(WIDTH))); /* masks: all bits of a lane set or none */
typedef double D __attribute__((vector_size(8 * (WIDTH / sizeof(real)))));

INLINE V splat(real x) { return x - (V){0}; }
INLINE V choose(M m, V yes, V no) { return (V)((m & (M)yes) | (~m & (M)no)); }
INLINE V keep(M m, V x) { return (V)(m & (M)x); }

#if WIDTH == 64 && !defined(GENSCI_DOUBLE)

INLINE V larger(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V smaller(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE int any(M m) { return _mm512_movepi32_mask((__m512i)m) != 0; }
INLINE int all(M m) { return _mm512_movepi32_mask((__m512i)m) == 0xffff; }
INLINE V rsqrt(V x)
{
    V y = (V)_mm512_rsqrt14_ps((__m512)x);
    return y * (R(1.5) - R(0.5) * x * y * y);
}
INLINE V rcp(V x)
{
    V y = (V)_mm512_rcp14_ps((__m512)x);
    return y * (R(2.0) - x * y);
}

#elif WIDTH == 32 && !defined(GENSCI_DOUBLE)

INLINE V larger(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE V smaller(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE int any(M m) { return _mm256_movemask_ps((__m256)m) != 0; }
INLINE int all(M m) { return _mm256_movemask_ps((__m256)m) == 0xff; }
INLINE V rsqrt(V x)
{
    V y = (V)_mm256_rsqrt_ps((__m256)x);
    return y * (R(1.5) - R(0.5) * x * y * y);
}
INLINE V rcp(V x) { return R(1.0) / x; }

#else

INLINE V larger(V a, V b) { return choose(a > b, a, b); }
INLINE V smaller(V a, V b) { return choose(a < b, a, b); }
INLINE int any(M m)
{
    word some = 0;
    for (int k = 0; k < LANES; k++) some |= m[k];
    return some != 0;
}
INLINE int all(M m) { return !any(~m); }
INLINE V rsqrt(V x)
{
    V y;
    for (int k = 0; k < LANES; k++) y[k] = sizeof(real) == 4 ? sqrtf(x[k]) : sqrt(x[k]);
    return R(1.0) / y;
}
INLINE V rcp(V x) { return R(1.0) / x; }

#endif

/* A product as it is. The compiler fuses a product into a sum or not depending on what else becomes
 * of it; where that differs between energies alone and energies with forces, this keeps their bits
 * the same. */
INLINE V rounded(V x)
{
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

INLINE V root(V x) { return x * rsqrt(x); } /* x > 0 */

#ifdef GENSCI_DOUBLE

#define LANEWISE(name, call)                                \
    INLINE V name(V x)                                      \
    {                                                       \
        V y;                                                \
        for (int k = 0; k < LANES; k++) y[k] = call(x[k]);  \
        return y;                                           \
    }
LANEWISE(exponential, exp)
LANEWISE(logarithm, log)

INLINE V angle_of(V y, V x)
{
    V t;
    for (int k = 0; k < LANES; k++) t[k] = atan2(y[k], x[k]);
    return t;
}

INLINE V atanh_ratio(V q) { return R(1.0) + q; } /* the far branch is never taken */

#else

/* exp(x), flushed near 1e-38 below and held at 2^126 above. */
INLINE V exponential(V x)
{
    V t = smaller(larger(x * 1.44269504f, splat(-126.0f)), splat(126.0f));
    V shifted = t + 12582912.0f; /* 1.5 * 2^23: the nearest integer lands in the low bits */
    M power = (M)shifted << 23;
    V f = t - (shifted - 12582912.0f);
    V p = f * 1.534580685e-04f + 1.339993118e-03f;
    p = p * f + 9.618488976e-03f;
    p = p * f + 5.550328777e-02f;
    p = p * f + 2.402264689e-01f;
    p = p * f + 6.931472057e-01f;
    p = p * f + 1.000000001e+00f;
    return (V)((M)p + power);
}

/* log(x) for normal positive x: 2 atanh((m - 1) / (m + 1)) on a mantissa around one. */
INLINE V logarithm(V x)
{
    M bits = (M)x - 0x3f3504f3; /* sqrt(1/2) */
    M power = bits >> 23;
    V m = (V)((bits & 0x007fffff) + 0x3f3504f3);
    V s = (m - 1.0f) * rcp(m + 1.0f);
    V q = s * s;
    V p = q * 2.992863822e-01f + 3.997468485e-01f;
    p = p * q + 6.666681692e-01f;
    p = p * q + 2.0f;
    return p * s + __builtin_convertvector(power, V) * 0.693147181f;
}

/* atan2(y, x) for y >= 0. */
INLINE V angle_of(V y, V x)
{
    V width = (V)((M)x & 0x7fffffff);
    M steep = y > width;
    V t = choose(steep, width, y) * rcp(larger(choose(steep, y, width), splat(1e-30f)));
    V q = t * t;
    V p = q * -1.753906438e-03f + 1.072683760e-02f;
    p = p * q - 3.080439809e-02f;
    p = p * q + 5.755190147e-02f;
    p = p * q - 8.377303679e-02f;
    p = p * q + 1.094202661e-01f;
    p = p * q - 1.426193232e-01f;
    p = p * q + 1.999826597e-01f;
    p = p * q - 3.333328364e-01f;
    p = p * q + 1.0f;
    V angle = p * t;
    angle = choose(steep, 1.57079633f - angle, angle);
    return choose(x < 0.0f, 3.14159265f - angle, angle);
}

/* atanh(sqrt q) / sqrt q for 0 <= q <= 0.36. */
INLINE V atanh_ratio(V q)
{
    V p = q * 2.957141186e-01f - 9.651481091e-02f;
    p = p * q + 1.511119185e-01f;
    p = p * q + 1.000875644e-01f;
    p = p * q + 1.439268079e-01f;
    p = p * q + 1.999497317e-01f;
    p = p * q + 3.333342257e-01f;
    return p * q + 9.999999974e-01f;
}

#endif
