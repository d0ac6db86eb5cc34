"""Triton kernels over pairs of atoms: Born radii; energies with slopes; forces through the radii.

A program serves a tile of ROWS atoms i and LANES conformations and runs over all partners j of its
atoms. Every array over conformations has the conformation as its last, contiguous index, so that a
warp reads 128 consecutive bytes, and every number of the force field is the same for a whole warp.
A program owns the sums of its atoms, so that nothing is scattered: no atomic additions, no races,
the same bits in every run.

Why all ordered pairs, although an unordered one needs half the direct work: Born integrals are
ordered anyway (what i loses to j is not what j loses to i), and atoms as a second dimension fill
the GPU from some thousand conformations on, where one thread for each would want 270,000. The
slopes of the integrals are computed again in the last pass, because to keep them would move 22 kB
for each conformation of 43 atoms, which takes as long as the instructions that it would spare.
By the machine code for sm_90 the passes take 43 + 64 + 72 instructions for an ordered pair in tiles
of four atoms; with the bonded terms that is 452,000 for a conformation of AAAA, so that an H200
could issue 65 million of them in a second and memory traffic (some 3 kB each) is no concern.

Arrays: x, force (3 atoms, n) nm and kJ/mol/nm; row_energy, born, chain (atoms, n); tables as
gpu_tables.py lays them out.
"""

# ruff: noqa: ANN001, ANN201 - to triton an annotation of an argument is an instruction
import triton
import triton.language as tl

from .gpu_tables import ATOM_WIDTH, BLOCK_WIDTH, PAIR_WIDTH, SYSTEM_WIDTH
from .gpu_terms import (  # fmt: skip
    _NECK,
    _SETTING,
    born_radius,
    descreening,
    direct,
    field_settings,
    necks,
    polar_pairs,
    single_atoms,
    solvent_settings,
)

_ATOM: tl.constexpr = tl.constexpr(ATOM_WIDTH)
_BLOCK: tl.constexpr = tl.constexpr(BLOCK_WIDTH)
_PAIR: tl.constexpr = tl.constexpr(PAIR_WIDTH)
_SYSTEM: tl.constexpr = tl.constexpr(SYSTEM_WIDTH)
_MIN_R2: tl.constexpr = tl.constexpr(4e-6)  # MIN_DISTANCE of terms.py, squared


@triton.jit
def place(blocks, systems, groups, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Which conformations and atoms a program serves, and how many partners they have.

    Rows and lanes beyond the end repeat the last one, so that loads need no mask; a program with
    no row of its system has no partners.
    """
    program = tl.program_id(0)
    block = blocks + _BLOCK * (program // groups)
    system = tl.load(block)
    stop = tl.load(block + 2)
    atoms = tl.load(systems + _SYSTEM * system)
    start = (program % groups) * ROWS
    partners = tl.where(start < atoms, atoms, 0)
    row = start + tl.arange(0, ROWS)
    lane = tl.load(block + 1) + tl.arange(0, LANES)
    lanes = tl.minimum(lane, stop - 1)[None, :]
    rows = tl.minimum(row, atoms - 1)[:, None]
    return system, atoms, partners, row[:, None], rows, lanes, lane[None, :] < stop


@triton.jit
def position(x, i, lanes, n):
    """Coordinates of atoms i."""
    at = x + 3 * i * n + lanes
    return tl.load(at), tl.load(at + n), tl.load(at + 2 * n)


@triton.jit
def separation(x, at_x, at_y, at_z, j, lanes, n):
    """Vectors from atom j to the rows and squared distances, held at MIN_DISTANCE."""
    x_j, y_j, z_j = position(x, j, lanes, n)
    dx, dy, dz = at_x - x_j, at_y - y_j, at_z - z_j
    return dx, dy, dz, tl.maximum(dx * dx + dy * dy + dz * dz, _MIN_R2)


@triton.jit(do_not_specialize=["n", "groups"])
def born_pass(
    x, blocks, systems, settings, atom, neck_table, born, chain, n, groups,
    HAS_TANH: tl.constexpr, HAS_NECK: tl.constexpr, HAS_CUTOFF: tl.constexpr, FAST: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Born radii and their derivatives in the Born integral (left in `chain`)."""
    system, atoms, partners, row, rows, lanes, served = place(blocks, systems, groups, ROWS, LANES)
    table = atom + _ATOM * tl.load(systems + _SYSTEM * system + 1)
    neck_table += _NECK * (tl.load(systems + _SYSTEM * system + 2) + rows)
    cutoff2 = tl.load(settings + _SETTING * system + 2)
    at_x, at_y, at_z = position(x, rows, lanes, n)
    own = tl.load(table + _ATOM * rows)
    own_reach = tl.load(table + _ATOM * rows + 2) + tl.load(settings + _SETTING * system + 10)
    total = at_x * 0.0
    for j in range(partners):
        _, _, _, r2 = separation(x, at_x, at_y, at_z, j, lanes, n)
        inverse = tl.rsqrt(r2)
        r = r2 * inverse
        value, _ = descreening(r, inverse, own, tl.load(table + _ATOM * j + 1), FAST)
        if HAS_NECK:
            reach = own_reach + tl.load(table + _ATOM * j + 2)
            value += necks(r, inverse, neck_table + _NECK * atoms * j, reach, FAST)[0]
        counted = rows != j
        if HAS_CUTOFF:
            counted = counted & (r2 <= cutoff2)
        total += tl.where(counted, value, 0.0)
    radius, rate = born_radius(total, table + _ATOM * rows, HAS_TANH)
    kept = served & (row < atoms)
    tl.store(born + rows * n + lanes, radius, mask=kept)
    tl.store(chain + rows * n + lanes, rate, mask=kept)


@triton.jit(do_not_specialize=["n", "groups"])
def pair_pass(
    x, blocks, systems, settings, atom, pairs, row_energy, force, born, chain, n, groups,
    HAS_BORN: tl.constexpr, HAS_SALT: tl.constexpr, HAS_CUTOFF: tl.constexpr,
    HAS_SWITCH: tl.constexpr, FORCES: tl.constexpr, FAST: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Adds pair energies and the forces at fixed Born radii; dB/dI in `chain` becomes dE/dI."""
    system, atoms, partners, row, rows, lanes, served = place(blocks, systems, groups, ROWS, LANES)
    table = atom + _ATOM * tl.load(systems + _SYSTEM * system + 1)
    pair = pairs + _PAIR * (tl.load(systems + _SYSTEM * system + 2) + rows)
    field, solvent = field_settings(settings, system), solvent_settings(settings, system)
    at_x, at_y, at_z = position(x, rows, lanes, n)
    kept, out = served & (row < atoms), rows * n + lanes
    # x * 0 is zero or not a number: it marks conformations that are not finite
    energy = (at_x + at_y + at_z) * 0.0
    fx, fy, fz = at_x * 0.0, at_x * 0.0, at_x * 0.0
    single, radius_rate = energy, energy
    if HAS_BORN:
        own = tl.load(born + out)
        charge = tl.load(table + _ATOM * rows + 3)
        setting = settings + _SETTING * system
        single, radius_rate = single_atoms(own, table + _ATOM * rows, setting, HAS_SALT)
    for j in range(partners):
        dx, dy, dz, r2 = separation(x, at_x, at_y, at_z, j, lanes, n)
        energy_ij, slope = direct(r2, pair + _PAIR * atoms * j, field, HAS_CUTOFF, HAS_SWITCH)
        if HAS_BORN:
            charges = tl.where(rows == j, 0.0, charge * tl.load(table + _ATOM * j + 3))
            other = tl.load(born + j * n + lanes)
            polar, push, rate = polar_pairs(
                r2, charges, own, other, solvent, field[0], HAS_SALT, HAS_CUTOFF, FAST
            )
            energy_ij += polar
            slope += push
            radius_rate += rate
        energy += energy_ij
        if FORCES:
            fx += slope * dx
            fy += slope * dy
            fz += slope * dz
    energy = 0.5 * energy + single + tl.load(row_energy + out)
    tl.store(row_energy + out, energy, mask=kept)
    if FORCES:
        to = force + 3 * rows * n + lanes
        tl.store(to, tl.load(to) + fx, mask=kept)
        tl.store(to + n, tl.load(to + n) + fy, mask=kept)
        tl.store(to + 2 * n, tl.load(to + 2 * n) + fz, mask=kept)
        if HAS_BORN:
            tl.store(chain + out, tl.load(chain + out) * radius_rate, mask=kept)


@triton.jit(do_not_specialize=["n"])
def total_pass(blocks, systems, row_energy, energy, n, LANES: tl.constexpr):
    """Energies of conformations: float64 sums over atoms, +inf where they are not a number."""
    _, atoms, _, _, _, lanes, served = place(blocks, systems, 1, 1, LANES)
    total = tl.zeros([1, LANES], tl.float64)
    for i in range(atoms):
        total += tl.load(row_energy + i * n + lanes).to(tl.float64)
    total = tl.where(total == total, total, float("inf"))
    tl.store(energy + lanes, total.to(energy.dtype.element_ty), mask=served)


@triton.jit(do_not_specialize=["n", "groups"])
def chain_pass(
    x, blocks, systems, settings, atom, neck_table, force, energy, chain, n, groups,
    HAS_BORN: tl.constexpr, HAS_NECK: tl.constexpr, HAS_CUTOFF: tl.constexpr, FAST: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Adds the forces through the Born radii; zero where energy or force is not finite."""
    system, atoms, partners, row, rows, lanes, served = place(blocks, systems, groups, ROWS, LANES)
    to, exists = force + 3 * row * n + lanes, row < atoms
    fx = tl.load(to, mask=served & exists, other=0.0)
    fy = tl.load(to + n, mask=served & exists, other=0.0)
    fz = tl.load(to + 2 * n, mask=served & exists, other=0.0)
    if HAS_BORN:
        table = atom + _ATOM * tl.load(systems + _SYSTEM * system + 1)
        neck_table += _NECK * (tl.load(systems + _SYSTEM * system + 2) + rows)
        cutoff2 = tl.load(settings + _SETTING * system + 2)
        at_x, at_y, at_z = position(x, rows, lanes, n)
        own_chain = tl.load(chain + rows * n + lanes)
        own, own_scaled = tl.load(table + _ATOM * rows), tl.load(table + _ATOM * rows + 1)
        own_reach = tl.load(table + _ATOM * rows + 2) + tl.load(settings + _SETTING * system + 10)
        for j in range(partners):
            dx, dy, dz, r2 = separation(x, at_x, at_y, at_z, j, lanes, n)
            inverse = tl.rsqrt(r2)
            r = r2 * inverse
            _, on_own = descreening(r, inverse, own, tl.load(table + _ATOM * j + 1), FAST)
            _, on_other = descreening(r, inverse, tl.load(table + _ATOM * j), own_scaled, FAST)
            if HAS_NECK:
                reach = own_reach + tl.load(table + _ATOM * j + 2)
                ij = neck_table + _NECK * atoms * j
                _, push, _, other_push = necks(r, inverse, ij, reach, FAST)
                on_own += push
                on_other += other_push
            slope = own_chain * on_own + tl.load(chain + j * n + lanes) * on_other
            if HAS_CUTOFF:
                slope = tl.where(r2 <= cutoff2, slope, 0.0)
            fx -= slope * dx
            fy -= slope * dy
            fz -= slope * dz
    total = tl.load(energy + lanes)
    usable = (total - total == 0.0) & exists
    # rows beyond the system's own atoms are written too: their force is zero
    tl.store(to, tl.where(usable & (fx - fx == 0.0), fx, 0.0), mask=served)
    tl.store(to + n, tl.where(usable & (fy - fy == 0.0), fy, 0.0), mask=served)
    tl.store(to + 2 * n, tl.where(usable & (fz - fz == 0.0), fz, 0.0), mask=served)
