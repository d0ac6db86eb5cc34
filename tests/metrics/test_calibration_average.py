"""TARP averaged over reference points: its band holds right posteriors as often as it says."""

import math

import numpy as np
import pytest

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.metrics.calibration import tarp_coverage
from gensci.metrics.calibration_average import averaged_tarp

SD = 0.5 / math.sqrt(1.25)  # of the posterior of a unit normal seen through noise of 0.5


def conjugate(seed, runs, draws=60, shift=0.0, scale=1.0, d=2):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((runs, d))
    mean = (truth + 0.5 * rng.standard_normal((runs, d))) / 1.25 + shift * SD
    return truth, mean[:, None] + scale * SD * rng.standard_normal((runs, draws, d))


def test_the_band_holds_the_stated_share_of_right_posteriors():
    trials, held, pvalues = 120, 0, []
    for seed in range(trials):
        pair = conjugate(seed, 60, draws=30)
        curve = averaged_tarp(*pair, stream(seed, "test"), references=20, exchanges=200)
        held += curve.inside
        pvalues.append(curve.pvalue)
    assert abs(held / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)
    assert abs(np.mean(pvalues) - 0.5) < 4 / math.sqrt(12 * trials)


@pytest.mark.parametrize("wrong", [{"shift": 0.5}, {"scale": 0.75}, {"scale": 1.35}])
def test_wrong_posteriors_leave_the_band(wrong):
    curve = averaged_tarp(*conjugate(1, 400, **wrong), stream(1, "test"), exchanges=500)
    assert not curve.inside and curve.pvalue < 0.01
    if "scale" in wrong:
        assert (curve.dispersion > 1) == (wrong["scale"] < 1)


def test_the_mean_curve_is_that_of_single_references():
    pair = conjugate(2, 300, scale=0.6)
    mean = averaged_tarp(*pair, stream(2, "test"), exchanges=100)
    single = [tarp_coverage(*pair, stream(i, "one")).coverage for i in range(60)]
    # the boxes of the references differ a little
    np.testing.assert_allclose(mean.coverage, np.mean(single, 0), atol=0.02)


def test_it_hangs_less_on_the_points_than_a_single_one_does():
    pair = conjugate(3, 100)
    many = [averaged_tarp(*pair, stream(i, "a"), exchanges=100).coverage for i in range(8)]
    single = [tarp_coverage(*pair, stream(i, "a")).coverage for i in range(8)]
    assert np.std(many, 0).mean() < 0.3 * np.std(single, 0).mean()


def test_circles_are_measured_the_short_way():
    truth, draws = conjugate(4, 200)
    turns = np.random.default_rng(4).integers(-3, 3, draws.shape)
    period = 12.0  # longer than the normals are wide
    turned = draws + period * turns
    assert averaged_tarp(truth, turned, stream(4, "a"), periods=[period] * 2).pvalue > 0.01
    assert averaged_tarp(truth, turned, stream(4, "a")).pvalue < 0.01


def test_the_same_stream_gives_the_same_curve():
    pair = conjugate(5, 50)
    one, two = (averaged_tarp(*pair, stream(5, "a"), exchanges=100) for _ in range(2))
    assert (one.coverage == two.coverage).all() and (one.low == two.low).all()


def test_too_few_references_or_exchanges_are_refused():
    with pytest.raises(UsageError, match="references=0"):
        averaged_tarp(*conjugate(6, 20), stream(6, "a"), references=0)
    with pytest.raises(UsageError, match="truth has shape"):
        averaged_tarp(np.zeros((5, 2)), np.zeros((5, 3)), stream(6, "a"))
