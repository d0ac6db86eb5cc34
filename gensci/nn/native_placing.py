"""The C kernel of the sampling pass: built once for each user and processor, given the weights."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from . import internal_heads as heads
from . import steric
from .internal_encoding import Tensors
from .internal_features import RIGID_WIDTH
from .internal_temperature import RATIO
from .native_kernel import kernel_library, share, status_line

if TYPE_CHECKING:
    from .internal import Block, InternalFlow
    from .zmatrix import InternalCoordinates

SOURCE = Path(__file__).with_name("internal_placing.c")
# As in the source: samples of a tile, outputs formed together, rows that attention takes together,
# and the sizes that are fixed: features and kinds of pairs, torsions on the grid, energies there.
LANES, ROWS, BLOCK = 32, 8, 4
KNOWN = (22, 9, 36, 3)
LEAST = 8  # samples from which on a tile that is not full is faster than torch

LAYER = (
    *("see", "see_bias", "key_scale", "key_shift", "key", "key_bias", "value", "value_bias"),
    *("query_scale", "query_shift", "query", "query_bias", "null", "out", "out_bias"),
    *("mlp_scale", "mlp_shift", "mlp_in", "mlp_in_bias", "mlp_out", "mlp_out_bias"),
)
NETWORK = (
    *("start", "refer", "refer_bias", "refer_out", "geometry", "hops"),
    *("pair", "pair_bias", "biases", "biases_bias", "scale", "shift"),
    *("torsion", "torsion_bias", "torsion_out", "torsion_out_bias", "grid", "grid_bias"),
    *("bend", "bend_bias", "bend_out", "bend_out_bias"),
    *("length", "length_bias", "length_out", "length_out_bias", "around", "spread", "gate"),
)
SIZES = ("num_layers", "channels", "heads", "pair_channels", "free", "stiff")
CONSTANTS = {
    "rigid_width": RIGID_WIDTH,
    "rigid_log_kappa": heads.RIGID_LOG_KAPPA,
    "grid_log_kappa": heads.GRID_LOG_KAPPA,
    "free_log_kappa": heads.FREE_LOG_KAPPA,
    "free_logit": heads.FREE_LOGIT,
    "largest": steric.LARGEST,
    "united": steric.UNITED**6,
}
MOLECULE = (
    *("parent", "grand", "side", "group", "hops", "closing", "rigid"),
    *("torsion0", "length0", "length_scale", "bend0", "bend_scale"),
    *("sigma2", "depth", "charge", "turn"),
)


class _Layer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in LAYER)


class _Network(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in NETWORK),
        *((name, ctypes.c_int64) for name in SIZES),
        *((name, ctypes.c_double) for name in CONSTANTS),
    )


class _Molecule(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in MOLECULE),
        *((name, ctypes.c_int64) for name in ("atoms", "members")),
        ("ratio", ctypes.c_double),
    )


class Variates(NamedTuple):
    """All the random numbers of n samples, so that a sample depends on its own rows only.

    Attributes:
        uniform: (n, atoms, 3) float64, pick the components of torsion, bend and distance.
        normal: (n, atoms, 2) float32, of bend and distance.
        seed: (n,) int64, of the streams that torsions are drawn from by rejection.
    """

    uniform: Tensor
    normal: Tensor
    seed: Tensor


def draw_variates(n: int, atoms: int, generator: Generator) -> Variates:
    """Random numbers of n samples of a molecule."""
    return Variates(
        torch.rand(n, atoms, 3, generator=generator, dtype=torch.float64),
        torch.randn(n, atoms, 2, generator=generator),
        torch.randint(2**63 - 1, (n,), generator=generator),
    )


def fits(flow: InternalFlow) -> bool:
    """Whether the kernel can be had and computes this network."""
    weight, inputs = flow.norm.weight, (flow.geometry.in_features, flow.hops.num_embeddings)
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    known = (*inputs, flow.heads.grid.out_features, steric.FEATURES) == KNOWN
    sizes = len(weight) % ROWS == 0 and flow.pair.out_features % ROWS == 0
    sizes = sizes and all(block.head_dim % BLOCK == 0 for block in flow.blocks)
    return plain and known and sizes and len(flow.blocks) > 0 and not isinstance(library(), str)


def tells_density(flow: InternalFlow, x: Tensor) -> bool:
    """Whether the kernel is the faster way to the densities of x: no gradient is asked for."""
    learning = x.requires_grad or any(p.requires_grad for p in flow.parameters())
    wanted = torch.is_grad_enabled() and learning
    return len(x) >= LEAST and x.dtype == torch.float32 and not wanted and fits(flow)


def kernel_status() -> str:
    """One line on what draws from the internal-coordinate flow on a CPU, and why."""
    return status_line(library())


def _prepare(kernel: ctypes.CDLL) -> None:
    kernel.gensci_place_scratch.restype = ctypes.c_int64


library = kernel_library(SOURCE, _prepare)


class NativePlacing:
    """The sampling pass by the C kernel, and its density, with the weights as they are now.

    Tiles of samples are shared out to torch's number of threads; the bits of a sample depend
    neither on those nor on how many are drawn together.

    Args:
        flow: for which :func:`fits` holds.
        cond: of the molecule.
    """

    def __init__(self, flow: InternalFlow, cond: Tensors) -> None:
        self.kept: list[Tensor] = []  # the kernel holds addresses only
        self.atoms = len(cond["order"])
        self.network = self._network(flow, cond)
        self.molecule = _Molecule(
            **{name: self._keep(value) for name, value in molecule_tables(cond).items()},
            atoms=self.atoms,
            members=cond["group"].shape[1],
            ratio=float(cond.get(RATIO, 1.0)),
        )
        self.pointers = ctypes.byref(self.network), ctypes.byref(self.molecule)
        self.scratch_size = library().gensci_place_scratch(*self.pointers)

    def __call__(self, variates: Variates) -> tuple[Tensor, Tensor]:
        """Positions (n, atoms, 3) nm in placing order, and log q (n,) float64.

        Both are those of ``Placing.run``: unrotated, without the centroid, rows of NaN where the
        draws are not the coordinates of a position.
        """
        n = len(variates.seed)
        count = -(-n // LANES)
        uniform, normal = (_tiles(v, count) for v in variates[:2])
        seed = F.pad(variates.seed, (0, count * LANES - n)).view(count, LANES)
        x = torch.empty(count, self.atoms, 3, LANES)
        log_prob = torch.empty(count, LANES, dtype=torch.float64)
        possible = torch.empty(count, LANES, dtype=torch.bool)
        self._run(library().gensci_place, (uniform, normal, seed, x, log_prob, possible))
        placed = x.permute(0, 3, 1, 2).reshape(count * LANES, self.atoms, 3)[:n]
        impossible = ~possible.flatten()[:n, None, None]
        return placed.masked_fill(impossible, torch.nan), log_prob.flatten()[:n]

    def log_prob(self, x: Tensor, ic: InternalCoordinates) -> Tensor:
        """Log q (n,) float64 of positions x (n, atoms, 3) nm with these internal coordinates.

        Both in placing order; it is what the pass tells of the positions that it draws.
        """
        n = len(x)
        count = -(-n // LANES)
        given = torch.stack((ic.torsion, ic.bend, ic.distance), -1).float()
        log_prob = torch.empty(count, LANES, dtype=torch.float64)
        placed = _tiles(x - x[:, :1], count)
        self._run(library().gensci_place_density, (placed, _tiles(given, count), log_prob))
        return log_prob.flatten()[:n]

    def _run(self, function: Any, tensors: tuple[Tensor, ...]) -> None:
        """Call a function of the kernel for every tile of the tensors (tiles, ...)."""
        count = len(tensors[0])
        threads = max(1, min(count, torch.get_num_threads()))

        def work(first: int) -> None:
            scratch = torch.zeros(self.scratch_size, dtype=torch.uint8)
            for tile in range(first, count, threads):
                parts = (*(tensor[tile] for tensor in tensors), scratch)
                function(*self.pointers, *(ctypes.c_void_p(part.data_ptr()) for part in parts))

        share(work, threads)

    def _keep(self, value: Tensor) -> int:
        """Address of a tensor, which stays alive as long as this object."""
        self.kept.append(value.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _network(self, flow: InternalFlow, cond: Tensors) -> _Network:
        block = flow.blocks[0]
        self.layers = (_Layer * len(flow.blocks))(
            *(
                _Layer(**{name: self._keep(value) for name, value in _layer(b).items()})
                for b in flow.blocks
            )
        )
        sizes = (
            *(len(flow.blocks), len(flow.norm.weight), block.num_heads, flow.pair.out_features),
            *(flow.heads.free, len(flow.heads.spread)),
        )
        return _Network(
            layers=self.layers,
            **{name: self._keep(value) for name, value in _weights(flow, cond).items()},
            **dict(zip(SIZES, sizes, strict=True)),
            **CONSTANTS,
        )


def molecule_tables(cond: Tensors) -> Tensors:
    """What the kernel is told of a molecule; pair tables hold the constants of ``steric``."""
    cond = {k: v.float() if v.is_floating_point() else v for k, v in cond.items()}
    hops, sigma, epsilon, charge = (cond[k] for k in ("hops", "sigma", "epsilon", "charge"))
    seen, fourth = (hops > 2).to(sigma.dtype), hops == 3
    depth = 4 * torch.sqrt(epsilon[:, None] * epsilon) / steric.KT
    coulomb = charge[:, None] * charge * (steric.COULOMB / steric.KT / 10)
    group = cond["group"]
    rotors, slot = ((group >= 0) & (group != torch.arange(len(group))[:, None])).nonzero().T
    offset = torch.zeros_like(sigma)
    offset[group[rotors, slot]] = cond["torsion0"][group[rotors, slot]]
    phi = steric.torsion_grid(sigma) + offset[:, None]
    return {
        **{key: cond[key].long() for key in ("parent", "grand", "side", "group", "hops")},
        **{key: cond[key].to(torch.uint8) for key in ("closing", "rigid")},
        **{key: cond[key] for key in MOLECULE[7:12]},
        "sigma2": (0.5 * (sigma[:, None] + sigma)).square(),
        "depth": depth * torch.where(fourth, steric.ONE_FOUR_LJ, 1.0) * seen,
        "charge": coulomb * torch.where(fourth, steric.ONE_FOUR_COULOMB, 1.0) * seen,
        "turn": torch.stack((torch.cos(phi), torch.sin(phi)), 1),
    }


def _layer(block: Block) -> Tensors:
    """Weights of one layer."""
    channels = block.query.out_features
    key, value = block.key_value.weight.split(channels)
    key_bias, value_bias = block.key_value.bias.split(channels)
    shrink = block.head_dim**-0.5
    return {
        **_linear("see", block.see),
        **_affine("key", block.norm_key),
        **{"key": _panels(key), "key_bias": key_bias},
        **{"value": _panels(value), "value_bias": value_bias},
        **_affine("query", block.norm_query),
        **{"query": _panels(shrink * block.query.weight), "query_bias": shrink * block.query.bias},
        "null": block.null,
        **_linear("out", block.out),
        **_affine("mlp", block.mlp[0]),
        **_linear("mlp_in", block.mlp[1]),
        **_linear("mlp_out", block.mlp[3]),
    }


def _weights(flow: InternalFlow, cond: Tensors) -> Tensors:
    """Weights that all layers share, with what follows from the atoms' identities."""
    head, hops = flow.heads, flow.hops.weight
    biases = [block.pair_bias for block in flow.blocks]
    bias = torch.cat([part.bias for part in biases])
    return {
        "start": flow.identities(cond) + flow.references[2].bias,
        **_linear("refer", flow.references[0]),
        "refer_out": _panels(flow.references[2].weight),
        "geometry": _panels(flow.geometry.weight),
        "hops": torch.stack((hops, hops + flow.geometry.bias)),
        **_linear("pair", flow.pair),
        "biases": _panels(torch.cat([part.weight for part in biases])),
        "biases_bias": F.pad(bias, (0, -len(bias) % ROWS)),
        **{"scale": flow.norm.weight, "shift": flow.norm.bias},
        **_linear("torsion", head.torsion[0]),
        **_linear("torsion_out", head.torsion[2]),
        **_linear("grid", head.grid),
        **_linear("bend", head.bend[0]),
        **_linear("bend_out", head.bend[2]),
        **_linear("length", head.length[0]),
        **_linear("length_out", head.length[2]),
        **{"around": head.around, "spread": head.spread, "gate": head.gate},
    }


def _affine(name: str, norm: Any) -> Tensors:
    return {f"{name}_scale": norm.weight, f"{name}_shift": norm.bias}


def _linear(name: str, linear: nn.Linear) -> Tensors:
    bias = F.pad(linear.bias, (0, -len(linear.bias) % ROWS))
    return {name: _panels(linear.weight), f"{name}_bias": bias}


def _panels(weight: Tensor) -> Tensor:
    """A matrix (outputs, inputs) as (outputs / ROWS, inputs, ROWS), filled up with zeros."""
    full = F.pad(weight.detach(), (0, 0, 0, -len(weight) % ROWS))
    return full.unflatten(0, (-1, ROWS)).transpose(1, 2).contiguous()


def _tiles(value: Tensor, count: int) -> Tensor:
    """Rows (n, ...) as (count, ..., LANES), samples innermost."""
    fill = value.new_zeros(count * LANES - len(value), *value.shape[1:])
    return torch.cat((value, fill)).unflatten(0, (count, LANES)).movedim(1, -1).contiguous()
