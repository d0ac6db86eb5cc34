"""Whether a crystal is possible at all: the two checks that CDVAE introduced.

Ref: Xie et al. 2022, arXiv:2110.06197 (checks); Davies et al. 2019, 10.21105/joss.01361 (smact).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from gensci.core.elements import SYMBOLS
from gensci.metrics.crystal_arrays import (
    Crystal,
    cell_vectors,
    composition_key,
    niggli_vectors,
)

MIN_DISTANCE = 0.5  # Angstrom
MIN_VOLUME = 0.1  # cubic Angstrom
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.float64)


@dataclass(frozen=True)
class Validity:
    """The two checks of one crystal.

    Attributes:
        structural: no two atoms closer than 0.5 Angstrom in a cell of at least 0.1 cubic Angstrom.
        compositional: some oxidation states of the elements sum to zero and follow Pauling.
    """

    structural: bool
    compositional: bool

    @property
    def valid(self) -> bool:
        """Both."""
        return self.structural and self.compositional


def crystal_validity(crystal: Crystal) -> Validity:
    """Both checks of one crystal; a cell that is none fails the first."""
    numbers = np.asarray(crystal.numbers)
    known = bool(len(numbers) and (numbers > 0).all())
    return Validity(
        structural=is_structure_valid(crystal),
        compositional=known and is_composition_valid(composition_key(numbers)),
    )


def is_structure_valid(crystal: Crystal) -> bool:
    """Whether the cell has 0.1 cubic Angstrom and no two atoms are closer than 0.5 Angstrom.

    An atom is not compared with its own images, as in the published code.
    """
    return crystal.constructible and bool(min_distance(crystal) >= MIN_DISTANCE)


def min_distance(crystal: Crystal) -> float:
    """The least distance of two different atoms in Angstrom, infinite for one atom."""
    first, second = np.triu_indices(len(crystal.numbers), 1)
    if not len(first):
        return float("inf")
    matrix = cell_vectors(np.asarray(crystal.lattice, dtype=np.float64))
    coordinates = np.asarray(crystal.coordinates, dtype=np.float64)
    # A skew cell has its short vectors elsewhere, so images are taken of a reduced one.
    short = niggli_vectors(matrix)
    off = (coordinates[first] - coordinates[second]) @ (matrix @ np.linalg.inv(short))
    off -= np.round(off)
    images = off[:, None] @ short + _IMAGES @ short
    return float(np.sqrt((images**2).sum(-1).min()))


@functools.lru_cache(maxsize=100_000)
def is_composition_valid(composition: tuple[tuple[int, int], ...]) -> bool:
    """Charge neutrality and Pauling's rule over smact's oxidation states, as CDVAE applies them.

    A single element and an alloy of metals are valid. The oxidation states are smact's list of
    2014, on which the published rates rest. An element without an electronegativity passes Pauling,
    as CDVAE meant it; smact 4 itself refuses those (Eu, Tb, Yb among them).

    Args:
        composition: atomic numbers and their counts, without a common factor.
    """
    if len(composition) == 1:
        return True
    elements = [_element(number) for number, _ in composition]
    if all(element.is_metal for element in elements):
        return True
    counts = np.array([count for _, count in composition])
    return _balanced(elements, counts)


@dataclass(frozen=True)
class _Element:
    symbol: str
    electronegativity: float | None
    states: tuple[int, ...]
    is_metal: bool


_UNKNOWN = _Element("", None, (), False)


@functools.lru_cache(maxsize=128)
def _element(number: int) -> _Element:
    import smact

    symbol = SYMBOLS[number - 1]
    try:
        known = smact.Element(symbol)
    except NameError:  # smact knows 103 elements
        return _UNKNOWN
    return _Element(
        symbol,
        known.pauling_eneg,
        tuple(known.oxidation_states_smact14 or ()),
        symbol in smact.metals,
    )


def _balanced(elements: list[_Element], counts: np.ndarray) -> bool:
    """Whether some choice of states is neutral and gives cations the lower electronegativities."""
    if any(not element.states for element in elements):
        return False
    grids = np.meshgrid(*(element.states for element in elements), indexing="ij")
    states = np.stack(grids, -1).reshape(-1, len(elements))
    states = states[states @ counts == 0]
    return any(_follows_pauling(elements, row) for row in states)


def _follows_pauling(elements: list[_Element], states: np.ndarray) -> bool:
    """Every anion is more electronegative than every cation; unknown values pass."""
    if any(element.electronegativity is None for element in elements):
        return True
    pairs = list(zip(elements, states.tolist(), strict=True))
    cations = [element.electronegativity for element, state in pairs if state > 0]
    anions = [element.electronegativity for element, state in pairs if state < 0]
    if not cations or not anions:
        return True
    return max(cations) < min(anions)
