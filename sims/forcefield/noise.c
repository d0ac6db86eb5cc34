/* Standard normal numbers, a stream for each lane.
 *
 * xoshiro128++ (Blackman and Vigna 2021, doi:10.1145/3460772) gives the bits: only additions,
 * shifts and exclusive ors, so every lane runs its own generator at full width. The start of a
 * stream is a hash of the key of the call and of the row, never of the block or thread, so a row
 * gets the same noise whatever it is evaluated beside. Box and Muller 1958 make normals.
 */

typedef uint32_t U __attribute__((vector_size(4 * (WIDTH / sizeof(real)))));

typedef struct { U s[4]; } Noise;

/* splitmix64 (Steele, Lea, Flood 2014): a bijection that scatters neighbouring numbers. */
static uint64_t scatter(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static Noise noise_of(uint64_t key, int64_t row)
{
    Noise noise;
    for (int k = 0; k < LANES; k++) {
        uint64_t at = row + k, state = key ^ scatter(&at);
        uint64_t a = scatter(&state), b = scatter(&state);
        noise.s[0][k] = a, noise.s[1][k] = a >> 32, noise.s[2][k] = b, noise.s[3][k] = b >> 32;
    }
    return noise;
}

INLINE U rotate(U x, int by) { return (x << by) | (x >> (32 - by)); }

INLINE U bits(Noise *n)
{
    U *s = n->s, result = rotate(s[0] + s[3], 7) + s[0], t = s[1] << 9;
    s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3];
    s[2] ^= t, s[3] = rotate(s[3], 11);
    return result;
}

typedef int32_t I __attribute__((vector_size(4 * (WIDTH / sizeof(real)))));

/* Uniform in (0, 1]; 31 bits, so that the largest normal is 6.6. */
INLINE V uniform(Noise *n)
{
    return (__builtin_convertvector((I)(bits(n) >> 1), V) + R(1.0)) * R(4.656612873e-10);
}

/* Two independent normals. */
INLINE void normals(Noise *n, V *first, V *second)
{
    V size = root(larger(R(-2.0) * logarithm(uniform(n)), splat(R(1e-20))));
    I turn = (I)bits(n); /* the angle in units of 2 pi / 2^32; the top two bits are its quadrant */
    V f = __builtin_convertvector(turn & 0x3fffffff, V) * R(9.313225746e-10) - R(0.5);
    V q = f * f;
    V sine = q * R(1.58206730e-04) - R(4.68126647e-03);
    sine = sine * q + R(7.96925828e-02);
    sine = sine * q - R(6.45964096e-01);
    sine = (sine * q + R(1.57079633)) * f;
    V cosine = q * R(9.03631709e-04) - R(2.08600713e-02);
    cosine = cosine * q + R(2.53669204e-01);
    cosine = cosine * q - R(1.23370054);
    cosine = cosine * q + R(1.0);
    /* A quadrant is a swap and a change of signs; the shift by pi / 4 does not matter. */
    M swap = __builtin_convertvector((turn >> 30) & 1, M) != 0;
    M flip = __builtin_convertvector(turn < 0, M) != 0;
    V a = choose(swap, cosine, sine), b = choose(swap, -sine, cosine);
    *first = size * choose(flip, -a, a);
    *second = size * choose(flip, -b, b);
}
