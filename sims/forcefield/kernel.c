/* Entry points of the kernel: conformations come in rows and are evaluated in blocks of lanes. */
#include <stdlib.h>

#include "forces.c"
#include "rows.c"

/* Not-a-number in the lanes that have a coordinate which is not finite, zero in the others: a
 * clamped distance would hide it. */
static V not_finite(const Model *m, V (*x)[3])
{
    V bad = splat(0);
    for (int i = 0; i < 3 * m->atoms; i++) bad += x[i / 3][i % 3] * 0;
    return bad;
}

/* Energies as rows, +inf where not a number, and forces, zero there and where not finite. */
static void store(const Model *m, Block *w, D total, long count, real *energy, real *forces)
{
    V usable;
    for (int k = 0; k < LANES; k++) usable[k] = R(total[k]) - R(total[k]);
    for (int k = 0; k < count; k++) energy[k] = isnan(total[k]) ? R(INFINITY) : R(total[k]);
    if (!forces) return;
    for (int i = 0; i < 3 * m->atoms; i++) {
        V f = w->f[i / 3][i % 3];
        w->f[i / 3][i % 3] = keep(f - f + usable == 0, f);
    }
    store_rows(m, w->f, forces, count);
}

static void evaluate(const Model *m, Block *w, V *rate, const real *x, long count, real *energy,
                     real *forces)
{
    load_rows(m, w->x, x, count);
    for (int i = 0; forces && i < 3 * m->atoms; i++) w->f[i / 3][i % 3] = splat(0);
    D total = block_energy(m, w, rate, forces != NULL) + wide(not_finite(m, w->x));
    store(m, w, total, count, energy, forces);
}

/* Scratch of one block: `memory` is what to free, NULL where there is none; `rate` gets an entry
 * for each atom, followed by `more` vectors for the caller. */
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
