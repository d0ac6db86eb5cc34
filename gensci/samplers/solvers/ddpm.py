"""Ancestral sampling: on the discrete steps a head was trained on, or on any noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.diffusion import Denoiser, DiscreteDiffusion
from gensci.core.random import randn_like
from gensci.core.registry import SOLVERS
from gensci.samplers.solvers.base import GridSolver, check_temperature


@SOLVERS.register("ddpm")
@dataclass(frozen=True)
class Ddpm(GridSolver):
    """Noise is drawn anew at each step, its width times the temperature: the published sampler.

    A head with the capability ``ddpm`` is walked down ``num_steps`` of its own discrete steps, all
    of them if it has fewer, with its own variances; ``schedule`` and ``rho`` are not used then.
    Other heads take ancestral steps on the levels of the schedule.

    Reference: Ho, Jain and Abbeel (2020), arXiv:2006.11239; fewer steps and learned variances:
    Nichol and Dhariwal (2021), arXiv:2102.09672; temperature: Li, Tian, Li, Deng and He (2024),
    arXiv:2406.11838.
    """

    num_steps: int = 200

    name: ClassVar[str] = "ddpm"

    def solve(
        self, denoiser: Denoiser, generator: torch.Generator, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return one draw (n, 3) from each row's distribution, wrapped."""
        check_temperature(temperature)
        discrete = getattr(denoiser, "ddpm", None)
        with torch.no_grad():
            if discrete is not None:
                x = randn_like(denoiser.sigma_range[1][:, None].expand(-1, 3), generator)
                x = descend(discrete, x, self.num_steps, generator, temperature)
                return denoiser.wrap(x)
            x = denoiser.prior(generator)
            sigmas = self.sigmas(denoiser).to(x.dtype)
            return denoiser.wrap(ancestral(denoiser, x, sigmas, generator, temperature))

    def integrate(
        self, denoiser: Denoiser, x: torch.Tensor, sigmas: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return ``x`` carried along the levels at temperature 1."""
        return ancestral(denoiser, x, sigmas, generator)


def ancestral(
    denoiser: Denoiser,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Return ``x`` after drawing each level from its law given the one above and ``E[x0 | x]``.

    Args:
        denoiser: the n distributions.
        x: (n, 3) at the first level.
        sigmas: (steps + 1, n) falling levels.
        generator: the source of randomness.
        temperature: what the width of the noise is multiplied by.
    """
    ratios = (sigmas[1:] / sigmas[:-1]).square()
    noise = temperature * sigmas[1:] * (1.0 - ratios).sqrt()
    ratios, noise = ratios[..., None], noise[..., None]
    silent = len(ratios) if sigmas[-1].any() else len(ratios) - 1
    for k in range(len(ratios)):
        x = torch.lerp(denoiser.denoise(x, sigmas[k]), x, ratios[k])
        if k < silent:
            x = x.addcmul_(randn_like(x, generator), noise[k])
    return x


def descend(
    head: DiscreteDiffusion,
    x: torch.Tensor,
    num_steps: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Return ``x`` after a walk down evenly spread discrete steps.

    Args:
        head: the n distributions.
        x: (n, 3) standard normal noise.
        num_steps: how many of the head's steps to take; all if it has fewer.
        generator: the source of randomness.
        temperature: what the width of the noise is multiplied by.
    """
    betas = head.betas.double().cpu()
    chosen = spread_steps(len(betas), num_steps)
    survival = (1.0 - betas).cumprod(0)
    steps = Respaced.of(survival[chosen])
    full = Respaced.of(survival)
    for k in reversed(range(len(chosen))):
        t = torch.full((x.shape[0],), chosen[k], device=x.device)
        eps, log_variance = head.noise_and_log_variance(x, t)
        if len(chosen) < len(betas):
            log_variance = full.carry_over(log_variance, chosen[k], steps, k)
        x = torch.add(x, eps, alpha=-float(steps.pull[k])).mul_(float(steps.growth[k]))
        if k:
            x = x.addcmul_(randn_like(x, generator), (0.5 * log_variance).exp(), value=temperature)
    return x


def spread_steps(total: int, num_steps: int) -> list[int]:
    """Return ``num_steps`` of the steps 0 ... total - 1, evenly spread with both ends."""
    if num_steps == 1:
        return [total - 1]
    count = min(num_steps, total)
    return [round(k * (total - 1) / max(count - 1, 1)) for k in range(count)]


@dataclass(frozen=True)
class Respaced:
    """A chain of variance-preserving steps, known by what survives of the data at each.

    Attributes:
        pull: (m,) how much of the estimated noise a reverse step takes away.
        growth: (m,) what the rest is multiplied by.
        log_smallest: (m,) log-variance of a reverse step, were the data a single point.
        log_largest: (m,) the same, were the data normal of variance one.
    """

    pull: torch.Tensor
    growth: torch.Tensor
    log_smallest: torch.Tensor
    log_largest: torch.Tensor

    @classmethod
    def of(cls, survival: torch.Tensor) -> Respaced:
        """Return the chain of the (m,) falling products of ``1 - beta``."""
        before = torch.cat([survival.new_ones(1), survival[:-1]])
        beta = 1.0 - survival / before
        smallest = beta * (1.0 - before) / (1.0 - survival)
        # The first step has none, since it ends at the data; that of the second stands in.
        smallest[0] = smallest[1] if len(smallest) > 1 else beta[0]
        growth = (before / survival).sqrt()
        return cls(beta / (1.0 - survival).sqrt(), growth, smallest.log(), beta.log())

    def carry_over(
        self, log_variance: torch.Tensor, t: int, other: Respaced, k: int
    ) -> torch.Tensor:
        """Return the log-variance for step ``k`` of another chain.

        A learned variance is a position between the two bounds of its step; the position is what
        carries over when steps are left out.
        """
        low, width = float(self.log_smallest[t]), float(self.log_largest[t] - self.log_smallest[t])
        position = (log_variance - low) / width if width > 0.0 else torch.ones_like(log_variance)
        width = float(other.log_largest[k] - other.log_smallest[k])
        return float(other.log_smallest[k]) + width * position
