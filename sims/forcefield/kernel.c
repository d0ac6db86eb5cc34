/* Entry points of the kernel: conformations come in rows and are evaluated in blocks of lanes. */
#include <stdlib.h>

#include "pairs.c"

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
    V bad = load(m, w, x, count), single = splat(0);
    if (m->has_born) {
        born_integrals(m, w);
        single = born_radii(m, w, rate);
    } else {
        distances(m, w);
    }
    D total = pair_energies(m, w) + wide(single) + wide(bad);
    if (forces) {
        for (int i = 0; m->has_born && i < m->atoms; i++) w->chain[i] *= rate[i];
        pair_forces(m, w);
    }
    total += wide(bonds(m, w->x, w->f)) + wide(angles(m, w->x, w->f));
    total += wide(torsions(m, w->x, w->f));
    store(m, w, total, count, energy, forces);
}

/* Evaluates n conformations x[n][atoms][3]; forces may be NULL. Returns 0, or 1 without memory. */
int gensci_evaluate(const Model *m, const real *x, long n, real *energy, real *forces)
{
    size_t atoms = m->atoms, pairs = atoms * (atoms - 1) / 2;
    V *memory = aligned_alloc(sizeof(V), sizeof(V) * (11 * atoms + 3 * pairs + 1));
    if (!memory) return 1;
    V *rest = memory + 6 * atoms, *pair = memory + 11 * atoms;
    Block w = {(V(*)[3])memory, (V(*)[3])(memory + 3 * atoms), rest, rest + atoms,
               rest + 2 * atoms, rest + 3 * atoms, pair, pair + pairs, pair + 2 * pairs};
    for (long start = 0; start < n; start += LANES) {
        long count = n - start < LANES ? n - start : LANES;
        real *to = forces ? forces + 3 * atoms * start : NULL;
        evaluate(m, &w, rest + 4 * atoms, x + 3 * atoms * start, count, energy + start, to);
    }
    free(memory);
    return 0;
}
