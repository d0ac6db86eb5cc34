"""Draws of many posteriors at once against conjugate ones, on circles and within bounds."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gensci.core.errors import UsageError
from gensci.core.priors import BoxPrior, NormalPrior
from gensci.core.random import stream
from gensci.loops.many_posteriors import ManyPosteriors

MIX = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 1.5]], dtype=torch.float64)
NOISE = 0.2


def linear(x, theta):
    return -0.5 * ((x - theta @ MIX.T) / NOISE).square().sum(1)


def test_conjugate_posteriors_have_their_moments():
    prior = NormalPrior(torch.zeros(3), torch.ones(3))
    truth = prior.sample(6, stream(1, "truth"))
    x = truth @ MIX.T + NOISE * torch.randn(6, 3, generator=stream(1, "x"), dtype=torch.float64)
    many = ManyPosteriors(prior, linear, particles=4000, at_once=4)
    draws = many.draw(x, stream(1, "draws"))
    covariance = torch.linalg.inv(torch.eye(3) + MIX.T @ MIX / NOISE**2)
    mean = x @ MIX @ covariance / NOISE**2
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(1) - mean) / sd).abs().max() < 0.1
    for rows in draws:
        torch.testing.assert_close(
            rows.T.cov(), covariance, rtol=0.1, atol=0.05 * float(sd.max()) ** 2
        )
    again = many.draw(x, stream(1, "draws"))
    assert torch.equal(draws, again)
    # densities up to a constant of each run
    exact = -0.5 * torch.einsum(
        "rni,ij,rnj->rn", draws - mean[:, None], torch.linalg.inv(covariance), draws - mean[:, None]
    )
    apart = many.log_prob(x, draws) - exact
    assert (apart - apart.mean(1, keepdim=True)).abs().max() < 1e-8


def test_a_posterior_over_the_edge_of_a_circle_and_of_a_box():
    turn = 2 * math.pi
    prior = BoxPrior(["angle", "bounded"], [0.0, 0.0], [turn, 1.0], [turn, None])

    def log_likelihood(x, theta):
        assert prior.inside(theta).all()
        angle = 8.0 * torch.cos(theta[:, 0] - x[:, 0])
        return angle - 3.0 * (theta[:, 1] - x[:, 1]).abs()

    x = torch.tensor([[0.05, 0.9], [3.0, -0.5]], dtype=torch.float64)
    draws = ManyPosteriors(prior, log_likelihood, particles=3000).draw(x, stream(2, "draws"))
    assert prior.inside(draws.flatten(0, 1)).all()
    for rows, data in zip(draws.numpy(), x.numpy(), strict=True):
        apart = np.remainder(rows[:, 0] - data[0] + math.pi, turn) - math.pi
        assert stats.kstest(apart[::3], stats.vonmises(8.0).cdf).pvalue > 1e-3
    grid = np.linspace(0, 1, 2001)
    density = np.exp(-3 * np.abs(grid - 0.9))
    mean = (grid * density).sum() / density.sum()
    assert draws[0, :, 1].mean().item() == pytest.approx(mean, abs=0.02)


def test_a_narrow_ridge_is_not_narrower_than_it_is():
    """Few draws and few moves at each temperature: what is left too narrow must widen at the end.

    theta_0 is normal, theta_1 normal about its square, and only theta_1 less that is measured.
    """
    prior = NormalPrior(torch.zeros(2), [1.0, 100.0])

    def log_likelihood(x, theta):
        ridge = (theta[:, 1] - 2 * theta[:, 0].square()) / 0.1
        return -0.5 * ridge.square()

    many = ManyPosteriors(prior, log_likelihood, particles=200, moves=2, at_once=40)
    draws = many.draw(torch.zeros(40, 1), stream(5, "draws"))
    # the marginal of theta_0 is prior times N(2 theta_0^2; 0, 100)
    grid = np.linspace(-6, 6, 4001)
    density = np.exp(-0.5 * grid**2 - 0.5 * (2 * grid**2) ** 2 / 100)
    sd = math.sqrt((grid**2 * density).sum() / density.sum())
    assert draws[..., 0].std(1).mean().item() == pytest.approx(sd, rel=0.05)


def test_two_modes_keep_their_shares():
    prior = NormalPrior([0.0], [25.0])

    def log_likelihood(x, theta):
        near = torch.stack([-0.5 * (theta[:, 0] - m).square() / 0.04 for m in (-4.0, 4.0)])
        return (near + torch.tensor([[0.75], [0.25]]).log()).logsumexp(0)

    draws = ManyPosteriors(prior, log_likelihood, particles=4000).draw(
        torch.zeros(3, 1), stream(3, "draws")
    )
    shares = (draws[..., 0] < 0).double().mean(1)
    assert (shares - 0.75).abs().max() < 0.06


def test_data_without_any_density_give_no_draws():
    def log_likelihood(x, theta):
        return torch.where(x[:, 0] > 0, -theta.square().sum(1), -torch.inf)

    prior = NormalPrior([0.0], [1.0])
    draws = ManyPosteriors(prior, log_likelihood, particles=50).draw(
        torch.tensor([[1.0], [-1.0]]), stream(4, "draws")
    )
    assert draws[0].isfinite().all()
    assert draws[1].isnan().all()


@pytest.mark.parametrize("wrong", [{"particles": 3}, {"ess_target": 1.0}, {"at_once": 0}])
def test_refusals_name_the_setting(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ManyPosteriors(NormalPrior([0.0], [1.0]), linear, **wrong)


def test_the_few_that_mix_badly_are_moved_on():
    """Bent posteriors among nine times as many easy ones: one rule for the mean over all stops at
    six tenths of their second moment."""
    prior = NormalPrior(torch.zeros(6), 9 * torch.ones(6))

    def log_likelihood(x, theta):
        first, others = theta[:, :1], theta[:, 1:]
        bent = (others - 0.15 * (first.square() - 9)) / 0.3
        hard, easy = bent.square().sum(1), (theta / 0.5).square().sum(1)
        return -0.5 * torch.where(x[:, 0] > 0, hard, easy)

    x = torch.zeros(240, 1, dtype=torch.float64)
    x[::10] = 1.0
    many = ManyPosteriors(prior, log_likelihood, particles=300, moves=4, ess_target=0.4, at_once=60)
    draws = many.draw(x, stream(4, "draws"))
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    middle = 0.15 * (grid.square() - 9)
    law = torch.softmax(-grid.square() / 18 - 5 * middle.square() / (2 * 9.09), 0)
    share = float(draws[::10, :, 0].square().mean() / (law @ grid.square()))
    assert 0.78 < share < 1.1
    easy = torch.cat([draws[i::10, :, 0] for i in range(1, 10)])
    assert float(easy.square().mean()) == pytest.approx(1 / (1 / 9 + 4), rel=0.03)
