"""Distances against closed forms, against other solvers, and against their own definition."""

import math

import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from gensci.core.errors import UsageError
from gensci.metrics.wasserstein import (
    energy_wasserstein,
    euclidean_wasserstein,
    torus_cost,
    torus_wasserstein,
)


def wrapped(angle):
    return (angle + math.pi) % (2 * math.pi) - math.pi


def quantiles(n):
    return norm.ppf((np.arange(n) + 0.5) / n)


@pytest.mark.parametrize(("mean", "width"), [(0.0, 1.0), (3.0, 2.0), (-40.0, 0.1)])
def test_gaussian_energies(mean, width):
    x = quantiles(20_000)
    expected = math.hypot(mean, width - 1.0)
    assert energy_wasserstein(x, mean + width * x) == pytest.approx(expected, rel=5e-3, abs=1e-9)


def test_gaussian_energies_by_weights_on_a_grid():
    grid = np.linspace(-12.0, 15.0, 40_001)
    a, b = norm.pdf(grid), norm.pdf(grid, 3.0, 2.0)
    assert energy_wasserstein(grid, grid, a, b) == pytest.approx(math.sqrt(10.0), rel=2e-3)


def test_energies_agree_with_pot():
    rng = np.random.default_rng(0)
    for n, m in ((1, 7), (50, 50), (301, 127)):
        x, y, u, v = rng.normal(size=n), rng.normal(size=m), rng.random(n), rng.random(m)
        other = ot.wasserstein_1d(x, y, u / u.sum(), v / v.sum(), p=2)
        assert energy_wasserstein(x, y, u, v) == pytest.approx(math.sqrt(other), rel=1e-9)


@pytest.mark.parametrize("torsions", [1, 2, 6])
@pytest.mark.parametrize("centre", [0.0, math.pi - 0.2])
def test_a_shift_on_the_torus_is_its_own_length(torsions, centre):
    rng = np.random.default_rng(1)
    a = centre + 0.2 * rng.uniform(-1, 1, (200, torsions))
    shift = rng.uniform(-1, 1, torsions)
    distance = torus_wasserstein(wrapped(a), wrapped(a + shift)[rng.permutation(200)])
    assert distance == pytest.approx(np.linalg.norm(shift), rel=1e-9)


def test_gaussian_torsions():
    """Quantiles of narrow normal laws across the cut at pi: sqrt(mean^2 + (difference of sd)^2)."""
    x = quantiles(500)[:, None]
    a, b = wrapped(math.pi + 0.3 * x), wrapped(math.pi + 0.4 + 0.1 * x)
    assert torus_wasserstein(a, b) == pytest.approx(math.hypot(0.4, 0.2), rel=1e-2)


def test_full_turns_do_not_count():
    rng = np.random.default_rng(2)
    a, b = rng.uniform(-4, 4, (60, 3)), rng.uniform(-4, 4, (70, 3))
    turned = b + 2 * math.pi * rng.integers(-2, 3, b.shape)
    assert torus_wasserstein(a, b) == pytest.approx(torus_wasserstein(a, turned), rel=1e-9)
    assert torus_cost(a, b).max() <= 3 * math.pi**2


@pytest.mark.parametrize("torsions", [2, 6])
def test_equal_weights_are_an_assignment(torsions):
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-3, 3, (2, 700, torsions))
    cost = (wrapped(a[:, None] - b[None]) ** 2).sum(-1)
    np.testing.assert_allclose(torus_cost(a, b), cost, rtol=1e-9)
    best = cost[linear_sum_assignment(cost)].mean()
    assert torus_wasserstein(a, b) == pytest.approx(math.sqrt(best), rel=1e-9)


def test_whole_weights_are_repeats():
    rng = np.random.default_rng(4)
    a, b = rng.uniform(-3, 3, (40, 2)), rng.uniform(-3, 3, (50, 2))
    u, v = rng.integers(0, 4, 40), rng.integers(0, 4, 50)
    repeated = torus_wasserstein(np.repeat(a, u, 0), np.repeat(b, v, 0))
    assert torus_wasserstein(a, b, u, 7.0 * v) == pytest.approx(repeated, rel=1e-9)
    energies = energy_wasserstein(np.repeat(a[:, 0], u), np.repeat(b[:, 0], v))
    assert energy_wasserstein(a[:, 0], b[:, 0], u, 7.0 * v) == pytest.approx(energies, rel=1e-9)


def test_two_points_with_masses():
    """A tenth of the mass moves 2 rad."""
    x = np.array([[0.0, 0.0], [2.0, 0.0]])
    distance = torus_wasserstein(x, x, np.array([0.6, 0.4]), np.array([0.5, 0.5]))
    assert distance == pytest.approx(2.0 * math.sqrt(0.1), rel=1e-9)


def test_thinning_follows_the_weights_and_the_seed():
    """Two tight clusters: on average, thinned masses are those of the weights."""
    rng = np.random.default_rng(5)
    a = np.concatenate([np.zeros((3000, 2)), np.full((3000, 2), 1.0)])
    weight = rng.random(6000)
    share = weight[3000:].sum() / weight.sum()
    origin = np.zeros((1, 2))
    found = [
        torus_wasserstein(a, origin, weight, max_points=100, seed=s) ** 2 / 2 for s in range(100)
    ]
    assert np.mean(found) == pytest.approx(share, abs=4 * 0.5 / math.sqrt(100 * 100))
    assert np.std(found) < 0.06
    b = rng.uniform(-3, 3, (1000, 2))
    first, again, other = (torus_wasserstein(b, b[::-1], max_points=100, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert torus_wasserstein(b, b[::-1]) == pytest.approx(0.0, abs=1e-6)


def test_equal_weights_are_thinned_without_repeats():
    """Half of 200 spread points: the distance is that to a subset, never below the best one."""
    a = np.linspace(-3, 3, 200)[:, None]
    distance = torus_wasserstein(a, a, max_points=199, seed=3)
    assert distance < 6 / 199 * 1.01  # one point is left out on each side


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), {}, "a has 2 torsions and b has 4"),
        (np.zeros(3), np.zeros((3, 1)), {}, r"a has shape \(3,\)"),
        (np.zeros((3, 1)), np.zeros((0, 1)), {}, "b is empty"),
        (np.zeros((3, 1)), np.full((3, 1), np.nan), {}, "b has values that are not finite"),
        (np.zeros((3, 1)), np.zeros((3, 1)), {"weight_a": np.ones(2)}, "weight_a has shape"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"weight_b": np.array([2, -1])}, "weight_b has a bad"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"weight_b": np.zeros(2)}, "weight_b has a bad"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"max_points": 0}, "max_points is 0"),
    ],
)
def test_bad_arguments_are_named(a, b, options, message):
    with pytest.raises(UsageError, match=message):
        torus_wasserstein(a, b, **options)


def test_bad_energies_are_named():
    with pytest.raises(UsageError, match="a has values that are not finite"):
        energy_wasserstein(np.array([np.inf]), np.zeros(1))
    with pytest.raises(UsageError, match="weight_b"):
        energy_wasserstein(np.zeros(2), np.zeros(2), None, np.array([np.nan, 1.0]))


def test_distance_in_the_plane_is_an_assignment_that_does_not_wrap():
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 4, (2, 300, 2))
    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    best = cost[linear_sum_assignment(cost)].mean()
    assert euclidean_wasserstein(a, b) == pytest.approx(math.sqrt(best), rel=1e-9)
    moved = euclidean_wasserstein(a, a + np.array([6.0, 8.0]))
    assert moved == pytest.approx(10.0, rel=1e-9)
    weighted = euclidean_wasserstein(a, a[:1], np.arange(300.0))
    mean = np.average(((a - a[0]) ** 2).sum(-1), weights=np.arange(300.0))
    assert weighted == pytest.approx(math.sqrt(mean), rel=1e-9)
    with pytest.raises(UsageError, match="a has 2 coordinates and b has 1"):
        euclidean_wasserstein(a, b[:, :1])
