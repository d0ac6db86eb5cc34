"""The diffusion heads that slots can have, asked in one way: loss in training, laws in sampling."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Generator, Tensor

from gensci.core.errors import UsageError
from gensci.nn.ddpm_head import DdpmDenoiser, DdpmHead
from gensci.nn.edm_denoiser import SlotDenoiser
from gensci.nn.edm_head import EdmHead
from gensci.nn.frozen_edm_head import FrozenHead

Head: TypeAlias = EdmHead | DdpmHead


def build_head(name: str, condition: int, width: int, depth: int, damping: float = 0.0) -> Head:
    """A head by name.

    Args:
        name: ``edm``, which knows the torus and templates, or ``ddpm``, the published one, which
            takes every slot for a vector in space.
        condition: width of the conditioning states.
        width, depth: of the residual network.
        damping: of `EdmHead`.

    Raises:
        UsageError: there is no such head.
    """
    if name == "edm":
        return EdmHead(condition, width, depth, damping=damping)
    if name == "ddpm":
        return DdpmHead(condition, width, depth)
    raise UsageError(f"head={name!r} is unknown", "choose edm or ddpm")


def slot_errors(
    head: Head,
    z: Tensor,
    x0: Tensor,
    torus: Tensor,
    generator: Generator,
    hint: Tensor,
    hinted: Tensor,
    repeats: int,
) -> Tensor:
    """Denoising loss (n,) of slots, the mean over ``repeats`` noise levels; see `EdmHead.loss`."""
    if isinstance(head, EdmHead):
        return head.loss(z, x0, torus, generator, hint, hinted, repeats)
    errors = head.loss(z.repeat(repeats, 1), x0.repeat(repeats, 1), generator)
    return errors.view(repeats, -1).mean(0)


class RestingHead:
    """Makes the laws of slots as a head has them when this is made.

    Args:
        head: the network.
    """

    def __init__(self, head: Head):
        self.head = head
        self.frozen = FrozenHead(head) if isinstance(head, EdmHead) else None

    def denoiser(
        self, z: Tensor, torus: Tensor, hint: Tensor, hinted: Tensor
    ) -> SlotDenoiser | DdpmDenoiser:
        """The laws of n slots.

        Args:
            z: (n, condition) hidden states.
            torus: (n,) booleans.
            hint: (n, 3) values of a template; ``hinted`` (n,) tells where there is one.
        """
        if isinstance(self.head, DdpmHead):
            with torch.no_grad():
                return self.head.denoiser(z)
        return SlotDenoiser(self.frozen, self.head.condition(z, torus, hint, hinted))
