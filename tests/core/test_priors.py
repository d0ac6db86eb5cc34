"""Priors against scipy and against integrals; what cannot be used is refused by name."""

import functools
import json
import math

import numpy
import pytest
import torch
from scipy import integrate, stats

from gensci.core.errors import UsageError
from gensci.core.marginals import marginal_from_json
from gensci.core.priors import (
    BoxPrior,
    LogNormalPrior,
    NormalPrior,
    Prior,
    ProductPrior,
    read_prior,
)
from gensci.core.random import stream

COVARIANCE = [[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]]
MARGINALS = [
    {"name": "a", "kind": "uniform", "low": -1.0, "high": 3.0},
    {"name": "b", "kind": "log-uniform", "low": 0.5, "high": 20.0},
    {"name": "c", "kind": "power-law", "low": 1.0, "high": 4.0, "exponent": 2.0},
    {"name": "d", "kind": "sine"},
    {"name": "e", "kind": "cosine", "low": -1.0, "high": 0.5},
    {"name": "f", "kind": "normal", "mean": 2.0, "sd": 0.3},
    {"name": "g", "kind": "log-normal", "loc": -0.125, "scale": 0.5},
    {"name": "h", "kind": "uniform", "low": 0.0, "high": 2 * math.pi, "period": 2 * math.pi},
]
PRIORS = {
    "box": BoxPrior(["x", "y"], [-1.0, 0.0], [2.0, 3.0], [None, 3.0]),
    "normal": NormalPrior([1.0, 0.0, -2.0], COVARIANCE),
    "lognormal": LogNormalPrior([-0.125, -3.0], [0.5, 0.2], ["alpha", "beta"]),
    "product": ProductPrior(MARGINALS),
}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def scipy_log_density(prior, theta):
    if prior.kind == "box":
        return torch.full((len(theta),), -math.log(9.0), dtype=torch.float64)
    if prior.kind == "normal":
        law = stats.multivariate_normal(prior.mean.numpy(), prior.covariance.numpy())
        return torch.from_numpy(law.logpdf(theta.numpy()))
    if prior.kind == "lognormal":
        columns = [
            stats.lognorm(s, scale=math.exp(m)).logpdf(x)
            for x, m, s in zip(theta.T.numpy(), [-0.125, -3.0], [0.5, 0.2], strict=True)
        ]
        return torch.from_numpy(sum(columns))
    laws = [
        stats.uniform(-1, 4),
        stats.loguniform(0.5, 20),
        None,
        None,
        None,
        stats.norm(2, 0.3),
        stats.lognorm(0.5, scale=math.exp(-0.125)),
        stats.uniform(0, 2 * math.pi),
    ]
    total = torch.zeros(len(theta), dtype=torch.float64)
    for law, x in zip(laws, theta.unbind(1), strict=True):
        total += 0 if law is None else torch.from_numpy(law.logpdf(x.numpy()))
    total += (3 * theta[:, 2] ** 2 / 63).log() + (theta[:, 3].sin() / 2).log()
    return total + (theta[:, 4].cos() / (math.sin(0.5) + math.sin(1.0))).log()


@each_prior
def test_density_agrees_with_scipy(prior):
    theta = prior.sample(200, stream(0, "theta"))
    assert theta.dtype == torch.float64
    assert theta.shape == (200, prior.dim)
    torch.testing.assert_close(prior.log_prob(theta), scipy_log_density(prior, theta))


@each_prior
def test_draws_follow_the_density(prior):
    """Each column's probability integral, by the density on a grid, is uniform."""
    theta = prior.sample(4000, stream(1, "theta"))
    if prior.kind == "normal":
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(prior.covariance), (theta - prior.mean).T, upper=False
        )
        columns, cdf = white, stats.norm.cdf
        for column in columns:
            assert stats.kstest(column.numpy(), cdf).pvalue > 1e-3
        return
    for i, column in enumerate(theta.unbind(1)):
        grid = theta[:1].repeat(4001, 1)
        low, high = column.min().item(), column.max().item()
        grid[:, i] = torch.linspace(low, high, 4001)
        density = prior.log_prob(grid).exp().numpy()
        cdf = integrate.cumulative_trapezoid(density, grid[:, i].numpy(), initial=0)
        cdf /= cdf[-1]
        integral = functools.partial(numpy.interp, xp=grid[:, i].numpy(), fp=cdf)
        assert stats.kstest(column.numpy(), integral).pvalue > 1e-3, prior.names[i]


@each_prior
def test_bounds_and_outside(prior):
    theta = prior.sample(5, stream(2, "theta"))
    for i, (low, high) in enumerate(prior.bounds.tolist()):
        for edge, step in ((low, -1e-6), (high, 1e-6)):
            if math.isfinite(edge):
                outside = theta.clone()
                outside[:, i] = edge + step
                assert (prior.log_prob(outside) == -math.inf).all()
                assert not prior.inside(outside).any()
    assert prior.log_prob(torch.full_like(theta, math.nan)).tolist() == [-math.inf] * 5


@each_prior
def test_json_round_trip(prior, tmp_path):
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(prior.to_json()))
    again = read_prior(path)
    theta = prior.sample(10, stream(3, "theta"))
    assert torch.equal(again.log_prob(theta), prior.log_prob(theta))
    assert (again.names, again.periods) == (prior.names, prior.periods)
    assert torch.equal(again.bounds, prior.bounds)
    assert torch.equal(again.sample(10, stream(3, "theta")), theta)


@each_prior
def test_gradient_is_finite_and_right(prior):
    theta = prior.sample(3, stream(4, "theta")).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: prior.log_prob(t), theta)
    outside = (theta + 1e3).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(outside).clamp_min(-1e9).sum(), outside)
    assert gradient.isfinite().all()


def test_wrap_moves_by_whole_periods():
    prior = PRIORS["box"]
    theta = torch.tensor([[5.0, -0.5], [0.0, 7.0]], dtype=torch.float64)
    expected = torch.tensor([[5.0, 2.5], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(prior.wrap(theta), expected)


def test_a_value_outside_is_named():
    with pytest.raises(UsageError, match=r"theta\[1\] has y = 4, outside its prior \[0, 3\]"):
        PRIORS["box"].check_inside(torch.tensor([[0.0, 1.0], [0.0, 4.0]]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BoxPrior(["a"], [1.0], [1.0]), "'a' runs from 1.0 to 1.0"),
        (lambda: BoxPrior(["a", "a"], [0, 0], [1, 1]), "one name"),
        (lambda: BoxPrior(["a"], [0.0], [2.0], [1.0]), "spans 2.0 but its period is 1.0"),
        (lambda: NormalPrior([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Prior.from_json({"kind": "boxx"}), "did you mean 'box'"),
        (lambda: Prior.from_json({"low": [0]}), "no 'kind'"),
        (lambda: Prior.from_json({"kind": "box", "low": [0]}), "cannot be built"),
        (lambda: marginal_from_json({"name": "a", "kind": "sinus"}), "did you mean 'sine'"),
        (lambda: marginal_from_json({"name": "a", "kind": "uniform", "hi": 2}), "low, high"),
        (lambda: marginal_from_json({"name": "a", "kind": "normal", "sd": -1}), "sd = -1"),
        (lambda: PRIORS["box"].log_prob(torch.zeros(2, 3)), r"\(2, 3\).*x, y"),
        (lambda: read_prior("/nowhere/prior.json"), "not readable JSON"),
    ],
)
def test_what_cannot_be_used_is_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()
