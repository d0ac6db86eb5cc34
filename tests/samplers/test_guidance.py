"""Guided denoisers against guided laws in closed form."""

import pytest
import torch
from analytic_denoisers import TORUS, SpaceMixture, TorusMixture, mixed

from gensci.core.diffusion import Denoiser
from gensci.core.random import stream
from gensci.samplers.solvers import GuidedByCondition, GuidedDenoiser, make_solver
from gensci.samplers.solvers.flow_ode import denoise_and_trace


def test_a_linear_potential_shifts_a_normal_by_its_variance_times_the_slope():
    """For linear potentials of normal data the guided score is exact."""
    n, width, slope = 4000, 0.5, torch.tensor([0.8, 0.0, -0.4]).double()
    denoiser = SpaceMixture(n, [1.0], [[0.1, 0.2, 0.3]], [width])
    for scale in (1.0, 2.0):
        guided = GuidedDenoiser(denoiser, lambda x: x @ slope, scale)
        x = make_solver("heun", {"num_steps": 24}).solve(guided, stream(1, "linear"))
        wanted = denoiser.centres[0] + scale * width**2 * slope
        assert (x.mean(0) - wanted).abs().max() < 4.5 * width / n**0.5 + 2e-3
        assert x.std(0).mean() == pytest.approx(width, rel=0.03)


def test_guidance_is_the_score_of_the_denoised_points_potential():
    denoiser, sigma = mixed(4), torch.linspace(0.05, 0.5, 8).double()
    x = torch.randn(8, 3, generator=stream(2, "x"), dtype=torch.float64)

    def potential(y):
        return -(y - 0.3).square().sum(-1)

    guided = GuidedDenoiser(denoiser, potential, 1.7).denoise(x, sigma)
    step = 1e-5
    for axis in range(3):
        shift = torch.eye(3).double()[axis] * step
        high, low = (
            potential(denoiser.wrap(denoiser.denoise(y, sigma))) for y in (x + shift, x - shift)
        )
        wanted = 1.7 * sigma.square() * (high - low) / (2 * step)
        assert torch.allclose((guided - denoiser.denoise(x, sigma))[:, axis], wanted, atol=1e-6)
    assert not guided.requires_grad


def test_guidance_draws_toward_the_potential_on_the_torus():
    n = 500
    denoiser = TorusMixture(n, *TORUS)
    centre = torch.tensor(TORUS[1][0]).double()

    def potential(x):
        offset = x - centre
        return -20 * (offset - offset.round()).square().sum(-1)

    def share(subject):
        x = make_solver("heun").solve(subject, stream(3, "torus")) - centre
        return ((x - x.round()).norm(dim=1) < 0.3).double().mean()

    assert share(denoiser) == pytest.approx(0.4, abs=0.1)
    assert share(GuidedDenoiser(denoiser, potential, 1.0)) > 0.9


def test_flow_densities_see_the_slope_of_the_guidance():
    """The trace under guidance needs second derivatives; compare with finite differences."""
    guided = GuidedDenoiser(mixed(3), lambda y: y.pow(3).sum(-1), 0.5)
    x = torch.rand(6, 3, generator=stream(4, "x"), dtype=torch.float64)
    sigma = torch.full((6,), 0.3).double()
    _, trace = denoise_and_trace(guided, x, sigma)
    wanted, step = torch.zeros(6).double(), 1e-5
    for axis in range(3):
        shift = torch.eye(3).double()[axis] * step
        ends = [guided.denoise(y, sigma)[:, axis] for y in (x + shift, x - shift)]
        wanted += (ends[0] - ends[1]) / (2 * step)
    assert torch.allclose(trace, wanted, atol=1e-5)


def test_classifier_free_guidance_of_normals_of_one_width_shifts_the_mean():
    """With equal widths the guided score is that of a normal at the extrapolated mean."""
    n = 3000
    heads = [SpaceMixture(n, [1.0], [centre], [0.4]) for centre in ([0.5, 0, 0], [0.1, 0.2, 0])]
    for weight, wanted in ((1.0, [0.5, 0.0, 0.0]), (0.0, [0.1, 0.2, 0.0]), (2.0, [0.9, -0.2, 0.0])):
        guided = GuidedByCondition(*heads, weight)
        x = make_solver("dpm-solver++").solve(guided, stream(5, "free"))
        assert (x.mean(0) - torch.tensor(wanted)).abs().max() < 4.5 * 0.4 / n**0.5 + 2e-3


def test_guided_heads_are_denoisers_that_hand_on_the_rest():
    inner = mixed(2)
    inner.ddpm = object()
    for guided in (GuidedDenoiser(inner, lambda x: x.sum(-1)), GuidedByCondition(inner, inner, 2)):
        assert isinstance(guided, Denoiser)
        assert torch.equal(guided.prior(stream(0)), inner.prior(stream(0)))
        assert torch.equal(torch.stack(guided.sigma_range), torch.stack(inner.sigma_range))
        # discrete steps would bypass the guidance
        assert not hasattr(guided, "ddpm")
