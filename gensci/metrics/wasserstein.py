"""Wasserstein-2 distances of weighted samples: on a torus of torsions, in a plane, on the line."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gensci.core.errors import GensciError, UsageError

Array = np.ndarray

_ROWS = 512  # of the cost matrix filled at once: one temporary of this height is all that is extra


def torus_wasserstein(
    a: Array,
    b: Array,
    weight_a: Array | None = None,
    weight_b: Array | None = None,
    *,
    max_points: int = 4000,
    seed: int = 0,
) -> float:
    """Distance W2 between two samples of torsions by exact optimal transport, in radian.

    The cost of a move is the sum of squared differences of all torsions, each taken the short way
    round. With the backbone phi and psi this is the T-W2 of the literature on peptide samplers
    (Tan et al. 2025, arXiv:2502.18462). Two finite samples of one distribution are apart too: the
    more so the fewer points and the more torsions, so compare numbers of equal size only.

    Memory is 50 bytes per pair of points (800 MB for 4,000 x 4,000), and time is some seconds.

    Args:
        a: (n, k) radian.
        b: (m, k) radian.
        weight_a: (n,) not negative, of any sum; equal weights without it.
        weight_b: (m,) likewise.
        max_points: larger samples are thinned to this number, by systematic draws in proportion to
            the weights (equal weights: without repeats).
        seed: of the thinning.

    Raises:
        UsageError: arrays that do not fit each other, are empty or not finite, or bad weights.
        GensciError: POT is not installed, or the transport problem was not solved.
    """
    return _thinned_distance(torus_cost, a, b, weight_a, weight_b, max_points, seed, "torsions")


def euclidean_wasserstein(
    a: Array,
    b: Array,
    weight_a: Array | None = None,
    weight_b: Array | None = None,
    *,
    max_points: int = 4000,
    seed: int = 0,
) -> float:
    """Distance W2 between two samples of points in a plane or space, in their unit.

    As ``torus_wasserstein``, with the squared distance as the cost of a move.

    Args:
        a: (n, k).
        b: (m, k).
        weight_a: (n,) not negative, of any sum; equal weights without it.
        weight_b: (m,) likewise.
        max_points: larger samples are thinned to this number.
        seed: of the thinning.

    Raises:
        UsageError: arrays that do not fit each other, are empty or not finite, or bad weights.
        GensciError: POT is not installed, or the transport problem was not solved.
    """
    return _thinned_distance(
        _squared_distances, a, b, weight_a, weight_b, max_points, seed, "coordinates"
    )


def _squared_distances(a: Array, b: Array) -> Array:
    """Squared distances of the rows of a (n, k) and b (m, k): (n, m) float64."""
    return sum((x[:, None] - y[None, :]) ** 2 for x, y in zip(a.T, b.T, strict=True))


def _thinned_distance(
    costs: Callable[[Array, Array], Array],
    a: Array,
    b: Array,
    weight_a: Array | None,
    weight_b: Array | None,
    max_points: int,
    seed: int,
    columns: str,
) -> float:
    """W2 for a matrix of costs, of at most ``max_points`` on each side."""
    a, b = _points("a", a, columns), _points("b", b, columns)
    if a.shape[1] != b.shape[1]:
        raise UsageError(
            f"a has {a.shape[1]} {columns} and b has {b.shape[1]}",
            "give the same in the same order",
        )
    if max_points < 1:
        raise UsageError(f"max_points is {max_points}", "give at least 1")
    rng = np.random.default_rng(seed)
    a, mass_a = _thinned(a, _mass("weight_a", weight_a, len(a)), max_points, rng)
    b, mass_b = _thinned(b, _mass("weight_b", weight_b, len(b)), max_points, rng)
    return _transport(mass_a, mass_b, costs(a, b))


def torus_cost(a: Array, b: Array) -> Array:
    """Sums of squared wrapped differences of the rows of a (n, k) and b (m, k): (n, m) float64."""
    cost = np.zeros((len(a), len(b)))
    for first in range(0, len(a), _ROWS):
        rows = slice(first, first + _ROWS)
        for x, y in zip(a[rows].T, b.T, strict=True):
            difference = x[:, None] - y[None, :]
            difference -= 2 * math.pi * np.round(difference / (2 * math.pi))
            cost[rows] += difference * difference
    return cost


def energy_wasserstein(
    a: Array, b: Array, weight_a: Array | None = None, weight_b: Array | None = None
) -> float:
    """Distance W2 between two samples of energies, in their unit; kT gives the literature's E-W2.

    On the line the optimal transport joins equal quantiles, so all points are used.

    Args:
        a: (n,) energies.
        b: (m,) energies of the same unit.
        weight_a: (n,) not negative, of any sum; equal weights without it.
        weight_b: (m,) likewise.

    Raises:
        UsageError: an array is empty or not finite, or has bad weights.
    """
    (x, reach_a), (y, reach_b) = _quantiles("a", a, weight_a), _quantiles("b", b, weight_b)
    steps = np.union1d(reach_a, reach_b)
    width = np.diff(steps, prepend=0.0)
    middle = steps - 0.5 * width
    last_a, last_b = len(x) - 1, len(y) - 1
    u = x[np.minimum(np.searchsorted(reach_a, middle), last_a)]
    v = y[np.minimum(np.searchsorted(reach_b, middle), last_b)]
    return math.sqrt(float(width @ (u - v) ** 2))


def _quantiles(name: str, values: Array, weight: Array | None) -> tuple[Array, Array]:
    """Sorted values and the cumulative mass up to each, which ends at exactly one."""
    values = _finite(name, values).reshape(-1)
    order = np.argsort(values, kind="stable")
    reach = np.cumsum(_mass(f"weight_{name}", weight, len(values))[order])
    return values[order], reach / reach[-1]


def _points(name: str, values: Array, columns: str) -> Array:
    values = _finite(name, values)
    if values.ndim != 2 or values.shape[1] == 0:
        raise UsageError(f"{name} has shape {values.shape}", f"give (points, {columns})")
    return values


def _finite(name: str, values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise UsageError(f"{name} is empty", "give at least one point")
    if not np.isfinite(values).all():
        raise UsageError(f"{name} has values that are not finite", "leave those rows out")
    return values


def _mass(name: str, weight: Array | None, n: int) -> Array:
    """Masses (n,) that sum to one."""
    if weight is None:
        return np.full(n, 1.0 / n)
    weight = np.asarray(weight, dtype=np.float64)
    if weight.shape != (n,):
        raise UsageError(f"{name} has shape {weight.shape} for {n} points", f"give ({n},)")
    total = weight.sum()
    if not (np.isfinite(total) and total > 0 and (weight >= 0).all()):
        raise UsageError(f"{name} has a bad entry or no mass", "give finite weights >= 0")
    return weight / total


def _thinned(
    points: Array, mass: Array, most: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """At most ``most`` points with masses; repeats of a point become one with their joint mass."""
    kept = np.flatnonzero(mass)
    if len(kept) <= most:
        return points[kept], mass[kept]
    # shuffled first, so that the even spacing of the draws meets no order in the data
    order = rng.permutation(kept)
    reach = np.cumsum(mass[order])
    comb = (np.arange(most) + rng.random()) / most * reach[-1]
    drawn = order[np.minimum(np.searchsorted(reach, comb, side="right"), len(order) - 1)]
    drawn, repeats = np.unique(drawn, return_counts=True)
    return points[drawn], repeats / most


def _transport(mass_a: Array, mass_b: Array, cost: Array) -> float:
    try:
        import ot
    except ImportError as error:
        raise GensciError(
            "optimal transport needs POT, which is not installed", "pip install POT"
        ) from error
    squared, log = ot.emd2(mass_a, mass_b, cost, numItermax=10**8, log=True, numThreads=1)
    if log["warning"] is not None:
        raise GensciError(f"optimal transport failed: {log['warning']}", "use fewer points")
    return math.sqrt(max(0.0, float(squared)))
