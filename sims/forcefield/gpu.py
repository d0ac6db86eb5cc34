"""Energies and forces of batches of conformations on a GPU, by the Triton kernels.

One call evaluates conformations of one system or, sorted by system, of several. The passes share
scratch arrays of some nine numbers for each atom and conformation, so that large batches are worked
through in pieces that stay in the second-level cache.
"""

import functools
import importlib.metadata
import importlib.util
import itertools
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from .gpu_tables import has_necks, make_blocks, make_tables
from .parameters import Parameters

_ROWS_AT_ONCE = 2**20  # atoms of conformations in one launch: four waves of an H200, 38 MB
_SMALL_BATCH = 2**17  # atoms of conformations below which wide tiles leave half an H200 idle
_ALIGNMENT = 64  # pieces start at rows whose address is aligned, so that no kernel is compiled anew
_OLDEST = (7, 0)  # compute capability that triton supports
_MAX_PATTERNS = 64  # block tables that are kept for batches of the same composition


class NoGpuKernel(RuntimeError):
    """The Triton kernels cannot run here; the message says why."""


@dataclass(frozen=True)
class Tile:
    """What one program of the pair passes serves.

    Attributes:
        atoms: rows of the tile, a power of two. Each thread holds this many atoms of its
            conformation, so that a partner's position is loaded once for all of them.
        conformations: lanes of the tile, a power of two.
        warps: 32 threads each.
    """

    atoms: int
    conformations: int
    warps: int


WIDE_TILE = Tile(atoms=4, conformations=64, warps=2)
"""Fewest instructions: 179 for a pair of atoms on sm_90, at 56 to 127 registers."""

NARROW_TILE = Tile(atoms=1, conformations=32, warps=1)
"""Most programs, for batches that would leave multiprocessors idle: 253 instructions."""


def make_gpu_kernel(
    parameters: Parameters, dtype: torch.dtype, device: torch.device
) -> "GpuKernel | None":
    """The kernel of one force field, or None where it cannot be had (see gpu_status)."""
    try:
        return GpuKernel([parameters], device, dtype)
    except NoGpuKernel:
        return None


def gpu_status() -> str:
    """One line on which path evaluates the force field on a GPU, and why."""
    try:
        _check_device(torch.device("cuda"))
    except NoGpuKernel as reason:
        return f"torch: {reason}"
    return f"fused Triton kernels, triton {importlib.metadata.version('triton')}"


class GpuKernel:
    """The Triton kernels with the numbers of one or several force fields.

    Args:
        parameters: the force fields; all or none with implicit solvent, and likewise a cutoff.
        device: a CUDA device (the CPU too under TRITON_INTERPRET=1, for tests).
        dtype: torch.float32 or torch.float64.
        tile: sizes of the programs; by default chosen by the size of a batch.

    Raises:
        NoGpuKernel: triton or a suitable device is missing.
        ValueError: the systems are of different kinds.
    """

    def __init__(
        self,
        parameters: Sequence[Parameters],
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        *,
        tile: Tile | None = None,
    ) -> None:
        self.device, self.dtype, self._tile = torch.device(device), dtype, tile
        _check_device(self.device)
        self._kind = _kind_of(parameters)
        self._fast = dtype == torch.float32 and self.device.type == "cuda" and not torch.version.hip
        self.num_atoms = tuple(p.num_atoms for p in parameters)
        self._tables = make_tables(parameters, dtype, self.device)
        self._blocks: dict[tuple[int, ...], torch.Tensor] = {}
        self._passes = _load_passes()
        if self.device.type == "cuda":
            self._try_out()

    def energy(self, x: torch.Tensor, num_threads: int = 1) -> torch.Tensor:
        """Energies (n,) kJ/mol of positions (n, atoms, 3) nm of a single system."""
        return self.evaluate(x, (len(x),), forces=False)[0]

    def energy_and_forces(
        self, x: torch.Tensor, num_threads: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (n,) and forces (n, atoms, 3) of positions of a single system."""
        return self.evaluate(x, (len(x),))

    def evaluate(
        self, x: torch.Tensor, counts: Sequence[int], *, forces: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces of conformations sorted by system.

        Args:
            x: (n, atoms of the largest system, 3) nm; what stands beyond a system's own atoms is
                not read.
            counts: how many rows each system has, in the order of the systems; n in all.
            forces: whether to compute them; without, the second result is empty.

        Returns:
            Energies (n,) kJ/mol, +inf where not a number, and forces (n, atoms, 3) kJ/mol/nm, zero
            there and beyond a system's own atoms.
        """
        counts, x, width = self._checked(x, counts), x.detach(), max(self.num_atoms)
        energy = torch.empty(len(x), dtype=self.dtype, device=self.device)
        force = torch.empty_like(x, memory_format=torch.contiguous_format) if forces else x[:0]
        step = max(1, _ROWS_AT_ONCE // width // _ALIGNMENT) * _ALIGNMENT
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            for start in range(0, len(x), step):
                stop = min(start + step, len(x))
                part = _between(counts, start, stop)
                piece = self._launch(x[start:stop], part, energy[start:stop], forces=forces)
                if forces:
                    force[start:stop] = piece.view(width, 3, stop - start).permute(2, 0, 1)
        return energy, force

    def captured(self, counts: Sequence[int]) -> "CapturedForces":
        """Energies and forces of batches of this composition, replayed as one CUDA graph.

        It spares the launches, which is what small batches (below some 2,000) wait for.
        """
        return CapturedForces(self, counts)

    def tables(self) -> tuple[object, ...]:
        """Everything on the device that launches read besides positions."""
        return (self._tables, *self._blocks.values())

    def _try_out(self) -> None:
        """Compiles and launches once, so that what is missing shows here and not in a run."""
        x = torch.zeros(len(self.num_atoms), max(self.num_atoms), 3)
        try:
            self.evaluate(x.to(self.device, self.dtype), [1] * len(x))
            torch.cuda.synchronize(self.device)
        except Exception as error:  # a compiler, a driver: triton wraps them in many types
            reason = f"the kernels do not start: {type(error).__name__}: {error}"
            warnings.warn(f"force field by torch, much slower: {reason}", stacklevel=2)
            raise NoGpuKernel(reason) from error

    def _launch(
        self, x: torch.Tensor, counts: tuple[int, ...], energy: torch.Tensor, *, forces: bool
    ) -> torch.Tensor:
        """Runs the passes over one piece; returns forces (3 atoms, n)."""
        n, width, t, kind = len(x), max(self.num_atoms), self._tables, self._kind
        tile = self._tile or self._choose_tile(n * width)
        blocks, groups = self._block_table(counts, tile.conformations), -(-width // tile.atoms)
        x = x.reshape(n, -1).t().contiguous()
        force = x.new_empty(3 * groups * tile.atoms if forces else 0, n)
        row_energy, born, chain = (x.new_empty(width, n) for _ in range(3))
        run, where, launch = self._passes, (blocks, t.systems), {"LANES": tile.conformations}
        launch["num_warps"] = tile.warps
        pairs = {"HAS_CUTOFF": kind.cutoff, "FAST": self._fast, "ROWS": tile.atoms, **launch}
        terms = (t.starts, t.entries, t.bonds, t.angles, t.torsions)
        run.bonded[(len(blocks) * width,)](
            x, *where, *terms, row_energy, force, n, width, t.starts.shape[1],
            FORCES=forces, FAST=self._fast, **launch,
        )  # fmt: skip
        grid, numbers = (len(blocks) * groups,), (*where, t.settings, t.atom)
        if kind.born:
            run.born[grid](
                x, *numbers, t.necks, born, chain, n, groups,
                HAS_TANH=kind.tanh, HAS_NECK=kind.neck, **pairs,
            )  # fmt: skip
        run.pair[grid](
            x, *numbers, t.pairs, row_energy, force, born, chain, n, groups,
            HAS_BORN=kind.born, HAS_SALT=kind.salt, HAS_SWITCH=kind.switch, FORCES=forces, **pairs,
        )  # fmt: skip
        run.total[(len(blocks),)](*where, row_energy, energy, n, **launch)
        if forces:
            run.chain[grid](
                x, *numbers, t.necks, force, energy, chain, n, groups,
                HAS_BORN=kind.born, HAS_NECK=kind.neck, **pairs,
            )  # fmt: skip
        return force[: 3 * width]

    def _choose_tile(self, atoms: int) -> Tile:
        wide = atoms >= _SMALL_BATCH and self.dtype == torch.float32  # registers hold half as much
        return WIDE_TILE if wide else NARROW_TILE

    def _block_table(self, counts: tuple[int, ...], lanes: int) -> torch.Tensor:
        """Where the programs work; kept, because batches are mostly alike."""
        key = (lanes, *counts)
        if key not in self._blocks:
            if len(self._blocks) >= _MAX_PATTERNS:
                self._blocks.clear()
            self._blocks[key] = make_blocks(counts, lanes, self.device)
        return self._blocks[key]

    def _checked(self, x: torch.Tensor, counts: Sequence[int]) -> tuple[int, ...]:
        if x.ndim != 3 or x.shape[1:] != (max(self.num_atoms), 3):
            raise ValueError(
                f"positions have shape {tuple(x.shape)}; give (n, {max(self.num_atoms)}, 3) in nm"
            )
        if x.dtype != self.dtype or x.device.type != self.device.type:
            raise ValueError(
                f"positions are {x.dtype} on {x.device}; give {self.dtype} on {self.device}"
            )
        counts = tuple(int(count) for count in counts)
        if len(counts) != len(self.num_atoms) or min(counts) < 0 or sum(counts) != len(x):
            raise ValueError(
                f"counts are {counts} for {len(x)} conformations of {len(self.num_atoms)} "
                "system(s); give the number of rows of each system, in order"
            )
        return counts


class CapturedForces:
    """A CUDA graph of one evaluation; results live until the next call.

    Args:
        kernel: what to evaluate.
        counts: rows of each system.
    """

    def __init__(self, kernel: GpuKernel, counts: Sequence[int]) -> None:
        shape = (sum(counts), max(kernel.num_atoms), 3)
        self._x = torch.zeros(shape, dtype=kernel.dtype, device=kernel.device)
        side = torch.cuda.Stream(kernel.device)
        side.wait_stream(torch.cuda.current_stream(kernel.device))
        with torch.cuda.stream(side):  # compiles and allocates what may not happen in a capture
            for _ in range(2):
                kernel.evaluate(self._x, counts)
        torch.cuda.current_stream(kernel.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = kernel.evaluate(self._x, counts)
        self._held = kernel.tables()  # the graph reads their memory for as long as it lives

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces of x, of the shape captured; copy them to keep them."""
        self._x.copy_(x)
        self._graph.replay()
        return self._result


@dataclass(frozen=True)
class _Kind:
    """Which terms the systems have: the kernels are compiled for these."""

    born: bool
    tanh: bool
    neck: bool
    salt: bool
    cutoff: bool
    switch: bool


def _kind_of(parameters: Sequence[Parameters]) -> _Kind:
    models = [p.born for p in parameters if p.born is not None]
    return _Kind(
        born=_common("an implicit solvent", [p.born is not None for p in parameters]),
        tanh=bool(models) and _common("a Born radius by tanh", [b.tanh for b in models]),
        neck=has_necks(parameters),
        salt=any(b.kappa != 0 for b in models),
        cutoff=_common("a cutoff", [p.cutoff is not None for p in parameters]),
        switch=any(p.cutoff is not None and p.switch is not None for p in parameters),
    )


def _common(what: str, has: Sequence[bool]) -> bool:
    if len(set(has)) != 1:
        raise ValueError(
            f"only some of the systems have {what}; make one GpuKernel for each kind of system"
        )
    return has[0]


def _between(counts: tuple[int, ...], start: int, stop: int) -> tuple[int, ...]:
    """How many rows of every system lie in start .. stop."""
    ends = list(itertools.accumulate(counts))
    return tuple(
        max(0, min(end, stop) - max(end - count, start))
        for end, count in zip(ends, counts, strict=True)
    )


def _check_device(device: torch.device) -> None:
    """Raises NoGpuKernel where the kernels cannot run."""
    if importlib.util.find_spec("triton") is None:
        raise NoGpuKernel("triton is not installed; pip install 'gensci[gpu]' (Linux)")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if device.type != "cuda":
        raise NoGpuKernel(f"the kernels need a CUDA device, not {device.type}")
    if not torch.cuda.is_available():
        raise NoGpuKernel("no CUDA device is found")
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        raise NoGpuKernel(f"the GPU is older than compute capability {_OLDEST[0]}.{_OLDEST[1]}")


@dataclass(frozen=True)
class _Passes:
    bonded: Any
    born: Any
    pair: Any
    total: Any
    chain: Any


@functools.cache
def _load_passes() -> _Passes:
    """The kernels; triton is imported here, and only here."""
    from . import gpu_bonded, gpu_kernels

    return _Passes(
        bonded=gpu_bonded.bonded_pass,
        born=gpu_kernels.born_pass,
        pair=gpu_kernels.pair_pass,
        total=gpu_kernels.total_pass,
        chain=gpu_kernels.chain_pass,
    )
