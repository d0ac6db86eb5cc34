/* Langevin dynamics of blocks of conformations, many steps in one call.
 *
 * Positions, velocities and forces stay in lanes from the first step to the last: nothing but the
 * noise and the forces costs time, and a block stays in the first- or second-level cache.
 */
#include "noise.c"

/* Must match _langevin_classes in stepping.py. */
typedef struct {
    const real *kick;   /* (atoms): half a step over the mass */
    const real *spread; /* (atoms): of the velocity noise at 1 K */
    real half_step, keep; /* ps; what friction leaves of a velocity in a step */
    int32_t noisy;
} Langevin;

typedef struct {
    real *x, *v, *f, *energy; /* rows, changed in place */
    const real *heat;         /* (rows): square root of the temperature */
} Rows;

/* Half kick and half drift, noise, half drift: all of a step before the forces. */
static void move(const Model *m, const Langevin *p, Block *w, V (*v)[3], V heat, Noise *noise)
{
    V spare = splat(0);
    int stored = 0;
    for (int i = 0; i < m->atoms; i++) {
        V spread = heat * p->spread[i];
        for (int c = 0; c < 3; c++) {
            V speed = v[i][c] + p->kick[i] * w->f[i][c];
            V x = w->x[i][c] + p->half_step * speed;
            if (p->noisy) {
                V normal = spare;
                if (!stored) normals(noise, &normal, &spare);
                stored = !stored;
                speed = p->keep * speed + spread * normal;
            }
            w->x[i][c] = x + p->half_step * speed;
            v[i][c] = speed;
            w->f[i][c] = splat(0);
        }
    }
}

static void run_block(const Model *m, const Langevin *p, Block *w, V *rate, V (*v)[3], Rows rows,
                      long count, Noise noise, long steps)
{
    V heat;
    D total = {0};
    load_rows(m, w->x, rows.x, count);
    load_rows(m, v, rows.v, count);
    load_rows(m, w->f, rows.f, count);
    for (int k = 0; k < LANES; k++) heat[k] = rows.heat[k < count ? k : count - 1];
    for (long step = 0; step < steps; step++) {
        move(m, p, w, v, heat, &noise);
        total = block_energy(m, w, rate, 1);
        for (int i = 0; i < m->atoms; i++)
            for (int c = 0; c < 3; c++) v[i][c] += p->kick[i] * w->f[i][c];
    }
    total += wide(not_finite(m, w->x));
    store_rows(m, w->x, rows.x, count);
    store_rows(m, v, rows.v, count);
    store(m, w, total, count, rows.energy, rows.f);
}

/* Advances n rows by BAOAB (Leimkuhler and Matthews 2013). `first` is the number of the first row
 * within the call, which decides its noise. Returns 0, or 1 without memory. */
int gensci_langevin(const Model *m, const Langevin *p, Rows rows, long n, long steps,
                    uint64_t key, int64_t first)
{
    size_t atoms = m->atoms;
    V *memory, *rate;
    Block w = make_block(m, &memory, &rate, 3 * atoms);
    if (!memory) return 1;
    V (*v)[3] = (V(*)[3])(rate + atoms);
    for (long start = 0; start < n && steps > 0; start += LANES) {
        long count = n - start < LANES ? n - start : LANES, at = 3 * (long)atoms * start;
        Rows here = {rows.x + at, rows.v + at, rows.f + at, rows.energy + start,
                     rows.heat + start};
        run_block(m, p, &w, rate, v, here, count, noise_of(key, first + start), steps);
    }
    free(memory);
    return 0;
}
