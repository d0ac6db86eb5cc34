"""Equilibrium frames of a molecule by temperature replica exchange from scattered starts.

Every frame has a random stream of its own and the state behind the last frame is kept, so that a
simulation can be made longer at any time: the bits are those of a run that was long from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gensci.core.errors import GensciError, RunFolderError
from gensci.core.packing import pack
from gensci.core.protocols import Store, Tensors
from gensci.core.random import stream
from gensci.sims.dynamics import (
    DynamicsState,
    Member,
    ReplicaExchange,
    ReplicaState,
    run_together,
)
from gensci.sims.peptide.backbone import BackboneTorsion, find_backbone, torsion_angles
from gensci.systems.backbone_trips import BarrierTrips, cores, mixing_report
from gensci.systems.simulation import (
    Simulable,
    SimulationError,
    SimulationSettings,
    SimulationSummary,
)
from gensci.systems.simulation_start import check_finite, equilibrated, replica_exchange

STATE = "replicas"


@dataclass(frozen=True, eq=False)
class SimulationState:
    """A simulation between two frames; all that is needed to go on.

    Attributes:
        replicas: the conformations and their exchanges.
        trips: crossings of the backbone barriers.
        snapshots: frames of each ladder so far.
        dropped: frames of all ladders so far that were left out.
    """

    replicas: ReplicaState
    trips: BarrierTrips
    snapshots: int = 0
    dropped: int = 0


@dataclass(frozen=True, eq=False)
class Job:
    """A simulation on its way.

    Attributes:
        system: the molecule.
        settings: see ``SimulationSettings``.
        seed: of the starts, the noise and the exchanges.
        replicas: the dynamics.
        torsions: those of the backbone.
        state: where it is.
    """

    system: Simulable
    settings: SimulationSettings
    seed: int
    replicas: ReplicaExchange
    torsions: tuple[BackboneTorsion, ...]
    state: SimulationState

    @property
    def finished(self) -> bool:
        """Whether it is as long as the settings ask for."""
        return self.state.snapshots >= self.settings.snapshots


def simulate_system(
    system: Simulable,
    settings: SimulationSettings,
    *,
    seed: int,
    store: Store,
    progress: Callable[[SimulationSummary], None] | None = None,
) -> SimulationSummary:
    """Simulate a molecule and save its frames; goes on where the store ends.

    Shard ``k`` holds ``positions`` (frames, atoms, 3) nm, centred, ``forces`` (frames, atoms, 3)
    kJ/mol/nm and ``energy`` (frames,) kJ/mol, all float32; ``ladder`` and ``snapshot`` (frames,)
    int32, from zero; and ``dropped`` (), how many frames of these snapshots were left out. Killed
    at any instant and called again, or called again with a larger length, it gives the same bits.

    Args:
        system: the molecule.
        settings: see ``SimulationSettings``.
        seed: of the starts, the noise and the exchanges.
        store: where shards and the state behind the last of them are kept.
        progress: called after every shard that is stored, with what is known so far.

    Raises:
        SimulationError: an energy is no longer finite.
    """
    task = Task(system, settings, store, progress or (lambda summary: None))
    (outcome,) = simulate_together([task], seed=seed)
    if isinstance(outcome, GensciError):
        raise outcome
    return outcome


@dataclass(frozen=True, eq=False)
class Task:
    """One simulation of a batch.

    Attributes:
        system: the molecule.
        settings: see ``SimulationSettings``.
        store: where its shards and its state are kept.
        progress: called after every shard that is stored, with what is known so far.
    """

    system: Simulable
    settings: SimulationSettings
    store: Store
    progress: Callable[[SimulationSummary], None]


def simulate_together(tasks: Sequence[Task], *, seed: int) -> list[SimulationSummary | GensciError]:
    """Simulate several molecules side by side, each as ``simulate_system`` would alone.

    They share threads or a GPU, and nothing else: one that fails leaves the others as they are. On
    the CPU no bit of one depends on which others there are.

    Args:
        tasks: the simulations; their settings are the same but for the length.
        seed: of the starts, the noise and the exchanges of each.

    Returns:
        For each task what came of it, or why it could not go on.

    Raises:
        ValueError: settings differ in more than the length.
    """
    if any(task.settings.key != tasks[0].settings.key for task in tasks):
        raise ValueError("settings differ in more than the length; simulate such systems apart")
    outcomes: dict[int, GensciError] = {}
    jobs: dict[int, Job] = {}
    for k, task in enumerate(tasks):
        try:
            jobs[k] = begin(task.system, task.settings, seed, task.store)
        except RunFolderError:
            raise
        except GensciError as error:
            outcomes[k] = error
    while going := [k for k, job in jobs.items() if k not in outcomes and not job.finished]:
        moved = _advance_each([jobs[k] for k in going])
        for k, result in zip(going, moved, strict=True):
            if isinstance(result, SimulationError):
                outcomes[k] = result
                continue
            _keep(tasks[k], jobs[k], *result)
            jobs[k] = result[0]
    return [outcomes.get(k) or summarise(jobs[k]) for k in range(len(tasks))]


def _keep(task: Task, before: Job, job: Job, frames: Tensors) -> None:
    """Store the frames between two states, then the state behind them."""
    first, store = before.state.snapshots, task.store
    index = first // job.settings.snapshots_per_shard
    store.save_shard(index, _extended(store.load_shard(index), frames, first, job.settings))
    store.save_state(STATE, _pack(job.state))
    task.progress(summarise(job))


def _advance_each(jobs: Sequence[Job]) -> list[tuple[Job, Tensors] | SimulationError]:
    """As ``advance``; where one of several fails, every one on its own."""
    try:
        return list(advance(jobs))
    except SimulationError as error:
        if len(jobs) == 1:
            return [error]
        return [_advance_each([job])[0] for job in jobs]


def stored_snapshots(store: Store) -> int:
    """Frames of each ladder that a store has the state behind."""
    packed = store.load_state(STATE)
    return 0 if packed is None else int(packed["snapshots"])


def begin(system: Simulable, settings: SimulationSettings, seed: int, store: Store) -> Job:
    """The simulation as the store holds it, or a new one that is equilibrated and stored."""
    replicas = replica_exchange(system, settings)
    torsions = find_backbone(system.topology)
    packed = store.load_state(STATE)
    if packed is not None:
        state = _unpack(packed, settings.device)
        if shards_are_whole(store, settings, state.snapshots):
            return Job(system, settings, seed, replicas, torsions, state)
    state = SimulationState(
        replicas=equilibrated(system, replicas, settings, seed),
        trips=BarrierTrips.zero(settings.ladders, settings.num_temperatures, len(torsions)),
    )
    store.save_state(STATE, _pack(state))
    return Job(system, settings, seed, replicas, torsions, state)


def advance(jobs: Sequence[Job]) -> list[tuple[Job, Tensors]]:
    """Every simulation at the end of the shard it is in, with the frames on the way there.

    Jobs share nothing but this call: what one gives does not depend on the others. Their settings
    are the same but for the length.

    Raises:
        SimulationError: an energy is no longer finite; the message names the system.
    """
    jobs, frames = list(jobs), [[] for _ in jobs]
    ends = [job.settings.shard_end(job.state.snapshots) for job in jobs]
    while moving := [k for k, job in enumerate(jobs) if job.state.snapshots < ends[k]]:
        moved = _to_next_frame([jobs[k] for k in moving])
        for k, replicas in zip(moving, moved, strict=True):
            jobs[k], frame = _recorded(jobs[k], replicas)
            frames[k].append(frame)
    return [(job, _joined(held)) for job, held in zip(jobs, frames, strict=True)]


def _to_next_frame(jobs: Sequence[Job]) -> list[ReplicaState]:
    """The replicas one frame later, each job with a stream of its own."""
    members = [
        Member(
            job.replicas,
            job.state.replicas,
            stream(
                job.seed,
                job.system.name,
                "snapshot",
                job.state.snapshots,
                device=job.settings.device,
            ),
        )
        for job in jobs
    ]
    return run_together(members, jobs[0].settings.steps_per_frame)


def _recorded(job: Job, replicas: ReplicaState) -> tuple[Job, Tensors]:
    """The job with its replicas at the next frame, and that frame at the coldest temperature."""
    settings, number = job.settings, job.state.snapshots
    dynamics = on_device(replicas.dynamics, "cpu")
    check_finite(job.system, settings, dynamics.energy, f"at frame {number + 1}")
    coldest = slice(None, None, settings.num_temperatures)
    keep = job.system.natural(dynamics.positions[coldest])
    frame = {
        "positions": dynamics.positions[coldest][keep],
        "forces": dynamics.forces[coldest][keep],
        "energy": dynamics.energy[coldest][keep],
        "ladder": torch.arange(settings.ladders, dtype=torch.int32)[keep],
        "snapshot": torch.full((int(keep.sum()),), number, dtype=torch.int32),
        "dropped": (~keep).sum(),
    }
    state = SimulationState(
        replicas=replicas,
        trips=_observed(job, dynamics.positions, replicas.walker),
        snapshots=number + 1,
        dropped=job.state.dropped + int(frame["dropped"]),
    )
    return replace(job, state=state), frame


def _observed(job: Job, positions: Tensor, walker: Tensor) -> BarrierTrips:
    if not job.torsions:
        return job.state.trips
    atoms = torch.tensor([torsion.atoms for torsion in job.torsions])
    angles = torsion_angles(positions, atoms)
    return job.state.trips.observe(cores(angles, job.torsions), walker)


def _joined(frames: Sequence[Tensors]) -> Tensors:
    joined = {
        name: torch.cat([frame[name] for frame in frames])
        for name in frames[0].keys() - {"dropped"}
    }
    return {**joined, "dropped": torch.stack([frame["dropped"] for frame in frames]).sum()}


def _extended(
    old: Tensors | None, frames: Tensors, first: int, settings: SimulationSettings
) -> Tensors:
    """A shard that was begun by a shorter run, with the frames that follow.

    A run that was killed may have left more in it than its state knows of; that is made again.
    """
    start = first // settings.snapshots_per_shard * settings.snapshots_per_shard
    if old is None or first == start:
        return frames
    keep = old["snapshot"] < first
    kept = {name: value[keep] for name, value in old.items() if name != "dropped"}
    dropped = torch.tensor((first - start) * settings.ladders - int(keep.sum()))
    return _joined([{**kept, "dropped": dropped}, frames])


def shards_are_whole(store: Store, settings: SimulationSettings, snapshots: int) -> bool:
    """Whether the store holds all frames of this many snapshots, undamaged."""
    size = settings.snapshots_per_shard
    for index in range(-(-snapshots // size)):
        shard = store.load_shard(index)
        wanted = min(size, snapshots - index * size) * settings.ladders
        if shard is None or len(shard["energy"]) + int(shard["dropped"]) < wanted:
            return False
    return True


def on_device(dynamics: DynamicsState, device: str) -> DynamicsState:
    """The same conformations elsewhere."""
    return DynamicsState(**{name: value.to(device) for name, value in vars(dynamics).items()})


def _pack(state: SimulationState) -> Tensors:
    parts = {"dynamics": state.replicas.dynamics, "trips": state.trips}
    inner = {f"{part}.{k}": v for part, held in parts.items() for k, v in pack(held).items()}
    return {**inner, **pack(state.replicas), **pack(state)}


def _unpack(packed: Tensors, device: str) -> SimulationState:
    def part(cls: type, prefix: str = "") -> Tensors:
        names = [field.name for field in fields(cls)]
        return {name: packed[prefix + name] for name in names if prefix + name in packed}

    dynamics = on_device(DynamicsState(**part(DynamicsState, "dynamics.")), device)
    held = part(ReplicaState)
    if "pivots" not in held:  # of a version without them
        held["pivots"] = torch.zeros((2, len(held["attempted"]) + 1), dtype=torch.int64)
    return SimulationState(
        replicas=ReplicaState(dynamics=dynamics, **held),
        trips=BarrierTrips(**part(BarrierTrips, "trips.")),
        snapshots=int(packed["snapshots"]),
        dropped=int(packed["dropped"]),
    )


def summarise(job: Job) -> SimulationSummary:
    """What is worth knowing about a simulation where it stands."""
    state, settings = job.state, job.settings
    acceptance = state.replicas.accepted / state.replicas.attempted.clamp_min(1)
    offered, pivoted = state.replicas.pivots
    round_trips = int(state.replicas.round_trips.sum())
    return SimulationSummary(
        snapshots=state.snapshots,
        frames=state.snapshots * settings.ladders - state.dropped,
        dropped=state.dropped,
        acceptance=tuple(acceptance.tolist()),
        pivot_acceptance=tuple((pivoted / offered.clamp_min(1)).tolist()),
        round_trips=round_trips,
        mixing=mixing_report(state.trips, job.torsions, settings.num_temperatures, round_trips),
    )
