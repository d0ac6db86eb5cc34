"""How a simulation begins: its dynamics, and replicas in equilibrium from scattered starts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gensci.core.random import stream
from gensci.sims.dynamics import (
    Langevin,
    NonFiniteStart,
    ReplicaExchange,
    ReplicaState,
    find_rotors,
    repartitioned_masses,
)
from gensci.systems.simulation import Simulable, SimulationError, SimulationSettings

UNIFORM_MASS = 12.0  # Da
_HOT_FRICTION = 10.0  # 1/ps: carries off the heat of the scattered starts


def replica_exchange(system: Simulable, settings: SimulationSettings) -> ReplicaExchange:
    """The dynamics that the settings describe, in float32."""
    langevin = Langevin(
        system.force_field.to(device=settings.device, dtype=torch.float32),
        simulated_masses(system, settings.masses).to(settings.device),
        settings.time_step,
        settings.friction,
    )
    rotors = find_rotors(system.bonds, system.force_field.masses)
    return ReplicaExchange(
        langevin, settings.temperatures, settings.exchange_interval, rotors, settings.pivots
    )


def simulated_masses(system: Simulable, kind: str) -> Tensor:
    """Masses (atoms,) float32 Da of one of ``MASSES``."""
    masses = system.force_field.masses.float()
    if kind == "physical":
        return masses
    if kind == "uniform":
        return torch.full_like(masses, UNIFORM_MASS)
    return repartitioned_masses(masses, system.bonds)


def equilibrated(
    system: Simulable, replicas: ReplicaExchange, settings: SimulationSettings, seed: int
) -> ReplicaState:
    """Replicas after a hot start from scattered conformations and a run in the ladder.

    Raises:
        SimulationError: a start or a replica has no finite energy; the message names its row.
    """
    try:
        return _equilibrated(system, replicas, settings, seed)
    except NonFiniteStart as error:
        raise SimulationError(f"{system.name}: {error}") from error


def _equilibrated(
    system: Simulable, replicas: ReplicaExchange, settings: SimulationSettings, seed: int
) -> ReplicaState:
    n = settings.ladders * settings.num_temperatures
    x = system.starts(n, stream(seed, system.name, "start")).to(settings.device)
    generator = stream(seed, system.name, "equilibration", device=settings.device)
    inner = replicas.langevin
    steps = round(settings.equilibration / settings.time_step)
    hot = torch.full((n,), settings.temperatures[-1], device=settings.device)
    # short steps first: minima are met with thermal velocities, which stiff bonds may not survive
    gentle = Langevin(inner.potential, inner.masses, 0.5 * inner.time_step, _HOT_FRICTION)
    heated = gentle.run(gentle.start(x, hot, generator), hot, 2 * steps, generator)
    check_finite(system, settings, heated.energy, "while it was heated")
    state = replicas.run(replicas.start(heated.positions, generator), steps, generator)
    check_finite(system, settings, state.dynamics.energy, "in equilibration")
    fresh = replicas.start(state.dynamics.positions, generator)
    return replace(fresh, dynamics=state.dynamics)


def check_finite(
    system: Simulable, settings: SimulationSettings, energy: Tensor, when: str
) -> None:
    """Refuse to go on with replicas that have no finite energy (rows,).

    Raises:
        SimulationError: some have none; the message names the system and the first such row.
    """
    rows = (~energy.isfinite()).nonzero().flatten().tolist()
    if not rows:
        return
    ladder, rung = divmod(rows[0], settings.num_temperatures)
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    raise SimulationError(
        f"{system.name}: no finite energy {when} in replica row {rows[0]} (ladder {ladder + 1}, "
        f"{settings.temperatures[rung]:.0f} K){more}",
        "use a shorter --time-step or --masses uniform",
    )
