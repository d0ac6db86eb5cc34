"""Crystals as light arrays, and their primitive Niggli cells: what matching works on."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray

PRIMITIVE_TOLERANCE = 0.25  # Angstrom, pymatgen's default in Structure.get_primitive_structure
_NIGGLI_TOLERANCE = 1e-5  # times the cube root of the volume, as in pymatgen
_MIN_VOLUME = 0.1  # cubic Angstrom; below, CDVAE calls a crystal not constructed
_MAX_LENGTH = 1e4  # Angstrom


class CrystalLike(Protocol):
    """What has the arrays of a crystal: ``Crystal`` here, or a row of a table of structures."""

    @property
    def numbers(self) -> Array:
        """(atoms,) atomic numbers."""
        ...

    @property
    def coordinates(self) -> Array:
        """(atoms, 3) fractional."""
        ...

    @property
    def lattice(self) -> Any:
        """(6,) Angstrom and degrees."""
        ...


@dataclass(frozen=True)
class Crystal:
    """One crystal.

    Attributes:
        numbers: (atoms,) atomic numbers.
        coordinates: (atoms, 3) fractional.
        lattice: (6,) a, b, c in Angstrom, alpha, beta, gamma in degrees.
    """

    numbers: Array
    coordinates: Array
    lattice: Array

    @classmethod
    def of(cls, other: CrystalLike) -> Crystal:
        """The same crystal in float64, without what else the other object carries."""
        return cls(
            np.asarray(other.numbers, dtype=np.int64),
            np.asarray(other.coordinates, dtype=np.float64),
            np.asarray(other.lattice, dtype=np.float64),
        )

    @property
    def volume(self) -> float:
        """Cubic Angstrom; NaN where the angles make no cell."""
        return float(cell_volume(np.asarray(self.lattice, dtype=np.float64)))

    @property
    def constructible(self) -> bool:
        """Whether the numbers are those of a cell with atoms in it: finite, not flat, not empty."""
        with np.errstate(invalid="ignore"):
            return bool(
                len(self.numbers)
                and (np.asarray(self.numbers) > 0).all()
                and np.isfinite(self.coordinates).all()
                and np.isfinite(self.lattice).all()
                and (np.asarray(self.lattice)[:3] < _MAX_LENGTH).all()
                and (np.asarray(self.lattice) > 0).all()
                and self.volume >= _MIN_VOLUME
            )


def cell_volume(parameters: Array) -> Array:
    """Volumes (...) in cubic Angstrom of cells (..., 6); NaN where no such cell exists."""
    cosines = np.cos(np.deg2rad(parameters[..., 3:]))
    x, y, z = cosines[..., 0], cosines[..., 1], cosines[..., 2]
    with np.errstate(invalid="ignore"):
        flatness = np.sqrt(1 - x * x - y * y - z * z + 2 * x * y * z)
    return parameters[..., :3].prod(-1) * flatness


def cell_vectors(parameters: Array) -> Array:
    """Lattice vectors as rows (..., 3, 3), a along x and b in the xy plane, of cells (..., 6)."""
    a, b, c = parameters[..., 0], parameters[..., 1], parameters[..., 2]
    cosines = np.cos(np.deg2rad(parameters[..., 3:]))
    cos_alpha, cos_beta, cos_gamma = cosines[..., 0], cosines[..., 1], cosines[..., 2]
    sin_gamma = np.sin(np.deg2rad(parameters[..., 5]))
    matrix = np.zeros((*parameters.shape[:-1], 3, 3))
    matrix[..., 0, 0] = a
    matrix[..., 1, 0], matrix[..., 1, 1] = b * cos_gamma, b * sin_gamma
    matrix[..., 2, 0] = c * cos_beta
    matrix[..., 2, 1] = c * (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    matrix[..., 2, 2] = cell_volume(parameters) / (a * b * sin_gamma)
    return matrix


def cell_parameters(matrix: Array) -> Array:
    """Lengths and angles in degrees (..., 6) of lattice vectors (..., 3, 3)."""
    lengths = np.sqrt((matrix**2).sum(-1))
    unit = matrix / lengths[..., None]
    a, b, c = unit[..., 0, :], unit[..., 1, :], unit[..., 2, :]
    cosines = np.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], -1)
    return np.concatenate([lengths, np.rad2deg(np.arccos(cosines.clip(-1, 1)))], -1)


def composition_key(numbers: Array) -> tuple[tuple[int, int], ...]:
    """Atomic numbers with their counts, divided by what they have in common."""
    elements, counts = np.unique(np.asarray(numbers), return_counts=True)
    common = math.gcd(*counts.tolist())
    return tuple(zip(elements.tolist(), (counts // common).tolist(), strict=True))


@dataclass(frozen=True)
class ReducedCrystal:
    """The primitive Niggli cell of a crystal.

    Attributes:
        numbers: (atoms,).
        coordinates: (atoms, 3) fractional in [0, 1).
        matrix: (3, 3) lattice vectors as rows, Angstrom.
        parameters: (6,) of the matrix.
    """

    numbers: Array
    coordinates: Array
    matrix: Array
    parameters: Array


def reduce_crystal(crystal: Crystal) -> ReducedCrystal:
    """The cell that pymatgen's matcher compares: Niggli, then primitive within 0.25 Angstrom.

    A cell is handed to pymatgen only where a translation might map it on itself.

    Ref: Grosse-Kunstleve, Sauter, Adams 2004, 10.1107/S010876730302186X (Niggli, by spglib).
    """
    matrix = cell_vectors(crystal.lattice)
    matrix, coordinates = _niggli(matrix, crystal.coordinates)
    numbers = crystal.numbers
    if _may_be_supercell(numbers, coordinates, matrix):
        numbers, coordinates, matrix = _primitive(numbers, coordinates, matrix)
    return ReducedCrystal(numbers, coordinates, matrix, cell_parameters(matrix))


def niggli_vectors(matrix: Array) -> Array:
    """Lattice vectors (3, 3) of the Niggli cell, with the tolerance that pymatgen has."""
    import spglib

    tolerance = _NIGGLI_TOLERANCE * abs(np.linalg.det(matrix)) ** (1 / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spglib announces another way to report errors
        reduced = spglib.niggli_reduce(matrix, eps=tolerance)
    if reduced is not None:
        return reduced
    from pymatgen.core import Lattice

    return np.array(Lattice(matrix).get_niggli_reduced_lattice().matrix)


def _niggli(matrix: Array, coordinates: Array) -> tuple[Array, Array]:
    reduced = niggli_vectors(matrix)
    fractional = coordinates @ matrix @ np.linalg.inv(reduced)
    return reduced, fractional - np.floor(fractional)


def _may_be_supercell(numbers: Array, coordinates: Array, matrix: Array) -> bool:
    """Whether some translation maps every atom near one of its kind; False is certain."""
    elements, counts = np.unique(numbers, return_counts=True)
    if math.gcd(*counts.tolist()) == 1:
        return False
    reach = 2 * PRIMITIVE_TOLERANCE / np.sqrt((matrix**2).sum(-1)) + 1e-9
    rarest = coordinates[numbers == elements[counts.argmin()]]
    shifts = (rarest - rarest[0])[1:]
    for element in elements:
        atoms = coordinates[numbers == element]
        steps = atoms[None, :] - atoms[:, None]
        off = steps[None] - shifts[:, None, None]
        near = (np.abs(off - np.round(off)) <= reach).all(-1).any(-1).all(-1)
        shifts = shifts[near]
        if not len(shifts):
            return False
    return True


def _primitive(numbers: Array, coordinates: Array, matrix: Array) -> tuple[Array, Array, Array]:
    from pymatgen.core import Lattice, Structure

    whole = Structure(Lattice(matrix), numbers.tolist(), coordinates)
    small = whole.get_primitive_structure(tolerance=PRIMITIVE_TOLERANCE)
    fractional = np.asarray(small.frac_coords)
    found = np.array(small.atomic_numbers)
    return found, fractional - np.floor(fractional), np.array(small.lattice.matrix)


def to_pymatgen(crystal: CrystalLike) -> Any:
    """The same crystal as ``pymatgen.core.Structure``."""
    from pymatgen.core import Lattice, Structure

    lattice = Lattice.from_parameters(*np.asarray(crystal.lattice, dtype=float).tolist())
    numbers = np.asarray(crystal.numbers, dtype=int).tolist()
    return Structure(lattice, numbers, np.asarray(crystal.coordinates, dtype=float))


def from_pymatgen(structure: Any) -> Crystal:
    """Arrays of an ordered ``pymatgen.core.Structure``."""
    return Crystal(
        np.array(structure.atomic_numbers),
        np.array(structure.frac_coords),
        np.array(structure.lattice.parameters),
    )


@functools.lru_cache(maxsize=1)
def _element_masses() -> Array:
    from pymatgen.core import Element

    masses = [float(Element.from_Z(z).atomic_mass) for z in range(1, 119)]
    return np.array([0.0, *masses])


def densities(crystals: Sequence[CrystalLike]) -> Array:
    """Mass densities in g/cm^3, (n,)."""
    to_grams = 1.66053906660  # atomic mass units per cubic Angstrom in g/cm^3
    masses = np.array([_element_masses()[np.asarray(c.numbers, dtype=int)].sum() for c in crystals])
    cells = np.array([np.asarray(c.lattice, dtype=np.float64) for c in crystals]).reshape(-1, 6)
    return to_grams * masses / cell_volume(cells)
