"""Heun's method as in EDM, with or without fresh noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.diffusion import Denoiser
from gensci.core.errors import UsageError
from gensci.core.random import randn_like
from gensci.core.registry import SOLVERS
from gensci.samplers.settings import check_positive, check_share
from gensci.samplers.solvers.base import GridSolver

LARGEST_CHURN = math.sqrt(2.0) - 1.0
"""No step more than doubles the variance of the noise."""


@SOLVERS.register("heun")
@dataclass(frozen=True)
class Heun(GridSolver):
    """Second order: two calls of the head for each step but the last, which goes to zero.

    Attributes:
        churn: how much fresh noise is added over the whole run; 0 is deterministic.
        churn_low: the smallest noise level at which it is added, as a share of the row's largest.
        churn_high: the largest one, likewise.
        churn_noise: the width of the fresh noise.

    Reference: Karras, Aittala, Aila and Laine (2022), arXiv:2206.00364, algorithm 2.
    """

    num_steps: int = 18
    churn: float = 0.0
    churn_low: float = 0.0
    churn_high: float = 1.0
    churn_noise: float = 1.0

    name: ClassVar[str] = "heun"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.churn != 0:
            check_positive("churn", self.churn)
        check_share("churn_low", self.churn_low, zero=True)
        check_share("churn_high", self.churn_high, one=True)
        if self.churn_low >= self.churn_high:
            raise UsageError(
                f"churn_low={self.churn_low} is not below churn_high={self.churn_high}",
                "leave noise levels between the two",
            )
        check_positive("churn_noise", self.churn_noise)

    def integrate(
        self, denoiser: Denoiser, x: torch.Tensor, sigmas: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return ``x`` carried along the levels; the generator is used by churn only."""
        starts = self.raised_levels(sigmas) if self.churn else sigmas[:-1]
        added = (starts.square() - sigmas[:-1].square()).clamp(min=0.0).sqrt()[..., None]
        ratios = (sigmas[1:] / starts)[..., None]
        first, second = 0.5 * (ratios - 1.0), 0.5 * (1.0 - 1.0 / ratios)
        whole_steps = len(ratios) if sigmas[-1].all() else len(ratios) - 1
        for k in range(len(ratios)):
            if self.churn:
                x = x.addcmul(randn_like(x, generator), self.churn_noise * added[k])
            denoised = denoiser.denoise(x, starts[k])
            ahead = torch.lerp(denoised, x, ratios[k])
            if k == whole_steps:
                # There is no slope at zero to average with.
                return ahead
            slope = ahead - denoiser.denoise(ahead, sigmas[k + 1])
            x = x.addcmul(x - denoised, first[k]).addcmul_(slope, second[k])
        return x

    def raised_levels(self, sigmas: torch.Tensor) -> torch.Tensor:
        """Return the (steps, n) levels to which fresh noise lifts the start of each step."""
        start, largest = sigmas[:-1], sigmas[0]
        inside = (start >= self.churn_low * largest) & (start <= self.churn_high * largest)
        gain = min(self.churn / len(start), LARGEST_CHURN)
        # No head knows a level above the largest.
        return torch.minimum(torch.where(inside, (1.0 + gain) * start, start), largest)
