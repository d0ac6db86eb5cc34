"""Log-weight arithmetic against closed forms and against ArviZ."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.weights import (
    clean,
    fit_generalised_pareto,
    kish_ess,
    log_z,
    mean_one,
    normalise,
    psis,
    truncate,
)


def numbers(n=400):
    """Return quasi-random numbers in (0, 1), the same on every machine."""
    steps = torch.arange(n, dtype=torch.float64)
    return (steps * 0.6180339887498949) % 1.0 * 0.998 + 0.001


def test_kish_ess_of_equal_and_of_one_weight():
    assert kish_ess(torch.full((8,), -700.0)) == pytest.approx((8.0, 1.0))
    one = torch.tensor([-math.inf, 900.0, math.nan, math.inf])
    assert kish_ess(one) == pytest.approx((1.0, 0.25))
    assert kish_ess(one, n=10).fraction == pytest.approx(0.1)
    assert kish_ess(torch.full((3,), -math.inf)) == (0.0, 0.0)


def test_kish_ess_of_lognormal_weights():
    log_weight = torch.randn(200_000, generator=stream(0, "ess"), dtype=torch.float64) * 0.8
    assert kish_ess(log_weight).fraction == pytest.approx(math.exp(-0.64), rel=0.02)


def test_log_z_and_its_error_bar_cover_the_truth():
    scores = []
    for seed in range(200):
        noise = torch.randn(500, generator=stream(seed, "z"), dtype=torch.float64)
        log_weight = 0.7 * noise - 0.5 * 0.49 + 3.0
        estimate = log_z(torch.where(noise > 1.5, -math.inf, log_weight))
        # weights of rows above 1.5 are cut: the mean loses the part of a tilted normal
        truth = 3.0 + math.log(0.5 * (1 + math.erf((1.5 - 0.7) / 2**0.5)))
        scores.append((estimate.value - truth) / estimate.error)
    scores = torch.tensor(scores)
    assert abs(scores.mean()) < 0.3
    assert 0.85 < scores.std() < 1.15


def test_log_z_does_not_depend_on_whether_zero_rows_are_present():
    log_weight = torch.tensor([0.3, -1.0, 2.0, -math.inf, -math.inf])
    assert log_z(log_weight) == pytest.approx(log_z(log_weight[:3], n=5))
    assert log_z(torch.full((4,), -math.inf)) == (-math.inf, math.inf)
    assert log_z(torch.tensor([1.5])) == (1.5, math.inf)  # one draw tells no spread


@given(st.lists(st.floats(-600, 600), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_normalised_weights_sum_to_one_and_mean_one_has_mean_one(values):
    log_weight = torch.tensor(values, dtype=torch.float64)
    assert normalise(log_weight).sum().item() == pytest.approx(1.0)
    assert mean_one(log_weight).exp().mean().item() == pytest.approx(1.0)


def test_clean_turns_the_unusable_into_zero_weight():
    raw = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert clean(raw).tolist() == [1.0, -math.inf, -math.inf, -math.inf]


@pytest.mark.parametrize(
    ("log_weight", "khat", "largest", "tenth"),
    [
        (-0.6 * numbers().log(), 0.6007083547385258, -2.8562649250774226, -4.62646062111004),
        (
            3.0 * torch.sin(7.0 * torch.arange(400.0).double()) + numbers(),
            -0.21569298732035083,
            -4.16755834380037,
            -4.368656012899407,
        ),
        (numbers().log(), -0.7345241195300775, -5.302445778530516, -5.306510254670011),
    ],
    ids=["heavy", "middle", "light"],
)
def test_psis_equals_arviz(log_weight, khat, largest, tenth):
    # the numbers are what arviz 0.20.0 psislw prints for these log-weights
    smoothed = psis(log_weight)
    normalised = smoothed.log_weight - torch.logsumexp(smoothed.log_weight, 0)
    ordered = normalised.sort(descending=True).values
    assert smoothed.khat == pytest.approx(khat, abs=1e-10)
    assert ordered[0].item() == pytest.approx(largest, abs=1e-10)
    assert ordered[9].item() == pytest.approx(tenth, abs=1e-10)


@pytest.mark.parametrize("shape", [-0.4, 0.2, 0.7, 1.2])
def test_the_fit_finds_a_known_shape(shape):
    rank = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    excess = 2.5 * torch.expm1(-shape * torch.log1p(-rank)) / shape
    k, sigma = fit_generalised_pareto(excess)
    assert k == pytest.approx(shape, abs=0.02)
    assert sigma == pytest.approx(2.5, rel=0.03)


def test_psis_keeps_order_and_does_not_exceed_the_largest():
    log_weight = -0.9 * numbers(1000).log() + 40.0
    smoothed = psis(log_weight).log_weight
    assert torch.equal(smoothed.argsort(), log_weight.argsort())
    assert smoothed.max() <= log_weight.max()
    body = log_weight.sort().indices[:800]
    assert torch.allclose(smoothed[body], log_weight[body], atol=1e-12)


def test_psis_of_degenerate_weights():
    assert psis(torch.zeros(100)).khat == -math.inf
    assert math.isnan(psis(torch.tensor([0.0, 1.0, 2.0])).khat)
    assert math.isnan(psis(torch.full((50,), -math.inf)).khat)
    one = torch.full((100,), -math.inf)
    one[3] = 5.0
    assert torch.equal(psis(one).log_weight, one.double())


def test_truncation_lowers_the_largest_and_says_so():
    raw = torch.arange(10.0, dtype=torch.float64)
    lowered, record = truncate(raw, 0.2)
    assert lowered.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert (record.count, record.log_limit) == (2, 7.0)
    mass = 1 - lowered.exp().sum() / raw.exp().sum()
    assert record.mass == pytest.approx(mass.item())
    assert torch.equal(truncate(raw, 0.0)[0], raw)
    with pytest.raises(UsageError, match="truncate="):
        truncate(raw, 1.0)
    mostly_dead = torch.where(raw < 8, -math.inf, raw)
    with pytest.raises(UsageError, match="only 2 are above zero"):
        truncate(mostly_dead, 0.3)
