"""What the worker processes of matching do: they hold all crystals and compare by number."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gensci.metrics.crystal_arrays import (
    Crystal,
    CrystalLike,
    ReducedCrystal,
    reduce_crystal,
    to_pymatgen,
)
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.structure_match import rms_distance


@dataclass
class Bank:
    """Crystals that every worker holds, so that pairs are sent as two numbers.

    Attributes:
        crystals: all that take part.
        protocol: the tolerances and the matcher.
    """

    crystals: Sequence[Crystal]
    protocol: Protocol
    _reduced: dict[int, ReducedCrystal] = field(default_factory=dict)

    @classmethod
    def of(cls, crystals: Sequence[CrystalLike], protocol: Protocol) -> Bank:
        """A bank of light copies."""
        return cls([Crystal.of(crystal) for crystal in crystals], protocol)

    def distance(self, pair: tuple[int, int]) -> float | None:
        """The normalised distance of two crystals, None where they do not match."""
        if self.protocol.matcher == "pymatgen":
            return _by_pymatgen(self.crystals[pair[0]], self.crystals[pair[1]], self.protocol)
        first, second = (self._reduce(index) for index in pair)
        return rms_distance(first, second, self.protocol.tolerances)

    def first_match(self, item: tuple[int, tuple[int, ...]]) -> int | None:
        """The first of several crystals that matches the one named first."""
        one, others = item
        for other in others:
            if self.distance((one, other)) is not None:
                return other
        return None

    def _reduce(self, index: int) -> ReducedCrystal:
        if index not in self._reduced:
            if len(self._reduced) > 20_000:
                self._reduced.clear()
            self._reduced[index] = reduce_crystal(self.crystals[index])
        return self._reduced[index]


@functools.lru_cache(maxsize=4)
def _pymatgen_matcher(stol: float, ltol: float, angle_tol: float) -> Any:
    from pymatgen.core.structure_matcher import StructureMatcher

    return StructureMatcher(stol=stol, ltol=ltol, angle_tol=angle_tol)


def _by_pymatgen(first: Crystal, second: Crystal, protocol: Protocol) -> float | None:
    matcher = _pymatgen_matcher(protocol.stol, protocol.ltol, protocol.angle_tol)
    found = matcher.get_rms_dist(to_pymatgen(first), to_pymatgen(second))
    return None if found is None else float(np.float64(found[0]))
