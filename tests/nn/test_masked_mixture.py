"""The masked mixture: normalised, each coordinate conditional on those before, draws as told."""

import math

import pytest
import torch

from gensci.core.random import stream
from gensci.nn.conditional_flow import ConditionalFlow
from gensci.nn.data_transform import DataTransform

pytest.importorskip("normflows", reason="masked networks are those of normflows")

from gensci.nn.masked_mixture import NARROW, WIDE, MaskedMixture


def mixture(dim, context=None, components=3):
    """A small one whose every weight matters."""
    model = MaskedMixture(dim, 16, context, 1, components)
    generator = stream(0, "weights")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().requires_grad_(False)


@pytest.mark.parametrize("context", [None, 2])
def test_density_is_normalised_in_two_dimensions(context):
    model = mixture(2, context)
    # points in t = asinh x, where tails take few
    t = torch.linspace(-9, 9, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(t.sinh(), t.sinh())
    at = None if context is None else torch.tensor([[0.5, -1.0]]).double().expand(len(grid), -1)
    density = model.log_prob(grid, at).exp().reshape(len(t), -1) * t.cosh() * t.cosh()[:, None]
    total = torch.trapezoid(torch.trapezoid(density, t), t)
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_a_coordinate_sees_those_before_it_and_the_context():
    model, x = mixture(4, 2), torch.randn(4, generator=stream(1, "x"), dtype=torch.float64)
    context = torch.zeros(1, 2, dtype=torch.float64)

    def parts(row, context):
        return torch.cat([p.flatten() for p in model._mixtures(row[None], context, slice(0, 4))])

    jacobian = torch.autograd.functional.jacobian(lambda row: parts(row, context), x)
    sees = (jacobian.reshape(9, 4, 4) != 0).any(0)  # numbers, coordinate told, coordinate seen
    assert torch.equal(sees, torch.ones(4, 4).tril(-1).bool())
    moved = parts(x, context + 1) != parts(x, context)
    assert moved.all()


def test_draws_follow_the_density():
    model = mixture(3)
    draws = model.draw(20_000, stream(2, "draws"))
    assert torch.equal(draws, model.draw(20_000, stream(2, "draws")))
    # E[grad log p] = 0 and E[x_i d log p / dx_j] = -delta_ij for draws of p itself
    x = draws.requires_grad_()
    (slope,) = torch.autograd.grad(model.log_prob(x).sum(), x)
    error = (slope.detach().std(0) / math.sqrt(len(x))).max()
    assert slope.mean(0).abs().max() < 4 * error
    product = x.detach()[:, :, None] * slope[:, None]
    spread = product.std(0) / math.sqrt(len(x))
    assert ((product.mean(0) + torch.eye(3)).abs() / spread).max() < 4.5


def test_a_new_one_reaches_from_noise_to_bursts():
    model = MaskedMixture(2, 8, None, 1, 4)
    _, mean, log_scale = model._mixtures(torch.randn(5, 2), None, slice(0, 2))
    assert (mean == 0).all()
    assert log_scale[0].mean().item() == pytest.approx(NARROW, abs=0.01)
    assert log_scale[-1].mean().item() == pytest.approx(WIDE, rel=0.1)


def test_as_the_density_of_a_conditional_flow():
    model = ConditionalFlow(2, 1, kind="mixture", hidden=8, mean_hidden=8, bins=3)
    assert isinstance(model.data, DataTransform)
    theta = torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    x = model.sample(theta, stream(3, "x"))
    assert x.shape == (2, 2)
    features = model.features(theta)
    expected = model.flow.q0.log_prob(
        model.centre.inverse(x.float(), features)[0], model.context(features)
    )
    found = model.log_prob(x, theta) - model.centre.inverse(x.float(), features)[1]
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)
