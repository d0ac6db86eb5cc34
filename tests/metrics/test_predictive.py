"""Predictive checks of a Gaussian model: right posteriors pass, wrong ones are named."""

import math

import numpy as np
import pytest
from scipy import stats

from gensci.core.errors import UsageError
from gensci.metrics.predictive import discrepancy_check, predictive_check

DIM, N = 20, 4000


def posterior(seed, shift=0.0, scale=1.0, noise=1.0):
    """x_i ~ N(theta, 1), flat prior: posterior N(mean x, 1/DIM), made wrong in several ways."""
    rng = np.random.default_rng(seed)
    x = 0.3 + rng.standard_normal(DIM)
    sd = scale / math.sqrt(DIM)
    theta = x.mean() + shift / math.sqrt(DIM) + sd * rng.standard_normal(N)
    return x, theta, theta[:, None] + noise * rng.standard_normal((N, DIM))


@pytest.mark.parametrize("seed", range(5))
def test_a_right_model_is_no_surprise(seed):
    x, theta, replicated = posterior(seed)
    check = predictive_check(x, replicated)
    assert check.surprising() == []
    assert check.statistics["mean"].pvalue == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(N))
    chi2 = discrepancy_check(
        ((x - theta[:, None]) ** 2).sum(1), ((replicated - theta[:, None]) ** 2).sum(1)
    )
    assert chi2.two_sided > 0.01


def test_pvalues_are_those_of_the_known_predictive():
    # The mean of replicated data is N(mean x + shift s, 2 s^2) with s^2 = 1/DIM.
    x, _, replicated = posterior(1, shift=2.0)
    found = predictive_check(x, replicated).statistics["mean"]
    assert found.pvalue == pytest.approx(stats.norm.cdf(2 / math.sqrt(2)), abs=0.02)
    expected = stats.chi2.sf((x - 0.3) @ (x - 0.3), DIM)
    rng = np.random.default_rng(1)
    theta = np.full(N, 0.3)
    chi2 = discrepancy_check(
        ((x - theta[:, None]) ** 2).sum(1), (rng.standard_normal((N, DIM)) ** 2).sum(1)
    )
    assert chi2.pvalue == pytest.approx(expected, abs=0.03)
    assert chi2.high == pytest.approx(stats.chi2.ppf(0.975, DIM), rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"shift": 8.0}, "mean"),
        ({"noise": 0.3}, "sd"),
        ({"noise": 3.0}, "sd"),
    ],
)
def test_wrong_posteriors_and_noise_are_named(wrong, named):
    x, _, replicated = posterior(2, **wrong)
    assert named in predictive_check(x, replicated).surprising()


def test_an_outlier_is_found_where_it_stands():
    x, _, replicated = posterior(3)
    x[7] += 8.0
    check = predictive_check(x, replicated)
    assert np.argmax(np.abs(check.z)) == 7
    assert check.z[7] > 6
    assert check.quantile[7] == 1.0
    assert {"greatest", "distance"} <= set(check.surprising())


def test_no_distance_is_surprising_in_many_dimensions():
    # 60 numbers and 150 replicated data: a covariance and its own rows would make any observation
    # look far away
    rng = np.random.default_rng(6)
    mix = rng.standard_normal((60, 60))
    found = [
        predictive_check(x, rows).statistics["distance"].pvalue
        for x, rows in (
            (rng.standard_normal(60) @ mix, rng.standard_normal((150, 60)) @ mix)
            for _ in range(200)
        )
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_weights_correct_a_shifted_posterior():
    x, theta, replicated = posterior(4, shift=1.0)
    s = 1 / math.sqrt(DIM)
    log_weight = stats.norm.logpdf(theta, x.mean(), s) - stats.norm.logpdf(theta, x.mean() + s, s)
    plain = predictive_check(x, replicated).statistics["mean"]
    weighted = predictive_check(x, replicated, weight=np.exp(log_weight)).statistics["mean"]
    assert plain.pvalue > 0.7
    assert weighted.pvalue == pytest.approx(0.5, abs=0.08)
    assert weighted.ess < plain.ess == pytest.approx(N)


def test_own_statistics_see_the_data_as_given():
    x, _, replicated = posterior(5)
    check = predictive_check(x, replicated, statistics={"first": lambda data: data[:, 0]})
    assert check.statistics["first"].observed == x[0]
    assert check.statistics["first"].pvalue == pytest.approx(1 - check.quantile[0])


def test_refusals_name_the_argument():
    with pytest.raises(UsageError, match=r"\(dim,\)"):
        predictive_check(np.zeros(3), np.zeros((5, 4)))
    with pytest.raises(UsageError, match="not finite"):
        predictive_check([math.nan], np.zeros((5, 1)))
    with pytest.raises(UsageError, match="weight"):
        predictive_check([0.0], np.zeros((5, 1)), weight=[1.0])
    with pytest.raises(UsageError, match="do not fit"):
        discrepancy_check(np.zeros(3), np.zeros(4))
    with pytest.raises(UsageError, match="not finite"):
        discrepancy_check([math.inf], [0.0])
