"""The C kernel of the inverse: built once for each user and processor, pointed to the weights."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from gensci.nn.native_kernel import kernel_library, share, status_line

if TYPE_CHECKING:
    from gensci.nn.tarflow import AutoregressiveBlock, TarFlowPeptide
    from gensci.nn.transformer import LayerTerms, TransformerLayer

SOURCE = Path(__file__).with_name("tarflow_inverse.c")
library = kernel_library(SOURCE)
LANES, ROWS, PANEL = 64, 8, 192  # as in the source
GROUP = 4  # tiles that share one reading of the weights; more would not fit the second cache

TERMS = ("scale1", "shift1", "gate1", "additive", "scale2", "shift2", "gate2")
VECTORS = (
    *("norm_scale", "norm_shift", "qkv_bias", "q_scale", "q_shift", "k_scale", "k_shift"),
    *("out_bias", "mlp_scale", "mlp_shift", "mlp_in_bias", "mlp_out_bias"),
)
MATRICES = ("qkv", "out", "mlp_in", "mlp_out", "value_gate", "transition_out")
SIZES = ("num_layers", "atoms", "channels", "heads", "mlp_width", "transition_width")
SIDE = 32  # as in the source: matrices in tiles are made of blocks of this many rows and columns
PARTS = {"highest": 3, "high": 2, "medium": 1}  # bfloat16 numbers that stand for a float


class _Layer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in TERMS + VECTORS + MATRICES)


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("enter", "offsets", "leave", "leave_bias")),
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in (*SIZES, "parts")),
    )


def fits(network: TarFlowPeptide) -> bool:
    """Whether the kernel can be had and computes this network."""
    weight = network.embedding.atom.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    layer = network.blocks[0].layers[0]
    shaped = weight.shape[1] % ROWS == 0 and layer.attention.head_dim % 2 == 0
    return plain and shaped and not isinstance(library(), str)


def kernel_status() -> str:
    """One line on what inverts the flow on a CPU, and why."""
    more = " with matrix tiles" if has_tiles() else " with bfloat16 pairs" if has_pairs() else ""
    return status_line(library(), f"fused C kernel{more}")


def has_tiles() -> bool:
    """Whether the processor multiplies matrices in bfloat16 tiles (AMX) and the system lets it."""
    found = library()
    return not isinstance(found, str) and bool(found.gensci_tiles())


def has_pairs() -> bool:
    """Whether its vectors, without tiles, multiply pairs of bfloat16 numbers (AVX512_BF16)."""
    found = library()
    return not isinstance(found, str) and bool(found.gensci_pairs())


def lowers(precision: str) -> bool:
    """Whether the products of this precision are others than those of single precision here."""
    return has_tiles() or (has_pairs() and PARTS[precision] == 1)


class NativeInverse:
    """The inverse by the C kernel, in tiles of samples shared out to torch's number of threads.

    The bits of a sample do not depend on how many are drawn together. Where the processor has
    matrix tiles, a float is the sum of three bfloat16 numbers, which loses nothing ("highest"), of
    two (16 bits, "high") or is one ("medium"). Vectors of bfloat16 pairs serve "medium" only, where
    they do twice as much at a time; elsewhere all is done in single precision.

    Args:
        parts: Per block, towards noise: the block, its embedded atoms (atoms, channels) and its
            order (atoms,).
        precision: Of the matrix products, from `PARTS`.
    """

    def __init__(
        self, parts: list[tuple[AutoregressiveBlock, Tensor, Tensor]], precision: str = "highest"
    ) -> None:
        self.blocks = [(NativeBlock(block, h, precision), order) for block, h, order in parts]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions over `sigma_data` and log|det dz/dx| of noise (n, atoms, 3)."""
        n, atoms = z.shape[:2]
        count = -(-n // LANES)
        tiles = F.pad(z, (0, 0, 0, 0, 0, count * LANES - n)).view(count, LANES, atoms, 3)
        x = tiles.permute(0, 2, 3, 1).contiguous()  # samples innermost
        total = torch.zeros(count, LANES, dtype=torch.float64)
        threads = max(1, min(count, torch.get_num_threads()))
        group = max(1, min(GROUP, -(-count // threads)))
        firsts = range(0, count, group)

        def work(thread: int) -> None:
            scratch = x.new_empty(max(block.scratch_size(group) for block, _ in self.blocks))
            for first in firsts[thread::threads]:
                rows = slice(first, first + group)
                x[rows] = self._invert_tiles(x[rows], total[rows], scratch)

        share(work, threads)
        placed = x.permute(0, 3, 1, 2).reshape(count * LANES, atoms, 3)[:n]
        return placed, -total.flatten()[:n].to(z.dtype)

    def _invert_tiles(self, x: Tensor, total: Tensor, scratch: Tensor) -> Tensor:
        """Positions of noise (tiles, atoms, 3, LANES); log-scales go to `total` (tiles, LANES)."""
        for block, order in reversed(self.blocks):
            x = x[:, order].contiguous()
            block.run(x, total, scratch)
            x = x[:, order.argsort()]
        return x


class NativeBlock:
    """Addresses of the weights and conditioning of one block.

    Args:
        block: The block.
        h: Embedded atoms (atoms, channels), in block order.
        precision: Of the matrix products, from `PARTS`.
    """

    def __init__(self, block: AutoregressiveBlock, h: Tensor, precision: str) -> None:
        first = block.layers[0]
        atoms, channels = h.shape
        mlp = first.mlp[1].out_features
        transition = 0 if first.transition is None else first.transition.out.in_features
        shaped = not any(size % SIDE for size in (channels, mlp, transition))
        parts = PARTS[precision] if lowers(precision) and shaped else 0
        self.kept: list[Tensor] = []  # the kernel holds addresses only
        matrices = packed(block, parts) if parts else [_matrices(layer) for layer in block.layers]
        layers = [
            self._layer(layer, terms, own)
            for layer, terms, own in zip(block.layers, block.terms(h), matrices, strict=True)
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
            parts=parts,
            **dict(zip(SIZES, sizes, strict=True)),
        )

    def scratch_size(self, tiles: int) -> int:
        """Floats that the kernel needs as room for that many tiles."""
        b = self.block
        caches = 2 * b.num_layers * b.atoms * b.channels
        wide = 2 * max(b.channels, PANEL)
        room = b.parts * (b.channels + max(b.channels, PANEL)) // 2
        return LANES * (tiles * (caches + 3 * b.channels + wide + room) + b.atoms)

    def run(self, x: Tensor, total: Tensor, scratch: Tensor) -> None:
        """Turn noise `x` (tiles, atoms, 3, LANES), in block order, into positions in place."""
        pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, total, scratch))
        library().gensci_invert_block(ctypes.byref(self.block), *pointers, ctypes.c_int64(len(x)))

    def _keep(self, value: Tensor | None) -> int | None:
        """Address of a tensor, which stays alive as long as this object."""
        if value is None:
            return None
        self.kept.append(value.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _layer(
        self, layer: TransformerLayer, terms: LayerTerms, matrices: dict[str, Tensor]
    ) -> _Layer:
        """Addresses of one layer."""
        attention, mlp = layer.attention, layer.mlp
        biases = {"qkv": attention.qkv, "out": attention.out, "mlp_in": mlp[1], "mlp_out": mlp[3]}
        values = {
            **_terms(layer, terms),
            **_affine("norm", attention.norm),
            **_affine("q", attention.q_norm),
            **_affine("k", attention.k_norm),
            **_affine("mlp", mlp[0]),
            **{f"{name}_bias": linear.bias for name, linear in biases.items()},
            **matrices,
        }
        return _Layer(**{name: self._keep(value) for name, value in values.items()})


_PACKED: WeakKeyDictionary[AutoregressiveBlock, tuple[Any, list[dict[str, Tensor]]]]
_PACKED = WeakKeyDictionary()


def packed(block: AutoregressiveBlock, parts: int) -> list[dict[str, Tensor]]:
    """The matrices of each layer with `parts` bfloat16 numbers for a weight, for the kernel.

    They are kept as long as the block and made anew when its weights have changed.

    Args:
        block: The block; rows and columns of its matrices are multiples of `SIDE`.
        parts: From 1 to 3.
    """
    matrices = [_matrices(layer) for layer in block.layers]
    # The sum tells of changes made past torch's count of versions, as through `.data`.
    state = (
        parts,
        [
            (m.data_ptr(), 0 if m.is_inference() else m._version, int(m.view(torch.int32).sum()))
            for layer in matrices
            for m in layer.values()
        ],
    )
    kept = _PACKED.get(block)
    if kept is None or kept[0] != state:
        kept = state, [{k: _pack(m, parts) for k, m in layer.items()} for layer in matrices]
        _PACKED[block] = kept
    return kept[1]


def _pack(matrix: Tensor, parts: int) -> Tensor:
    out = torch.empty(parts * matrix.numel(), dtype=torch.bfloat16)
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (matrix, out))
    sizes = (ctypes.c_int64(size) for size in (*matrix.shape, parts))
    library().gensci_pack(*pointers, *sizes)
    return out


def _matrices(layer: TransformerLayer) -> dict[str, Tensor]:
    """The large weights of a layer, by their names in the kernel."""
    attention, mlp, transition = layer.attention, layer.mlp, layer.transition
    linears = [attention.qkv, attention.out, mlp[1], mlp[3]]
    if transition is not None:
        linears += [transition.value_gate, transition.out]
    weights = [linear.weight.detach().contiguous() for linear in linears]
    return dict(zip(MATRICES, weights, strict=False))


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
