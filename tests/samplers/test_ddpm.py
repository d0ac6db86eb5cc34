"""Discrete diffusion against normal data, whose reverse steps are known, and as published."""

import math

import pytest
import torch

from gensci.core.random import stream
from gensci.samplers.solvers import make_solver
from gensci.samplers.solvers.ddpm import Respaced, descend, spread_steps


class NormalHead:
    """The exact head of normal data: its noise, and a variance by one of three rules."""

    def __init__(self, n, mean, width, steps=60, rule="exact", last=0.4):
        self.betas = torch.linspace(1e-3, last, steps).double()
        self.survival = (1 - self.betas).cumprod(0)
        self.n, self.width, self.rule = n, width, rule
        self.mean = torch.tensor(mean).double()
        self.ddpm = self

    @property
    def sigma_range(self):
        return torch.full((self.n,), 0.01).double(), torch.full((self.n,), 100.0).double()

    def noise_and_log_variance(self, x, t):
        signal = self.survival[t][:, None]
        total = signal * self.width**2 + 1 - signal
        eps = (1 - signal).sqrt() * (x - signal.sqrt() * self.mean) / total
        return eps, self.variance(t).log()[:, None].expand_as(x)

    def variance(self, t):
        beta, before = self.betas[t], torch.where(t > 0, self.survival[t - 1], 1.0)
        smallest = beta * (1 - before) / (1 - self.survival[t])
        smallest = torch.where(t > 0, smallest, smallest.new_tensor(1e-3))
        prior = before * self.width**2 + 1 - before
        exact = prior * beta / ((1 - beta) * prior + beta)
        return {"exact": exact, "small": smallest, "large": beta}[self.rule]

    def wrap(self, x):
        return x


@pytest.mark.parametrize("width", [0.2, 0.7, 1.0])
def test_the_full_chain_draws_normal_data_exactly(width):
    n, mean = 8000, [0.5, -0.3, 0.1]
    x = make_solver("ddpm").solve(NormalHead(n, mean, width), stream(1, "full"))
    # the last step gives E[x0 | x_1], whose width falls short of the data's by this much
    kept = width / math.hypot(width, math.sqrt(1e-3 / 0.999))
    z = (x - torch.tensor(mean)) / (width * kept)
    assert z.mean(0).abs().max() < 4.5 / n**0.5
    assert (z.square().mean() - 1).abs() < 4.5 * (2 / (3 * n)) ** 0.5
    assert torch.allclose(z.T.cov(), torch.eye(3).double(), atol=0.05)


@pytest.mark.parametrize("num_steps", [2, 7, 30])
def test_fewer_steps_are_still_exact_at_the_two_bounds_of_the_variance(num_steps):
    """Point data have the smallest variance, normal data of width one the largest."""
    point = NormalHead(500, [0.4, 0.0, -1.0], 0.0, rule="small")
    x = make_solver("ddpm", {"num_steps": num_steps}).solve(point, stream(2, "point"))
    assert torch.allclose(x, point.mean.expand_as(x), atol=1e-9)
    unit = NormalHead(8000, [0.0, 0.0, 0.0], 1.0, rule="large")
    x = make_solver("ddpm", {"num_steps": num_steps}).solve(unit, stream(3, "unit"))
    kept = 1 - 1e-3  # E[x0 | x_1] again, of the first step of all
    assert abs(x.square().mean() / kept - 1) < 4.5 * (2 / 24000) ** 0.5


def test_a_walk_is_the_published_one_step_for_step():
    """Written by x0 and the posterior's two coefficients, with variances between its bounds."""
    head = NormalHead(9, [0.3, 0.2, 0.1], 0.6)
    chosen = spread_steps(60, 12)
    survival = head.survival[chosen]
    before = torch.cat([torch.ones(1).double(), survival[:-1]])
    beta = 1 - survival / before
    bounds = (beta * (1 - before) / (1 - survival)).log(), beta.log()
    full_before = torch.cat([torch.ones(1).double(), head.survival[:-1]])
    full = (head.betas * (1 - full_before) / (1 - head.survival)).log(), head.betas.log()
    start = torch.randn(9, 3, generator=stream(4, "start"), dtype=torch.float64)
    generator, x = stream(4, "noise"), start
    for k in reversed(range(12)):
        t = torch.full((9,), chosen[k])
        eps, log_variance = head.noise_and_log_variance(x, t)
        x0 = (x - (1 - survival[k]).sqrt() * eps) / survival[k].sqrt()
        first = beta[k] * before[k].sqrt() / (1 - survival[k])
        second = (1 - before[k]) * (1 - beta[k]).sqrt() / (1 - survival[k])
        x = first * x0 + second * x
        if k:
            share = (log_variance - full[0][chosen[k]]) / (full[1] - full[0])[chosen[k]]
            wanted = bounds[0][k] + share * (bounds[1] - bounds[0])[k]
            noise = torch.randn(9, 3, generator=generator, dtype=torch.float64)
            x = x + 0.8 * (0.5 * wanted).exp() * noise
    assert torch.allclose(descend(head, start, 12, stream(4, "noise"), 0.8), x, atol=1e-9)


def test_steps_are_spread_as_published():
    assert spread_steps(1000, 200)[:5] == [0, 5, 10, 15, 20]
    assert spread_steps(1000, 200)[-2:] == [994, 999]
    assert spread_steps(1000, 4) == [0, 333, 666, 999]
    assert spread_steps(10, 200) == list(range(10))
    assert spread_steps(1000, 1) == [999]


def test_a_variance_carries_over_to_itself_when_no_step_is_left_out():
    chain = Respaced.of(NormalHead(1, [0.0] * 3, 1.0).survival)
    value = torch.tensor([[-2.0, -3.0, -4.0]]).double()
    assert torch.allclose(chain.carry_over(value, 7, chain, 7), value)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_temperature_scales_the_width_of_normal_data(temperature):
    n = 4000
    head = NormalHead(n, [0.2, 0.0, 0.0], 0.8, steps=400, last=0.04)
    x = make_solver("ddpm", {"num_steps": 400}).solve(head, stream(5, "cold"), temperature)
    width = (x - head.mean).square().mean().sqrt()
    assert abs(width - 0.8 * temperature) < 0.03
    again = make_solver("ddpm", {"num_steps": 400}).solve(head, stream(5, "cold"), temperature)
    assert torch.equal(x, again)
