/* Between rows in memory, (count, 3 atoms), and lanes: a vector for each coordinate. */

#if WIDTH == 64 && !defined(GENSCI_DOUBLE)

typedef struct { __m512i rows; __mmask16 used; } Places;

INLINE Places places(long stride, long count)
{
    int32_t at[LANES];
    for (int k = 0; k < LANES; k++) at[k] = stride * (k < count ? k : count - 1);
    return (Places){_mm512_loadu_si512(at), (__mmask16)((1u << count) - 1)};
}

INLINE V pick(const real *from, Places p)
{
    return (V)_mm512_i32gather_ps(p.rows, from, sizeof(real));
}

INLINE void put(real *to, Places p, V v)
{
    _mm512_mask_i32scatter_ps(to, p.used, p.rows, (__m512)v, sizeof(real));
}

#else

typedef struct { long stride, count; } Places;

INLINE Places places(long stride, long count) { return (Places){stride, count}; }

INLINE V pick(const real *from, Places p)
{
    V v;
    for (int k = 0; k < LANES; k++) v[k] = from[p.stride * (k < p.count ? k : p.count - 1)];
    return v;
}

INLINE void put(real *to, Places p, V v)
{
    for (int k = 0; k < p.count; k++) to[p.stride * k] = v[k];
}

#endif

/* Lanes beyond the rows repeat the last row. */
static void load_rows(const Model *m, V (*lanes)[3], const real *from, long count)
{
    Places p = places(3 * (long)m->atoms, count);
    for (int i = 0; i < 3 * m->atoms; i++) lanes[i / 3][i % 3] = pick(from + i, p);
}

static void store_rows(const Model *m, V (*lanes)[3], real *to, long count)
{
    Places p = places(3 * (long)m->atoms, count);
    for (int i = 0; i < 3 * m->atoms; i++) put(to + i, p, lanes[i / 3][i % 3]);
}
