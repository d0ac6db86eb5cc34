"""Slots under a condition as solvers see them."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gensci.nn.edm_head import SPACE, TORUS, Condition, EdmHead
from gensci.nn.frozen_edm_head import FrozenHead


class SlotDenoiser:
    """The law of n slots given their hidden states; a `gensci.core.diffusion.Denoiser`.

    On the torus the largest noise leaves nothing of the data (the wrapped normal differs from one
    by 1e-5), so the prior is uniform there.

    Args:
        head: of the network; one without gradients to its weights is frozen here.
        condition: of the slots, from ``head.condition``.
    """

    def __init__(self, head: EdmHead | FrozenHead, condition: Condition):
        if isinstance(head, EdmHead) and not head.leave.weight.requires_grad:
            head = FrozenHead(head)
        self.head, self.condition = head, condition
        self.torus = condition.torus.squeeze(-1)
        self._flags = tuple(self.torus.tolist())
        ones = torch.ones(len(self.torus), device=self.torus.device)
        self._range = tuple(
            torch.where(self.torus, ones * on_torus, ones * in_space)
            for on_torus, in_space in zip(TORUS, SPACE, strict=True)
        )

    @property
    def sigma_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest noise (n,) of every slot."""
        return self._range

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] (n, 3) at noise (n,)."""
        if isinstance(self.head, FrozenHead):
            return self.head.denoise(x, sigma, self.condition, self._flags)
        return self.head.denoise(x, sigma, self.condition)

    def prior(self, generator: Generator) -> Tensor:
        """Draws (n, 3) at the largest noise."""
        shape = (len(self.torus), 3)
        device = generator.device
        uniform = torch.rand(shape, generator=generator, device=device).to(self.torus.device)
        normal = torch.randn(shape, generator=generator, device=device).to(self.torus.device)
        return torch.where(self.torus[:, None], uniform, normal * self._range[1][:, None])

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density (n,) of the prior in nats."""
        high = self._range[1]
        normal = -0.5 * (x / high[:, None]).square().sum(-1)
        normal = normal - 3 * (high.log() + 0.5 * math.log(2 * math.pi))
        return torch.where(self.torus, torch.zeros_like(normal), normal)

    def wrap(self, x: Tensor) -> Tensor:
        """Torus slots brought to [0, 1)."""
        inside = x - x.floor()
        # A small negative number plus one rounds to one.
        return torch.where(self.torus[:, None], torch.where(inside >= 1, 0.0, inside), x)
