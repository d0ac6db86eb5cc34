"""DPM-Solver++: a multistep method in log-SNR on the denoised point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.diffusion import Denoiser
from gensci.core.registry import SOLVERS
from gensci.samplers.solvers.base import GridSolver


@SOLVERS.register("dpm-solver++")
@dataclass(frozen=True)
class DpmSolverPlusPlus(GridSolver):
    """Deterministic, second order (2M): one call of the head for each step.

    The denoised point is extrapolated in ``log sigma`` from the last two levels. The first step and
    the one to zero are of first order.

    Reference: Lu, Zhou, Bao, Chen, Li and Zhu (2022), arXiv:2211.01095.
    """

    num_steps: int = 20
    schedule: str = "log-snr"

    name: ClassVar[str] = "dpm-solver++"

    def integrate(
        self, denoiser: Denoiser, x: torch.Tensor, sigmas: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return ``x`` carried along the levels; the generator is not used."""
        ratios = sigmas[1:] / sigmas[:-1]
        weights = extrapolation(ratios)[..., None]
        last = x
        for k, (sigma, ratio) in enumerate(zip(sigmas[:-1], ratios[..., None], strict=True)):
            denoised = denoiser.denoise(x, sigma)
            middle = torch.lerp(last, denoised, weights[k]) if k else denoised
            x, last = torch.lerp(middle, x, ratio), denoised
        return x


def extrapolation(ratios: torch.Tensor) -> torch.Tensor:
    """Return the weight of the newest denoised point in each step; the last one has the rest.

    Args:
        ratios: (steps, n) each level over the one before it.
    """
    h = -ratios.log()
    weights = torch.ones_like(h)
    weights[1:] += torch.where(ratios[1:] > 0, h[1:] / (2.0 * h[:-1]), 0.0)
    return weights
