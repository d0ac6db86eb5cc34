"""Hands conformations to the fused C kernel, in as many threads as asked for."""

import ctypes
import itertools
import threading
from typing import Any

import numpy as np
import torch

from .compiler import NoKernel, find_compiler, load_library
from .parameters import BornParameters, Parameters

_LANES = 16  # the widest block of the kernel
_FAR_RATIO = 0.6  # largest s / r that the series of the kernel's far branch holds for
_MIN_PAIRS = 50_000  # atom pairs that are worth a thread of their own (~0.2 ms)


def make_kernel(parameters: Parameters, dtype: torch.dtype) -> "Kernel | None":
    """The kernel of a force field, or None where it cannot be had (see kernel_status)."""
    try:
        return Kernel(parameters, dtype)
    except NoKernel:
        return None


def kernel_status() -> str:
    """One line on which path evaluates the force field on the CPU, and why."""
    try:
        load_library(False)
        return f"fused C kernel, built with {' '.join(find_compiler())}"
    except NoKernel as reason:
        return f"torch, some 15 times slower than the C kernel: {reason}"


class Kernel:
    """The C kernel with the numbers of one force field in one precision.

    Args:
        parameters: the force field.
        dtype: torch.float32 or torch.float64.

    Raises:
        NoKernel: it cannot be built here.
    """

    def __init__(self, parameters: Parameters, dtype: torch.dtype) -> None:
        double = dtype == torch.float64
        self._library = load_library(double)
        self._dtype = dtype
        self._real = np.float64 if double else np.float32
        self._arrays = _pack(parameters, self._real, far=not double)
        self._atoms = parameters.num_atoms
        self._model = _model_class(ctypes.c_double if double else ctypes.c_float)()
        _fill(self._model, parameters, self._arrays)

    def energy(self, x: torch.Tensor, num_threads: int = 1) -> torch.Tensor:
        """Energies (n,) of positions (n, atoms, 3), as ForceField.energy."""
        return self._evaluate(x, num_threads, forces=False)[0]

    def energy_and_forces(
        self, x: torch.Tensor, num_threads: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (n,) and forces (n, atoms, 3), as ForceField.energy_and_forces."""
        return self._evaluate(x, num_threads, forces=True)

    def _evaluate(
        self, x: torch.Tensor, num_threads: int, *, forces: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.contiguous()
        energy = torch.empty(len(x), dtype=self._dtype)
        force = torch.empty_like(x) if forces else torch.empty(0, dtype=self._dtype)
        failures: list[int] = []

        def work(start: int, stop: int) -> None:
            to = force[start:].data_ptr() if forces else None
            failures.append(
                self._library.gensci_evaluate(
                    ctypes.byref(self._model),
                    ctypes.c_void_p(x[start:].data_ptr()),
                    ctypes.c_long(stop - start),
                    ctypes.c_void_p(energy[start:].data_ptr()),
                    ctypes.c_void_p(to),
                )
            )

        _in_threads(work, self._slices(len(x), num_threads))
        if any(failures):
            raise MemoryError("the force-field kernel found no memory for one block")
        return energy, force

    def _slices(self, n: int, num_threads: int) -> list[tuple[int, int]]:
        """Cuts n conformations into runs of whole blocks, at most one for each thread."""
        blocks = -(-n // _LANES)
        worthwhile = n * self._atoms**2 // (2 * _MIN_PAIRS)
        parts = max(1, min(num_threads, blocks, worthwhile))
        edges = [min(n, _LANES * (blocks * k // parts)) for k in range(parts + 1)]
        return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def _in_threads(work: Any, slices: list[tuple[int, int]]) -> None:
    """Runs the first slice here and each other in a thread; ctypes releases the GIL.

    Plain threads and no pool: a pool would not survive the fork of a data loader.
    """
    threads = [threading.Thread(target=work, args=s) for s in slices[1:]]
    for thread in threads:
        thread.start()
    if slices:
        work(*slices[0])
    for thread in threads:
        thread.join()


_COUNTS = ("atoms", "bonds", "angles", "torsions", "has_born", "has_cutoff")
_POINTERS = (
    "bond_atoms", "angle_atoms", "torsion_atoms", "torsion_order",
    "bond", "angle", "torsion", "pair", "atom",
)  # fmt: skip
_SCALARS = ("surface", "cutoff", "krf", "crf")


def _model_class(real: Any) -> type[ctypes.Structure]:
    """The C structure Model of kernel.c."""

    class _Model(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int32) for name in _COUNTS),
            *((name, ctypes.c_void_p) for name in _POINTERS),
            ("alpha", real * 3),
            *((name, real) for name in _SCALARS),
        )

    return _Model


def _fill(model: Any, p: Parameters, arrays: dict[str, np.ndarray]) -> None:
    model.atoms, model.bonds = p.num_atoms, len(p.bond_k)
    model.angles, model.torsions = len(p.angle_k), len(p.torsion_cos)
    model.has_born, model.has_cutoff = p.born is not None, p.cutoff is not None
    for name in _POINTERS:
        setattr(model, name, arrays[name].ctypes.data)
    model.cutoff, model.krf, model.crf = p.cutoff or 0.0, p.krf, p.crf
    if p.born is not None:
        model.alpha[:] = p.born.alpha
        model.surface = p.born.surface


def _pack(p: Parameters, real: Any, *, far: bool) -> dict[str, np.ndarray]:
    """Lays the numbers out as kernel.c reads them."""
    orders = [[0, *np.flatnonzero(row)][-1] for row in (p.torsion_cos.abs() + p.torsion_sin.abs())]
    tables = {
        "bond": torch.stack([p.bond_length, p.bond_k], -1),
        "angle": torch.stack([p.angle_theta, p.angle_k], -1),
        "torsion": torch.stack([p.torsion_cos, p.torsion_sin], -2),
        "pair": _pair_table(p, far),
        "atom": _atom_table(p),
    }
    indices = {
        "bond_atoms": p.bond_atoms,
        "angle_atoms": p.angle_atoms,
        "torsion_atoms": p.torsion_atoms,
        "torsion_order": torch.tensor(orders),
    }
    packed = {k: np.ascontiguousarray(v.numpy(), dtype=real) for k, v in tables.items()}
    return packed | {k: np.ascontiguousarray(v.numpy(), np.int32) for k, v in indices.items()}


def _pair_table(p: Parameters, far: bool) -> torch.Tensor:
    """(pairs, 8): Coulomb, r^-12, r^-6, polar, subject to the cutoff, far beyond (nm^2), 0, 0."""
    polar = torch.zeros_like(p.coulomb)
    distant = torch.full_like(p.coulomb, torch.inf)
    if p.born is not None:
        polar = p.born.prefactor * p.born.charge[:, None] * p.born.charge
        if far:
            distant = _far_distance(p.born).square()
    columns = (p.coulomb, p.lj12, p.lj6, polar, p.reaction_field.double(), distant)
    row, column = torch.triu_indices(p.num_atoms, p.num_atoms, offset=1)
    table = torch.stack([c[row, column] for c in columns], -1)
    return torch.nn.functional.pad(table, (0, 2))


def _far_distance(b: BornParameters) -> torch.Tensor:
    """Beyond it neither atom reaches into the other and s / r is small, for each pair."""
    scaled = b.scaled_radius.abs()
    reach = torch.maximum(b.offset_radius[:, None] + scaled, scaled[None] / _FAR_RATIO)
    return torch.maximum(reach, reach.T) * (1 + 1e-5)


def _atom_table(p: Parameters) -> torch.Tensor:
    b = p.born
    if b is None:
        return torch.zeros(p.num_atoms, 4)
    return torch.stack(
        [b.offset_radius, b.scaled_radius, b.radius, b.prefactor * b.charge.square()], -1
    )
