"""The usual parts of the loop against a posterior in closed form; packing keeps every bit."""

from dataclasses import replace

import pytest
import torch
from loops.doubles import MATRIX, NOISE, exact_posterior

from gensci.core.priors import BoxPrior
from gensci.core.random import stream
from gensci.loops.fitting import FlowEstimator, SummarisedLikelihood, SurrogateSampler
from gensci.loops.rounds import TrainingData
from gensci.models.neural_likelihood import LikelihoodSettings
from gensci.models.regression_summary import SummarySettings
from gensci.samplers.tempering import Tempering

pytest.importorskip("normflows", reason="flows are built from normflows")
pytest.importorskip("pytorch_lightning", reason="Lightning trains the flows")

PRIOR = BoxPrior(("a", "b"), [-2.0, -2.0], [2.0, 2.0])
OBSERVATION = torch.tensor([0.7, 0.1, 0.4], dtype=torch.float64)
SETTINGS = LikelihoodSettings(
    kind="maf", layers=1, hidden=16, mean_hidden=16, steps=200, batch=500, patience=5
)
WALKING = Tempering(num_walkers=500, num_temperatures=1, warmup=20, thinning=5)


def training(noise=None, repeats=1):
    """Simulations of the linear model; each datum repeated with noise of its own."""
    theta = PRIOR.sample(2000, stream(0, "theta"))
    mean = (theta @ torch.from_numpy(MATRIX).T).repeat(1, repeats)
    observation = OBSERVATION.repeat(repeats)
    if noise is None:
        draws = torch.randn(mean.shape, generator=stream(0, "noise"), dtype=torch.float64)
        mean = mean + NOISE * draws
    return TrainingData(theta, mean, torch.zeros(len(theta)), observation, noise)


def additive(n, generator):
    return NOISE * torch.randn(n, 3, generator=generator, dtype=torch.float64)


def draws_of(surrogate, temperature=1.0, n=4000):
    samples = SurrogateSampler(PRIOR, WALKING).draw(
        surrogate.log_likelihood, n, temperature=temperature, seed=1, candidates=torch.zeros(0, 2)
    )
    return samples.resample("systematic", stream(2, "draws")).x["theta"]


@pytest.mark.parametrize("noise", [None, additive], ids=["in the data", "added"])
def test_the_posterior_of_a_linear_model(noise):
    surrogate = FlowEstimator(SETTINGS).fit(training(noise), None, 1)
    mean, covariance = exact_posterior(OBSERVATION)
    width = covariance.diagonal().sqrt()
    found = draws_of(surrogate)
    assert ((found.mean(0) - mean).abs() < 0.25 * width).all()
    torch.testing.assert_close(found.std(0), width, rtol=0.2, atol=0)


def test_temperature_widens():
    surrogate = FlowEstimator(SETTINGS).fit(training(additive), None, 1)
    width = exact_posterior(OBSERVATION)[1].diagonal().sqrt()
    torch.testing.assert_close(draws_of(surrogate, 4.0).std(0), 2 * width, rtol=0.2, atol=0)


def test_wide_data_are_summarised():
    """Sixteen looks at the same data: the posterior is four times narrower than of one."""
    estimator = FlowEstimator(SETTINGS, summary=SummarySettings(hidden=32, epochs=40, batch=100))
    surrogate = estimator.fit(training(repeats=16), None, 1)
    assert isinstance(surrogate, SummarisedLikelihood)
    assert surrogate.dim == 4
    mean, covariance = exact_posterior(OBSERVATION, NOISE / 4)
    width = covariance.diagonal().sqrt()
    found = draws_of(surrogate)
    assert ((found.mean(0) - mean).abs() < 1.5 * width).all()
    assert (found.std(0) < 2 * width).all()


def test_columns_without_meaning_are_left_out():
    """Three columns tell of the parameters and sixty do not: the posterior is that of the three."""
    data = training()
    idle = torch.randn(len(data.x), 60, generator=stream(4, "idle"), dtype=torch.float64)
    observation = torch.cat([torch.zeros(60, dtype=torch.float64), OBSERVATION])
    wide = replace(data, x=torch.cat([idle, data.x], 1), observation=observation)
    estimator = FlowEstimator(SETTINGS)
    surrogate = estimator.unpack(estimator.pack(estimator.fit(wide, None, 1)))
    assert surrogate.summary.settings["kept"] == [60, 61, 62]
    theta = PRIOR.sample(50, stream(3, "theta"))
    narrow = estimator.fit(data, None, 1)
    assert torch.equal(surrogate.log_likelihood(theta), narrow.log_likelihood(theta))


@pytest.mark.parametrize("repeats", [1, 16])
def test_a_packed_surrogate_comes_back_bit_for_bit(repeats):
    quick = LikelihoodSettings(
        kind="maf", layers=1, hidden=8, mean_hidden=8, steps=20, batch=500, members=2
    )
    estimator = FlowEstimator(quick, summary=SummarySettings(hidden=8, epochs=2))
    data = training(repeats=repeats)
    surrogate = estimator.fit(data, None, 1)
    again = estimator.unpack(estimator.pack(surrogate))
    theta = PRIOR.sample(50, stream(3, "theta"))
    assert torch.equal(again.log_likelihood(theta), surrogate.log_likelihood(theta))
    assert again.report == surrogate.report
    if repeats > 1:
        assert torch.equal(again.summary.summarise(data.x), surrogate.summary.summarise(data.x))


def test_a_warm_start_goes_on_from_the_round_before():
    data = training()
    data = replace(data, x=data.x + (4 * data.x).sin())  # which no polynomial of theta describes
    longer = replace(SETTINGS, steps=400, learning_rate=5e-3)
    first = FlowEstimator(longer).fit(data, None, 1)
    none = replace(SETTINGS, steps=1)
    theta, x = data.theta[:200], data.x[:200]
    scratch = float(FlowEstimator(none).fit(data, first, 1).log_prob(x, theta).mean())
    warm = float(FlowEstimator(none, warm=True).fit(data, first, 1).log_prob(x, theta).mean())
    assert warm == pytest.approx(float(first.log_prob(x, theta).mean()), abs=0.02)
    assert warm > scratch + 0.1
