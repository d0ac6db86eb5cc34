"""Equilibrium frames of a peptide by temperature replica exchange from scattered starts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.core.packing import pack
from gensci.core.protocols import Progress, Store, Tensors
from gensci.core.random import stream
from gensci.sims.dynamics import (
    DynamicsState,
    Langevin,
    ReplicaExchange,
    ReplicaState,
    geometric_ladder,
    relax,
    repartitioned_masses,
)
from gensci.systems.peptide import PeptideSystem

MASSES = ("physical", "hmr", "uniform")
UNIFORM_MASS = 12.0  # Da
_STATE = "replicas"
_EXCHANGE_STEPS = 100
_RELAX_STEPS = 250
_HOT_FRICTION = 10.0  # 1/ps: carries off the heat of the scattered starts
_DRAWS = 8


class SimulationError(GensciError):
    """A simulation became unusable."""


@dataclass(frozen=True)
class SimulationSettings:
    """What decides the numbers of a simulation, besides the peptide and the seed.

    Attributes:
        length: ps of each replica, after equilibration.
        frame_interval: ps between frames.
        time_step: ps.
        friction: 1/ps.
        masses: ``physical``, ``hmr`` (hydrogens of 3 Da) or ``uniform`` (all of 12 Da).
        ladders: independent ladders; each gives one frame per interval.
        num_temperatures: replicas of a ladder.
        coldest: K; the frames are those of this temperature.
        hottest: K.
        equilibration: ps at the hottest temperature from the starts, and again in the ladder.
        frames_per_shard: about this many frames go to one file.
    """

    length: float = 100.0
    frame_interval: float = 0.5
    time_step: float = 0.001
    friction: float = 1.0
    masses: str = "physical"
    ladders: int = 16
    num_temperatures: int = 6
    coldest: float = 310.0
    hottest: float = 800.0
    equilibration: float = 2.0
    frames_per_shard: int = 1000

    def __post_init__(self) -> None:
        for name in ("length", "frame_interval", "time_step", "coldest"):
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} is not positive", "give more than 0")
        for name in ("ladders", "num_temperatures", "frames_per_shard"):
            if getattr(self, name) < 1:
                option = name.removeprefix("num_").replace("_", "-")
                raise UsageError(f"--{option} is {getattr(self, name)}", "give >= 1")
        for name in ("friction", "equilibration"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"--{name} is {getattr(self, name)}", "give 0 or more")
        if self.masses not in MASSES:
            raise UsageError(f"--masses {self.masses!r} is unknown", f"use {', '.join(MASSES)}")
        if self.frame_interval < self.time_step or self.length < self.frame_interval:
            raise UsageError(
                f"--length {self.length} ps, --frame-interval {self.frame_interval} ps and "
                f"--time-step {self.time_step} ps do not nest",
                "give length >= frame interval >= time step",
            )
        _ = self.temperatures  # a bad ladder is an error here, before anything is written

    @property
    def temperatures(self) -> tuple[float, ...]:
        """K, rising by a constant ratio."""
        try:
            return geometric_ladder(self.coldest, self.hottest, self.num_temperatures)
        except ValueError as error:
            raise UsageError(f"--coldest, --hottest: {error}") from error

    @property
    def exchanges_per_frame(self) -> int:
        """Exchanges between two frames, about every hundred steps."""
        return max(1, round(self.frame_interval / self.time_step / _EXCHANGE_STEPS))

    @property
    def exchange_interval(self) -> int:
        """Steps between exchanges."""
        return max(1, round(self.frame_interval / self.time_step / self.exchanges_per_frame))

    @property
    def snapshots(self) -> int:
        """Frames of each ladder."""
        return max(1, round(self.length / self.frame_interval))

    @property
    def snapshots_per_shard(self) -> int:
        """Frames of each ladder in one shard."""
        return max(1, self.frames_per_shard // self.ladders)

    @property
    def num_shards(self) -> int:
        """Files of the whole simulation."""
        return -(-self.snapshots // self.snapshots_per_shard)

    def shard_snapshots(self, index: int) -> int:
        """Frames of each ladder in shard ``index``; the last one may have fewer."""
        return min(self.snapshots_per_shard, self.snapshots - index * self.snapshots_per_shard)


@dataclass(frozen=True)
class SimulationSummary:
    """What is worth knowing about a finished simulation.

    Attributes:
        frames: kept frames.
        dropped: frames with a wrong-handed centre, left out.
        acceptance: of exchanges, for each pair of neighbouring temperatures.
        round_trips: from the coldest to the hottest temperature and back, all walkers together.
    """

    frames: int
    dropped: int
    acceptance: tuple[float, ...]
    round_trips: int


def simulate_peptide(
    system: PeptideSystem,
    settings: SimulationSettings,
    *,
    seed: int,
    store: Store,
    progress: Progress | None = None,
) -> SimulationSummary:
    """Simulate a peptide and save its frames; goes on where the store ends.

    Shard ``k`` holds ``positions`` (frames, atoms, 3) float32 nm, centred, and ``energy`` (frames,)
    float32 kJ/mol. Killed at any instant and called again, it gives the same bits.

    Args:
        system: the peptide.
        settings: see ``SimulationSettings``.
        seed: of the starts, the noise and the exchanges.
        store: where shards and the state between them are kept.
        progress: called after every shard.

    Raises:
        SimulationError: an energy is no longer finite.
    """
    replicas = replica_exchange(system, settings)
    packed = store.load_state(_STATE)
    done = int(packed["shards"]) if packed is not None else 0
    done = _first_missing(store, done)
    if packed is None or done < int(packed["shards"]):
        state, done = equilibrated(system, replicas, settings, seed), 0
        store.save_state(_STATE, _pack(state, 0))
    else:
        state = _unpack(packed)
    for index in range(done, settings.num_shards):
        generator = stream(seed, system.name, "shard", index)
        state, shard = _shard(system, replicas, settings, state, index, generator)
        store.save_shard(index, shard)
        store.save_state(_STATE, _pack(state, index + 1))
        if progress is not None:
            progress(index + 1, settings.num_shards, system.name)
    return _summary(store, settings, state)


def _first_missing(store: Store, done: int) -> int:
    """The first of the finished shards that is damaged or gone, or their number."""
    return next((k for k in range(done) if store.load_shard(k) is None), done)


def replica_exchange(system: PeptideSystem, settings: SimulationSettings) -> ReplicaExchange:
    """The dynamics that the settings describe, in float32."""
    langevin = Langevin(
        system.force_field.to(dtype=torch.float32),
        _masses(system, settings.masses),
        settings.time_step,
        settings.friction,
    )
    return ReplicaExchange(langevin, settings.temperatures, settings.exchange_interval)


def _masses(system: PeptideSystem, kind: str) -> Tensor:
    masses = system.force_field.masses.float()
    if kind == "physical":
        return masses
    if kind == "uniform":
        return torch.full_like(masses, UNIFORM_MASS)
    return repartitioned_masses(masses, system.peptide.bonds)


def scattered_starts(system: PeptideSystem, n: int, generator: torch.Generator) -> Tensor:
    """Conformations with random backbone and side-chain torsions, relaxed.

    Draws are made until ``n`` have natural handedness and an energy that rules out a side chain
    threaded through a ring.

    Returns:
        (n, atoms, 3) float32 nm.

    Raises:
        SimulationError: too few usable starts.
    """
    found: list[Tensor] = []
    force_field = system.force_field.to(dtype=torch.float32)
    margin = 150.0 + 5.0 * system.peptide.num_atoms  # kJ/mol; a threaded ring costs several 100
    for _ in range(_DRAWS):
        x, energy = relax(force_field, system.peptide.scattered(n, generator).float(), _RELAX_STEPS)
        usable = system.peptide.chirality(x) & (energy < energy.min() + margin)
        found.append(x[usable])
        if sum(map(len, found)) >= n:
            return torch.cat(found)[:n]
    raise SimulationError(
        f"peptide {system.name}: only {sum(map(len, found))} of {n} random starts could be relaxed",
        "use fewer --ladders",
    )


def equilibrated(
    system: PeptideSystem, replicas: ReplicaExchange, settings: SimulationSettings, seed: int
) -> ReplicaState:
    """Replicas after a hot start from scattered conformations and a run in the ladder."""
    n = settings.ladders * settings.num_temperatures
    generator = stream(seed, system.name, "start")
    x = scattered_starts(system, n, generator)
    inner = replicas.langevin
    steps = round(settings.equilibration / settings.time_step)
    hot = torch.full((n,), settings.temperatures[-1])
    # short steps first: minima are met with thermal velocities, which stiff bonds may not survive
    gentle = Langevin(inner.potential, inner.masses, 0.5 * inner.time_step, _HOT_FRICTION)
    heated = gentle.run(gentle.start(x, hot, generator), hot, steps, generator)
    state = replicas.run(replicas.start(heated.positions, generator), steps, generator)
    _check_finite(system, state.dynamics.energy)
    fresh = replicas.start(state.dynamics.positions, generator)
    return ReplicaState(state.dynamics, *(getattr(fresh, f.name) for f in fields(fresh)[1:]))


def _shard(
    system: PeptideSystem,
    replicas: ReplicaExchange,
    settings: SimulationSettings,
    state: ReplicaState,
    index: int,
    generator: torch.Generator,
) -> tuple[ReplicaState, Tensors]:
    positions, energies = [], []
    steps = settings.exchanges_per_frame * settings.exchange_interval
    for _ in range(settings.shard_snapshots(index)):
        state = replicas.run(state, steps, generator)
        positions.append(state.dynamics.positions[:: settings.num_temperatures])
        energies.append(state.dynamics.energy[:: settings.num_temperatures])
        _check_finite(system, state.dynamics.energy)
    x, energy = torch.cat(positions), torch.cat(energies)
    keep = system.peptide.chirality(x)
    dropped = (~keep).sum()
    return state, {"positions": x[keep], "energy": energy[keep], "dropped": dropped}


def _check_finite(system: PeptideSystem, energy: Tensor) -> None:
    if not energy.isfinite().all():
        raise SimulationError(
            f"peptide {system.name}: the simulation became unstable",
            "use a shorter --time-step or --masses uniform",
        )


def _pack(state: ReplicaState, shards: int) -> Tensors:
    dynamics = {f"dynamics.{name}": value for name, value in pack(state.dynamics).items()}
    return {**dynamics, **pack(state), "shards": torch.tensor(shards)}


def _unpack(packed: Tensors) -> ReplicaState:
    inner = {f.name: packed[f"dynamics.{f.name}"] for f in fields(DynamicsState)}
    outer = {f.name: packed[f.name] for f in fields(ReplicaState) if f.name != "dynamics"}
    return ReplicaState(dynamics=DynamicsState(**inner), **outer)


def _summary(store: Store, settings: SimulationSettings, state: ReplicaState) -> SimulationSummary:
    shards = [store.load_shard(k) or {} for k in range(settings.num_shards)]
    attempted = state.attempted.clamp_min(1)
    return SimulationSummary(
        frames=sum(len(shard["energy"]) for shard in shards),
        dropped=sum(int(shard["dropped"]) for shard in shards),
        acceptance=tuple((state.accepted / attempted).tolist()),
        round_trips=int(state.round_trips.sum()),
    )
