"""The diffusion head against wrapped normals in closed form and against laws it knows exactly."""

import math

import pytest
import torch

from gensci.nn.edm_denoiser import SlotDenoiser
from gensci.nn.edm_head import EdmHead, torus_displacement, torus_scale
from gensci.samplers.solvers.base import make_solver


@pytest.fixture
def head():
    torch.manual_seed(0)
    return EdmHead(condition=8, width=32, depth=2).double()


def test_displacement_is_the_score_of_a_wrapped_normal():
    x = torch.rand(50, 3, dtype=torch.float64).requires_grad_(True)
    sigma = torch.linspace(0.02, 0.9, 50, dtype=torch.float64)
    images = torch.arange(-20, 21)
    terms = -0.5 * ((x.unsqueeze(-1) + images) / sigma[:, None, None]).square()
    (score,) = torch.autograd.grad(terms.logsumexp(-1).sum(), x)
    expected = sigma.unsqueeze(-1).square() * score
    torch.testing.assert_close(torus_displacement(x.detach(), sigma), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.002, 0.05, 0.3, 0.6])
def test_scale_is_the_root_mean_square_of_the_score(sigma):
    noise = sigma * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    sigmas = torch.full((len(noise),), sigma)
    measured = torus_displacement(noise, sigmas).square().mean().sqrt() / sigma
    expected = torus_scale(torch.tensor(sigma, dtype=torch.float64))
    assert measured.item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("torus", [True, False])
def test_a_fresh_head_loses_one(head, torus):
    """Its output is zero, and targets have unit mean square whatever the noise."""
    n = 4096
    g = torch.Generator().manual_seed(2)
    x0 = torch.rand(n, 3, generator=g, dtype=torch.float64)
    if not torus:  # the preconditioning is made for data of unit variance
        x0 = torch.randn(n, 3, generator=g, dtype=torch.float64)
    loss = head.loss(torch.zeros(n, 8).double(), x0, torch.full((n,), torus), g, repeats=4)
    assert loss.shape == (n,)
    assert loss.mean().item() == pytest.approx(1.0, abs=0.05)


def test_denoising_is_periodic_on_the_torus_only(head):
    torch.nn.init.normal_(head.leave.weight)
    x, sigma = torch.rand(6, 3).double(), torch.full((6,), 0.2).double()
    moved = x + torch.tensor([1.0, -2.0, 3.0])
    z, hint = torch.randn(6, 8).double(), torch.rand(6, 3).double()
    c = head.condition(z, torch.ones(6, dtype=torch.bool), hint, torch.ones(6))
    there = head.denoise(moved, sigma, c) - moved
    torch.testing.assert_close(there, head.denoise(x, sigma, c) - x)
    c = head.condition(z, torch.zeros(6, dtype=torch.bool))
    assert not torch.allclose(head.denoise(moved, sigma, c) - moved, head.denoise(x, sigma, c) - x)


def test_mixed_rows_denoise_as_each_alone(head):
    torch.nn.init.normal_(head.leave.weight)
    x, z = torch.rand(5, 3).double(), torch.randn(5, 8).double()
    torus = torch.tensor([True, False, True, False, False])
    sigma = torch.tensor([0.1, 2.0, 0.3, 0.01, 5.0]).double()
    together = head.denoise(x, sigma, head.condition(z, torus))
    for k in range(5):
        one = slice(k, k + 1)
        alone = head.denoise(x[one], sigma[one], head.condition(z[one], torus[one]))
        torch.testing.assert_close(together[one], alone)


def test_padding_of_groups_changes_no_loss(head):
    """33 rows fill two groups of noise levels; the first 32 rows cannot feel the last."""
    torch.nn.init.normal_(head.leave.weight)
    z, x0 = torch.randn(33, 8).double(), torch.rand(33, 3).double()
    other = x0.clone()
    other[32] += 0.25
    torus = torch.arange(33) % 2 == 0
    losses = [
        head.loss(z, x, torus, torch.Generator().manual_seed(3), repeats=2) for x in (x0, other)
    ]
    torch.testing.assert_close(losses[0][:32], losses[1][:32])
    assert losses[0][32] != losses[1][32]


def test_density_of_a_zero_head_is_known(head):
    """Zero output is the exact denoiser of unit normals in space and of the uniform torus."""
    torus = torch.tensor([True, False, False])
    denoiser = SlotDenoiser(head, head.condition(torch.randn(3, 8).double(), torus))
    x = torch.tensor([[0.2, 0.9, 0.4], [0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]).double()
    solver = make_solver("flow-ode", {"num_steps": 64})
    found = solver.log_prob(denoiser, x)
    normal = -0.5 * x.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    expected = torch.where(torus, torch.zeros(3).double(), normal)
    # The prior stands for N(0, 400 + 1) and its variance is 400.
    torch.testing.assert_close(found, expected, atol=6e-3, rtol=0)


def test_every_weight_gets_a_gradient(head):
    torch.nn.init.normal_(head.leave.weight)
    z = torch.randn(64, 8).double()
    torus = torch.arange(64) % 2 == 0
    hint = torch.rand(64, 3).double()
    x0 = torch.rand(64, 3).double()
    head.loss(z, x0, torus, torch.Generator().manual_seed(4), hint, torus).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
