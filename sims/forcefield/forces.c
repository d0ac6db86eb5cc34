/* The potential of one block: what kernel.c and stepper.c evaluate. */
#include "pairs.c"

/* With forces = 0 or 1 known to the compiler, it drops what an energy alone does not need. */
INLINE D potential(const Model *m, Block *w, V *rate, int forces)
{
    V single = splat(0);
    if (m->has_born) {
        born_integrals(m, w, forces);
        single = born_radii(m, w, rate);
    } else {
        distances(m, w);
    }
    D total = pair_energies(m, w, forces) + wide(single);
    if (forces) {
        for (int i = 0; m->has_born && i < m->atoms; i++) w->chain[i] *= rate[i];
        pair_forces(m, w);
    }
    total += wide(bonds(m, w->x, w->f, forces)) + wide(angles(m, w->x, w->f, forces));
    return total + wide(torsions(m, w->x, w->f, forces));
}

/* Energies of the lanes of w->x in kJ/mol; with forces, adds the forces to w->f, which otherwise
 * is left alone. `rate` is room for one vector for each atom. */
static D block_energy(const Model *m, Block *w, V *rate, int forces)
{
    return forces ? potential(m, w, rate, 1) : potential(m, w, rate, 0);
}
