"""Calibration runs of conjugate models: right likelihoods pass the report, wrong ones do not."""

import math

import pytest
import torch

from gensci.core.errors import GensciError, UsageError
from gensci.core.priors import NormalPrior
from gensci.core.random import stream
from gensci.loops.calibrating import AfterObservation, calibrate
from gensci.loops.many_posteriors import ManyPosteriors
from gensci.metrics.calibration_report import calibration_report

NOISE = 0.5
PRIOR = NormalPrior(torch.zeros(2), torch.ones(2), ["a", "b"])


def simulate(theta, generator):
    return theta + NOISE * torch.randn(theta.shape, generator=generator, dtype=torch.float64)


def gaussian(scale=1.0, shift=0.0):
    def log_likelihood(x, theta):
        return -0.5 * ((x - theta - shift) / (scale * NOISE)).square().sum(1)

    return log_likelihood


def report(posteriors, prior=PRIOR, seed=1, num=300):
    runs = calibrate(prior, simulate, posteriors, num, seed=seed)
    return calibration_report(
        runs.truth, runs.draws, runs.truth_log_prob, runs.draws_log_prob, stream(seed, "judge"),
        parameters=PRIOR.names, failed=runs.failed,
    )  # fmt: skip


def quick(prior, log_likelihood):
    return ManyPosteriors(prior, log_likelihood, particles=200, at_once=300)


def test_the_right_likelihood_is_calibrated_and_as_narrow_as_it_should_be():
    found = report(quick(PRIOR, gaussian()))
    assert found.calibrated()
    assert found.tarp.inside and found.expected.inside
    assert found.shrinkage == pytest.approx(NOISE / math.sqrt(1 + NOISE**2), rel=0.1)
    assert abs(found.bias).max() < 4
    assert found.lines()[0] == "300 runs: calibrated"
    told = found.to_json()
    assert told["calibrated"] and set(told["sbc"]["ks_pvalue"]) == {"a", "b"}
    assert told["tarp"]["coverage"]["0.5"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("wrong", [{"scale": 0.5}, {"scale": 2.0}, {"shift": 0.4}])
def test_wrong_likelihoods_are_found(wrong):
    found = report(quick(PRIOR, gaussian(**wrong)))
    assert not found.calibrated(1e-3)
    assert "NOT calibrated" in found.lines()[0]
    if "shift" in wrong:
        assert (found.bias < -5).all()
    else:
        assert (found.tarp.dispersion > 1) == (wrong["scale"] < 1)
        assert (found.expected.excess < 0) == (wrong["scale"] < 1)


def test_runs_about_one_observation():
    observation = torch.tensor([1.5, -1.0], dtype=torch.float64)
    shrink = 1 / (1 + NOISE**2)
    noise = torch.randn(4000, 2, generator=stream(2, "o"), dtype=torch.float64)
    draws = shrink * observation + NOISE * math.sqrt(shrink) * noise
    prior = AfterObservation(PRIOR, gaussian(), observation, draws)
    found = report(quick(prior, gaussian()), prior, seed=2)
    assert found.calibrated()
    # two data of equal noise: their posterior over that of one
    wide, narrow = (1 / (1 + k / NOISE**2) for k in (1, 2))
    assert found.shrinkage == pytest.approx(math.sqrt(narrow / wide), rel=0.1)
    wrong = AfterObservation(PRIOR, gaussian(0.5), observation, draws)
    assert not report(quick(wrong, gaussian(0.5)), prior, seed=2).calibrated(1e-3)
    outside = prior.log_prob(torch.tensor([[math.nan, 0.0], [1.0, 0.0]]))
    assert outside[1].isfinite()


def test_failures_are_left_out_and_counted():
    def failing(theta, generator):
        x = simulate(theta, generator)
        x[::10] = math.nan
        return x

    runs = calibrate(PRIOR, failing, quick(PRIOR, gaussian()), 50, seed=3)
    assert runs.failed == 5
    assert len(runs.truth) == len(runs.draws) == 45
    assert runs.draws_log_prob.shape == (45, 200)


def test_refusals():
    posteriors = quick(PRIOR, gaussian())
    with pytest.raises(UsageError, match="calibration runs"):
        calibrate(PRIOR, simulate, posteriors, 0, seed=1)
    with pytest.raises(GensciError, match="all 20 simulations"):
        calibrate(PRIOR, lambda theta, _: theta * math.nan, posteriors, 20, seed=1)
    nowhere = quick(PRIOR, lambda x, theta: theta[:, 0] * -math.inf)
    with pytest.raises(GensciError, match="none of 20 posteriors"):
        calibrate(PRIOR, simulate, nowhere, 20, seed=1)
    with pytest.raises(UsageError, match="3 names"):
        calibration_report([[0.0]], [[[0.0]]], [0.0], [[0.0]], stream(1, "j"), parameters="abc")
