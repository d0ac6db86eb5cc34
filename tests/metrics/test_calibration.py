"""Calibration of conjugate Gaussian posteriors: right ones pass, each wrong one is found."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.metrics.calibration import (
    central_coverage,
    check_ranks,
    coverage_curve,
    expected_coverage,
    rank_curves,
    sbc_ranks,
    simultaneous_band,
    tarp_coverage,
)

RUNS, DRAWS, D, NOISE = 400, 200, 2, 0.5


def conjugate(seed, shift=0.0, scale=1.0):
    """theta ~ N(0, 1), x ~ N(theta, NOISE^2): truth, x, and draws of a posterior made wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((RUNS, D))
    x = truth + NOISE * rng.standard_normal((RUNS, D))
    shrink = 1 / (1 + NOISE**2)
    sd = scale * NOISE * math.sqrt(shrink)
    mean = shrink * x + shift * NOISE * math.sqrt(shrink)
    draws = mean[:, None] + sd * rng.standard_normal((RUNS, DRAWS, D))

    def log_prob(theta):
        return -0.5 * (((theta - (mean[:, None] if theta.ndim == 3 else mean)) / sd) ** 2).sum(-1)

    return truth, x, draws, log_prob


WRONG = {"shifted": {"shift": 0.9}, "narrow": {"scale": 0.6}, "wide": {"scale": 1.6}}


def curves(seed, **wrong):
    truth, _, draws, log_prob = conjugate(seed, **wrong)
    generator = stream(seed, "test")
    return {
        "sbc": rank_curves(sbc_ranks(truth, draws, generator))[0],
        "tarp": tarp_coverage(truth, draws, generator),
        "expected": expected_coverage(log_prob(truth), log_prob(draws), generator),
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_a_right_posterior_passes_everything(seed):
    truth, _, draws, _ = conjugate(seed)
    check = check_ranks(sbc_ranks(truth, draws, stream(seed, "test")))
    assert check.calibrated()
    assert np.abs(check.shift).max() < 3
    assert np.abs(check.dispersion - 1).max() < 0.15
    for curve in curves(seed).values():
        assert curve.inside
        assert curve.pvalue > 0.01
        assert abs(curve.excess) < 3 / math.sqrt(12 * RUNS)


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_posteriors_are_found_by_ranks(kind):
    truth, _, draws, _ = conjugate(3, **WRONG[kind])
    check = check_ranks(sbc_ranks(truth, draws, stream(3, "test")))
    assert not check.calibrated(1e-3)
    if kind == "shifted":
        assert (check.shift < -5).all()
    else:
        assert ((check.dispersion > 1.2) == (kind == "narrow")).all()


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("method", ["sbc", "tarp", "expected"])
def test_wrong_posteriors_leave_the_band(kind, method):
    curve = curves(4, **WRONG[kind])[method]
    assert not curve.inside
    assert curve.pvalue < 1e-3
    if kind != "shifted":
        too_narrow = curve.excess < 0 if method == "expected" else curve.dispersion > 1
        assert too_narrow == (kind == "narrow")


def test_ranks_of_few_draws_are_exactly_uniform():
    # With three draws the counts 0..3 are equally likely; the uniform part fills the steps.
    rng = np.random.default_rng(5)
    truth, draws = rng.standard_normal((4000, 1)), rng.standard_normal((4000, 3, 1))
    ranks = sbc_ranks(truth, draws, stream(5, "test"))
    assert stats.kstest(ranks[:, 0], "uniform").pvalue > 0.01
    counts = (draws < truth[:, None]).sum(1)[:, 0]
    assert (np.floor(ranks[:, 0] * 4) == counts).all()


def test_weights_turn_a_wide_proposal_into_the_posterior():
    truth, _, draws, _ = conjugate(6, scale=1.6)
    _, _, _, right = conjugate(6)
    _, _, _, wide = conjugate(6, scale=1.6)
    log_weight = right(draws) - wide(draws)
    generator = stream(6, "test")
    assert not check_ranks(sbc_ranks(truth, draws, generator)).calibrated(1e-3)
    assert check_ranks(sbc_ranks(truth, draws, generator, log_weight)).calibrated()
    assert tarp_coverage(truth, draws, generator, log_weight=log_weight).inside
    assert expected_coverage(right(truth), right(draws), generator, log_weight).inside


def test_periodic_parameters_may_be_given_on_any_turn():
    rng = np.random.default_rng(7)
    truth = rng.uniform(0, 2 * math.pi, (RUNS, 1))
    x = truth + 0.3 * rng.standard_normal((RUNS, 1))
    draws = x[:, None] + 0.3 * rng.standard_normal((RUNS, DRAWS, 1))
    turned = draws + 2 * math.pi * rng.integers(-3, 3, draws.shape)
    plain = sbc_ranks(truth, draws, stream(7, "a"), periods=[2 * math.pi])
    again = sbc_ranks(truth, turned, stream(7, "a"), periods=[2 * math.pi])
    np.testing.assert_allclose(again, plain, atol=0.02)
    assert check_ranks(again).calibrated()
    curve = tarp_coverage(truth, turned, stream(7, "b"), periods=[2 * math.pi])
    assert curve.inside
    assert not tarp_coverage(truth, turned, stream(7, "b")).inside


def test_the_prior_passes_tarp_unless_references_know_the_data():
    truth, x, _, _ = conjugate(8)
    rng = np.random.default_rng(8)
    prior = rng.standard_normal((RUNS, DRAWS, D))
    references = x + 0.5
    assert tarp_coverage(truth, prior, stream(8, "test")).inside
    assert not tarp_coverage(truth, prior, stream(8, "test"), references=references).inside
    right = conjugate(8)[2]
    assert tarp_coverage(truth, right, stream(8, "test"), references=references).inside


def test_central_intervals_of_a_known_wrong_width():
    # The central interval of a posterior narrowed by s has coverage 2 Phi(s z) - 1.
    rng = np.random.default_rng(9)
    truth = rng.standard_normal((4000, 1))
    ranks = stats.norm.cdf(truth / 0.7)
    curve = central_coverage(ranks)[0]
    level = curve.level[1:-1]
    expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf((1 + level) / 2)) - 1
    np.testing.assert_allclose(curve.coverage[1:-1], expected, atol=4 * 0.5 / math.sqrt(4000))


@pytest.mark.parametrize("runs", [50, 300])
def test_the_band_holds_the_stated_share_of_whole_curves(runs):
    rng = np.random.default_rng(10)
    inside = [coverage_curve(rng.random(runs)).inside for _ in range(400)]
    assert abs(np.mean(inside) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    low, high = simultaneous_band(runs)
    assert (low <= np.linspace(0, 1, 101)).all()
    assert (high >= np.linspace(0, 1, 101)).all()


@pytest.mark.parametrize(
    ("truth", "draws", "weights", "named"),
    [
        (np.zeros((5, 2)), np.zeros((5, 7, 3)), None, "(runs, draws, d)"),
        (np.zeros((5, 2)), np.full((5, 7, 2), np.nan), None, "draws"),
        (np.full((5, 2), np.inf), np.zeros((5, 7, 2)), None, "truth"),
        (np.zeros((5, 2)), np.zeros((5, 7, 2)), np.zeros((5, 6)), "log_weight"),
        (np.zeros((5, 2)), np.zeros((5, 7, 2)), np.full((5, 7), -np.inf), "finite weight"),
    ],
)
def test_refusals_name_the_argument(truth, draws, weights, named):
    with pytest.raises(UsageError, match=named.replace("(", r"\(").replace(")", r"\)")):
        sbc_ranks(truth, draws, stream(0, "test"), weights)


def test_other_refusals():
    generator = stream(0, "test")
    with pytest.raises(UsageError, match="ten runs"):
        check_ranks(np.full((9, 1), 0.5))
    with pytest.raises(UsageError, match="references"):
        tarp_coverage(np.zeros((5, 2)), np.zeros((5, 7, 2)), generator, references=np.zeros((4, 2)))
    with pytest.raises(UsageError, match="NaN"):
        expected_coverage([math.nan], [[0.0]], generator)
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        coverage_curve([0.5, 1.5])
    with pytest.raises(UsageError, match="periods"):
        sbc_ranks(np.zeros((5, 2)), np.zeros((5, 7, 2)), generator, periods=[1.0])


def test_tensors_do_as_well_as_arrays():
    truth, _, draws, _ = conjugate(11)
    plain = sbc_ranks(truth, draws, stream(1, "t"))
    tensors = sbc_ranks(torch.from_numpy(truth), torch.from_numpy(draws), stream(1, "t"))
    np.testing.assert_array_equal(plain, tensors)


def repeated(times, **wrong):
    """p-values of SBC, TARP and expected coverage over many calibrations of 100 runs."""
    found = []
    for seed in range(times):
        rng = np.random.default_rng([seed, 12])
        truth = rng.standard_normal((100, D))
        x = truth + NOISE * rng.standard_normal((100, D))
        shrink = 1 / (1 + NOISE**2)
        sd = NOISE * math.sqrt(shrink)
        mean = shrink * x + wrong.get("shift", 0.0) * sd
        wide = wrong.get("scale", 1.0) * sd
        draws = mean[:, None] + wide * rng.standard_normal((100, 60, D))
        generator = stream(seed, "repeated")
        near, far = ((((t - mean[:, None]) / wide) ** 2).sum(-1) for t in (draws, truth[:, None]))
        found.append(
            [
                *check_ranks(sbc_ranks(truth, draws, generator)).ks_pvalue[:1],
                tarp_coverage(truth, draws, generator).pvalue,
                expected_coverage(-far[:, 0], -near, generator).pvalue,
                check_ranks(sbc_ranks(truth, draws, generator)).pvalue,
            ]
        )
    return np.array(found).T


def test_pvalues_of_right_posteriors_are_uniform():
    sbc, tarp, expected, joint = repeated(150)
    for pvalue in (sbc, tarp, expected):
        assert stats.kstest(pvalue, "uniform").pvalue > 0.01
    # corrected for the number of tests: no more often below the level than it says
    assert (joint < 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize(
    ("wrong", "power"),
    # least shares of calibrations of 100 runs that reject at 5 %: SBC of one parameter, TARP,
    # expected coverage
    [
        ({"scale": 0.6}, (0.7, 0.8, 0.95)),
        ({"scale": 1.6}, (0.4, 0.6, 0.95)),
        # random references see a shift from all sides, so that TARP hardly does
        ({"shift": 0.5}, (0.95, 0.05, 0.3)),
    ],
)
def test_wrong_posteriors_are_found_with_this_power(wrong, power):
    for pvalue, least in zip(repeated(60, **wrong), power, strict=False):
        assert (pvalue < 0.05).mean() >= least
