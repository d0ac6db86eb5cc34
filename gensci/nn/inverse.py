"""Inverse of a peptide TarFlow for many samples of one system.

What the samples share (everything that follows from the conditioning) is computed once. Then each
block places its atoms one after the other, with keys and values of the earlier ones at hand. On a
CPU in single precision a C kernel does this where one can be built; else torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gensci.nn import native_inverse

if TYPE_CHECKING:
    from gensci.nn.tarflow import AutoregressiveBlock, TarFlowPeptide

BlockInverse = Callable[[Tensor], tuple[Tensor, Tensor]]


def make_inverse(
    network: TarFlowPeptide,
    cond: dict[str, Tensor],
    native: bool = True,
    precision: str | None = None,
) -> BlockInverse:
    """The inverse of a network for one system; make it anew when the weights have changed.

    Args:
        network: The flow.
        cond: Condition of the system, without batch dimension or padding.
        native: Use the C kernel where it can be had.
        precision: Of the matrix products of the conditioner: "highest" (single precision), "high"
            or "medium", as in `torch.set_float32_matmul_precision`, whose setting is the default.
            The affine maps and the log-determinant are in full precision at each, and belong to
            the conditioner as it was computed: samples weigh rightly at each.

    Returns:
        A function from noise (n, atoms, 3) to positions over `sigma_data` (n, atoms, 3) and
        log|det dz/dx| (n,).

    Raises:
        ValueError: The condition has a batch dimension or padding, or an unknown precision.
    """
    precision = precision or torch.get_float32_matmul_precision()
    if precision not in native_inverse.PARTS:
        choices = ", ".join(native_inverse.PARTS)
        raise ValueError(f"no precision {precision!r} of matrix products: choose from {choices}")
    if cond["mask"].dim() != 1 or not bool(cond["mask"].all()):
        raise ValueError("cond must describe one system without padding: pass it from encode()")
    h = network.embedding(cond)
    orders = [cond["permutations"][:, column] for column in network.columns]
    parts = [(block, h[order], order) for block, order in zip(network.blocks, orders, strict=True)]
    if native and native_inverse.fits(network):
        return native_inverse.NativeInverse(parts, precision)
    return TorchInverse(parts)


class TorchInverse:
    """The inverse in torch, on any device and in any precision.

    Args:
        parts: Per block, towards noise: the block, its embedded atoms (atoms, channels) and its
            order (atoms,).
    """

    def __init__(self, parts: list[tuple[AutoregressiveBlock, Tensor, Tensor]]) -> None:
        self.blocks = [(TorchBlock(block, h), order) for block, h, order in parts]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions over `sigma_data` and log|det dz/dx| of noise (n, atoms, 3)."""
        log_det = z.new_zeros(len(z))
        for block, order in reversed(self.blocks):
            x, change = block.invert(z[:, order])
            z, log_det = x[:, order.argsort()], log_det + change
        return z, log_det


class TorchBlock:
    """One block prepared to invert many samples of one system.

    Args:
        block: The block.
        h: Embedded atoms (atoms, channels), in block order.
    """

    def __init__(self, block: AutoregressiveBlock, h: Tensor) -> None:
        self.block = block
        terms = block.terms(h)
        self.terms = [[term.at(i) for term in terms] for i in range(len(h) - 1)]
        self.offsets = block.places(len(h)) + block.enter.bias

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (n, atoms, 3) whose noise is `z`, in block order, and log|det dz/dx| (n,)."""
        block, (n, atoms) = self.block, z.shape[:2]
        caches = [layer.cache(n, atoms, z) for layer in block.layers]
        weight = block.enter.weight.T
        noise = z.transpose(0, 1).contiguous()
        x, total = noise.clone(), torch.zeros_like(noise[0])
        for i, terms in enumerate(self.terms):
            u = torch.addmm(self.offsets[i], x[i], weight)
            for layer, term, cache in zip(block.layers, terms, caches, strict=True):
                u = layer.step(u, term, cache, i)
            a, b = block.leave(u).chunk(2, dim=-1)
            torch.addcmul(b, noise[i + 1], a.exp(), out=x[i + 1])
            total += a
        return x.transpose(0, 1), -total.sum(-1)
