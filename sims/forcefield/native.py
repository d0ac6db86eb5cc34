"""Hands conformations to the fused C kernel, in as many threads as asked for."""

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .compiler import NoKernel, find_compiler, load_library
from .layout import fill_model, model_class, pack_tables
from .parameters import Parameters

LANES = 16  # the widest block of the kernel
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

    Attributes:
        library: the compiled functions.
        model: the C structure Model.
        real: its C type of numbers.
        dtype: that type in torch.

    Raises:
        NoKernel: it cannot be built here.
    """

    def __init__(self, parameters: Parameters, dtype: torch.dtype) -> None:
        double = dtype == torch.float64
        self.library = load_library(double)
        self.dtype = dtype
        self.real = ctypes.c_double if double else ctypes.c_float
        self._arrays = pack_tables(parameters, np.dtype(self.real), far=not double)
        self._atoms = parameters.num_atoms
        self.model = model_class(self.real)()
        fill_model(self.model, parameters, self._arrays)

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
        energy = torch.empty(len(x), dtype=self.dtype)
        force = torch.empty_like(x) if forces else torch.empty(0, dtype=self.dtype)
        failures: list[int] = []

        def work(start: int, stop: int) -> None:
            to = force[start:].data_ptr() if forces else None
            failures.append(
                self.library.gensci_evaluate(
                    ctypes.byref(self.model),
                    ctypes.c_void_p(x[start:].data_ptr()),
                    ctypes.c_long(stop - start),
                    ctypes.c_void_p(energy[start:].data_ptr()),
                    ctypes.c_void_p(to),
                )
            )

        in_threads(work, self._slices(len(x), num_threads), num_threads)
        if any(failures):
            raise MemoryError("the force-field kernel found no memory for one block")
        return energy, force

    def _slices(self, n: int, num_threads: int) -> list[tuple[int, int]]:
        """Cuts n conformations into runs of whole blocks, at most one for each thread."""
        blocks = -(-n // LANES)
        worthwhile = n * self._atoms**2 // (2 * _MIN_PAIRS)
        return whole_blocks(n, min(num_threads, blocks, worthwhile))


def whole_blocks(n: int, parts: int) -> list[tuple[int, int]]:
    """Cuts n rows into at most so many runs of whole blocks: (first row, behind the last)."""
    blocks, parts = -(-n // LANES), max(1, parts)
    edges = [min(n, LANES * (blocks * k // parts)) for k in range(parts + 1)]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def in_threads(work: Callable[..., None], pieces: Sequence[tuple[Any, ...]], threads: int) -> None:
    """Runs work(*piece) for every piece in at most ``threads`` threads; ctypes releases the GIL.

    Plain threads and no pool: a pool would not survive the fork of a data loader. The first
    exception of any thread ends all of them and is raised here.
    """
    rest = iter(pieces)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def take_turns() -> None:
        while not errors:
            with lock:
                piece = next(rest, None)
            if piece is None:
                return
            try:
                work(*piece)
            except BaseException as error:  # also a keyboard interrupt; raised below
                errors.append(error)

    helpers = [threading.Thread(target=take_turns) for _ in range(min(threads, len(pieces)) - 1)]
    for helper in helpers:
        helper.start()
    take_turns()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
