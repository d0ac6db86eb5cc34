"""Bijections against autograd, their own inverses and known laws."""

import math

import pytest
import torch

from gensci.core.bijections import Bijection
from gensci.core.errors import UsageError
from gensci.core.priors import BoxPrior, LogNormalPrior
from gensci.core.random import stream

BOUNDS = torch.tensor(
    [[-2.0, 3.0], [0.0, math.inf], [-math.inf, 1.0], [-math.inf, math.inf], [0.0, math.pi]],
    dtype=torch.float64,
)
PERIODS = (None, None, None, None, math.pi)
both = pytest.mark.parametrize("bounded", ["logit", "probit"])


def points(n=20):
    u = torch.randn(n, 5, generator=stream(0, "u"), dtype=torch.float64)
    share = torch.rand(n, 2, generator=stream(1, "u"), dtype=torch.float64)
    columns = [-2 + 5 * share[:, 0], u[:, 1].exp(), 1 - u[:, 2].exp(), u[:, 3]]
    return torch.stack([*columns, math.pi * share[:, 1]], 1)


@both
def test_inverse_returns_the_point_and_the_opposite_determinant(bounded):
    bijection, theta = Bijection(BOUNDS, PERIODS, bounded), points()
    u, forward = bijection.forward(theta)
    back, inverse = bijection.inverse(u)
    torch.testing.assert_close(back, theta)
    torch.testing.assert_close(forward, -inverse)


@both
def test_determinants_agree_with_autograd(bounded):
    bijection, theta = Bijection(BOUNDS, PERIODS, bounded), points(6)
    for direction, at in (
        (bijection.forward, theta),
        (bijection.inverse, bijection.forward(theta)[0]),
    ):
        for row, log_det in zip(at, direction(at)[1], strict=True):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, go=direction: go(x[None])[0][0], row
            )
            torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det)


def test_probit_makes_a_uniform_normal():
    prior = BoxPrior(["a", "b"], [0.0, -4.0], [1.0, 4.0])
    bijection = Bijection.of_prior(prior, "probit")
    u = torch.randn(50, 2, generator=stream(2, "u"), dtype=torch.float64)
    theta, log_det = bijection.inverse(u)
    normal = -0.5 * u.square().sum(1) - math.log(2 * math.pi)
    torch.testing.assert_close(prior.log_prob(theta) + log_det, normal)


def test_log_normal_becomes_normal():
    prior = LogNormalPrior([0.3], [0.5])
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    theta, log_det = Bijection.of_prior(prior).inverse(u)
    expected = torch.distributions.Normal(0.3, 0.5).log_prob(u[:, 0])
    torch.testing.assert_close(prior.log_prob(theta) + log_det, expected)


@both
def test_edges_stay_finite(bounded):
    bijection = Bijection(BOUNDS[:3], None, bounded)
    edges = torch.tensor([[-2.0, 0.0, 1.0], [3.0, 1e300, -1e300]], dtype=torch.float64)
    u, log_det = bijection.forward(edges)
    assert u.isfinite().all()
    assert log_det.isfinite().all()


def test_periodic_columns_are_wrapped():
    bijection = Bijection(BOUNDS, PERIODS)
    u = bijection.forward(points(4))[0]
    moved = u.clone()
    moved[:, 4] += 5 * math.pi
    torch.testing.assert_close(bijection.inverse(moved)[0], bijection.inverse(u)[0])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Bijection(BOUNDS, None, "tanh"), "choose from: logit, probit"),
        (lambda: Bijection(BOUNDS, [None, None, None, 1.0, None]), "no lower bound"),
    ],
)
def test_what_cannot_be_used_is_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()
