"""Guidance inside the head: a potential's slope, or the difference to an unconditional head.

Guided heads are denoisers, so every solver takes them. The law they sample is not known exactly;
where weights are needed, steer with the sampler ``twisted-smc`` or weigh by the density of
``flow-ode``, which is that of the guided flow itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gensci.core.diffusion import Denoiser
from gensci.samplers.solvers.around import Around


@dataclass(frozen=True)
class GuidedDenoiser(Around):
    """A denoiser pulled toward high values of a potential of the denoised point.

    The score gains ``scale * grad_x log_potential(E[x0 | x])``: exact at small noise, where the
    denoised point is the data, and an approximation above it.

    Attributes:
        denoiser: the n distributions.
        log_potential: takes (n, 3) points, wrapped, and gives (n,) nats; differentiable.
        scale: what the slope is multiplied by.

    Reference: Chung, Kim, McCann, Klasky and Ye (2022), arXiv:2209.14687.
    """

    denoiser: Denoiser
    log_potential: Callable[[torch.Tensor], torch.Tensor]
    scale: float = 1.0

    @property
    def inner(self) -> Denoiser:
        """The denoiser without guidance."""
        return self.denoiser

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) estimates of ``E[x0 | x]`` under the guided score."""
        # A caller that differentiates through the slope, as flow-ode does, needs its graph.
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if differentiable else x.detach().requires_grad_(True)
            denoised = self.denoiser.denoise(point, sigma)
            value = self.log_potential(self.denoiser.wrap(denoised)).sum()
            (slope,) = torch.autograd.grad(value, point, create_graph=differentiable)
            guided = torch.addcmul(denoised, slope, (self.scale * sigma.square())[:, None])
        return guided if differentiable else guided.detach()


@dataclass(frozen=True)
class GuidedByCondition(Around):
    """Classifier-free guidance: the conditional head, pushed away from the unconditional one.

    Attributes:
        conditional: the head with the condition; it gives prior, noise levels and wrapping.
        unconditional: the head without the condition.
        weight: 1 for the conditional head alone, above 1 to press the condition, 0 to ignore it.

    Reference: Ho and Salimans (2022), arXiv:2207.12598, whose guidance strength is ``weight - 1``.
    """

    conditional: Denoiser
    unconditional: Denoiser
    weight: float

    @property
    def inner(self) -> Denoiser:
        """The denoiser with the condition."""
        return self.conditional

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) extrapolated estimates of ``E[x0 | x]``."""
        with_condition = self.conditional.denoise(x, sigma)
        return torch.lerp(self.unconditional.denoise(x, sigma), with_condition, self.weight)
