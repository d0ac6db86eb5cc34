"""How often walkers cross the backbone barriers, and whether independent ladders agree.

A walker is one continuous trajectory through all temperatures of its ladder. It counts as in a
basin from the moment it enters the basin's core until it enters the core of the other one, so that
quivering on top of a barrier is no crossing (transition-based assignment, Buchete and Hummer 2008,
J. Phys. Chem. B 112, 6057). Cores lie inside of the usual regions of the Ramachandran plot (Lovell
et al. 2003, Proteins 50, 437): for phi the negative half (alpha, beta, PPII) and the left-handed
region, for psi the alpha and the beta region, for omega cis and trans. Walkers are looked at once
a frame; crossings in between go unseen, so the counts are lower bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensci.sims.peptide.backbone import BackboneTorsion

# Two cores of each torsion, degrees [from, to) on the circle. The barriers: phi at 0 and about 120,
# psi at about 70 and -120, omega at 90 and -90.
CORES: dict[str, dict[str, tuple[float, float]]] = {
    "phi": {"negative": (-160.0, -40.0), "positive": (40.0, 100.0)},
    "psi": {"beta": (110.0, 190.0), "alpha": (-80.0, 20.0)},
    "omega": {"trans": (150.0, 210.0), "cis": (-30.0, 30.0)},
}
ENOUGH_TRIPS = 20  # the weight of a basin is then known to about a third: sqrt(2 / trips)
LARGEST_DISAGREEMENT = 1.1
_NO_BASIN = -1


@dataclass(frozen=True, eq=False)
class BarrierTrips:
    """Counts so far.

    Attributes:
        basin: (walkers, torsions) int64, the core it was in last: 0 or 1; -1 for neither yet.
        crossings: (walkers, torsions) int64, changes of basin.
        seen: (ladders, torsions, 2) int64, frames at the coldest temperature by basin.
    """

    basin: Tensor
    crossings: Tensor
    seen: Tensor

    @classmethod
    def zero(cls, ladders: int, rungs: int, torsions: int) -> BarrierTrips:
        """Before the first frame."""
        walkers = ladders * rungs
        return cls(
            basin=torch.full((walkers, torsions), _NO_BASIN),
            crossings=torch.zeros((walkers, torsions), dtype=torch.int64),
            seen=torch.zeros((ladders, torsions, 2), dtype=torch.int64),
        )

    def observe(self, core: Tensor, walker: Tensor) -> BarrierTrips:
        """With one more frame of every replica.

        Args:
            core: (rows, torsions) int64, the core of each replica or -1, see ``cores``; rows go
                ladder by ladder, the coldest temperature first.
            walker: (rows,) int64, which walker sits in each row.
        """
        before = self.basin[walker]
        now = torch.where(core == _NO_BASIN, before, core)
        crossed = (now != before) & (before != _NO_BASIN)
        basin, crossings = self.basin.clone(), self.crossings.clone()
        basin[walker] = now
        crossings[walker] += crossed
        ladders = len(self.seen)
        coldest = now[:: len(walker) // ladders]
        held = torch.stack([coldest == 0, coldest == 1], dim=-1)
        return BarrierTrips(basin, crossings, self.seen + held)


def cores(angles: Tensor, torsions: tuple[BackboneTorsion, ...]) -> Tensor:
    """The core that each angle lies in: (n, k) int64, 0 or 1, -1 for none.

    Args:
        angles: (n, k) radians; not a number lies in none.
        torsions: k of them.
    """
    found = torch.full(angles.shape, _NO_BASIN)
    for column, torsion in enumerate(torsions):
        for basin, (start, end) in enumerate(CORES[torsion.kind].values()):
            turn = torch.rad2deg(angles[:, column]) - start
            found[turn.remainder(360.0) < end - start, column] = basin
    return found


def judged(torsion: BackboneTorsion) -> bool:
    """Whether a torsion must be crossed for good mixing.

    The ring of proline holds its phi, and peptide bonds turn too rarely to be asked for.
    """
    return torsion.kind != "omega" and (torsion.kind, torsion.residue_name) != ("phi", "PRO")


def barrier_report(
    trips: BarrierTrips, torsions: tuple[BackboneTorsion, ...]
) -> dict[str, dict[str, Any]]:
    """What to know about each torsion, in types of JSON.

    Returns:
        For each name such as ``phi2``: ``judged``; the names of its two ``basins``; ``crossings``
        and ``round_trips`` of all walkers together; ``fraction`` of the frames in the second basin,
        its ``standard_error`` over the ladders (None for a single one) and ``disagreement``, see
        ``disagreement``.
    """
    report = {}
    for column, torsion in enumerate(torsions):
        seen = trips.seen[:, column].double()
        crossings = trips.crossings[:, column]
        report[torsion.name] = {
            "judged": judged(torsion),
            "basins": list(CORES[torsion.kind]),
            "crossings": int(crossings.sum()),
            "round_trips": int((crossings // 2).sum()),
            **_agreement(seen),
        }
    return report


def _agreement(seen: Tensor) -> dict[str, float | None]:
    """Fraction in the second basin, from frames by ladder and basin (ladders, 2)."""
    frames = seen.sum(dim=1)
    used = frames > 0
    if not used.any():
        return {"fraction": None, "standard_error": None, "disagreement": None}
    share = seen[used, 1] / frames[used]
    ladders = len(share)
    if ladders < 2:
        return {"fraction": float(share.mean()), "standard_error": None, "disagreement": None}
    error = float(share.std() / math.sqrt(ladders))
    return {
        "fraction": float(share.mean()),
        "standard_error": error,
        "disagreement": disagreement(share),
    }


def disagreement(share: Tensor) -> float | None:
    """Spread of a basin's weight between ladders against that inside of one.

    ``sqrt(1 + between / within)``: 1 where all agree. Potential scale reduction of an indicator,
    Gelman and Rubin 1992, Statist. Sci. 7, 457.

    Args:
        share: (ladders,) fraction of frames in the basin, of two ladders at least.

    Returns:
        At least 1; None where every ladder keeps to one basin of its own, which is infinite.
    """
    within = float((share * (1 - share)).mean())
    between = float(share.var())
    if between == 0:
        return 1.0
    return math.sqrt(1 + between / within) if within > 0 else None


def mixing_report(
    trips: BarrierTrips,
    torsions: tuple[BackboneTorsion, ...],
    temperatures: int,
    round_trips: int,
) -> dict[str, Any]:
    """Whether a simulation has mixed, and why not.

    Args:
        trips: counts so far.
        torsions: those that were followed.
        temperatures: length of a ladder.
        round_trips: of all walkers through the temperatures.

    Returns:
        ``verdict``: ``well mixed``, ``poorly mixed``, or ``not judged`` where no torsion is;
        ``reasons`` for a poor one; ``torsions``, see ``barrier_report``. In types of JSON.
    """
    found = barrier_report(trips, torsions)
    reasons = []
    if temperatures > 1 and round_trips < ENOUGH_TRIPS:
        reasons.append(f"{_trips(round_trips)} through the temperatures")
    rows = {name: row for name, row in found.items() if row["judged"]}
    for name, row in sorted(rows.items(), key=lambda item: item[1]["round_trips"]):
        if row["round_trips"] < ENOUGH_TRIPS:
            reasons.append(f"{_trips(row['round_trips'])} of {name}")
    if reasons:
        reasons[-1] += f" (at least {ENOUGH_TRIPS} wanted)"
    reasons += [line for name, row in rows.items() if (line := _quarrel(name, row))]
    verdict = "poorly mixed" if reasons else "well mixed" if rows else "not judged"
    return {"verdict": verdict, "reasons": reasons, "torsions": found}


def _trips(count: int) -> str:
    return f"{count} round trip{'' if count == 1 else 's'}"


def _quarrel(name: str, row: dict[str, Any]) -> str:
    """Why the ladders do not agree on a torsion, or nothing where they do or are too few."""
    if row["standard_error"] is None:
        return ""
    if row["disagreement"] is None:
        return f"ladders keep to one basin of {name} each"
    if row["disagreement"] > LARGEST_DISAGREEMENT:
        return f"ladders disagree on {name} by {row['disagreement']:.2f}"
    return ""
