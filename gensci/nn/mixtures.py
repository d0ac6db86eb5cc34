"""Mixture densities in one dimension: normal on the line, von Mises on the circle.

Parameters carry the components in their last dimension; draws take a ``torch.Generator``, which
``torch.distributions`` does not.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

LOG_2PI = math.log(2 * math.pi)


def mixture_normal_log_prob(x: Tensor, logits: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of x (...,) under components (..., K): (...,) nats."""
    z = (x[..., None] - mean) * torch.exp(-log_scale)
    component = -0.5 * z.square() - log_scale - 0.5 * LOG_2PI
    return torch.logsumexp(torch.log_softmax(logits, -1) + component, -1)


def mixture_von_mises_log_prob(
    phi: Tensor, logits: Tensor, loc: Tensor, log_kappa: Tensor
) -> Tensor:
    """Log-density of angles phi (...,) radians under components (..., K): (...,) nats.

    Written with sin^2 of the half angle, which keeps float32 accurate at high concentration.
    """
    kappa = log_kappa.exp()
    half = torch.sin(0.5 * (phi[..., None] - loc))
    log_norm = LOG_2PI + torch.special.i0e(kappa).log()
    component = -2.0 * kappa * half.square() - log_norm
    return torch.logsumexp(torch.log_softmax(logits, -1) + component, -1)


def sample_component(logits: Tensor, generator: Generator) -> Tensor:
    """Index of one component per row of logits (n, K): (n, 1)."""
    return torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)


def sample_mixture_normal(
    logits: Tensor, mean: Tensor, log_scale: Tensor, generator: Generator
) -> Tensor:
    """One draw per row of (n, K) parameters: (n,)."""
    k = sample_component(logits, generator)
    mean, log_scale = mean.gather(-1, k)[:, 0], log_scale.gather(-1, k)[:, 0]
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + log_scale.exp() * noise


def sample_mixture_von_mises(
    logits: Tensor, loc: Tensor, log_kappa: Tensor, generator: Generator
) -> Tensor:
    """One draw per row of (n, K) parameters: (n,) radians in [-pi, pi]."""
    k = sample_component(logits, generator)
    loc, log_kappa = loc.gather(-1, k)[:, 0], log_kappa.gather(-1, k)[:, 0]
    offset = sample_von_mises(log_kappa.exp(), generator)
    angle = loc.double() + offset
    return torch.remainder(angle + math.pi, 2 * math.pi).sub(math.pi).to(loc.dtype)


def sample_von_mises(kappa: Tensor, generator: Generator) -> Tensor:
    """Draws about zero at concentration kappa (n,): (n,) float64 radians.

    Rejection from a wrapped Cauchy, in float64 because the envelope's constants cancel at high
    concentration. Ref: Best and Fisher 1979, doi:10.2307/2346732.
    """
    kappa = kappa.double().clamp_min(1e-6)
    tau = 1 + torch.sqrt(1 + 4 * kappa.square())
    rho = (tau - torch.sqrt(2 * tau)) / (2 * kappa)
    r = (1 + rho.square()) / (2 * rho)
    out = torch.zeros_like(kappa)
    todo = torch.arange(len(kappa), device=kappa.device)
    while len(todo):
        u = torch.rand(3, len(todo), generator=generator, device=kappa.device, dtype=kappa.dtype)
        z = torch.cos(math.pi * u[0])
        f = ((1 + r[todo] * z) / (r[todo] + z)).clamp(-1, 1)
        c = kappa[todo] * (r[todo] - f)
        keep = (c * (2 - c) > u[1]) | (torch.log(c / u[1]) + 1 - c >= 0)
        draw = torch.where(u[2] > 0.5, 1.0, -1.0) * torch.acos(f)
        out[todo[keep]] = draw[keep]
        todo = todo[~keep]
    return out
