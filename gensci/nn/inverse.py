"""Inverse of a peptide TarFlow for many samples of one system.

What the samples share (everything that follows from the conditioning) is computed once. Then each
block places its atoms one after the other, with keys and values of the earlier ones at hand. On a
CPU in single precision a C kernel does this where one can be built; else torch does, on a GPU as
one captured graph for each block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensci.nn import native_inverse
from gensci.nn.graphs import Graphed
from gensci.nn.transformer import AdaptiveBranch, KeyValueCache

if TYPE_CHECKING:
    from gensci.nn.tarflow import AutoregressiveBlock, TarFlowPeptide

BlockInverse = Callable[[Tensor], tuple[Tensor, Tensor]]
Part = tuple["AutoregressiveBlock", Tensor, Tensor]

ROWS_ON_CPU = 1024  # four groups of tiles of the kernel; more would only take memory
MOST_ROWS = 16384  # a GPU is busy with fewer
SHARE_OF_MEMORY = 0.5  # of what is free on a GPU; weighing the samples needs the rest


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
            (TF32 or 16 bits) or "medium" (bfloat16), as in `torch.set_float32_matmul_precision`,
            whose setting is the default. The affine maps and the log-determinant are in single
            precision at each, and belong to the conditioner as it was computed: samples weigh
            rightly at each.

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
    return TorchInverse(parts, precision)


class Kept(NamedTuple):
    """An inverse and how many samples it is to draw together, settled while memory was free."""

    invert: BlockInverse
    rows: int


_KEPT: WeakKeyDictionary[TarFlowPeptide, tuple[Any, dict[str, Tensor], Kept]]
_KEPT = WeakKeyDictionary()


def kept_inverse(
    network: TarFlowPeptide, cond: dict[str, Tensor], precision: str | None = None
) -> Kept:
    """What `make_inverse` returns; again the last one while network and condition are the same."""
    precision = precision or torch.get_float32_matmul_precision()
    values = [*network.parameters(), *cond.values()]
    versions = [(v.data_ptr(), 0 if v.is_inference() else v._version) for v in values]
    # The norms tell of changes made past torch's count of versions, as through `.data`.
    norms = torch.stack(torch._foreach_norm([p.detach() for p in network.parameters()])).tolist()
    state = precision, versions, norms
    found = _KEPT.get(network)
    same = found is not None and found[0] == state and found[1].keys() == cond.keys()
    if same and all(found[1][key] is value for key, value in cond.items()):
        return found[2]
    _KEPT.pop(network, None)  # its memory goes before new is taken
    rows = rows_at_once(network, len(cond["mask"]))
    kept = Kept(make_inverse(network, cond, precision=precision), rows)
    _KEPT[network] = state, dict(cond), kept
    return kept


def rows_at_once(network: TarFlowPeptide, atoms: int, free: int | None = None) -> int:
    """How many samples to draw together.

    Args:
        network: The flow; its device decides.
        atoms: Of the system.
        free: Bytes that a GPU has left; asked of it where None.
    """
    weight = network.embedding.atom.weight
    if free is None:
        if weight.device.type != "cuda":
            return ROWS_ON_CPU
        free = torch.cuda.mem_get_info(weight.device)[0]
    layers, channels = len(network.blocks[0].layers), weight.shape[1]
    # keys and values of one block, and some twenty activations of a token, the widest of 8 channels
    numbers = 2 * layers * atoms * channels + 40 * channels
    rows = int(SHARE_OF_MEMORY * free) // (numbers * weight.element_size())
    return max(1, min(MOST_ROWS, rows))


class TorchInverse:
    """The inverse in torch, on any device and in any precision.

    Args:
        parts: Per block, towards noise: the block, its embedded atoms (atoms, channels) and its
            order (atoms,).
        precision: Of the matrix products.
        graphs: Capture each block's steps as one CUDA graph; by default where there is a GPU.
    """

    def __init__(
        self, parts: Sequence[Part], precision: str = "highest", graphs: bool | None = None
    ) -> None:
        self.precision = precision
        self.orders = [order for _, _, order in parts]
        self.blocks = [TorchBlock(block, h, precision == "medium") for block, h, _ in parts]
        capture = parts[0][1].is_cuda if graphs is None else graphs
        self.caches: list[KeyValueCache] = []
        self.inverts = [
            Graphed(self._inverter(block)) if capture else self._inverter(block)
            for block in self.blocks
        ]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions over `sigma_data` and log|det dz/dx| of noise (n, atoms, 3)."""
        log_det = z.new_zeros(len(z))
        with matrix_precision(self.precision):
            for invert, order in zip(reversed(self.inverts), reversed(self.orders), strict=True):
                x, change = invert(z[:, order])
                z, log_det = x[:, order.argsort()], log_det + change
        return z, log_det

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and log|det dz/dx| of positions over `sigma_data`, by the same steps.

        At lower precisions this, and not the network, undoes the inverse.
        """
        log_det = x.new_zeros(len(x))
        with matrix_precision(self.precision):
            for block, order in zip(self.blocks, self.orders, strict=True):
                # not the kept caches, whose place recorded graphs know
                caches = [layer.cache(*x.shape[:2], x) for layer in block.layers]
                z, change = block.forward(x[:, order], caches)
                x, log_det = z[:, order.argsort()], log_det + change
        return x, log_det

    def _inverter(self, block: TorchBlock) -> BlockInverse:
        return lambda z: block.invert(z, self._caches(z))

    def _caches(self, like: Tensor) -> list[KeyValueCache]:
        """Keys and values, the same memory for every block and call of one size."""
        n, atoms = like.shape[:2]
        if not self.caches or len(self.caches[0].keys) != n:
            self.caches = []
            self.caches = [layer.cache(n, atoms, like) for layer in self.blocks[0].layers]
        return self.caches


class TorchBlock:
    """One block prepared to invert many samples of one system.

    Args:
        block: The block.
        h: Embedded atoms (atoms, channels), in block order.
        half: Keep the large matrices in bfloat16.
    """

    def __init__(self, block: AutoregressiveBlock, h: Tensor, half: bool = False) -> None:
        self.block = block
        self.layers = halved(block.layers) if half and h.dtype == torch.float32 else block.layers
        terms = block.terms(h)
        self.terms = [[term.at(i) for term in terms] for i in range(len(h) - 1)]
        self.offsets = block.places(len(h)) + block.enter.bias

    def affine(self, i: int, x: Tensor, caches: list[KeyValueCache]) -> tuple[Tensor, Tensor]:
        """Log-scale and offset (n, 3) of atom i + 1 from atom i (n, 3) and the ones in the caches.

        The one step of either direction. Its shapes and its memory are known beforehand.
        """
        u = torch.addmm(self.offsets[i], x, self.block.enter.weight.T)
        for layer, term, cache in zip(self.layers, self.terms[i], caches, strict=True):
            u = layer.step(u, term, cache, i)
        a, b = self.block.leave(u).chunk(2, dim=-1)
        return a, b

    def invert(self, z: Tensor, caches: list[KeyValueCache]) -> tuple[Tensor, Tensor]:
        """Positions (n, atoms, 3) whose noise is `z`, in block order, and log|det dz/dx| (n,)."""
        noise = z.transpose(0, 1).contiguous()
        x, total = noise.clone(), torch.zeros_like(noise[0])
        for i in range(len(noise) - 1):
            a, b = self.affine(i, x[i], caches)
            torch.addcmul(b, noise[i + 1], a.exp(), out=x[i + 1])
            total += a
        return x.transpose(0, 1), -total.sum(-1)

    def forward(self, x: Tensor, caches: list[KeyValueCache]) -> tuple[Tensor, Tensor]:
        """Noise (n, atoms, 3) of positions in block order, and log|det dz/dx| (n,)."""
        x = x.transpose(0, 1).contiguous()
        z, total = x.clone(), torch.zeros_like(x[0])
        for i in range(len(x) - 1):
            a, b = self.affine(i, x[i], caches)
            z[i + 1] = (x[i + 1] - b) * torch.exp(-a)
            total += a
        return z.transpose(0, 1), -total.sum(-1)


class HalfLinear(nn.Module):
    """A linear map in bfloat16 between tokens in single precision."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, u: Tensor) -> Tensor:
        """Map tokens (..., inputs) to (..., outputs)."""
        out = F.linear(u.bfloat16(), self.weight).to(u.dtype)
        return out if self.bias is None else out + self.bias


def halved(layers: nn.ModuleList) -> nn.ModuleList:
    """The layers with their large matrices in bfloat16; what is not changed is shared."""
    shared = {id(value): value for value in layers.parameters()}
    twin = copy.deepcopy(layers, shared)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(parent, AdaptiveBranch):
                setattr(parent, name, HalfLinear(child))
    return twin


@contextmanager
def matrix_precision(precision: str) -> Iterator[None]:
    """Products of single-precision matrices at this precision while inside.

    With "medium" the large matrices are in bfloat16 already; what remains is done as with "high".
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "highest" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
