"""Langevin dynamics of many conformations at once; without friction, velocity Verlet.

On the CPU the steps run inside of the C kernel (``forcefield.stepping``); elsewhere, and with
potentials other than a force field, in torch. Both split a step alike and differ in their noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..forcefield.stepping import Job, Rows, StepSettings, advance

GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
_NOISE_STEPS = 16  # steps whose noise is drawn in one call

Draw = Callable[[int, Tensor], Tensor]
"""Standard normals (k, *shape of x) for a number k of steps and the positions x."""


class NonFiniteStart(ValueError):
    """Dynamics cannot begin at a row whose positions, energy or forces are not finite."""


class Potential(Protocol):
    """What dynamics asks of a force field."""

    def energy_and_forces(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n,) kJ/mol and forces (n, atoms, 3) kJ/mol/nm at x (n, atoms, 3) nm."""
        ...


@dataclass(frozen=True, eq=False)
class DynamicsState:
    """Where the conformations are.

    Attributes:
        positions: (n, atoms, 3) nm.
        velocities: (n, atoms, 3) nm/ps.
        energy: (n,) kJ/mol at ``positions``.
        forces: (n, atoms, 3) kJ/mol/nm at ``positions``.
    """

    positions: Tensor
    velocities: Tensor
    energy: Tensor
    forces: Tensor


def thermal_velocities(masses: Tensor, temperature: Tensor, generator: torch.Generator) -> Tensor:
    """Maxwell-Boltzmann velocities (n, atoms, 3) nm/ps for temperatures (n,) K."""
    spread = (GAS_CONSTANT * temperature[:, None] / masses).sqrt()[..., None]
    shape = (*spread.shape[:2], 3)
    noise = torch.randn(shape, generator=generator, dtype=masses.dtype, device=generator.device)
    return spread * noise.to(masses.device)


def kinetic_energy(state: DynamicsState, masses: Tensor) -> Tensor:
    """Kinetic energy (n,) kJ/mol; masses (atoms,) Da."""
    return 0.5 * (masses.to(state.velocities) * state.velocities.square().sum(-1)).sum(-1)


def centred(dynamics: DynamicsState) -> DynamicsState:
    """Without the drift of the centroid, which would cost digits in single precision."""
    x = dynamics.positions
    return replace(dynamics, positions=x - x.mean(dim=1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Langevin:
    """BAOAB splitting of Langevin dynamics: half kick, half drift, noise, half drift, half kick.

    Without friction the noise vanishes and the rest is velocity Verlet: the ensemble of constant
    energy.

    Reference: Leimkuhler and Matthews 2013, J. Chem. Phys. 138, 174102.

    Attributes:
        potential: the force field.
        masses: (atoms,) Da, or (n, atoms) where rows are different molecules; atoms of infinite
            mass do not move.
        time_step: ps.
        friction: 1/ps.
    """

    potential: Potential
    masses: Tensor
    time_step: float = 0.001
    friction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.time_step < math.inf:
            raise ValueError(f"time_step is {self.time_step} ps; give a positive one")
        if not 0 <= self.friction < math.inf:
            raise ValueError(f"friction is {self.friction} 1/ps; give zero or more")
        if not (self.masses > 0).all():
            raise ValueError("masses must be positive; use infinity for an atom that is held")

    def start(
        self, positions: Tensor, temperature: Tensor, generator: torch.Generator
    ) -> DynamicsState:
        """State at given positions (n, atoms, 3) nm with thermal velocities of (n,) K.

        Raises:
            NonFiniteStart: naming the first row that cannot be started from.
            ValueError: there is not one temperature for each row, or one is negative.
        """
        if temperature.shape != (len(positions),) or not (temperature >= 0).all():
            raise ValueError(
                f"temperatures of shape {tuple(temperature.shape)}; give {len(positions)}, one for "
                "each row, zero or more K"
            )
        energy, forces = self.potential.energy_and_forces(positions)
        refuse_non_finite(positions, energy, forces)
        velocities = thermal_velocities(self.masses, temperature.to(self.masses), generator)
        return DynamicsState(positions, velocities.to(positions), energy, forces)

    def run(
        self, state: DynamicsState, temperature: Tensor, steps: int, generator: torch.Generator
    ) -> DynamicsState:
        """Advance by a number of steps.

        Args:
            state: where to start; it is left as it is.
            temperature: (n,) K, one for each conformation.
            steps: number of force evaluations.
            generator: source of the noise, on its own device.
        """
        job = self.job(state, temperature, generator)
        if job is None:
            return self.run_torch(state, temperature, steps, drawing_from(generator))
        advance([job], steps, num_threads(self.potential))
        return job_state(job)

    def job(
        self, state: DynamicsState, temperature: Tensor, generator: torch.Generator
    ) -> Job | None:
        """A copy of the state, ready for the C kernel; None where the kernel cannot be used.

        Raises:
            ValueError: state, temperature or masses do not fit the force field or each other.
        """
        find = getattr(self.potential, "fused_kernel", None)
        kernel = find(state.positions) if find is not None and self.masses.ndim == 1 else None
        if kernel is None:
            return None
        key = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        parts = (state.positions, state.velocities, state.forces, state.energy)
        x, v, f, energy = (t.clone(memory_format=torch.contiguous_format) for t in parts)
        heat = temperature.to(x).sqrt().contiguous()
        return Job(kernel, self._settings(x.dtype), Rows(x, v, f, energy, heat), int(key))

    def _settings(self, dtype: torch.dtype) -> StepSettings:
        masses = self.masses.double().cpu()
        keep = self._kept(dtype)
        spread = ((1 - keep**2) * GAS_CONSTANT / masses).sqrt()
        kick = 0.5 * self.time_step / masses
        return StepSettings(
            kick.to(dtype).contiguous(), spread.to(dtype).contiguous(), 0.5 * self.time_step, keep
        )

    def _kept(self, dtype: torch.dtype) -> float:
        """What friction leaves of a velocity in a step, as the arithmetic of the steps has it.

        In single precision it is next to one: noise for another value would change the temperature.
        """
        return torch.tensor(math.exp(-self.friction * self.time_step), dtype=dtype).item()

    def run_torch(
        self, state: DynamicsState, temperature: Tensor, steps: int, draw: Draw
    ) -> DynamicsState:
        """As ``run``, step by step in torch on any device.

        Args:
            state: where to start; it is left as it is.
            temperature: (n,) K.
            steps: number of force evaluations.
            draw: gives standard normals of k steps, like (k, n, atoms, 3).
        """
        x, v = state.positions.clone(), state.velocities.clone()
        energy, forces = state.energy, state.forces
        masses = self.masses.to(x.device)
        kick = (0.5 * self.time_step / masses)[..., None].to(x)
        keep = self._kept(x.dtype)
        heat = GAS_CONSTANT * temperature.double()[:, None] / masses.double()
        spread = ((1 - keep**2) * heat).sqrt()[..., None].to(x)
        for first in range(0, steps, _NOISE_STEPS):
            noise = draw(min(_NOISE_STEPS, steps - first), x)
            for kicks in noise.mul_(spread):
                v.addcmul_(kick, forces)
                x.add_(v, alpha=0.5 * self.time_step)
                v.mul_(keep).add_(kicks)
                x.add_(v, alpha=0.5 * self.time_step)
                energy, forces = self.potential.energy_and_forces(x)
                v.addcmul_(kick, forces)
        return DynamicsState(x, v, energy, forces)


def drawing_from(generator: torch.Generator) -> Draw:
    """Standard normals from a generator, on its own device."""

    def draw(steps: int, x: Tensor) -> Tensor:
        shape = (steps, *x.shape)
        noise = torch.randn(shape, generator=generator, dtype=x.dtype, device=generator.device)
        return noise.to(x.device)

    return draw


def job_state(job: Job) -> DynamicsState:
    """The state after a job was advanced."""
    rows = job.rows
    return DynamicsState(rows.x, rows.v, rows.energy, rows.f)


def num_threads(potential: Any) -> int:
    """Threads that a force field may use."""
    return getattr(potential, "num_threads", None) or torch.get_num_threads()


def refuse_non_finite(positions: Tensor, energy: Tensor, forces: Tensor) -> None:
    """Refuse starts that are not finite.

    Raises:
        NonFiniteStart: naming the row and, for positions, the atom.
    """
    good = positions.isfinite().all(-1)
    if not good.all():
        row, atom = (~good).nonzero()[0].tolist()
        raise NonFiniteStart(
            f"row {row} of the starting positions has a coordinate that is not finite (atom "
            f"{atom}); {int((~good).any(1).sum())} of {len(good)} rows are unusable, drop them"
        )
    fine = energy.isfinite() & forces.isfinite().all(-1).all(-1)
    if not fine.all():
        row = int((~fine).nonzero()[0])
        raise NonFiniteStart(
            f"row {row} of the starting positions has no finite energy and forces; "
            f"{int((~fine).sum())} of {len(fine)} rows are unusable, relax or drop them"
        )
