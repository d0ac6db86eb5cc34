"""The density of the probability flow against densities in closed form."""

import math

import pytest
import torch
from analytic_denoisers import SPACE, TORUS, SpaceMixture, TorusMixture, mixed

from gensci.core.errors import GensciError
from gensci.core.random import stream
from gensci.samplers.solvers import GuidedByCondition, make_solver
from gensci.samplers.solvers.flow_ode import denoise_and_trace

FINE = make_solver("flow-ode", {"num_steps": 40})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_density_of_draws_and_of_given_points_is_the_analytic_one(dtype):
    denoiser = mixed(60, dtype)
    x, log_prob = FINE.solve_with_log_prob(denoiser, stream(1, "draws"))
    low = denoiser.sigma_range[0]
    truth = denoiser.noisy_log_prob(x, low)
    assert x.dtype == log_prob.dtype == dtype
    assert (log_prob - truth).abs().max() < 1e-3
    assert (FINE.log_prob(denoiser, x) - truth).abs().max() < 1e-3
    # points that the flow itself would seldom draw
    y = torch.randn(120, 3, generator=stream(2, "points"), dtype=torch.float64).to(dtype)
    truth = denoiser.noisy_log_prob(y, low)
    assert ((FINE.log_prob(denoiser, y) - truth).abs() / truth.abs().clamp(min=1)).max() < 1e-3


def test_draws_are_those_of_solve_and_come_back_to_their_noise():
    denoiser = mixed(80)
    x, _ = FINE.solve_with_log_prob(denoiser, stream(3, "back"))
    assert torch.allclose(x, FINE.solve(denoiser, stream(3, "back")), atol=1e-12)
    noise, start = FINE.encode(denoiser, x), denoiser.prior(stream(3, "back"))
    away = (noise - start).abs()
    away[80:] = torch.minimum(away[80:], 1 - away[80:])
    scale = torch.tensor([20.0, 0.8]).repeat_interleave(80)[:, None]
    assert (away / scale).max() < 1e-3


@pytest.mark.parametrize("kind", ["space", "torus"])
def test_density_integrates_to_one(kind):
    if kind == "torus":
        side, count = 1.0, 12
        axis = torch.arange(count).double() / count
        denoiser = TorusMixture(count**3, *TORUS)
    else:
        side, count = 6.4, 16
        axis = (torch.arange(count).double() + 0.5) * side / count - side / 2
        denoiser = SpaceMixture(count**3, [0.3, 0.7], SPACE[1], [0.5, 0.6])
    points = torch.cartesian_prod(axis, axis, axis)
    log_prob = make_solver("flow-ode", {"num_steps": 20}).log_prob(denoiser, points)
    assert log_prob.exp().sum() * (side / count) ** 3 == pytest.approx(1.0, abs=2e-3)


def test_density_at_a_temperature_is_that_of_the_sharpened_law():
    """Normal data of width s at temperature t: normal of width t s, and the smallest noise."""
    warm = SpaceMixture(50, [1.0], [[0.1, 0.2, 0.3]], [0.6])
    cold = SpaceMixture(50, [1.0], [[0.1, 0.2, 0.3]], [0.3])
    x, log_prob = FINE.solve_with_log_prob(warm, stream(4, "cold"), 0.5)
    truth = cold.noisy_log_prob(x, cold.sigma_range[0])
    assert (log_prob - truth).abs().max() < 3e-3
    assert (FINE.log_prob(warm, x, 0.5) - truth).abs().max() < 3e-3


def test_density_of_a_guided_flow_is_that_of_its_draws():
    """Self-normalised weights of a flow under classifier-free guidance recover a known law."""
    n = 4000
    conditional = SpaceMixture(n, *SPACE)
    guided = GuidedByCondition(conditional, SpaceMixture(n, [1.0], [[0.0, 0.1, 0.2]], [0.8]), 1.3)
    x, log_prob = make_solver("flow-ode", {"num_steps": 12}).solve_with_log_prob(
        guided, stream(5, "guided")
    )
    weight = (conditional.noisy_log_prob(x, conditional.sigma_range[0]) - log_prob).exp()
    ess = weight.sum() ** 2 / weight.square().sum()
    assert weight.mean() == pytest.approx(1.0, abs=4.5 / ess.item() ** 0.5)
    mean = (weight[:, None] * x).mean(0) / weight.mean()
    spread = conditional.covariance.diagonal().sqrt()
    assert ((mean - conditional.mean).abs() / spread).max() < 4.5 / ess**0.5


def test_the_trace_is_that_of_the_whole_jacobian():
    denoiser = mixed(3)
    x = torch.randn(6, 3, generator=stream(6, "x"), dtype=torch.float64)
    sigma = torch.linspace(0.1, 0.6, 6).double()
    denoised, trace = denoise_and_trace(denoiser, x, sigma)
    whole = torch.autograd.functional.jacobian(lambda y: denoiser.denoise(y, sigma), x)
    rows = torch.arange(6)
    assert torch.allclose(trace, torch.einsum("nii->n", whole[rows, :, rows]))
    assert torch.allclose(denoised, denoiser.denoise(x, sigma))


def test_a_head_without_gradients_is_refused_not_given_a_wrong_density():
    class Frozen(SpaceMixture):
        def denoise(self, x, sigma):
            with torch.no_grad():
                return super().denoise(x, sigma)

    with pytest.raises(GensciError, match="gives no gradient"):
        FINE.solve_with_log_prob(Frozen(2, *SPACE), stream(0))
    assert FINE.solve(Frozen(2, *SPACE), stream(0)).isfinite().all()


def test_terminal_convention_is_the_data_with_the_smallest_noise():
    """Of point data, the density at the point is the height of the smallest noise's normal."""
    denoiser = SpaceMixture(1, [1.0], [[0.0, 0.0, 0.0]], [1e-6], low=0.1, high=5.0)
    height = -1.5 * math.log(2 * math.pi * 0.1**2)
    log_prob = FINE.log_prob(denoiser, torch.zeros(1, 3).double())
    assert log_prob.item() == pytest.approx(height, abs=5e-3)
