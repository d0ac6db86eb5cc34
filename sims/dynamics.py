"""Langevin dynamics of many conformations at once, and temperature replica exchange.

Units: nm, ps, Da, kJ/mol, Kelvin (1 kJ/mol = 1 Da nm^2/ps^2). States are frozen dataclasses of
tensors; noise comes from the generator passed to each call, so a state and a seed decide the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
_NOISE_STEPS = 16  # steps whose noise is drawn in one call


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
    shape = (len(temperature), len(masses), 3)
    return spread * torch.randn(shape, generator=generator, dtype=masses.dtype).to(masses.device)


def repartitioned_masses(
    masses: Tensor, bonds: Sequence[tuple[int, int]], hydrogen: float = 3.0
) -> Tensor:
    """Masses with hydrogens made heavier at the cost of the atom they are bound to.

    Configurational averages do not depend on masses; slower hydrogens allow a longer step.

    Args:
        masses: (atoms,) Da.
        bonds: pairs of atom indices.
        hydrogen: new mass of every hydrogen, Da.

    Raises:
        ValueError: a heavy atom would be left lighter than its hydrogens.
    """
    new = masses.clone()
    for a, b in bonds:
        light, heavy = (a, b) if masses[a] < masses[b] else (b, a)
        if masses[light] < 1.5:
            new[heavy] -= hydrogen - masses[light]
            new[light] = hydrogen
    if (new < hydrogen - 1e-6).any():
        raise ValueError(f"hydrogen mass {hydrogen} leaves too little on heavy atoms; lower it")
    return new


@dataclass(frozen=True, eq=False)
class Langevin:
    """BAOAB splitting of Langevin dynamics: half kick, half drift, noise, half drift, half kick.

    Reference: Leimkuhler and Matthews 2013, J. Chem. Phys. 138, 174102.

    Attributes:
        potential: the force field.
        masses: (atoms,) Da.
        time_step: ps.
        friction: 1/ps.
    """

    potential: Potential
    masses: Tensor
    time_step: float = 0.001
    friction: float = 1.0

    def __post_init__(self) -> None:
        if not self.time_step > 0:
            raise ValueError(f"time_step is {self.time_step} ps; give a positive one")
        if not self.friction >= 0:
            raise ValueError(f"friction is {self.friction} 1/ps; give zero or more")

    def start(
        self, positions: Tensor, temperature: Tensor, generator: torch.Generator
    ) -> DynamicsState:
        """State at given positions (n, atoms, 3) nm with thermal velocities of (n,) K."""
        energy, forces = self.potential.energy_and_forces(positions)
        velocities = thermal_velocities(self.masses, temperature, generator)
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
        x, v = state.positions.clone(), state.velocities.clone()
        energy, forces = state.energy, state.forces
        kick = (0.5 * self.time_step / self.masses)[:, None].to(x)
        keep = torch.exp(torch.tensor(-self.friction * self.time_step, dtype=torch.float64))
        heat = GAS_CONSTANT * temperature.double()[:, None] / self.masses.double()
        spread = ((1 - keep**2) * heat).sqrt()[..., None].to(x)
        for first in range(0, steps, _NOISE_STEPS):
            count = min(_NOISE_STEPS, steps - first)
            shape = (count, *x.shape)
            noise = torch.randn(shape, generator=generator, dtype=x.dtype, device=generator.device)
            for kicks in noise.to(x.device).mul_(spread):
                v.addcmul_(kick, forces)
                x.add_(v, alpha=0.5 * self.time_step)
                v.mul_(float(keep)).add_(kicks)
                x.add_(v, alpha=0.5 * self.time_step)
                energy, forces = self.potential.energy_and_forces(x)
                v.addcmul_(kick, forces)
        return DynamicsState(x, v, energy, forces)


def relax(
    potential: Potential, x: Tensor, steps: int, largest_move: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Downhill steps of every conformation on its own, safe where atoms overlap.

    The atom with the largest force moves by a length that grows after a success and is halved
    after a failure, so huge forces do no harm.

    Args:
        potential: the force field.
        x: (n, atoms, 3) nm.
        steps: number of evaluations.
        largest_move: bound on the move of any atom in one step, nm.

    Returns:
        Positions (n, atoms, 3) and energies (n,) that are not above those at the start.
    """
    energy, forces = potential.energy_and_forces(x)
    length = torch.full_like(energy, 0.1 * largest_move)
    for _ in range(steps):
        strongest = forces.norm(dim=-1).amax(dim=-1).clamp_min(1e-6)
        trial = x + (length / strongest)[:, None, None] * forces
        trial_energy, trial_forces = potential.energy_and_forces(trial)
        better = (trial_energy < energy) | ~energy.isfinite()
        row = better[:, None, None]
        x, forces = torch.where(row, trial, x), torch.where(row, trial_forces, forces)
        energy = torch.where(better, trial_energy, energy)
        length = torch.where(better, 1.3 * length, 0.5 * length).clamp_max(largest_move)
    return x, energy


@dataclass(frozen=True, eq=False)
class ReplicaState:
    """Replica exchange between calls. Row ``ladder * K + k`` is always at temperature ``k``.

    Attributes:
        dynamics: the conformations.
        walker: (n,) int64, which walker sits in each row.
        last_end: (n,) int64 for each walker: the end of the ladder it was at last, 0 for the
            coldest, 1 for the hottest after the coldest, -1 for neither yet.
        round_trips: (n,) int64 for each walker: completed cold to hot to cold journeys.
        attempted: (K - 1,) int64 exchanges tried between neighbouring temperatures.
        accepted: (K - 1,) int64 exchanges made.
        exchanges: () int64, sweeps so far; even and odd pairs take turns.
    """

    dynamics: DynamicsState
    walker: Tensor
    last_end: Tensor
    round_trips: Tensor
    attempted: Tensor
    accepted: Tensor
    exchanges: Tensor


@dataclass(frozen=True)
class ReplicaExchange:
    """Temperature replica exchange of several independent ladders in one batch.

    Reference: Sugita and Okamoto 1999, Chem. Phys. Lett. 314, 141.

    Attributes:
        langevin: the dynamics of each replica.
        temperatures: K, rising.
        exchange_interval: steps between exchanges.
    """

    langevin: Langevin
    temperatures: tuple[float, ...]
    exchange_interval: int = 100

    def __post_init__(self) -> None:
        pairs = zip(self.temperatures, self.temperatures[1:], strict=False)
        if not self.temperatures or self.temperatures[0] <= 0 or any(a >= b for a, b in pairs):
            raise ValueError(f"temperatures {self.temperatures} K: give rising positive ones")
        if self.exchange_interval < 1:
            raise ValueError(f"exchange_interval is {self.exchange_interval}; give at least 1")

    @property
    def num_temperatures(self) -> int:
        """Length of a ladder."""
        return len(self.temperatures)

    def row_temperatures(self, n: int) -> Tensor:
        """(n,) float64 K of the rows of a batch.

        Raises:
            ValueError: n is not a multiple of the number of temperatures.
        """
        if n == 0 or n % self.num_temperatures:
            raise ValueError(
                f"{n} replicas do not fill ladders of {self.num_temperatures} temperatures; "
                "give a multiple"
            )
        ladder = torch.tensor(self.temperatures, dtype=torch.float64)
        return ladder.repeat(n // self.num_temperatures)

    def start(self, positions: Tensor, generator: torch.Generator) -> ReplicaState:
        """State at given positions (ladders * K, atoms, 3) nm with thermal velocities."""
        n = len(positions)
        temperature = self.row_temperatures(n).to(positions)
        dynamics = self.langevin.start(positions, temperature, generator)
        rung = torch.arange(n) % self.num_temperatures
        pairs = torch.zeros(self.num_temperatures - 1, dtype=torch.int64)
        return ReplicaState(
            dynamics=dynamics,
            walker=torch.arange(n),
            last_end=torch.where(rung == 0, 0, -1),
            round_trips=torch.zeros(n, dtype=torch.int64),
            attempted=pairs,
            accepted=pairs,
            exchanges=torch.zeros((), dtype=torch.int64),
        )

    def run(self, state: ReplicaState, steps: int, generator: torch.Generator) -> ReplicaState:
        """Advance by a number of steps, with an exchange after every ``exchange_interval``."""
        temperature = self.row_temperatures(len(state.walker)).to(state.dynamics.positions.device)
        done = 0
        while done < steps:
            count = min(self.exchange_interval, steps - done)
            dynamics = self.langevin.run(state.dynamics, temperature, count, generator)
            state = replace(state, dynamics=_centred(dynamics))
            done += count
            if count == self.exchange_interval and self.num_temperatures > 1:
                state = self.exchange(state, generator)
        return state

    def exchange(self, state: ReplicaState, generator: torch.Generator) -> ReplicaState:
        """Offer every second neighbouring pair of each ladder to exchange conformations."""
        n, rungs = len(state.walker), self.num_temperatures
        ladders = n // rungs
        lower = torch.arange(int(state.exchanges) % 2, rungs - 1, 2)
        temperature = torch.tensor(self.temperatures, dtype=torch.float64)
        beta = 1.0 / (GAS_CONSTANT * temperature)
        energy = state.dynamics.energy.double().cpu().reshape(ladders, rungs)
        gain = (beta[lower] - beta[lower + 1]) * (energy[:, lower] - energy[:, lower + 1])
        draw = torch.rand((ladders, len(lower)), generator=generator, dtype=torch.float64,
                          device=generator.device).cpu()  # fmt: skip
        swap = draw.log() < gain
        source = torch.arange(n).reshape(ladders, rungs).clone()
        low, high = source[:, lower].clone(), source[:, lower + 1].clone()
        source[:, lower] = torch.where(swap, high, low)
        source[:, lower + 1] = torch.where(swap, low, high)
        source = source.reshape(-1)
        rows = self.row_temperatures(n)
        scale = (rows / rows[source]).sqrt()[:, None, None]
        ones = torch.full_like(lower, ladders)
        return self._track(
            replace(
                state,
                dynamics=_permuted(state.dynamics, source, scale),
                walker=state.walker[source],
                attempted=state.attempted.index_add(0, lower, ones),
                accepted=state.accepted.index_add(0, lower, swap.sum(dim=0)),
                exchanges=state.exchanges + 1,
            )
        )

    def _track(self, state: ReplicaState) -> ReplicaState:
        """Count round trips: coldest, hottest, coldest again."""
        rung = torch.empty_like(state.walker)
        rung[state.walker] = torch.arange(len(rung)) % self.num_temperatures
        cold, hot = rung == 0, rung == self.num_temperatures - 1
        home = cold & (state.last_end == 1)
        turned = hot & (state.last_end == 0)
        last_end = state.last_end.masked_fill(cold, 0).masked_fill(turned, 1)
        return replace(state, last_end=last_end, round_trips=state.round_trips + home)


def _permuted(dynamics: DynamicsState, source: Tensor, scale: Tensor) -> DynamicsState:
    source = source.to(dynamics.positions.device)
    return DynamicsState(
        positions=dynamics.positions[source],
        velocities=dynamics.velocities[source] * scale.to(dynamics.velocities),
        energy=dynamics.energy[source],
        forces=dynamics.forces[source],
    )


def _centred(dynamics: DynamicsState) -> DynamicsState:
    """Without the drift of the centroid, which would cost digits in single precision."""
    x = dynamics.positions
    return replace(dynamics, positions=x - x.mean(dim=1, keepdim=True))


def geometric_ladder(coldest: float, hottest: float, count: int) -> tuple[float, ...]:
    """``count`` temperatures from coldest to hottest with a constant ratio, K."""
    if count < 1 or not 0 < coldest <= hottest or (count > 1 and coldest == hottest):
        raise ValueError(
            f"ladder of {count} temperatures from {coldest} to {hottest} K: give at least one, "
            "rising and positive"
        )
    if count == 1:
        return (float(coldest),)
    ratio = (hottest / coldest) ** (1 / (count - 1))
    return tuple(coldest * ratio**k for k in range(count))
