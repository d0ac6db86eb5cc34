"""How far two posteriors are apart: Jensen-Shannon divergence by parameter, ln Z, shares of modes.

The divergence of two samples is that of their smoothed densities, and its error has two parts.
Noise raises it: two samples of one distribution show about ``3.5 (1/n + 1/m)`` nats at 10,000
draws each. That floor is computed by resampling and comes with every value. Smoothing lowers it, by
up to a tenth (measured against quadrature in the tests): densities are estimated in the common rank
of both samples, where their mean is flat, so that narrow modes are resolved as well as wide ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import UsageError
from gensci.core.weights import LogZ

Array = np.ndarray

_CELLS = 512


@dataclass(frozen=True)
class Divergence:
    """Jensen-Shannon divergence of one parameter in nats: 0 for equal, ln 2 for disjoint.

    Attributes:
        value: as estimated, noise included.
        floor: mean of the estimate for two samples of one distribution, of these sizes and weights.
        floor_high: 95 % of such estimates are below.
    """

    value: float
    floor: float
    floor_high: float

    @property
    def excess(self) -> float:
        """The value less its floor, at least 0: the divergence that is not noise."""
        return max(0.0, self.value - self.floor)

    @property
    def resolved(self) -> bool:
        """Whether the samples differ by more than noise explains."""
        return self.value > self.floor_high


@dataclass(frozen=True)
class LogZAgreement:
    """Two estimates of ln Z compared, in nats.

    Attributes:
        difference: first less second.
        error: of the difference.
        tolerance: that was asked for.
    """

    difference: float
    error: float
    tolerance: float

    @property
    def sigma(self) -> float:
        """Size of the difference in standard errors."""
        return abs(self.difference) / self.error if self.error > 0 else math.inf

    @property
    def agree(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance

    @property
    def conclusive(self) -> bool:
        """Whether the errors are small enough for the tolerance to mean something."""
        return self.error <= self.tolerance


def js_divergence(
    a: ArrayLike,
    b: ArrayLike,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    *,
    period: float | None = None,
) -> float:
    """Jensen-Shannon divergence of two samples on the line or on a circle, in nats.

    Args:
        a: (n,) values.
        b: (m,) values.
        weight_a: (n,) not negative, of any sum; equal weights without it.
        weight_b: (m,) likewise.
        period: of a periodic quantity, whose values may be given on any turn.

    Raises:
        UsageError: samples that are empty or not finite, or bad weights.

    Reference: Lin (1991), doi:10.1109/18.61115.
    """
    x, y = _values("a", a), _values("b", b)
    mass_x, mass_y = _mass("weight_a", weight_a, len(x)), _mass("weight_b", weight_b, len(y))
    if period is not None:
        x, y = _unrolled(x, y, mass_x, mass_y, period)
    return _of_samples(x, y, mass_x, mass_y)


def js_floor(
    weight_a: Array | int,
    weight_b: Array | int,
    generator: torch.Generator,
    *,
    trials: int = 50,
) -> tuple[float, float]:
    """Mean and 95 % quantile of ``js_divergence`` of two samples of one distribution.

    The estimate knows only the order of the values, so that the floor does not depend on the
    distribution: it is that of uniform numbers.

    Args:
        weight_a: (n,) weights, or the number of independent draws of equal weight.
        weight_b: (m,) likewise.
        generator: of the uniform numbers.
        trials: pairs of samples.
    """
    masses = [
        np.full(int(w), 1.0 / int(w)) if np.ndim(w) == 0 else np.asarray(w)
        for w in (weight_a, weight_b)
    ]
    found = []
    for _ in range(trials):
        x, y = (
            torch.rand(len(mass), generator=generator, dtype=torch.float64).numpy()
            for mass in masses
        )
        found.append(_of_samples(x, y, *masses))
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def parameter_divergences(
    a: ArrayLike,
    b: ArrayLike,
    parameters: Sequence[str],
    generator: torch.Generator,
    *,
    weight_a: ArrayLike | None = None,
    weight_b: ArrayLike | None = None,
    ess_a: float | None = None,
    ess_b: float | None = None,
    periods: Sequence[float | None] | None = None,
    trials: int = 50,
) -> dict[str, Divergence]:
    """Jensen-Shannon divergence of every parameter, each with its floor.

    Args:
        a: (n, d) draws.
        b: (m, d) draws, of the reference say.
        parameters: d names.
        generator: of the floor.
        weight_a: (n,) not negative, of any sum; equal weights without it.
        weight_b: (m,) likewise.
        ess_a: independent draws that ``a`` is worth where it is an autocorrelated chain; without
            it, its rows count as independent and weights are taken as they are.
        ess_b: likewise.
        periods: (d,) of periodic parameters, None elsewhere.
        trials: pairs of samples for the floor.

    Raises:
        UsageError: arrays that do not fit each other, are not finite, or bad weights.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or {x.shape[1], y.shape[1]} != {len(parameters)}:
        raise UsageError(
            f"samples of shapes {x.shape} and {y.shape} do not fit {len(parameters)} parameters",
            "give (n, d), (m, d) and d names",
        )
    mass = (_mass("weight_a", weight_a, len(x)), _mass("weight_b", weight_b, len(y)))
    sizes = [
        m if ess is None else max(2, int(ess)) for m, ess in zip(mass, (ess_a, ess_b), strict=True)
    ]
    floor = js_floor(*sizes, generator, trials=trials)
    table = {}
    turns = periods or [None] * len(parameters)
    for column, (name, period) in enumerate(zip(parameters, turns, strict=True)):
        value = js_divergence(x[:, column], y[:, column], *mass, period=period)
        table[name] = Divergence(value, *floor)
    return table


def log_z_agreement(a: LogZ, b: LogZ, tolerance: float = 0.1) -> LogZAgreement:
    """Compare two independent estimates of ln Z with their standard errors, in nats."""
    return LogZAgreement(a.value - b.value, math.hypot(a.error, b.error), tolerance)


def mode_shares(
    theta: ArrayLike,
    centres: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    periods: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Share of the weight that is nearest to each of several modes, and its standard error.

    Args:
        theta: (n, d) draws.
        centres: (k, d) of the modes.
        weight: (n,) not negative, of any sum; equal weights without it.
        scale: (d,) that differences are divided by; infinity leaves a parameter out.
        periods: (d,) of periodic parameters, NaN or None elsewhere.

    Returns:
        (k,) shares that sum to one, and (k,) errors as of independent weighted draws.

    Raises:
        UsageError: arrays that do not fit each other, or bad weights.
    """
    x, modes = np.asarray(theta, dtype=np.float64), np.asarray(centres, dtype=np.float64)
    if x.ndim != 2 or modes.ndim != 2 or x.shape[1] != modes.shape[1]:
        raise UsageError(
            f"theta {x.shape} and centres {modes.shape} do not fit", "give (n, d) and (k, d)"
        )
    d = x.shape[1]
    mass = _mass("weight", weight, len(x))
    divisor = np.ones(d) if scale is None else np.asarray(scale, dtype=np.float64)
    turn = np.full(d, np.nan) if periods is None else np.asarray(periods, dtype=np.float64)
    square = np.zeros((len(x), len(modes)))
    for column in range(d):
        difference = x[:, column, None] - modes[None, :, column]
        if math.isfinite(turn[column]):
            difference -= turn[column] * np.round(difference / turn[column])
        square += (difference / divisor[column]) ** 2
    inside = square.argmin(1)[:, None] == np.arange(len(modes))
    share = mass @ inside
    return share, np.sqrt((mass[:, None] ** 2 * (inside - share) ** 2).sum(0))


def _unrolled(
    x: Array, y: Array, mass_x: Array, mass_y: Array, period: float
) -> tuple[Array, Array]:
    """Values on [0, period) behind the largest gap of the circle, which no kernel then spans."""
    if not period > 0:
        raise UsageError(f"period is {period}", "give a positive number or None")
    on_circle = [values - period * np.floor(values / period) for values in (x, y)]
    both = np.sort(np.concatenate([on_circle[0][mass_x > 0], on_circle[1][mass_y > 0]]))
    start = both[np.argmax(np.diff(both, prepend=both[-1] - period))]
    first, second = ((values - start) % period for values in on_circle)
    return first, second


def _of_samples(x: Array, y: Array, mass_x: Array, mass_y: Array) -> float:
    """Divergence of densities that are smoothed in the common rank of both samples."""
    rank = _common_rank(np.concatenate([x, y]), 0.5 * np.concatenate([mass_x, mass_y]))
    width = _bandwidth(mass_x, mass_y)
    p = _smoothed(rank[: len(x)], mass_x, width)
    q = _smoothed(rank[len(x) :], mass_y, width)
    middle = 0.5 * (p + q)
    return float(0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle)))


def _common_rank(values: Array, mass: Array) -> Array:
    """Middle of each value's step of the distribution function, the same for equal values."""
    _, group = np.unique(values, return_inverse=True)
    total = np.bincount(group, mass)
    return (total.cumsum() - 0.5 * total)[group]


def _bandwidth(mass_x: Array, mass_y: Array) -> float:
    """Standard deviation of the kernel in rank, by the smaller effective sample."""
    ess = min(1.0 / (mass_x**2).sum(), 1.0 / (mass_y**2).sum())
    return 0.1 * ess**-0.25


def _smoothed(rank: Array, mass: Array, width: float) -> Array:
    """Masses (cells,) of a Gaussian kernel estimate on [0, 1], reflected at its ends."""
    place = rank * _CELLS - 0.5
    lower = np.floor(place)
    upper_part = place - lower
    lower = lower.astype(np.int64)
    cells = np.zeros(_CELLS)
    for cell, part in ((lower, 1.0 - upper_part), (lower + 1, upper_part)):
        cells += np.bincount(cell.clip(0, _CELLS - 1), mass * part, minlength=_CELLS)
    # Reflection at both ends is a circle of twice the length.
    ring = np.concatenate([cells, cells[::-1]])
    frequency = 2 * math.pi * np.fft.rfftfreq(len(ring), 1.0 / _CELLS)
    kernel = np.exp(-0.5 * (frequency * width) ** 2)
    return np.fft.irfft(np.fft.rfft(ring) * kernel, len(ring))[:_CELLS].clip(min=0.0)


def _relative_entropy(p: Array, q: Array) -> float:
    ratio = np.divide(p, q, out=np.ones_like(p), where=(p > 0) & (q > 0))
    return float((p * np.log(ratio)).sum() / p.sum())


def _values(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise UsageError(f"{name} is empty, not (n,) or not finite", "give finite numbers (n,)")
    return array


def _mass(name: str, weight: ArrayLike | None, n: int) -> Array:
    """(n,) weights that sum to one."""
    if weight is None:
        return np.full(n, 1.0 / n)
    array = np.asarray(weight, dtype=np.float64)
    if array.shape != (n,) or not (array >= 0).all() or not 0 < array.sum() < math.inf:
        raise UsageError(
            f"{name} has shape {array.shape} for {n} rows, or is negative, zero or not finite",
            "give one finite weight for each row (not its logarithm)",
        )
    return array / array.sum()
