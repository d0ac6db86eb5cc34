"""Is a posterior right on average? Ranks of true parameters among draws, TARP, expected coverage.

All three take many runs: parameters drawn from the prior, data simulated from them, draws from the
posterior of each data set. For a right posterior the truth is one more draw, so the share of draws
below it (in a parameter, in distance from a reference point, in density) is uniform on [0, 1].
Draws must be independent: thin Markov chains by their autocorrelation time first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import UsageError
from gensci.core.random import stream

Array = np.ndarray

_BAND_TRIALS = 2000


@dataclass(frozen=True, eq=False)
class CoverageCurve:
    """Share of runs whose credibility is at most a level, against the level.

    Attributes:
        level: (k,) from 0 to 1.
        coverage: (k,) share of the runs; equal to ``level`` on average for a right posterior.
        low: (k,) lower edge of the band that holds the whole curve of a right posterior with the
            given probability.
        high: (k,) upper edge.
        pvalue: of the exact Kolmogorov-Smirnov test; of exchanged truths where the curve is an
            average over reference points.
        runs: how many there are.
        dispersion: variance of the credibilities about one half over that of uniform ones. For
            ranks and TARP it is above 1 for too narrow posteriors and below 1 for too wide.
    """

    level: Array
    coverage: Array
    low: Array
    high: Array
    pvalue: float
    runs: int
    dispersion: float

    @property
    def inside(self) -> bool:
        """Whether the whole curve lies in the band."""
        return bool(((self.coverage >= self.low) & (self.coverage <= self.high)).all())

    @property
    def excess(self) -> float:
        """Mean of coverage minus level, of which ``1 / sqrt(12 runs)`` is the standard deviation.

        For regions of highest density and central intervals it is above 0 where posteriors are too
        wide and below 0 where they are too narrow. For ranks and TARP it tells a bias instead,
        and `dispersion` tells the width.
        """
        return float(np.trapezoid(self.coverage - self.level, self.level))

    def at(self, level: float) -> float:
        """The coverage at a level from 0 to 1."""
        return float(np.interp(level, self.level, self.coverage))


@dataclass(frozen=True, eq=False)
class RankCheck:
    """Tests of the ranks of each parameter for uniformity; arrays have shape (d,).

    Attributes:
        ks_pvalue: of the exact Kolmogorov-Smirnov test.
        chi2_pvalue: of the histogram of ``bins`` equal bins.
        shift: mean rank minus one half, in units of its standard deviation under calibration; above
            0 where draws lie too low.
        dispersion: variance of the ranks over that of a uniform one; above 1 for too narrow
            posteriors, below 1 for too wide.
        bins: of the histogram.
    """

    ks_pvalue: Array
    chi2_pvalue: Array
    shift: Array
    dispersion: Array
    bins: int

    @property
    def pvalue(self) -> float:
        """The least p-value of all, corrected for the number of tests (Bonferroni)."""
        every = np.concatenate([self.ks_pvalue, self.chi2_pvalue])
        return float(min(1.0, every.min() * len(every)))

    def calibrated(self, alpha: float = 0.05) -> bool:
        """Whether no test rejects uniform ranks at the joint level ``alpha``."""
        return self.pvalue >= alpha


def sbc_ranks(
    truth: ArrayLike,
    draws: ArrayLike,
    generator: torch.Generator,
    log_weight: ArrayLike | None = None,
    periods: ArrayLike | None = None,
) -> Array:
    """Share of the posterior draws below the truth, in each run and parameter: (runs, d).

    Counts are made continuous with a uniform number, so that the share is exactly uniform on
    [0, 1] for a right posterior: ``(draws below + u) / (draws + 1)``. Any function of parameters
    and data may stand as one more column, the log-likelihood above all (Modrak et al. 2023).

    Args:
        truth: (runs, d) parameters drawn from the prior.
        draws: (runs, draws, d) of the posterior of each run.
        generator: of the uniform numbers.
        log_weight: (runs, draws) where draws are weighted; the shares are then approximate, well
            enough for hundreds of effective draws.
        periods: (d,) of periodic parameters, NaN or None elsewhere; both sides are wrapped to
            [0, period) before they are compared.

    Raises:
        UsageError: shapes that do not fit each other, or numbers that are not finite.

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv:1804.06788.
    """
    true, drawn = as_runs(truth, draws)
    if periods is not None:
        turn = as_periods(periods, true.shape[1])
        true, drawn = _wrapped(true, turn), _wrapped(drawn, turn)
    return _share_below(true[:, None], drawn, log_weight, generator)


def check_ranks(ranks: ArrayLike, bins: int | None = None) -> RankCheck:
    """Test ranks (runs, d) in [0, 1] of ``sbc_ranks`` for uniformity.

    Args:
        ranks: (runs, d).
        bins: of the histogram; default about ten runs in each, at most 20.

    Raises:
        UsageError: fewer than ten runs.
    """
    from scipy import stats

    u = _two_dimensional("ranks", ranks)
    runs = len(u)
    if runs < 10:
        raise UsageError(f"ranks of {runs} runs cannot be tested", "give at least ten runs")
    bins = bins or min(20, max(2, runs // 10))
    counts = np.stack([np.histogram(column, bins, (0.0, 1.0))[0] for column in u.T])
    statistic = ((counts - runs / bins) ** 2).sum(1) / (runs / bins)
    return RankCheck(
        ks_pvalue=np.array([stats.kstest(column, "uniform").pvalue for column in u.T]),
        chi2_pvalue=stats.chi2.sf(statistic, bins - 1),
        shift=(u.mean(0) - 0.5) * math.sqrt(12 * runs),
        dispersion=((u - 0.5) ** 2).mean(0) * 12,
        bins=bins,
    )


def rank_curves(ranks: ArrayLike, probability: float = 0.95) -> list[CoverageCurve]:
    """The distribution function of the ranks of each parameter, with its simultaneous band."""
    return [coverage_curve(column, probability) for column in _two_dimensional("ranks", ranks).T]


def central_coverage(ranks: ArrayLike, probability: float = 0.95) -> list[CoverageCurve]:
    """Coverage of central credible intervals of each parameter, from ranks (runs, d)."""
    u = np.abs(2 * _two_dimensional("ranks", ranks) - 1)
    return [coverage_curve(column, probability) for column in u.T]


def tarp_coverage(
    truth: ArrayLike,
    draws: ArrayLike,
    generator: torch.Generator,
    *,
    log_weight: ArrayLike | None = None,
    references: ArrayLike | None = None,
    periods: ArrayLike | None = None,
    probability: float = 0.95,
) -> CoverageCurve:
    """Tests of accuracy with random points: coverage of balls around reference points.

    The credibility of a run is the share of draws nearer to its reference than the truth is. All
    parameters are divided by the spread of the truths first.

    Args:
        truth: (runs, d) parameters drawn from the prior.
        draws: (runs, draws, d) of the posterior of each run.
        generator: of the references and of ties.
        log_weight: (runs, draws) where draws are weighted.
        references: (runs, d); default uniform over the box that the truths span. They must not
            depend on the truth except through the data. References that do depend on the data (a
            point estimate, displaced) also find a posterior that ignores the data; references that
            do not cannot: the prior passes that test.
        periods: (d,) of periodic parameters, NaN or None elsewhere: distances are the short way.
        probability: that the curve of a right posterior lies in the band as a whole.

    Raises:
        UsageError: shapes that do not fit each other, or numbers that are not finite.

    Reference: Lemos, Coogan, Hezaveh and Perreault-Levasseur (2023), arXiv:2302.03026.
    """
    true, drawn = as_runs(truth, draws)
    turn = as_periods(periods, true.shape[1])
    low, high = true.min(0), true.max(0)
    if references is None:
        uniform = torch.rand(true.shape, generator=generator, dtype=torch.float64).numpy()
        point = low + (high - low) * uniform
    else:
        point = _two_dimensional("references", references)
    if point.shape != true.shape:
        raise UsageError(
            f"references has shape {point.shape}, truth {true.shape}", "give one for each run"
        )
    scale = np.where(high > low, high - low, 1.0)
    truth_distance = distance(true, point, scale, turn)
    draws_distance = distance(drawn, point[:, None], scale, turn)
    share = _share_below(
        truth_distance[:, None, None], draws_distance[..., None], log_weight, generator
    )
    return coverage_curve(share[:, 0], probability)


def expected_coverage(
    truth_log_prob: ArrayLike,
    draws_log_prob: ArrayLike,
    generator: torch.Generator,
    log_weight: ArrayLike | None = None,
    probability: float = 0.95,
) -> CoverageCurve:
    """Coverage of regions of highest posterior density.

    The credibility of a run is the share of its draws whose density is above that of the truth. A
    constant may be missing from the densities of a run, but must be the same in both arguments.

    Args:
        truth_log_prob: (runs,) log-density of the judged posterior at the truth.
        draws_log_prob: (runs, draws) at its own draws.
        generator: of ties.
        log_weight: (runs, draws) where draws are weighted.
        probability: that the curve of a right posterior lies in the band as a whole.

    Raises:
        UsageError: shapes that do not fit each other, or NaN.

    Reference: Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe (2022), arXiv:2110.06581.
    """
    true = np.asarray(truth_log_prob, dtype=np.float64)
    drawn = np.asarray(draws_log_prob, dtype=np.float64)
    if true.ndim != 1 or drawn.shape[:1] != true.shape or drawn.ndim != 2:
        raise UsageError(
            f"truth_log_prob {true.shape} and draws_log_prob {drawn.shape} do not fit",
            "give (runs,) and (runs, draws)",
        )
    if np.isnan(true).any() or np.isnan(drawn).any():
        raise UsageError("log-densities hold NaN", "leave such runs out")
    share = _share_below(-true[:, None, None], -drawn[..., None], log_weight, generator)
    return coverage_curve(share[:, 0], probability)


def coverage_curve(credibility: ArrayLike, probability: float = 0.95) -> CoverageCurve:
    """The distribution function of credibilities (runs,) that should be uniform, with its band."""
    from scipy import stats

    u = np.sort(np.asarray(credibility, dtype=np.float64))
    runs = len(u)
    if u.ndim != 1 or runs == 0 or not ((u >= 0) & (u <= 1)).all():
        raise UsageError("credibilities must be (runs,) numbers in [0, 1]", "give one per run")
    level = credibility_levels()
    low, high = simultaneous_band(runs, probability)
    coverage = np.searchsorted(u, level, side="right") / runs
    pvalue = float(stats.kstest(u, "uniform").pvalue)
    dispersion = float(12 * ((u - 0.5) ** 2).mean())
    return CoverageCurve(level, coverage, low, high, pvalue, runs, dispersion)


@lru_cache(maxsize=64)
def simultaneous_band(runs: int, probability: float = 0.95) -> tuple[Array, Array]:
    """Edges (k,), (k,) that hold the whole distribution function of ``runs`` uniform numbers.

    At each level the counts are binomial; the band is that of the pointwise quantiles whose level
    is lowered, by simulation, until ``probability`` of all curves never leave it.

    Reference: Sailynoja, Burkner and Vehtari (2022), arXiv:2103.10522.
    """
    from scipy import stats

    inner = credibility_levels()[1:-1]
    generator = stream(0, "calibration", "band", runs)
    uniform = torch.rand(_BAND_TRIALS, runs, generator=generator, dtype=torch.float64).numpy()
    cell = np.ceil(uniform * (len(inner) + 1)).astype(np.int64) - 1
    counts = np.stack([np.bincount(row, minlength=len(inner) + 1) for row in cell.clip(0)])
    counts = counts.cumsum(1)[:, :-1]
    table = np.arange(runs + 1)[:, None]
    below = stats.binom.cdf(table, runs, inner)
    above = stats.binom.sf(table - 1, runs, inner)
    tail = np.take_along_axis(np.minimum(below, above), counts, axis=0).min(1)
    gamma = np.quantile(tail, 1 - probability)
    low = stats.binom.ppf(gamma, runs, inner) / runs
    high = stats.binom.isf(gamma, runs, inner) / runs
    return np.concatenate([[0.0], low, [1.0]]), np.concatenate([[0.0], high, [1.0]])


def credibility_levels() -> Array:
    """(k,) at which all curves are told, from 0 to 1."""
    return np.linspace(0.0, 1.0, 101)


def _share_below(
    truth: Array, draws: Array, log_weight: ArrayLike | None, generator: torch.Generator
) -> Array:
    """Weighted share (runs, q) of draws (runs, n, q) below the truth (runs, 1, q), made continuous.

    The truth counts as one more draw of average weight, of which a uniform part lies below; draws
    equal to it count by the same part.
    """
    runs, number, _ = draws.shape
    weight = _row_weights(log_weight, runs, number)[..., None]
    below = (weight * (draws < truth)).sum(1)
    equal = (weight * (draws == truth)).sum(1) + 1.0 / number
    u = torch.rand(below.shape, generator=generator, dtype=torch.float64).numpy()
    return (below + u * equal) / (1.0 + 1.0 / number)


def _row_weights(log_weight: ArrayLike | None, runs: int, number: int) -> Array:
    """(runs, n) weights that sum to one in each run."""
    if log_weight is None:
        return np.full((runs, number), 1.0 / number)
    logs = np.asarray(log_weight, dtype=np.float64)
    if logs.shape != (runs, number):
        raise UsageError(
            f"log_weight has shape {logs.shape}, draws ({runs}, {number})", "give one for each draw"
        )
    top = logs.max(1, keepdims=True)
    if not np.isfinite(top).all():
        raise UsageError("a run has no draw of finite weight", "leave such runs out")
    weight = np.exp(logs - top)
    return weight / weight.sum(1, keepdims=True)


def as_runs(truth: ArrayLike, draws: ArrayLike) -> tuple[Array, Array]:
    """Truths (runs, d) and draws (runs, m, d) as arrays, or a `UsageError`."""
    true = _two_dimensional("truth", truth)
    drawn = np.asarray(draws, dtype=np.float64)
    if drawn.ndim != 3 or drawn.shape[0] != true.shape[0] or drawn.shape[2] != true.shape[1]:
        raise UsageError(
            f"truth has shape {true.shape} and draws {drawn.shape}",
            "give (runs, d) and (runs, draws, d)",
        )
    if not np.isfinite(drawn).all():
        raise UsageError("draws hold numbers that are not finite", "leave such runs out")
    return true, drawn


def _two_dimensional(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise UsageError(
            f"{name} has shape {array.shape} or holds NaN", "give finite numbers (runs, d)"
        )
    return array


def as_periods(periods: ArrayLike | None, d: int) -> Array:
    """(d,) periods, infinite where a parameter is not periodic."""
    given = np.full(d, np.nan) if periods is None else np.asarray(periods, dtype=np.float64)
    if given.shape != (d,):
        raise UsageError(f"periods has shape {given.shape}", f"give {d}, None where there is none")
    return np.where(np.isfinite(given) & (given > 0), given, np.inf)


def _wrapped(values: Array, periods: Array) -> Array:
    finite = np.isfinite(periods)
    turn = np.where(finite, periods, 1.0)
    return np.where(finite, values - turn * np.floor(values / turn), values)


def distance(a: Array, b: Array, scale: Array, periods: Array) -> Array:
    """(...) distances of points (..., d) in units of (d,) scales, the short way round circles."""
    difference = np.abs(a - b)
    finite = np.isfinite(periods)
    turn = np.where(finite, periods, 1.0)
    short = np.abs(difference - turn * np.round(difference / turn))
    return np.sqrt((np.where(finite, short, difference) / scale) ** 2 @ np.ones(a.shape[-1]))
