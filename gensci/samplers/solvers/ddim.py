"""DDIM: Euler steps on the probability-flow equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.diffusion import Denoiser
from gensci.core.registry import SOLVERS
from gensci.samplers.solvers.base import GridSolver


@SOLVERS.register("ddim")
@dataclass(frozen=True)
class Ddim(GridSolver):
    """Deterministic, first order: one call of the head for each step.

    Reference: Song, Meng and Ermon (2020), arXiv:2010.02502.
    """

    num_steps: int = 50

    name: ClassVar[str] = "ddim"

    def integrate(
        self, denoiser: Denoiser, x: torch.Tensor, sigmas: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return ``x`` carried along the levels; the generator is not used."""
        ratios = (sigmas[1:] / sigmas[:-1])[..., None]
        for sigma, ratio in zip(sigmas[:-1], ratios, strict=True):
            x = torch.lerp(denoiser.denoise(x, sigma), x, ratio)
        return x
