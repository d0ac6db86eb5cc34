"""Crystals for the tests of measures, and what makes the same crystal look different."""

import numpy as np
from pymatgen.core import Lattice, Structure

from gensci.metrics.crystal_arrays import Crystal, from_pymatgen


def crystal(lattice, symbols, places):
    return from_pymatgen(Structure(lattice, symbols, places))


def rock_salt(a=5.64, cation="Na", anion="Cl"):
    return crystal(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]),
                   [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])  # fmt: skip


def caesium_chloride(a=3.5, cation="Na", anion="Cl"):
    return crystal(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a=3.9, rattle=0.0, seed=0):
    places = np.array([[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    shifts = rattle * np.random.default_rng(seed).normal(size=(5, 3))
    return crystal(Lattice.cubic(a), ["Ti", "Sr", "O", "O", "O"], places + shifts)


def random_structure(rng):
    """Two to nine atoms of up to three elements in any cell that is not too flat."""
    lengths = rng.uniform(3.0, 8.0, 3)
    lattice = Lattice.from_parameters(*lengths, *rng.uniform(65, 115, 3))
    kinds = rng.integers(1, 4, size=3)
    symbols = [s for s, n in zip(("Na", "Ti", "O"), kinds, strict=True) for _ in range(n)]
    return Structure(lattice, symbols, rng.random((len(symbols), 3)))


def disturbed(structure, rng, shift=0.3, strain=0.05):
    """Atoms moved by about ``shift`` Angstrom and the cell strained."""
    matrix = structure.lattice.matrix @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
    steps = rng.normal(size=(len(structure), 3)) * shift / 3**0.5
    places = structure.frac_coords + steps @ np.linalg.inv(structure.lattice.matrix)
    return Structure(Lattice(matrix), structure.species, places)


def disguises(structure, rng):
    """The same crystal: other order, origin, rotation, basis and a supercell."""
    order = rng.permutation(len(structure))
    permuted = Structure.from_sites([structure[i] for i in order])
    moved = Structure(structure.lattice, structure.species, structure.frac_coords + rng.random(3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = Structure(
        Lattice(structure.lattice.matrix @ turn), structure.species, structure.frac_coords
    )
    skewed, double = structure.copy(), structure.copy()
    skewed.make_supercell([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    double.make_supercell([[1, 0, 1], [0, 2, 0], [0, 0, 1]])
    return {
        "permuted": permuted,
        "moved": moved,
        "turned": turned,
        "skewed": skewed,
        "double": double,
    }


NO_CELL = Crystal(np.array([11, 17]), np.zeros((2, 3)), np.full(6, np.nan))
