"""Simple coordinates: inverse, volume, symmetries, prior and the wide density over them."""

import math
from dataclasses import replace

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.priors import BoxPrior
from gensci.sims.lisa import PARAMETERS, sky_images
from gensci.systems.lisa_coordinates import (
    COPIES,
    Images,
    SimplePrior,
    closed,
    from_simple,
    log_abs_det_jacobian,
    skies,
    to_simple,
)
from gensci.systems.lisa_likelihood import FullLikelihood, HeterodynedLikelihood
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_wide import WideSettings, wide_proposal


@pytest.fixture(scope="module")
def problem():
    return load_problem("faint")


@pytest.fixture(scope="module")
def theta(problem):
    return problem.prior.sample(40, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("frame", ["lisa", "ssb"])
def test_every_copy_is_the_same_point_and_the_same_waveform(problem, theta, frame):
    setting = replace(problem.setting, frame=frame)
    simple = to_simple(theta, setting)
    f = setting.frequencies()[::10]
    waves = setting.strain(theta, f)
    for copy in range(COPIES):
        equal = from_simple(simple, setting, torch.full((len(theta),), copy))
        torch.testing.assert_close(to_simple(equal, setting), simple, rtol=1e-9, atol=1e-9)
        error = (setting.strain(equal, f) - waves).abs() / waves.abs().max()
        assert float(error.max()) < 1e-9


@pytest.mark.parametrize("frame", ["lisa", "ssb"])
def test_jacobian_is_that_of_autograd(problem, theta, frame):
    setting = replace(problem.setting, frame=frame)
    slopes = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: to_simple(x[None], setting)[0], row)
         for row in theta[:8]]
    )  # fmt: skip
    expected = torch.linalg.slogdet(slopes)[1]
    torch.testing.assert_close(log_abs_det_jacobian(theta[:8], setting), expected)


def test_skies_are_those_of_the_simulator(problem, theta):
    simple = to_simple(theta, problem.setting)
    moved = skies(simple)
    for number, image in enumerate(sky_images(theta)):
        gap = to_simple(image, problem.setting) - moved[number]
        gap[:, 10] = torch.remainder(gap[:, 10] + math.pi, 2 * math.pi) - math.pi
        assert float(gap.abs().max()) < 1e-9


def test_signals_are_nearly_linear_in_the_amplitudes(problem, theta):
    rows = problem.truth.repeat(len(theta), 1)
    rows[:, 5:10] = theta[:, 5:10]
    f = problem.setting.frequencies()[::10]
    waves = torch.view_as_real(problem.setting.strain(rows, f)).flatten(1)
    amplitudes = to_simple(rows, problem.setting)[:, 5:9]
    fit = amplitudes @ torch.linalg.lstsq(amplitudes, waves).solution
    assert float((waves - fit).norm() / waves.norm()) < 0.03


@pytest.mark.parametrize("given", [[0], [0, 4], [0, 5], [0, 1], [0, 2, 6]])
def test_closed_skies_are_a_group(given, problem, theta):
    images = Images(closed(torch.tensor(given)))
    simple = to_simple(theta[:3], problem.setting)
    once = images(simple)
    for image in once:
        again = images(image)
        for twice in again:
            gap = (twice - once).abs()
            gap[..., 10] = torch.minimum(gap[..., 10], 2 * math.pi - gap[..., 10])
            assert float(gap.amax((1, 2)).min()) < 1e-9


@pytest.fixture(scope="module")
def wide(problem):
    observation = make_observation(problem)
    likelihood = HeterodynedLikelihood(observation, problem.truth, 64)
    prior = SimplePrior(problem.prior, problem.setting)
    centre = to_simple(problem.truth[None], problem.setting)[0]
    return wide_proposal(likelihood, prior, centre, WideSettings(prior_share=0.2)), likelihood


def test_the_wide_density_counts_its_waveforms_and_finds_the_skies(wide):
    density, likelihood = wide
    assert likelihood.calls == 1 + 11 + 8
    assert density.images.skies.tolist() == list(range(8))


def test_prior_and_wide_density_have_the_same_integral(wide):
    density, _ = wide
    x, log_wide = density.sample_and_log_prob(40_000, torch.Generator().manual_seed(2))
    ratio = (density.prior.log_prob(x["theta"]) - log_wide).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1.0) < 4 * error < 0.1


def test_a_narrow_gaussian_has_integral_one_by_draws_of_the_wide_density():
    problem = load_problem("loud")
    likelihood = HeterodynedLikelihood(make_observation(problem), problem.truth, 32)
    prior = SimplePrior(problem.prior, problem.setting)
    centre = to_simple(problem.truth[None], problem.setting)[0]
    density = wide_proposal(likelihood, prior, centre, WideSettings(scale=1.0))
    assert 0 in density.images.skies.tolist() and len(density.images.skies) < 8
    x, log_wide = density.sample_and_log_prob(40_000, torch.Generator().manual_seed(3))
    drawn = density.sample(20_000, torch.Generator().manual_seed(4))["theta"]
    near = drawn[(drawn[:, 9] > 0) & density.prior.inside(drawn)]
    near = near[(near - centre).abs().lt(near.std(0) * 2).all(1)]
    moments = near.mean(0), 0.6 * near.T.cov()
    narrow = torch.distributions.MultivariateNormal(*moments)
    ratio = (narrow.log_prob(x["theta"]) - log_wide).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1.0) < 5 * error < 0.3


def test_likelihood_in_simple_coordinates_is_the_likelihood(problem, theta):
    observation = make_observation(problem)
    full = FullLikelihood(observation)
    again = from_simple(to_simple(theta, problem.setting), problem.setting)
    torch.testing.assert_close(full(again), full(theta), rtol=1e-9, atol=1e-6)


def test_prior_that_tells_copies_apart_is_refused(problem):
    low, high = problem.prior.bounds.clone().unbind(1)
    high[PARAMETERS.index("phase")] = 3.0
    periods = list(problem.prior.periods)
    periods[PARAMETERS.index("phase")] = None
    with pytest.raises(UsageError, match="tells binaries apart"):
        SimplePrior(BoxPrior(PARAMETERS, low, high, periods), problem.setting)
