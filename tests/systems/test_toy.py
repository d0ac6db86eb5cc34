"""The truths of the toys against brute-force quadrature."""

import math

import pytest
import torch

from gensci.core.errors import SystemTextError
from gensci.core.random import stream
from gensci.systems.toy import ToySystem

POINTS = 700


@pytest.mark.parametrize("name", ["double-well", "mixture"])
def test_truths_equal_quadrature(name):
    system = ToySystem.parse(name)
    line = torch.linspace(-9.0, 9.0, POINTS, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    density = system.target().log_prob({"x": x}).exp()
    area = (18.0 / (POINTS - 1)) ** 2
    z, truth = density.sum() * area, system.truth
    weight = density / density.sum()
    assert truth.log_z == pytest.approx(math.log(z), abs=1e-6)
    mean = weight @ x
    assert torch.allclose(truth.mean, mean, atol=1e-6)
    assert torch.allclose(truth.std, (weight @ (x - mean).square()).sqrt(), atol=1e-6)
    modes = torch.bincount(system.toy.mode(x), weights=weight)
    assert torch.allclose(truth.weights, modes, atol=2e-3)


def test_gaussian_truth():
    system = ToySystem.parse("Gaussian")
    at_mean = system.target().log_prob({"x": system.truth.mean[None]})
    assert at_mean.item() == 2.0
    assert system.truth.log_z == pytest.approx(2.0 + 1.5 * math.log(2 * math.pi) + math.log(1.0))


def test_the_proposal_knows_its_own_density():
    system = ToySystem.parse("stiff")
    proposal = system.proposal(dtype=torch.float64)
    x, log_prob = proposal.sample_and_log_prob(2000, stream(0))
    normal = torch.distributions.Normal(proposal.mean, proposal.std)
    assert torch.allclose(log_prob, normal.log_prob(x["x"]).sum(-1))
    assert ((x["x"] / proposal.std).std(0) - 1).abs().max() < 0.08


def test_unknown_toy():
    with pytest.raises(SystemTextError, match="did you mean 'double-well'"):
        ToySystem.parse("double-wel")
