"""How a match rate was measured: the settings without which the number means little."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gensci.core.errors import UsageError
from gensci.metrics.structure_match import Tolerances

ValidityFilter = Literal["none", "prediction", "both"]
Matcher = Literal["gensci", "pymatgen"]


@dataclass(frozen=True)
class Protocol:
    """Settings of a comparison by StructureMatcher, printed and stored beside every number.

    Attributes:
        stol: root mean square distance allowed, in units of (volume per atom)^(1/3).
        ltol: relative difference of cell lengths allowed.
        angle_tol: difference of cell angles allowed, degrees.
        validity: which structures must pass the checks of ``crystal_validity`` for a match to
            count: none of them (UniGenX, OMatG), the prediction (CDVAE; DiffCSP with several
            samples), or both (DiffCSP with one sample).
        samples: predictions for each reference; the one nearest to the reference counts.
        time_limit: wall-clock seconds for a pair; a pair that takes longer counts as no match.
        matcher: ``gensci``, which gives pymatgen's results several times faster, or ``pymatgen``.
    """

    stol: float = 0.5
    ltol: float = 0.3
    angle_tol: float = 10.0
    validity: ValidityFilter = "none"
    samples: int = 1
    time_limit: float = 20.0
    matcher: Matcher = "gensci"

    def __post_init__(self) -> None:
        for name in ("stol", "ltol", "angle_tol", "time_limit", "samples"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name)} is not usable", "give more than 0")
        for name, kind in (("validity", ValidityFilter), ("matcher", Matcher)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"{name}={getattr(self, name)!r} is unknown",
                    f"choose from: {', '.join(get_args(kind))}",
                )

    @property
    def tolerances(self) -> Tolerances:
        """Those of the matcher alone."""
        return Tolerances(self.stol, self.ltol, self.angle_tol)

    @property
    def text(self) -> str:
        """One line for people."""
        named = {"none": "no validity filter", "both": "prediction and reference valid"}
        valid = named.get(self.validity, "prediction valid")
        return (
            f"StructureMatcher stol {self.stol:g}, ltol {self.ltol:g}, angle {self.angle_tol:g}; "
            f"{valid}; at most {self.time_limit:g} s per pair; matcher {self.matcher}"
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


STRICT = Protocol(stol=0.3, ltol=0.2, angle_tol=5.0)
"""pymatgen's own tolerances, at which uniqueness and novelty are counted."""
