"""Langevin steps in the C kernel: the whole loop over steps without coming back to Python."""

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import torch

from .native import LANES, Kernel, in_threads, whole_blocks


@functools.cache
def _langevin_classes(real: Any) -> tuple[type[ctypes.Structure], type[ctypes.Structure]]:
    """The C structures Langevin and Rows of stepper.c."""

    class _Langevin(ctypes.Structure):
        _fields_ = (
            ("kick", ctypes.c_void_p),
            ("spread", ctypes.c_void_p),
            ("half_step", real),
            ("keep", real),
            ("noisy", ctypes.c_int32),
        )

    class _Rows(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_void_p) for name in ("x", "v", "f", "energy", "heat"))

    return _Langevin, _Rows


@dataclass(frozen=True, eq=False)
class Rows:
    """Conformations of one molecule that are stepped in place; all contiguous, on the CPU.

    Attributes:
        x, v, f: (n, atoms, 3) positions nm, velocities nm/ps, forces kJ/mol/nm at the positions.
        energy: (n,) kJ/mol.
        heat: (n,) square roots of the temperatures, K^(1/2).
    """

    x: torch.Tensor
    v: torch.Tensor
    f: torch.Tensor
    energy: torch.Tensor
    heat: torch.Tensor


@dataclass(frozen=True, eq=False)
class StepSettings:
    """What a step does.

    Attributes:
        kick: (atoms,) half a step over the mass, ps/Da.
        spread: (atoms,) standard deviation of the velocity noise at 1 K, nm/ps.
        half_step: ps.
        keep: factor that friction leaves of a velocity.
    """

    kick: torch.Tensor
    spread: torch.Tensor
    half_step: float
    keep: float


@dataclass(frozen=True, eq=False)
class Job:
    """Rows of one molecule to advance, and where their noise comes from.

    Attributes:
        kernel: of the molecule.
        settings: of the steps, in the precision of the kernel.
        rows: what to advance.
        key: random bits; the noise of row i depends on the key and i alone.

    Raises:
        ValueError: a tensor is not what the kernel would take it for.
    """

    kernel: Kernel
    settings: StepSettings
    rows: Rows
    key: int

    def __post_init__(self) -> None:
        r, s, n, atoms = self.rows, self.settings, len(self.rows.x), self.kernel.model.atoms
        whole, by_row, by_atom = (n, atoms, 3), (n,), (atoms,)
        self._refuse_unless(whole, positions=r.x, velocities=r.v, forces=r.f)
        self._refuse_unless(by_row, energies=r.energy, temperatures=r.heat)
        self._refuse_unless(by_atom, masses=s.kick, spreads=s.spread)

    def _refuse_unless(self, shape: tuple[int, ...], **tensors: torch.Tensor) -> None:
        for name, t in tensors.items():
            fits = t.shape == shape and t.dtype == self.kernel.dtype and t.device.type == "cpu"
            if not (fits and t.is_contiguous()):
                raise ValueError(
                    f"{name} are {t.dtype} of shape {tuple(t.shape)} on {t.device}; "
                    f"give {self.kernel.dtype} of shape {shape} on the CPU"
                )


def advance(jobs: list[Job], steps: int, num_threads: int) -> None:
    """Advance every job by BAOAB steps (Leimkuhler and Matthews 2013), blocks spread over threads.

    The bits depend neither on the number of threads nor on the other jobs.

    Raises:
        MemoryError: no memory for a block.
    """
    failures: list[int] = []
    pieces = [(job, *piece) for job in jobs for piece in _pieces(jobs, job, num_threads)]

    def work(job: Job, start: int, stop: int) -> None:
        failures.append(_advance_rows(job, start, stop, steps))

    in_threads(work, pieces, num_threads)
    if any(failures):
        raise MemoryError("the force-field kernel found no memory for one block")


def _pieces(jobs: list[Job], job: Job, num_threads: int) -> list[tuple[int, int]]:
    """Whole blocks in pieces small enough that threads end together."""
    n = len(job.rows.energy)
    blocks = -(-n // LANES)
    parts = 1 if num_threads == 1 else min(blocks, max(1, 4 * num_threads // len(jobs)))
    return whole_blocks(n, parts)


def _advance_rows(job: Job, start: int, stop: int, steps: int) -> int:
    langevin_class, rows_class = _langevin_classes(job.kernel.real)
    s, r = job.settings, job.rows
    langevin = langevin_class(
        s.kick.data_ptr(), s.spread.data_ptr(), s.half_step, s.keep, int(bool(s.spread.any()))
    )
    places = (t[start:].data_ptr() for t in (r.x, r.v, r.f, r.energy, r.heat))
    return job.kernel.library.gensci_langevin(
        ctypes.byref(job.kernel.model),
        ctypes.byref(langevin),
        rows_class(*places),
        ctypes.c_long(stop - start),
        ctypes.c_long(steps),
        ctypes.c_uint64(job.key),
        ctypes.c_int64(start),
    )
