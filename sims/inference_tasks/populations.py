"""Predators and prey (Lotka-Volterra) and an epidemic (SIR), observed at ten times.

Lueckmann et al. 2021, arXiv:2101.04653, appendix T. Both are integrated in logarithms of the
populations, which stay positive however deep a population falls.
"""

from __future__ import annotations

import math

import torch

from .definition import InferenceTask
from .integrator import integrate

PREY, PREDATORS = 30.0, 1.0  # at the start
OUTPUTS = 10
LV_SPACING = 2.1  # days between observations of the predators and prey
LV_NOISE = 0.1  # standard deviation of the log of an observed population
LV_FLOOR, LV_CEILING = 1e-10, 1e4
POPULATION = 1e6
SIR_SPACING = 17.0  # days between tests
TESTED = 1000  # people tested each time


def _lotka_volterra_rate(y: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    alpha, beta, gamma, delta = theta.unbind(-1)
    prey, predators = y.exp().unbind(-1)
    return torch.stack([alpha - beta * predators, delta * prey - gamma], -1)


def lotka_volterra_log_populations(theta: torch.Tensor, tolerance: float = 1e-7) -> torch.Tensor:
    """Return (n, 20) logarithms: prey at ten times, then predators, cut to the range observed."""
    n = theta.shape[0]
    start = torch.tensor([math.log(PREY), math.log(PREDATORS)], dtype=theta.dtype).repeat(n, 1)
    times = LV_SPACING * torch.arange(OUTPUTS, dtype=theta.dtype)
    solution = integrate(_lotka_volterra_rate, start, theta, times, tolerance=tolerance)
    return solution.transpose(1, 2).flatten(1).clamp(math.log(LV_FLOOR), math.log(LV_CEILING))


def simulate_lotka_volterra(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw (n, 20) observed populations with log-normal errors."""
    mean = lotka_volterra_log_populations(theta)
    noise = torch.randn(mean.shape, generator=generator, dtype=theta.dtype)
    return (mean + LV_NOISE * noise).exp()


def lotka_volterra_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of observed populations, without the Jacobian of the logarithm."""
    residual = (x.log() - lotka_volterra_log_populations(theta)) / LV_NOISE
    return -0.5 * residual.square().sum(-1)


def _sir_rate(y: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    contact, recovery = theta.unbind(-1)
    susceptible, infected = y.exp().unbind(-1)
    return torch.stack([-contact * infected, contact * susceptible - recovery], -1)


def sir_infected(theta: torch.Tensor, tolerance: float = 1e-7) -> torch.Tensor:
    """Return (n, 10) logarithms of the share of people infected, one in a million at the start."""
    n = theta.shape[0]
    start = torch.tensor(
        [math.log1p(-1 / POPULATION), -math.log(POPULATION)], dtype=theta.dtype
    ).repeat(n, 1)
    times = SIR_SPACING * torch.arange(OUTPUTS, dtype=theta.dtype)
    return integrate(_sir_rate, start, theta, times, tolerance=tolerance)[..., 1]


def simulate_sir(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw (n, 10) numbers of infected among 1,000 people tested."""
    share = sir_infected(theta).exp().clamp(0.0, 1.0)
    count = torch.full_like(share, float(TESTED))
    return torch.binomial(count, share, generator=generator)


def sir_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of test results, without the binomial coefficients."""
    log_share = sir_infected(theta)
    log_rest = torch.log1p(-log_share.exp().clamp_max(1 - 1e-12))
    return (x * log_share + (TESTED - x) * log_rest).sum(-1)


LOTKA_VOLTERRA = InferenceTask(
    name="lotka_volterra",
    parameters=("alpha", "beta", "gamma", "delta"),
    dim_x=2 * OUTPUTS,
    prior={"kind": "lognormal", "loc": [-0.125, -3.0, -0.125, -3.0], "scale": [0.5] * 4},
    simulator=simulate_lotka_volterra,
    likelihood=lotka_volterra_log_likelihood,
    folder="lotka_volterra",
)
SIR = InferenceTask(
    name="sir",
    parameters=("contact_rate", "recovery_rate"),
    dim_x=OUTPUTS,
    prior={
        "kind": "lognormal",
        "loc": [math.log(0.4), math.log(0.125)],
        "scale": [0.5, 0.2],
    },
    simulator=simulate_sir,
    likelihood=sir_log_likelihood,
    folder="sir",
    discrete=True,
)
