"""The C kernel of the inverse: built once for each user and processor, pointed to the weights."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gensci.core.compiler import NoKernel, load_kernel

if TYPE_CHECKING:
    from gensci.nn.tarflow import AutoregressiveBlock, TarFlowPeptide
    from gensci.nn.transformer import LayerTerms, TransformerLayer

SOURCE = Path(__file__).with_name("tarflow_inverse.c")
LANES, ROWS = 64, 8  # as in the source: samples of a tile, outputs formed together

TERMS = ("scale1", "shift1", "gate1", "additive", "scale2", "shift2", "gate2")
WEIGHTS = (
    *("norm_scale", "norm_shift", "qkv", "qkv_bias"),
    *("q_scale", "q_shift", "k_scale", "k_shift", "out", "out_bias"),
    *("mlp_scale", "mlp_shift", "mlp_in", "mlp_in_bias", "mlp_out", "mlp_out_bias"),
    *("value_gate", "transition_out"),
)
SIZES = ("num_layers", "atoms", "channels", "heads", "mlp_width", "transition_width")


class _Layer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in TERMS + WEIGHTS)


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("enter", "offsets", "leave", "leave_bias")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in SIZES),
    )


def fits(network: TarFlowPeptide) -> bool:
    """Whether the kernel can be had and computes this network."""
    weight = network.embedding.atom.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and weight.shape[1] % ROWS == 0 and not isinstance(library(), str)


def kernel_status() -> str:
    """One line on what inverts the flow on a CPU, and why."""
    found = library()
    return f"torch: {found}" if isinstance(found, str) else "fused C kernel"


@functools.cache
def library() -> ctypes.CDLL | str:
    """The built kernel, or the reason why there is none."""
    try:
        return load_kernel(SOURCE)
    except NoKernel as reason:
        return str(reason)


class NativeInverse:
    """The inverse by the C kernel, in tiles of samples shared out to torch's number of threads.

    The bits of a sample do not depend on how many are drawn together.

    Args:
        parts: Per block, towards noise: the block, its embedded atoms (atoms, channels) and its
            order (atoms,).
    """

    def __init__(self, parts: list[tuple[AutoregressiveBlock, Tensor, Tensor]]) -> None:
        self.blocks = [(NativeBlock(block, h), order) for block, h, order in parts]
        self.scratch_size = max(block.scratch_size for block, _ in self.blocks)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions over `sigma_data` and log|det dz/dx| of noise (n, atoms, 3)."""
        n, atoms = z.shape[:2]
        count = -(-n // LANES)
        tiles = F.pad(z, (0, 0, 0, 0, 0, count * LANES - n)).view(count, LANES, atoms, 3)
        x = tiles.permute(0, 2, 3, 1).contiguous()  # samples innermost
        total = torch.zeros(count, LANES, dtype=torch.float64)
        threads = max(1, min(count, torch.get_num_threads()))

        def work(first: int) -> None:
            scratch = x.new_empty(self.scratch_size)
            for tile in range(first, count, threads):
                x[tile] = self._invert_tile(x[tile], total[tile], scratch)

        _share(work, threads)
        placed = x.permute(0, 3, 1, 2).reshape(count * LANES, atoms, 3)[:n]
        return placed, -total.flatten()[:n].to(z.dtype)

    def _invert_tile(self, x: Tensor, total: Tensor, scratch: Tensor) -> Tensor:
        """Positions of noise `x` (atoms, 3, LANES); log-scales are added to `total` (LANES,)."""
        for block, order in reversed(self.blocks):
            x = x[order].contiguous()
            block.run(x, total, scratch)
            x = x[order.argsort()]
        return x


class NativeBlock:
    """Addresses of the weights and conditioning of one block.

    Args:
        block: The block.
        h: Embedded atoms (atoms, channels), in block order.
    """

    def __init__(self, block: AutoregressiveBlock, h: Tensor) -> None:
        first = block.layers[0]
        atoms, channels = h.shape
        mlp = first.mlp[1].out_features
        transition = 0 if first.transition is None else first.transition.out.in_features
        self.kept: list[Tensor] = []  # the kernel holds addresses only
        layers = [
            self._layer(layer, terms)
            for layer, terms in zip(block.layers, block.terms(h), strict=True)
        ]
        self.layers = (_Layer * len(layers))(*layers)
        heads = channels // first.attention.head_dim
        sizes = (len(layers), atoms, channels, heads, mlp, transition)
        self.block = _Block(
            enter=self._keep(block.enter.weight),
            offsets=self._keep(block.places(atoms) + block.enter.bias),
            leave=self._keep(F.pad(block.leave.weight, (0, 0, 0, ROWS - 6))),
            leave_bias=self._keep(F.pad(block.leave.bias, (0, ROWS - 6))),
            layers=self.layers,
            **dict(zip(SIZES, sizes, strict=True)),
        )
        wide = max(3 * channels, mlp, 2 * transition)
        caches = 2 * len(layers) * atoms * channels
        self.scratch_size = LANES * (caches + 3 * channels + atoms + wide)

    def run(self, x: Tensor, total: Tensor, scratch: Tensor) -> None:
        """Turn noise `x` (atoms, 3, LANES), in block order, into positions in place."""
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, total, scratch))
        library().gensci_invert_block(ctypes.byref(self.block), *pointers)

    def _keep(self, value: Tensor | None) -> int | None:
        """Address of a tensor, which stays alive as long as this object."""
        if value is None:
            return None
        self.kept.append(value.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _layer(self, layer: TransformerLayer, terms: LayerTerms) -> _Layer:
        """Addresses of one layer."""
        attention, mlp, transition = layer.attention, layer.mlp, layer.transition
        values = {
            **_terms(layer, terms),
            **_affine("norm", attention.norm),
            **_affine("q", attention.q_norm),
            **_affine("k", attention.k_norm),
            **_affine("mlp", mlp[0]),
            **_linear("qkv", attention.qkv),
            **_linear("out", attention.out),
            **_linear("mlp_in", mlp[1]),
            **_linear("mlp_out", mlp[3]),
        }
        if transition is not None:
            values["value_gate"] = transition.value_gate.weight
            values["transition_out"] = transition.out.weight
        return _Layer(**{name: self._keep(value) for name, value in values.items()})


def _terms(layer: TransformerLayer, terms: LayerTerms) -> dict[str, Tensor | None]:
    """What the conditioning contributes; a plain transition norm reads as a constant one."""
    values: dict[str, Tensor | None] = {"additive": terms.additive}
    if terms.attention is not None:
        values |= dict(zip(("scale1", "shift1", "gate1"), terms.attention, strict=True))
    second = terms.transition
    if layer.transition_norm is not None:
        norm, like = layer.transition_norm, terms.additive
        second = [
            part.expand_as(like) for part in (norm.weight, norm.bias, torch.ones_like(norm.bias))
        ]
    if second is not None:
        values |= dict(zip(("scale2", "shift2", "gate2"), second, strict=True))
    return values


def _affine(name: str, norm: Any) -> dict[str, Tensor]:
    return {f"{name}_scale": norm.weight, f"{name}_shift": norm.bias}


def _linear(name: str, linear: Any) -> dict[str, Tensor]:
    return {name: linear.weight, f"{name}_bias": linear.bias}


def _share(work: Callable[[int], None], threads: int) -> None:
    """Call `work(0)` to `work(threads - 1)` at once; the kernel runs outside of Python's lock."""
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
