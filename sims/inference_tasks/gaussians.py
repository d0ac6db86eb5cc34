"""Tasks about the mean of a Gaussian or of two, and the two moons.

Lueckmann et al. 2021, arXiv:2101.04653, appendix T.
"""

from __future__ import annotations

import math

import torch

from .definition import InferenceTask, numbered, uniform_prior

VARIANCE = 0.1  # of prior and data of the linear tasks
WIDE, NARROW = 1.0, 0.1  # standard deviations of the two Gaussians of the mixture
RADIUS, THICKNESS, OFFSET = 0.1, 0.01, 0.25  # of a moon


def add_noise(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return parameters plus Gaussian noise of variance 0.1."""
    noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    return theta + math.sqrt(VARIANCE) * noise


def linear_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of data that are the parameters plus noise."""
    constant = 0.5 * theta.shape[1] * math.log(2 * math.pi * VARIANCE)
    return -0.5 * (x - theta).square().sum(-1) / VARIANCE - constant


def simulate_mixture(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw around theta from the wide or the narrow Gaussian, both coordinates from the same."""
    n = theta.shape[0]
    wide = torch.rand(n, 1, generator=generator, dtype=theta.dtype) < 0.5
    scale = torch.where(wide, WIDE, NARROW)
    return theta + scale * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)


def mixture_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of the even mixture of a wide and a narrow Gaussian around theta."""
    distance2 = (x - theta).square().sum(-1)
    dim = theta.shape[1]
    parts = [
        math.log(0.5) - 0.5 * distance2 / s**2 - 0.5 * dim * math.log(2 * math.pi * s**2)
        for s in (WIDE, NARROW)
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def moon_centre(theta: torch.Tensor) -> torch.Tensor:
    """Return (n, 2) where the half circle of each row stands: two thetas share one."""
    total, difference = theta.sum(-1), theta[:, 1] - theta[:, 0]
    return torch.stack([-total.abs(), difference], -1) / math.sqrt(2.0)


def simulate_moons(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a point on a thin half circle that theta shifts."""
    n = theta.shape[0]
    angle = math.pi * (torch.rand(n, generator=generator, dtype=theta.dtype) - 0.5)
    radius = RADIUS + THICKNESS * torch.randn(n, generator=generator, dtype=theta.dtype)
    arc = torch.stack([radius * angle.cos() + OFFSET, radius * angle.sin()], -1)
    return arc + moon_centre(theta)


def moons_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of a point: uniform in angle, Gaussian in radius, over the Jacobian r.

    A negative radius (ten standard deviations away) is left out.
    """
    u, v = (x - moon_centre(theta)).unbind(-1)
    u = u - OFFSET
    radius = torch.hypot(u, v)
    density = (
        -0.5 * ((radius - RADIUS) / THICKNESS).square()
        - math.log(THICKNESS * math.sqrt(2 * math.pi))
        - math.log(math.pi)
        - radius.clamp_min(1e-300).log()
    )
    return torch.where(u > 0, density, -torch.inf)


def _identity(dim: int, scale: float) -> list[list[float]]:
    return (scale * torch.eye(dim, dtype=torch.float64)).tolist()


GAUSSIAN_LINEAR = InferenceTask(
    name="gaussian_linear",
    parameters=numbered(10),
    dim_x=10,
    prior={"kind": "normal", "mean": [0.0] * 10, "covariance": _identity(10, VARIANCE)},
    simulator=add_noise,
    likelihood=linear_log_likelihood,
    folder="gaussian_linear",
)
GAUSSIAN_LINEAR_UNIFORM = InferenceTask(
    name="gaussian_linear_uniform",
    parameters=numbered(10),
    dim_x=10,
    prior=uniform_prior(1.0, 10),
    simulator=add_noise,
    likelihood=linear_log_likelihood,
    folder="gaussian_linear_uniform",
)
GAUSSIAN_MIXTURE = InferenceTask(
    name="gaussian_mixture",
    parameters=numbered(2),
    dim_x=2,
    prior=uniform_prior(10.0, 2),
    simulator=simulate_mixture,
    likelihood=mixture_log_likelihood,
    folder="gaussian_mixture",
)
TWO_MOONS = InferenceTask(
    name="two_moons",
    parameters=numbered(2),
    dim_x=2,
    prior=uniform_prior(1.0, 2),
    simulator=simulate_moons,
    likelihood=moons_log_likelihood,
    folder="two_moons",
)
