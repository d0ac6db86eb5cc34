"""The best point is found from the data alone, in the injected mode or one that equals it."""

from dataclasses import replace

import pytest
import torch

from gensci.core.random import stream
from gensci.sims.lisa import to_ssb
from gensci.systems.lisa_glitch_search import find_among_glitches, without_glitches
from gensci.systems.lisa_information import information
from gensci.systems.lisa_likelihood import FullLikelihood, images, phase_images
from gensci.systems.lisa_observation import Observation, make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_search import descend, find_reference
from gensci.systems.lisa_summaries import HeterodynedBins

MOST_CALLS = 2_500
SCALES = torch.tensor([1e-3, 0.1, 0.1, 0.2, 2e4, 0.2, 0.3, 0.1, 0.1, 0.3, 5.0], dtype=torch.float64)


def apart(problem, theta, copies):
    """Largest difference of a point to the nearest of (k, 11) copies of the truth, by parameter."""
    gap = copies - theta
    for column, period in enumerate(problem.prior.periods):
        if period is not None:
            gap[:, column] -= period * torch.round(gap[:, column] / period)
    return float((gap / SCALES).abs().amax(1).min())


def searched(name, seed, noise=None, **settings):
    """The problem, the point found, its gain in nats over the truth, and the calls."""
    problem = load_problem(name)
    observation = make_observation(problem, noise)
    theta, calls = find_reference(observation, problem.prior, stream(seed, "search"), **settings)
    value = FullLikelihood(observation)(torch.stack([problem.truth, theta]))
    return problem, theta, float(value[1] - value[0]), calls


def test_faint_binary_is_found_in_one_of_its_skies():
    small = {"population": 24, "generations": 10, "skies": 80, "starts": 1}
    problem, theta, gain, calls = searched("faint", 0, **small)
    assert abs(gain) < 0.1
    assert calls < 1_500
    copies = images(problem.truth[None])[:, 0]
    assert apart(problem, theta, copies) < 10  # along its valleys the likelihood decides
    assert bool(problem.prior.inside(theta[None]))


def test_descent_ends_at_the_best_point_of_data_without_noise():
    problem = load_problem("moderate")
    observation = make_observation(problem)
    shift = torch.tensor([2e-4, 0.05, 0.05, -0.1, 9e3, 0.05, 0.1, 0.1, -0.05, 0.1, 1.0])
    theta, value, calls = descend(observation, problem.prior, problem.truth + shift, rounds=1)
    assert apart(problem, theta, problem.truth[None]) < 0.01
    assert abs(value) < 1e-3
    assert calls < 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["loud", "moderate"])
def test_loud_binaries_are_found_exactly(name, seed):
    problem, theta, gain, calls = searched(name, seed)
    assert abs(gain) < 1e-3
    assert calls < MOST_CALLS
    copies = phase_images(problem.truth[None])[:, 0]
    assert apart(problem, theta, copies) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_does_not_hide_the_loud_binary(seed):
    """The best point gains half of chi-square of eleven degrees over the truth."""
    problem, theta, gain, calls = searched("loud-noisy", seed)
    assert 0 <= gain < 17
    assert calls < MOST_CALLS
    assert apart(problem, theta, phase_images(problem.truth[None])[:, 0]) < 2.5


@pytest.mark.slow
def test_search_works_in_the_frame_of_the_barycentre():
    problem = load_problem("moderate")
    setting = replace(problem.setting, frame="ssb")
    truth = to_ssb(problem.truth[None], setting.t_ref)
    bounds = problem.prior.bounds.clone()
    bounds[10] = truth[0, 10] + torch.tensor([-600.0, 600.0], dtype=torch.float64)
    prior = type(problem.prior)(
        problem.prior.names, bounds[:, 0], bounds[:, 1], problem.prior.periods
    )
    observation = Observation(setting.strain(truth, setting.frequencies())[0], setting)
    theta, calls = find_reference(observation, prior, stream(0, "ssb"))
    assert abs(float(FullLikelihood(observation)(theta[None])[0])) < 1e-2
    assert calls < MOST_CALLS


def test_glitches_beside_a_binary_are_found_and_taken_out():
    """Beside the true binary, what is left has the power of the noise alone."""
    problem = load_problem("glitch")
    kind, setting = problem.noise, problem.setting
    observation = make_observation(problem, 3)
    cleaned = without_glitches(observation, problem.truth, kind, 9.0)
    signal = setting.strain(problem.truth[None], setting.frequencies())[0]
    before, after = (
        float((o.whitening * (o.data - signal).abs()).square().sum())
        for o in (observation, cleaned)
    )
    degrees = 2 * signal.numel()
    assert before > degrees + 100 * (2 * degrees) ** 0.5
    assert abs(after - degrees) < 6 * (2 * degrees) ** 0.5
    # Data without glitches stay as they are.
    quiet = make_observation(load_problem("moderate-noisy"), 3)
    assert torch.equal(without_glitches(quiet, problem.truth, kind, 9.0).data, quiet.data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 5])
def test_a_binary_is_found_among_glitches(seed):
    """Within four standard deviations where the Gaussian likelihood alone ends at up to sixty."""
    problem = load_problem("glitch")
    observation = make_observation(problem, seed)
    theta, _, calls = find_among_glitches(
        observation, problem.prior, problem.noise, stream(0, "glitches")
    )
    assert calls < 5_500
    bins = HeterodynedBins(observation, problem.truth, 64)
    covariance = torch.linalg.inv(information(bins, problem.truth))
    sigma = covariance.diagonal().sqrt()
    assert float(((theta - problem.truth) / sigma)[[0, 1, 2, 3, 10]].abs().max()) < 4
