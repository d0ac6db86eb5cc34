"""TARP averaged over many reference points, with the band of exchanged truths.

One reference point in each run makes a test whose answer hangs on the points that happened to be
drawn. An average over many does not, but its runs are no longer independent numbers and binomial
bands do not hold. Since the truth is one more draw of a right posterior, what the curve would have
been is known all the same: each run's truth is exchanged with one of its draws at random.

References: Lemos, Coogan, Hezaveh and Perreault-Levasseur (2023), arXiv:2302.03026, for the
coverage; Besag and Clifford (1989), doi:10.1093/biomet/76.4.633, for exact tests by exchange.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import UsageError
from gensci.metrics.calibration import (
    CoverageCurve,
    as_periods,
    as_runs,
    credibility_levels,
    distance,
)

Array = np.ndarray

REFERENCES, EXCHANGES = 100, 2000
OUTSIDE = 0.001
"""Share of all points beyond either side of the box that references are drawn from."""


def averaged_tarp(
    truth: ArrayLike,
    draws: ArrayLike,
    generator: torch.Generator,
    *,
    periods: ArrayLike | None = None,
    references: int = REFERENCES,
    exchanges: int = EXCHANGES,
    probability: float = 0.95,
) -> CoverageCurve:
    """Coverage of balls about many reference points of each run.

    Args:
        truth: (runs, d) parameters drawn from the prior.
        draws: (runs, draws, d) of the posterior of each run, independent and of equal weight.
        generator: of references, ties and exchanges.
        periods: (d,) of periodic parameters, NaN or None elsewhere.
        references: of each run, uniform in a box that truths and draws span together.
        exchanges: with which the band is made.
        probability: that the curve of a right posterior lies in the band as a whole.

    Returns:
        The mean curve; its p-value is that of the largest deviation in units of the spread.

    Raises:
        UsageError: shapes that do not fit each other, or numbers that cannot be used.
    """
    if references < 1 or exchanges < 100:
        raise UsageError(
            f"references={references}, exchanges={exchanges} are too few", "give 1 and 100 or more"
        )
    true, drawn = as_runs(truth, draws)
    points = np.concatenate([true[:, None], drawn], 1)
    bins = len(credibility_levels()) - 1
    cells = _cells(points, as_periods(periods, true.shape[1]), references, bins, generator)
    own = _curve(cells, np.zeros(len(true), dtype=np.int64), bins)
    choice = torch.randint(points.shape[1], (exchanges, len(true)), generator=generator).numpy()
    others = np.stack([_curve(cells, row, bins) for row in choice])
    low, high, pvalue = _band(own, others, probability)
    centre = (cells[:, :, 0] + 0.5) / bins
    dispersion = float(12 * ((centre - 0.5) ** 2).mean())
    return CoverageCurve(credibility_levels(), own, low, high, pvalue, len(true), dispersion)


def _cells(
    points: Array, periods: Array, references: int, bins: int, generator: torch.Generator
) -> Array:
    """(runs, references, points) which bin each point's credibility falls into.

    The box is that of truths and draws alike, so that no truth is told apart by it.
    """
    runs, number, d = points.shape
    low, high = np.quantile(points.reshape(-1, d), (OUTSIDE, 1 - OUTSIDE), axis=0)
    scale = np.where(high > low, high - low, 1.0)
    cells = np.empty((runs, references, number), dtype=np.uint8)
    for column in range(references):
        uniform = torch.rand(runs, d, generator=generator, dtype=torch.float64).numpy()
        place = low + (high - low) * uniform
        order = distance(points, place[:, None], scale, periods).argsort(1)
        rank = np.empty((runs, number))
        np.put_along_axis(rank, order, np.arange(number, dtype=np.float64)[None], 1)
        part = torch.rand(runs, number, generator=generator, dtype=torch.float64).numpy()
        cells[:, column] = np.minimum(bins * (rank + part) / number, bins - 1)
    return cells


def _curve(cells: Array, which: Array, bins: int) -> Array:
    """(bins + 1,) distribution function of the credibilities of one chosen point of each run."""
    chosen = cells[np.arange(len(cells)), :, which]
    counts = np.bincount(chosen.ravel(), minlength=bins)
    return np.concatenate([[0.0], counts.cumsum() / chosen.size])


def _band(own: Array, others: Array, probability: float) -> tuple[Array, Array, float]:
    """Edges (k,), (k,) that hold whole curves with a probability, and the p-value of one curve."""
    mean, spread = others.mean(0), np.maximum(others.std(0), 1e-9)
    largest = (np.abs(others - mean) / spread).max(1)
    width = np.quantile(largest, probability) * spread
    mine = float((np.abs(own - mean) / spread).max())
    pvalue = (1 + int((largest >= mine).sum())) / (1 + len(others))
    return np.clip(mean - width, 0, 1), np.clip(mean + width, 0, 1), pvalue
