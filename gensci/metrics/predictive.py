"""Posterior predictive checks: do data simulated from the posterior look like the observation?

A p-value is the share of replicated data whose statistic is above that of the observation. Data are
used twice, for fitting and for checking, so that p-values of a right model crowd about one half:
small ones mean misfit, but one half is no proof. A posterior that ignores the data passes where
the observation is typical of the prior; calibration (``metrics.calibration``) finds that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gensci.core.errors import UsageError

Array = np.ndarray

Statistic = Callable[[Array], Array]
"""From data (n, dim) to numbers (n,)."""


@dataclass(frozen=True)
class PredictivePvalue:
    """One statistic of the observation among those of replicated data.

    Attributes:
        observed: its value; the mean over draws where it depends on parameters too.
        low: 2.5 % quantile over replicated data.
        median: of replicated data.
        high: 97.5 % quantile.
        pvalue: share of replicated data above the observation, ties counted by half.
        ess: effective number of replicated data sets.
    """

    observed: float
    low: float
    median: float
    high: float
    pvalue: float
    ess: float

    @property
    def two_sided(self) -> float:
        """Twice the smaller tail, at least ``1 / ess``: no sample resolves less."""
        return max(min(1.0, 2 * min(self.pvalue, 1 - self.pvalue)), 1.0 / self.ess)


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """The observation against data simulated from the posterior.

    Attributes:
        statistics: by name.
        z: (dim,) observation less mean of replicated data, over their standard deviation.
        quantile: (dim,) share of replicated data below the observation, ties by half.
    """

    statistics: dict[str, PredictivePvalue]
    z: Array
    quantile: Array

    def surprising(self, alpha: float = 0.01) -> list[str]:
        """Names of the statistics that reject the model, jointly at the level ``alpha``.

        Fewer effective draws than statistics over ``alpha`` cannot reject anything.
        """
        limit = alpha / max(1, len(self.statistics))
        return [name for name, found in self.statistics.items() if found.two_sided < limit]


def predictive_check(
    observed: ArrayLike,
    predicted: ArrayLike,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    weight: ArrayLike | None = None,
) -> PredictiveCheck:
    """Compare an observation with data simulated from posterior draws, one for each draw.

    Args:
        observed: (dim,) the data or their summaries.
        predicted: (n, dim) simulated, noise included.
        statistics: by name; default ``distance`` (Mahalanobis distance from the mean of replicated
            data), ``mean``, ``sd``, ``least`` and ``greatest`` of the scaled data.
        weight: (n,) of the posterior draws, of any sum; equal weights without it.

    Raises:
        UsageError: shapes that do not fit each other, or numbers that are not finite.

    Reference: Rubin (1984), doi:10.1214/aos/1176346785.
    """
    x, replicated = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.ndim != 1 or replicated.ndim != 2 or replicated.shape[1:] != x.shape:
        raise UsageError(
            f"observed {x.shape} and predicted {replicated.shape} do not fit",
            "give (dim,) and (n, dim)",
        )
    if not (np.isfinite(x).all() and np.isfinite(replicated).all()):
        raise UsageError("observed or predicted data are not finite", "leave such draws out")
    mass = _mass(weight, len(replicated))
    mean = mass @ replicated
    centred = replicated - mean
    sd = np.sqrt(mass @ centred**2)
    scale = np.where(sd > 0, sd, 1.0)
    rows, row = replicated, x
    found: dict[str, PredictivePvalue] = {}
    if statistics is None:
        rows, row = centred / scale, (x - mean) / scale
        found["distance"] = _distance(row, rows, mass)
    for name, of in (statistics or _SHAPE).items():
        found[name] = _pvalue(np.asarray(of(row[None])), np.asarray(of(rows)), mass)
    below = mass @ (replicated < x) + 0.5 * (mass @ (replicated == x))
    return PredictiveCheck(found, (x - mean) / scale, below.clip(0.0, 1.0))


def discrepancy_check(
    observed: ArrayLike, replicated: ArrayLike, weight: ArrayLike | None = None
) -> PredictivePvalue:
    """Compare discrepancies that depend on parameters, such as chi-square about the model.

    Args:
        observed: (n,) discrepancy of the observation from each draw, ``T(x_observed, theta_i)``.
        replicated: (n,) of data simulated from that draw, ``T(x_i, theta_i)``.
        weight: (n,) of the draws, of any sum; equal weights without it.

    Raises:
        UsageError: shapes that do not fit each other, or numbers that are not finite.

    Reference: Gelman, Meng and Stern (1996), Statistica Sinica 6, 733.
    """
    own = np.asarray(observed, dtype=np.float64)
    others = np.asarray(replicated, dtype=np.float64)
    if own.ndim != 1 or own.shape != others.shape:
        raise UsageError(
            f"observed {own.shape} and replicated {others.shape} do not fit", "give (n,) and (n,)"
        )
    if not (np.isfinite(own).all() and np.isfinite(others).all()):
        raise UsageError("discrepancies are not finite", "leave such draws out")
    return _pvalue(own, others, _mass(weight, len(own)))


_SHAPE: dict[str, Statistic] = {
    "mean": lambda x: x.mean(1),
    "sd": lambda x: x.std(1),
    "least": lambda x: x.min(1),
    "greatest": lambda x: x.max(1),
}


def _distance(row: Array, rows: Array, mass: Array) -> PredictivePvalue:
    """Mahalanobis distance of the observation (dim,) among those of replicated data (n, dim).

    The covariance comes from every second row and the others are compared: rows lie nearer to a
    mean and covariance that they made themselves than any new row does, by a factor of
    ``1 - dim / n``.
    """
    used = mass.nonzero()[0]
    made, judged = used[::2], used[1::2] if len(used) > 1 else used
    # A little of the identity keeps the inverse bounded where data hold copies of each other.
    share = mass[made] / mass[made].sum()
    centre = share @ rows[made]
    centred = rows[made] - centre
    covariance = (centred * share[:, None]).T @ centred + 1e-9 * np.eye(rows.shape[1])
    precision = np.linalg.inv(covariance)

    def of(x: Array) -> Array:
        return np.sqrt(np.einsum("ni,ij,nj->n", x - centre, precision, x - centre))

    return _pvalue(of(row[None]), of(rows[judged]), mass[judged] / mass[judged].sum())


def _pvalue(observed: Array, replicated: Array, mass: Array) -> PredictivePvalue:
    """Of statistics (n,) or (1,) of the observation against (n,) of replicated data."""
    above = mass @ (replicated > observed) + 0.5 * (mass @ (replicated == observed))
    order = np.argsort(replicated)
    middle = mass[order].cumsum() - 0.5 * mass[order]
    low, median, high = np.interp((0.025, 0.5, 0.975), middle, replicated[order])
    typical = float(observed[0]) if len(observed) == 1 else float(mass @ observed)
    share = min(1.0, max(0.0, float(above)))
    return PredictivePvalue(
        typical, float(low), float(median), float(high), share, float(1.0 / (mass**2).sum())
    )


def _mass(weight: ArrayLike | None, n: int) -> Array:
    if weight is None:
        return np.full(n, 1.0 / n)
    array = np.asarray(weight, dtype=np.float64)
    if array.shape != (n,) or not (array >= 0).all() or not 0 < array.sum() < np.inf:
        raise UsageError(
            f"weight has shape {array.shape} for {n} rows, or is negative, zero or not finite",
            "give one finite weight for each row (not its logarithm)",
        )
    return array / array.sum()
