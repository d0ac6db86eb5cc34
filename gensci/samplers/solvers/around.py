"""Denoisers that change another one's denoised point and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from gensci.core.diffusion import Denoiser


class Around(ABC):
    """Hands on prior, noise levels, width and wrapping of an inner denoiser.

    The capability ``ddpm`` is not handed on: discrete steps would bypass the change.
    """

    @property
    @abstractmethod
    def inner(self) -> Denoiser:
        """The denoiser whose prior, noise levels and wrapping are handed on."""

    @property
    def sigma_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The (n,) smallest and largest noise levels of the inner denoiser."""
        return self.inner.sigma_range

    def prior(self, generator: torch.Generator) -> torch.Tensor:
        """Return a draw (n, 3) of the inner denoiser's prior."""
        return self.inner.prior(generator)

    def prior_log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the (n,) log-density of the inner denoiser's prior."""
        return self.inner.prior_log_prob(x)

    def wrap(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` with torus rows modulo 1."""
        return self.inner.wrap(x)
