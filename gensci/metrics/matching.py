"""How many crystals are predicted right: match rate, distance, best of n, METRe and cRMSE.

Ref: Xie et al. 2022, arXiv:2110.06197 (match rate, RMSE); Jiao et al. 2023, arXiv:2309.04475 (best
of 20); Höllmer et al. 2025, arXiv:2502.02582 (OMatG) and its METRe and cRMSE.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gensci.core.errors import UsageError
from gensci.core.worker_pool import timed_map
from gensci.metrics.crystal_arrays import Crystal, CrystalLike, composition_key
from gensci.metrics.crystal_validity import crystal_validity
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.match_worker import Bank

Array = np.ndarray

STATUSES = (
    "no match", "match", "other atoms", "unusable", "invalid", "timed out", "failed", "missing"
)  # fmt: skip
"""What became of a prediction; the matrices of ``MatchTable`` hold positions in this list."""
_NAMED = {name: index for index, name in enumerate(STATUSES)}


@dataclass(frozen=True)
class MatchScore:
    """Match rate of the best of n predictions.

    Attributes:
        samples: n.
        rate: share of the references with a match, 0 to 1.
        rate_error: its standard error over references (binomial).
        rmse: mean over matched references of the least distance, in units of
            (volume per atom)^(1/3); NaN without a match.
        crmse: the same over all references, where none matches with stol.
        matched: references with a match.
        references: all of them.
        lost: why predictions were not compared or not to the end, with their numbers: other atoms,
            unusable (no crystal), invalid (left out by the filter), timed out, failed, missing. All
            count as no match.
        protocol: how it was measured.
    """

    samples: int
    rate: float
    rate_error: float
    rmse: float
    crmse: float
    matched: int
    references: int
    lost: dict[str, int]
    protocol: Protocol

    def record(self) -> dict[str, Any]:
        """For JSON; NaN becomes null."""
        plain = {k: None if isinstance(v, float) and math.isnan(v) else v
                 for k, v in asdict(self).items()}  # fmt: skip
        return {**plain, "protocol": self.protocol.record()}

    def __str__(self) -> str:
        lost = [f"{count} {reason}" for reason, count in self.lost.items()]
        return (
            f"n = {self.samples:<3} match {self.rate:6.1%} +- {self.rate_error:.1%}  "
            f"RMSE {self.rmse:.4f}  ({self.matched} of {self.references})"
            + (f"  [{', '.join(lost)}]" if lost else "")
        )


@dataclass(frozen=True)
class MatchTable:
    """Every prediction compared with its reference.

    Attributes:
        distance: (references, k) normalised distances, NaN where there is no match.
        status: (references, k) uint8 positions in ``STATUSES``.
        protocol: how it was measured; ``samples`` is k.
    """

    distance: Array
    status: Array
    protocol: Protocol

    def score(self, samples: int | None = None, rows: Array | None = None) -> MatchScore:
        """The score of the best of the first ``samples`` predictions.

        Args:
            samples: all of them where None.
            rows: references to keep, (references,) booleans or row numbers.
        """
        n = self.protocol.samples if samples is None else min(samples, self.protocol.samples)
        chosen = slice(None) if rows is None else rows
        distance, status = self.distance[chosen, :n], self.status[chosen, :n]
        best = np.where(np.isnan(distance), np.inf, distance).min(1, initial=np.inf)
        hit = np.isfinite(best)
        count = len(best)
        rate = float(hit.mean()) if count else math.nan
        return MatchScore(
            samples=n,
            rate=rate,
            rate_error=math.sqrt(rate * (1 - rate) / count) if count else math.nan,
            rmse=float(best[hit].mean()) if hit.any() else math.nan,
            crmse=float(np.where(hit, best, self.protocol.stol).mean()) if count else math.nan,
            matched=int(hit.sum()),
            references=count,
            lost=_lost(status),
            protocol=replace(self.protocol, samples=n),
        )


def _lost(status: Array) -> dict[str, int]:
    counts = np.bincount(status.ravel(), minlength=len(STATUSES)).tolist()
    listed = list(zip(STATUSES, counts, strict=True))[2:]
    return {reason: count for reason, count in listed if count}


def match_predictions(
    predictions: Sequence[Sequence[CrystalLike]],
    references: Sequence[CrystalLike],
    protocol: Protocol | None = None,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> MatchTable:
    """Compare the predictions of every reference with it.

    Args:
        predictions: per reference, up to ``protocol.samples`` crystals, more are left out; where
            there are fewer, the absent ones are no match.
        references: the truth.
        protocol: how to compare; one sample without a validity filter by default.
        jobs: worker processes; as many as there are cores where None. Results do not depend on it.
        progress: told how many of how many pairs are finished.

    Raises:
        UsageError: the numbers of predictions and references differ.
    """
    protocol = protocol or Protocol()
    if len(predictions) != len(references):
        raise UsageError(
            f"predictions for {len(predictions)} references, but {len(references)} references",
            "give one list of predictions for each reference",
        )
    shape = (len(references), protocol.samples)
    crystals = [Crystal.of(reference) for reference in references]
    where: dict[tuple[int, int], int] = {}
    for row, listed in enumerate(predictions):
        for column, crystal in enumerate(listed[: protocol.samples]):
            where[row, column] = len(crystals)
            crystals.append(Crystal.of(crystal))
    status = np.full(shape, _NAMED["missing"], dtype=np.uint8)
    for cell, index in where.items():
        status[cell] = _NAMED[_quick_verdict(crystals[index], crystals[cell[0]])]
    _apply_validity(status, where, crystals, protocol, jobs)
    distance = _distances(status, where, crystals, protocol, jobs, progress)
    return MatchTable(distance, status, protocol)


def match_everyone(
    predictions: Sequence[CrystalLike],
    references: Sequence[CrystalLike],
    protocol: Protocol | None = None,
    *,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> MatchTable:
    """Every reference against all predictions of its composition: ``score()`` is METRe and cRMSE.

    METRe is the share of references that some prediction matches, whoever it was made for, and
    cRMSE the mean least distance with stol for the others. So a set with polymorphs of one
    composition is not scored by the luck of their order.

    Args:
        predictions: all of them.
        references: the truth.
        protocol: how to compare; its ``samples`` is replaced by what there is.
        jobs: as for ``match_predictions``.
        progress: as for ``match_predictions``.
    """
    by_composition: dict[tuple, list[CrystalLike]] = defaultdict(list)
    for crystal in predictions:
        by_composition[composition_key(crystal.numbers)].append(crystal)
    listed = [by_composition.get(composition_key(r.numbers), []) for r in references]
    most = max((len(crystals) for crystals in listed), default=1)
    protocol = replace(protocol or Protocol(), samples=max(1, most))
    return match_predictions(listed, references, protocol, jobs=jobs, progress=progress)


def _quick_verdict(prediction: Crystal, reference: Crystal) -> str:
    """What is certain without a search; ``no match`` stands for all that is not."""
    if not prediction.constructible or not reference.constructible:
        return "unusable"
    same = composition_key(prediction.numbers) == composition_key(reference.numbers)
    return "no match" if same else "other atoms"


def _apply_validity(
    status: Array,
    where: dict[tuple[int, int], int],
    crystals: list[Crystal],
    protocol: Protocol,
    jobs: int | None,
) -> None:
    """Mark the predictions that the validity filter leaves out."""
    if protocol.validity == "none":
        return
    open_cells = [cell for cell in where if status[cell] == _NAMED["no match"]]
    needed = {where[cell] for cell in open_cells}
    if protocol.validity == "both":
        needed |= {row for row, _ in open_cells}
    listed = sorted(needed)
    outcomes = timed_map(
        crystal_validity,
        [crystals[i] for i in listed],
        time_limit=protocol.time_limit,
        jobs=jobs,
    )
    valid = {
        i: o.value is not None and o.value.valid for i, o in zip(listed, outcomes, strict=True)
    }
    for cell in open_cells:
        if not valid[where[cell]] or not valid.get(cell[0], True):
            status[cell] = _NAMED["invalid"]


def _distances(
    status: Array,
    where: dict[tuple[int, int], int],
    crystals: list[Crystal],
    protocol: Protocol,
    jobs: int | None,
    progress: Callable[[int, int], object] | None,
) -> Array:
    """Search for matches of all pairs that are still open; fills in ``status``."""
    cells = [cell for cell in where if status[cell] == _NAMED["no match"]]
    outcomes = timed_map(
        Bank(crystals, protocol).distance,
        [(where[cell], cell[0]) for cell in cells],
        time_limit=protocol.time_limit,
        jobs=jobs,
        progress=progress,
    )
    distance = np.full(status.shape, np.nan)
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.status != "done":
            status[cell] = _NAMED[outcome.status]
        elif outcome.value is not None:
            status[cell] = _NAMED["match"]
            distance[cell] = outcome.value
    return distance
