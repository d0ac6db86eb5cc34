"""Divergences of Gaussians against quadrature, their floor, and agreement of evidence and modes."""

import math

import numpy as np
import pytest
from scipy import stats

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.weights import LogZ
from gensci.metrics.divergence import (
    js_divergence,
    js_floor,
    log_z_agreement,
    mode_shares,
    parameter_divergences,
)

N = 10_000
FLOOR = 7e-4  # of two samples of N draws


def quadrature(p, q, low=-15.0, high=15.0):
    """Divergence of two densities on the line by the trapezoidal rule."""
    x = np.linspace(low, high, 200_001)
    a, b = p(x), q(x)
    middle = 0.5 * (a + b)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(d > 1e-300, d * np.log(d / middle), 0.0) for d in (a, b)]
    return float(np.trapezoid(0.5 * (terms[0] + terms[1]), x))


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.1, 1.0), (0.3, 1.0), (1.0, 1.0), (5.0, 1.0), (0.0, 0.7), (0.0, 1.5)]
)
def test_two_gaussians_against_quadrature(shift, scale):
    rng = np.random.default_rng(1)
    truth = quadrature(stats.norm.pdf, lambda x: stats.norm.pdf(x, shift, scale))
    found = [
        js_divergence(rng.standard_normal(N), shift + scale * rng.standard_normal(N))
        for _ in range(4)
    ]
    floor, _ = js_floor(N, N, stream(1, "floor"))
    # noise of the estimate: sd of about sqrt(2 JSD / n) at a true divergence JSD
    noise = 4 * math.sqrt(2 * truth / N / 4) + 0.5 * floor
    assert np.mean(found) - floor == pytest.approx(truth, rel=0.1, abs=noise)


@pytest.mark.parametrize("n", [1000, 10_000])
def test_the_floor_is_that_of_any_distribution(n):
    rng = np.random.default_rng(2)
    mean, high = js_floor(n, n, stream(2, "floor"), trials=60)
    for draw in (rng.standard_normal, rng.standard_cauchy, rng.standard_exponential):
        found = np.array([js_divergence(draw(n), draw(n)) for _ in range(60)])
        assert found.mean() == pytest.approx(mean, rel=0.2)
        assert 0.8 < (found <= high).mean() <= 1.0
    if n == N:
        assert mean == pytest.approx(FLOOR, rel=0.2)


def test_weights_are_as_good_as_draws():
    # N(0, 1.5^2) weighted to N(0, 1), against plain draws: only the floor is left
    rng = np.random.default_rng(3)
    x, y = 1.5 * rng.standard_normal(N), rng.standard_normal(N)
    weight = np.exp(-0.5 * x**2 * (1 - 1.5**-2))
    floor, high = js_floor(weight / weight.sum(), N, stream(3, "floor"))
    assert floor > js_floor(N, N, stream(3, "floor"))[0]
    assert js_divergence(x, y, weight) < 1.5 * high
    assert js_divergence(x, y) > 10 * high
    # the same rows with and without weights
    truth = quadrature(stats.norm.pdf, lambda t: stats.norm.pdf(t, 0, 1.5))
    assert js_divergence(x, x, weight) == pytest.approx(truth, rel=0.12)


def test_narrow_modes_far_apart_are_resolved():
    # modes of width 0.01 at 0 and 100; in one sample those widths are 0.02
    rng = np.random.default_rng(4)
    where = 100.0 * rng.integers(0, 2, (2, N))
    x = where[0] + 0.01 * rng.standard_normal(N)
    y = where[1] + 0.02 * rng.standard_normal(N)
    truth = quadrature(stats.norm.pdf, lambda t: stats.norm.pdf(t, 0, 2.0))
    assert js_divergence(x, y) == pytest.approx(truth, rel=0.1)
    disjoint = js_divergence(np.zeros(50) + rng.random(50), 2 + rng.random(50))
    assert 0.9 * math.log(2) < disjoint <= math.log(2)


def test_on_a_circle_turns_and_origin_do_not_matter():
    rng = np.random.default_rng(5)
    x, y = 0.3 * rng.standard_normal(N), 0.2 + 0.3 * rng.standard_normal(N)
    turn = 2 * math.pi
    plain = js_divergence(x, y)
    for origin in (0.0, 1.0, 3.0):
        turned = [
            js_divergence(x + origin, y + origin + turn * rng.integers(-2, 3, N), period=turn),
            js_divergence((x + origin) % turn, (y + origin) % turn, period=turn),
        ]
        assert turned[0] == pytest.approx(turned[1], abs=1e-9)
        assert turned[0] == pytest.approx(plain, abs=1e-9)
    assert js_divergence(rng.random(N), rng.random(N) + 0.4, period=1.0) < 3 * FLOOR
    assert js_divergence(rng.random(N), rng.random(N) + 0.4) > 0.1


def test_order_is_all_that_counts():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal(N), 0.5 + rng.standard_normal(N)
    assert js_divergence(x, y) == pytest.approx(js_divergence(np.exp(x), np.exp(y)), abs=1e-12)
    assert js_divergence(x, y) == pytest.approx(js_divergence(y, x), abs=1e-12)
    assert js_divergence(x, x) == pytest.approx(0.0, abs=1e-12)


WRONG = {"shifted": (0.5, 1.0), "narrow": (0.0, 0.7), "wide": (0.0, 1.5)}


@pytest.mark.parametrize("kind", WRONG)
def test_a_table_of_parameters_finds_the_wrong_one(kind):
    shift, scale = WRONG[kind]
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, N, 3))
    b[:, 1] = shift + scale * b[:, 1]
    b[:, 2] %= 2 * math.pi
    table = parameter_divergences(
        a, b, ("right", "wrong", "phase"), stream(7, "t"), periods=[None, None, 2 * math.pi]
    )
    assert list(table) == ["right", "wrong", "phase"]
    assert table["wrong"].resolved
    assert table["wrong"].excess > 0.01
    for name in ("right", "phase"):
        assert table[name].excess < table[name].floor
        assert table[name].value < 1.5 * table[name].floor_high


def test_a_chain_is_worth_its_effective_draws():
    rng = np.random.default_rng(8)
    independent = rng.standard_normal((500, 1))
    chain = np.repeat(independent, 20, axis=0) + 0.01 * rng.standard_normal((N, 1))
    other = rng.standard_normal((N, 1))
    naive = parameter_divergences(chain, other, ["x"], stream(8, "t"))["x"]
    honest = parameter_divergences(chain, other, ["x"], stream(8, "t"), ess_a=500)["x"]
    assert naive.resolved
    assert honest.value == naive.value
    assert honest.floor > 3 * naive.floor


def test_evidence():
    close = log_z_agreement(LogZ(-10.03, 0.03), LogZ(-10.0, 0.04))
    assert close.agree and close.conclusive
    assert close.error == pytest.approx(0.05)
    assert close.sigma == pytest.approx(0.6)
    apart = log_z_agreement(LogZ(-10.0, 0.01), LogZ(-11.0, 0.01))
    assert not apart.agree
    assert apart.difference == pytest.approx(1.0)
    assert not log_z_agreement(LogZ(0.0, 1.0), LogZ(0.0, 0.0)).conclusive


def test_shares_of_modes_on_a_torus():
    rng = np.random.default_rng(9)
    share = np.array([0.5, 0.3, 0.2])
    centres = np.array([[0.1, 0.0], [2.0, 0.0], [4.0, 0.0]])
    mode = rng.choice(3, N, p=share)
    theta = centres[mode] + 0.15 * rng.standard_normal((N, 2))
    theta[:, 0] %= 2 * math.pi
    found, error = mode_shares(theta, centres, periods=[2 * math.pi, None])
    np.testing.assert_allclose(found, share, atol=4 * error.max())
    np.testing.assert_allclose(error, np.sqrt(share * (1 - share) / N), rtol=0.05)
    weight = np.where(mode == 0, 2.0, 1.0)
    weighted, _ = mode_shares(theta, centres, weight, periods=[2 * math.pi, None])
    np.testing.assert_allclose(weighted, np.array([1.0, 0.3, 0.2]) / 1.5, atol=0.02)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"a": []}, "a is empty"),
        ({"b": [1.0, math.nan]}, "b is empty"),
        ({"weight_a": [1.0]}, "weight_a"),
        ({"weight_b": [-1.0, 2.0]}, "weight_b"),
        ({"weight_b": [0.0, 0.0]}, "weight_b"),
        ({"period": 0.0}, "period"),
    ],
)
def test_refusals_name_the_argument(change, named):
    with pytest.raises(UsageError, match=named):
        js_divergence(**{"a": [1.0, 2.0], "b": [1.0, 3.0], **change})


def test_refusals_of_tables():
    with pytest.raises(UsageError, match="2 parameters"):
        parameter_divergences(np.zeros((5, 3)), np.zeros((5, 3)), ["x", "y"], stream(0, "t"))
    with pytest.raises(UsageError, match="centres"):
        mode_shares(np.zeros((5, 3)), np.zeros((2, 2)))
