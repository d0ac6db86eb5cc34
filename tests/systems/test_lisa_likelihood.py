"""LISA's likelihoods: splines against the whole grid, gradients, and the symmetries."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from gensci.core.posterior import THETA
from gensci.sims.lisa import sky_images
from gensci.systems.lisa_heterodyne import slopes
from gensci.systems.lisa_likelihood import (
    FullLikelihood,
    HeterodynedLikelihood,
    LisaTarget,
    fold,
    images,
    phase_images,
)
from gensci.systems.lisa_observation import Observation, make_observation
from gensci.systems.lisa_problem import load_problem


@functools.cache
def observed(name):
    """A problem and its observation."""
    problem = load_problem(name)
    return problem, make_observation(problem)


@functools.cache
def near(name, n, reach=40.0):
    """Draws of Laplace's approximation at the truth that are within `reach` nats of it.

    Further draws leave the posterior along its bent valley.
    """
    problem, observation = observed(name)
    likelihood = HeterodynedLikelihood(observation, problem.truth, 256)
    slope = slopes(likelihood.residual, problem.truth)
    scale = slope.norm(dim=0)
    values, vectors = torch.linalg.eigh((slope / scale).T @ (slope / scale))
    draws = torch.randn(8 * n, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = problem.truth + (draws / values.sqrt()) @ vectors.T / scale
    theta = theta[problem.prior.inside(theta)]
    value = likelihood(torch.cat([problem.truth[None], theta]))
    return theta[value[1:] > value[0] - reach][:n]


def anywhere(n):
    """Points of the loud prior."""
    return load_problem("loud").prior.sample(n, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["loud", "loud-noisy"])
@pytest.mark.parametrize(("nodes", "bound", "usual"), [(64, 0.1, 0.02), (128, 0.02, 0.005)])
def test_heterodyned_equals_the_whole_grid(name, nodes, bound, usual):
    """Absolute values at SNR 1,058, constants included.

    Over 308 draws of the posterior of *loud* the largest error was 0.013 nats with 64 nodes and
    0.0010 with 128 (0.044 and 0.011 about the truth of *loud-noisy*); medians 0.0017 and 0.0001.
    """
    problem, observation = observed(name)
    theta = near(name, 30)
    assert len(theta) == 30
    exact = FullLikelihood(observation)(theta)
    assert float(exact.max() - exact.min()) > 10
    error = (HeterodynedLikelihood(observation, problem.truth, nodes)(theta) - exact).abs()
    assert float(error.max()) < bound
    assert float(error.median()) < usual


def test_more_nodes_mean_less_error():
    problem, observation = observed("moderate-noisy")
    theta = near("moderate-noisy", 12)
    bounds = [
        HeterodynedLikelihood(observation, problem.truth, nodes).error_bound(theta)
        for nodes in (24, 48, 96)
    ]
    assert bounds[0] > bounds[1] > bounds[2]


def test_the_reference_need_not_be_the_best_point():
    _, observation = observed("moderate-noisy")
    theta = near("moderate-noisy", 12)[:9]
    likelihood = HeterodynedLikelihood(observation, theta[-1], 128)
    assert likelihood.error_bound(theta) < 0.05


@pytest.mark.parametrize("name", ["gap", "glitch"])
def test_whatever_the_data_the_constant_is_right(name):
    problem, observation = observed(name)
    theta = near(name, 5, reach=1e9)
    assert HeterodynedLikelihood(observation, problem.truth, 128).error_bound(theta) < 0.05


def test_whole_grid_is_the_sum_by_hand():
    problem = load_problem("faint")
    observation = make_observation(problem, 3)
    noise = make_observation(load_problem("faint")).data * 0.01j
    observation = Observation(observation.data + noise, observation.setting)
    f = observation.frequencies
    residual = observation.data - problem.setting.strain(problem.truth[None], f)[0]
    spacing = float(f[1] - f[0])
    by_hand = -2 * spacing * (residual.abs().square() / problem.setting.psd(f)).sum()
    value = FullLikelihood(observation)(problem.truth[None])
    assert float(value[0]) == pytest.approx(float(by_hand), rel=1e-9)


def test_gradient_equals_finite_differences():
    problem, observation = observed("moderate-noisy")
    target = LisaTarget(problem.prior, HeterodynedLikelihood(observation, problem.truth, 64))
    theta = near("moderate-noisy", 12)[:2]
    value, gradient = target.log_prob_and_grad({THETA: theta})
    torch.testing.assert_close(value, target.log_prob({THETA: theta}))
    width = problem.prior.bounds[:, 1] - problem.prior.bounds[:, 0]
    steps = torch.tensor([1e-6, 1e-5, 1e-5, 1e-5, 1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-6])
    for column, step in enumerate(steps * width):
        moved = theta.repeat(2, 1, 1)
        moved[0, :, column] += step
        moved[1, :, column] -= step
        up, down = (target.log_prob({THETA: rows}) for rows in moved)
        scale = gradient[THETA][:, column].abs().max()
        difference = (up - down) / (2 * step) - gradient[THETA][:, column]
        assert float(difference.abs().max() / scale) < 1e-3, problem.prior.names[column]


def test_points_outside_the_prior_have_no_density_and_cost_nothing():
    problem = load_problem("faint")
    target = LisaTarget(
        problem.prior, HeterodynedLikelihood(make_observation(problem), problem.truth)
    )
    before = target.likelihood.calls
    theta = problem.truth.repeat(3, 1)
    theta[0, 1], theta[1, 2] = 0.5, math.nan
    value = target.log_prob({THETA: theta})
    assert value[:2].tolist() == [-math.inf, -math.inf]
    assert math.isfinite(float(value[2]))
    assert target.likelihood.calls == before + 1


def test_exact_symmetries_keep_the_channels():
    problem = load_problem("loud")
    f = problem.setting.frequencies()[::400]
    theta = anywhere(6)
    every = phase_images(theta)
    strain = problem.setting.strain(every.reshape(-1, 11), f).reshape(4, 6, 2, -1)
    scale = float(strain.abs().max())
    torch.testing.assert_close(strain, strain[:1].expand_as(strain), rtol=0, atol=1e-11 * scale)
    assert bool(problem.prior.inside(every.reshape(-1, 11)).all())


def test_fold_is_exact_and_ends_in_one_quarter():
    theta = anywhere(50)
    theta[:, 6] += 4 * math.pi * (torch.rand(50, generator=torch.Generator().manual_seed(2)) - 0.5)
    folded = fold(theta)
    assert bool(((folded[:, 9] >= 0) & (folded[:, 9] < math.pi / 2)).all())
    assert bool(((folded[:, 6] >= 0) & (folded[:, 6] < math.pi)).all())
    torch.testing.assert_close(fold(folded), folded)
    problem = load_problem("loud")
    f = problem.setting.frequencies()[::400]
    first, second = (problem.setting.strain(rows, f) for rows in (theta, folded))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-11 * float(first.abs().max()))
    # All four copies of a point fold onto one.
    copies = torch.stack([fold(image) for image in phase_images(theta)])
    turns = torch.stack([(copies[..., 9] * 4).cos(), (copies[..., 6] * 2).cos()])
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns), rtol=0, atol=1e-9)


def test_skies_look_alike_at_low_frequency_only():
    """Last hours below 0.3 mHz: the eight skies differ by less than 1 % of the SNR, 0.01 nats.

    At the merger of the loud binary, quarter turns differ by 5 % of the SNR and more.
    """
    faint, loud = load_problem("faint"), load_problem("loud")
    low = skies_apart(replace(faint.setting, f_max=3e-4), faint.truth)
    assert float(low.max()) < 0.01
    assert float(skies_apart(loud.setting, loud.truth)[1:4].min()) > 0.05


def skies_apart(setting, theta):
    """(8,) norms of the difference of the images' channels to the point's own, over its SNR."""
    f = setting.frequencies()
    white = setting.strain(sky_images(theta[None])[:, 0], f) / setting.psd(f).sqrt()
    gap = (white - white[:1]).abs().square().sum((1, 2)).sqrt()
    return gap / white[0].abs().square().sum().sqrt()


def test_jumps_are_those_of_the_frame():
    problem = load_problem("faint")
    observation = make_observation(problem)
    target = LisaTarget(problem.prior, FullLikelihood(observation))
    assert target.jumps is images
    assert images(problem.truth[None]).shape == (32, 1, 11)
    torch.testing.assert_close(images(problem.truth[None])[0, 0], problem.truth)
    other = Observation(observation.data, replace(problem.setting, frame="ssb"))
    assert LisaTarget(problem.prior, FullLikelihood(other)).jumps is phase_images


def test_several_skies_are_likely_in_the_faint_problem():
    """All eight are within five nats of the truth before any fit; the loud one excludes others."""
    for name, low, high in (("faint", -5.0, 0.0), ("loud", -1e9, -10.0)):
        problem = load_problem(name)
        value = FullLikelihood(make_observation(problem))(sky_images(problem.truth[None])[:, 0])
        others = value[1:] - value[0]
        assert float(others.min()) >= low
        assert float(others.max()) <= high


def test_calls_are_counted():
    problem = load_problem("faint")
    observation = make_observation(problem)
    likelihood, full = (
        HeterodynedLikelihood(observation, problem.truth),
        FullLikelihood(observation),
    )
    likelihood(anywhere(3) * 0 + problem.truth)
    full(anywhere(3) * 0 + problem.truth)
    assert (likelihood.calls, full.calls) == (4, 3)  # the reference is one
