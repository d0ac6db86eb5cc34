"""Crystals of textbook prototypes, for the tests of templates."""

import numpy as np

from gensci.data.structure_table import Structure, StructureTable

HALF = 0.5


def crystal(name, numbers, fractional, lattice):
    fractional = np.mod(np.array(fractional, dtype=np.float32), 1)
    return Structure(
        "crystal", name, "hand", np.array(numbers, np.uint8), fractional, np.float32(lattice)
    )


def rocksalt(name, a, x, edge):
    """Primitive cell of the conventional cube of this edge."""
    length = edge / np.sqrt(2)
    return crystal(name, (a, x), [[0, 0, 0], [HALF] * 3], [length] * 3 + [60] * 3)


def caesium_chloride(name, a, x, edge):
    return crystal(name, (a, x), [[0, 0, 0], [HALF] * 3], [edge] * 3 + [90] * 3)


def perovskite(name, a, b, x, edge, off=0.0):
    """A in the corner, B in the centre moved by `off` along c."""
    places = [
        [0, 0, 0],
        [HALF, HALF, HALF + off],
        [0, HALF, HALF],
        [HALF, 0, HALF],
        [HALF, HALF, 0],
    ]
    return crystal(name, (a, b, x, x, x), places, [edge] * 3 + [90] * 3)


def table(*structures):
    return StructureTable.from_structures(structures)


def salts():
    return table(
        rocksalt("NaCl", 11, 17, 5.64),
        rocksalt("LiF", 3, 9, 4.03),
        rocksalt("MgO", 12, 8, 4.21),
        caesium_chloride("CsCl", 55, 17, 4.12),
        perovskite("SrTiO3", 38, 22, 8, 3.905),
    )
