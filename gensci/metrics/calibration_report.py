"""One table about the calibration of a posterior: ranks, TARP, expected coverage, widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import UsageError
from gensci.metrics.calibration import (
    CoverageCurve,
    RankCheck,
    check_ranks,
    expected_coverage,
    rank_curves,
    sbc_ranks,
)
from gensci.metrics.calibration_average import REFERENCES, averaged_tarp

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Whether posteriors of many data sets are right on average.

    Attributes:
        parameters: d names.
        runs: number of data sets.
        ranks: tests of the ranks of each parameter.
        curves: distribution functions of the same ranks.
        tarp: coverage of balls about random points, the mean over `REFERENCES` of each run.
        expected: coverage of regions of highest density.
        shrinkage: (d,) median spread of the draws over the spread of the true parameters: 1 where
            the data tell nothing.
        bias: (d,) mean of draws less truth, over the root mean square of that, times the root of
            the runs: a number of standard errors.
        failed: runs left out before.
    """

    parameters: tuple[str, ...]
    runs: int
    ranks: RankCheck
    curves: tuple[CoverageCurve, ...]
    tarp: CoverageCurve
    expected: CoverageCurve
    shrinkage: Array
    bias: Array
    failed: int = 0

    def calibrated(self, alpha: float = 0.05) -> bool:
        """Whether ranks, TARP and expected coverage all pass at the joint level ``alpha``."""
        pvalues = (self.ranks.pvalue, self.tarp.pvalue, self.expected.pvalue)
        return min(pvalues) * len(pvalues) >= alpha

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves of single parameters, as JSON can hold it."""
        names = self.parameters
        return {
            "runs": self.runs,
            "failed": self.failed,
            "calibrated": self.calibrated(),
            "tarp": {**_curve(self.tarp), "references": REFERENCES},
            "expected_coverage": _curve(self.expected),
            "sbc": {
                "pvalue": self.ranks.pvalue,
                "ks_pvalue": _named(names, self.ranks.ks_pvalue),
                "chi2_pvalue": _named(names, self.ranks.chi2_pvalue),
                "shift": _named(names, self.ranks.shift),
                "dispersion": _named(names, self.ranks.dispersion),
            },
            "shrinkage": _named(self.parameters, self.shrinkage),
            "bias": _named(self.parameters, self.bias),
        }

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        told = [
            f"{self.runs} runs"
            + (f" ({self.failed} failed and left out)" if self.failed else "")
            + (": calibrated" if self.calibrated() else ": NOT calibrated")
        ]
        for name, curve in (("TARP", self.tarp), ("expected coverage", self.expected)):
            place = "inside" if curve.inside else "outside"
            told.append(
                f"  {name}: {place} the 95 % band, p = {curve.pvalue:.2g}, coverage of 50 / 90 %: "
                f"{100 * curve.at(0.5):.0f} / {100 * curve.at(0.9):.0f} %"
            )
        worst = int(np.minimum(self.ranks.ks_pvalue, self.ranks.chi2_pvalue).argmin())
        told.append(
            f"  ranks (SBC): p = {self.ranks.pvalue:.2g}, worst in {self.parameters[worst]}"
        )
        return told


def calibration_report(
    truth: ArrayLike,
    draws: ArrayLike,
    truth_log_prob: ArrayLike,
    draws_log_prob: ArrayLike,
    generator: torch.Generator,
    *,
    parameters: Sequence[str] | None = None,
    periods: Sequence[float | None] | None = None,
    failed: int = 0,
) -> CalibrationReport:
    """Judge draws of many posteriors; see ``gensci.loops.calibrating`` for the runs.

    Args:
        truth: (runs, d) parameters drawn from the prior.
        draws: (runs, m, d) of the posterior of each run, independent.
        truth_log_prob: (runs,) log-density of the posterior at the truth.
        draws_log_prob: (runs, m) at its draws.
        generator: of ties and reference points.
        parameters: names; theta0, ... without.
        periods: (d,) of periodic parameters, None elsewhere.
        failed: runs left out, to be told.

    Raises:
        UsageError: shapes that do not fit each other, or fewer than ten runs.
    """
    true, drawn = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    names = tuple(parameters or (f"theta{i}" for i in range(true.shape[-1])))
    if len(names) != true.shape[-1]:
        raise UsageError(f"{len(names)} names for {true.shape[-1]} parameters", "give one of each")
    ranks = sbc_ranks(true, drawn, generator, periods=periods)
    error = _short(drawn - true[:, None], periods)
    miss = error.mean(1)
    sd = np.sqrt(_short(error - miss[:, None], periods).var(1))
    return CalibrationReport(
        parameters=names,
        runs=len(true),
        ranks=check_ranks(ranks),
        curves=tuple(rank_curves(ranks)),
        tarp=averaged_tarp(true, drawn, generator, periods=periods),
        expected=expected_coverage(truth_log_prob, draws_log_prob, generator),
        shrinkage=np.median(sd, 0) / np.where(true.std(0) > 0, true.std(0), 1.0),
        bias=miss.mean(0) / np.sqrt((miss**2).mean(0)) * math.sqrt(len(true)),
        failed=failed,
    )


def _short(difference: Array, periods: Sequence[float | None] | None) -> Array:
    """Differences (..., d) the short way round."""
    if periods is None:
        return difference
    turn = np.array([np.nan if p is None else p for p in periods], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        turned = difference - turn * np.round(difference / turn)
    return np.where(np.isfinite(turn), turned, difference)


def _curve(curve: CoverageCurve) -> dict[str, Any]:
    return {
        "inside_band": curve.inside,
        "pvalue": curve.pvalue,
        "excess": curve.excess,
        "dispersion": curve.dispersion,
        "coverage": {f"{level:g}": curve.at(level) for level in (0.5, 0.68, 0.9, 0.95)},
    }


def _named(names: Sequence[str], values: Array) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
