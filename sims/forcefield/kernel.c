/* Entry points of the kernel: conformations come in rows and are evaluated in blocks of lanes. */
#include <stdlib.h>

#include "forces.c"

/* Loads conformations; a lane with a non-finite coordinate gets NaN in `bad`, others zero. */
static V load(const Model *m, Block *w, const real *x, long count)
{
    V bad = splat(0);
    long stride = 3 * (long)m->atoms;
    for (int i = 0; i < m->atoms; i++)
        for (int c = 0; c < 3; c++) {
            V v;
            for (int k = 0; k < LANES; k++)
                v[k] = x[stride * (k < count ? k : count - 1) + 3 * i + c];
            w->x[i][c] = v;
            w->f[i][c] = splat(0);
            bad += v * 0;
        }
    return bad;
}

static void store(const Model *m, Block *w, D total, long count, real *energy, real *forces)
{
    long stride = 3 * (long)m->atoms;
    for (int k = 0; k < count; k++) {
        int finite = total[k] - total[k] == 0;
        energy[k] = isnan(total[k]) ? R(INFINITY) : R(total[k]);
        for (int i = 0; forces && i < 3 * m->atoms; i++) {
            real f = w->f[i / 3][i % 3][k];
            forces[stride * k + i] = finite && f - f == 0 ? f : 0;
        }
    }
}

static void evaluate(const Model *m, Block *w, V *rate, const real *x, long count, real *energy,
                     real *forces)
{
    V bad = load(m, w, x, count);
    D total = block_energy(m, w, rate, forces != NULL) + wide(bad);
    store(m, w, total, count, energy, forces);
}

/* Scratch of one block: `memory` is what to free, NULL where there is none; `rate` gets an entry for
 * each atom, followed by `more` vectors for the caller. */
static Block make_block(const Model *m, V **memory, V **rate, size_t more)
{
    size_t atoms = m->atoms, pairs = atoms * (atoms - 1) / 2;
    V *at = aligned_alloc(sizeof(V), sizeof(V) * (11 * atoms + 3 * pairs + more + 1));
    *memory = at;
    if (!at) return (Block){0};
    V *rest = at + 6 * atoms, *pair = rest + 4 * atoms;
    *rate = pair + 3 * pairs;
    return (Block){(V(*)[3])at, (V(*)[3])(at + 3 * atoms), rest, rest + atoms, rest + 2 * atoms,
                   rest + 3 * atoms, pair, pair + pairs, pair + 2 * pairs};
}

/* Evaluates n conformations x[n][atoms][3]; forces may be NULL. Returns 0, or 1 without memory. */
int gensci_evaluate(const Model *m, const real *x, long n, real *energy, real *forces)
{
    size_t atoms = m->atoms;
    V *memory, *rate;
    Block w = make_block(m, &memory, &rate, 0);
    if (!memory) return 1;
    for (long start = 0; start < n; start += LANES) {
        long count = n - start < LANES ? n - start : LANES;
        real *to = forces ? forces + 3 * atoms * start : NULL;
        evaluate(m, &w, rate, x + 3 * atoms * start, count, energy + start, to);
    }
    free(memory);
    return 0;
}

#include "stepper.c"
