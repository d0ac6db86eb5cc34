"""Replica exchange of several molecules in one batch.

On the CPU each gets the bits that it would have alone; on a GPU the same noise and exchanges, but
sums may be ordered otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..forcefield.field import ForceField
from ..forcefield.mixed import MixedForceField
from ..forcefield.stepping import advance
from .langevin import DynamicsState, Langevin, centred, drawing_from, job_state, num_threads
from .replicas import ReplicaExchange, ReplicaState


@dataclass(frozen=True, eq=False)
class Member:
    """One molecule of a mixed batch.

    Attributes:
        replicas: its replica exchange.
        state: where it is.
        generator: of its noise and its exchanges, shared with no other member.
    """

    replicas: ReplicaExchange
    state: ReplicaState
    generator: torch.Generator


def run_together(members: Sequence[Member], steps: int) -> list[ReplicaState]:
    """Advance all members by a number of steps, as each one's ``ReplicaExchange.run`` would.

    On the CPU the blocks of all members are spread over the threads together, so small batches do
    not leave threads idle; on a GPU one launch serves them all. Members that neither the C kernel
    nor a GPU can serve are advanced one after another.

    Raises:
        ValueError: exchange intervals differ, or two members share a generator.
    """
    on_gpu = [m.state.dynamics.positions.device.type == "cuda" for m in members]
    if len(members) > 1 and all(on_gpu):
        return run_padded(members, steps)
    return _in_intervals(members, steps, _advance)


def run_padded(members: Sequence[Member], steps: int) -> list[ReplicaState]:
    """As ``run_together``, in torch with all members padded to the largest; for GPUs."""
    if not members:
        return []
    counts = [len(m.state.walker) for m in members]
    batch = _mixed(tuple(m.replicas.langevin.potential for m in members), tuple(counts))
    inner = members[0].replicas.langevin
    masses = batch.pad(
        [m.replicas.langevin.masses.expand(n, -1) for m, n in zip(members, counts, strict=True)],
        torch.inf,
    )
    steppings = {(m.replicas.langevin.time_step, m.replicas.langevin.friction) for m in members}
    if len(steppings) > 1:
        raise ValueError("time steps or frictions differ; give one batch the same")
    langevin = Langevin(batch, masses, inner.time_step, inner.friction)
    return _in_intervals(members, steps, partial(_advance_padded, batch, langevin))


@lru_cache(maxsize=4)
def _mixed(fields: tuple[ForceField, ...], counts: tuple[int, ...]) -> MixedForceField:
    """One object for the calls of a simulation: its tables are on the GPU already."""
    return MixedForceField(fields, counts)


def _in_intervals(
    members: Sequence[Member], steps: int, advance_all: Callable[..., list[DynamicsState]]
) -> list[ReplicaState]:
    """Alternates between steps of all members and exchanges within each."""
    intervals = {m.replicas.exchange_interval for m in members}
    if len(intervals) > 1:
        raise ValueError(f"exchange intervals {sorted(intervals)} differ; give one batch the same")
    if len({id(m.generator) for m in members}) < len(members):
        raise ValueError("two members share a generator; give each its own")
    done, interval = 0, max(intervals, default=steps)
    while done < steps:
        count = min(interval, steps - done)
        moved = [centred(dynamics) for dynamics in advance_all(members, count)]
        members = [
            replace(m, state=replace(m.state, dynamics=dynamics))
            for m, dynamics in zip(members, moved, strict=True)
        ]
        if count == interval:
            members = [replace(m, state=m.replicas.sweep(m.state, m.generator)) for m in members]
        done += count
    return [m.state for m in members]


def _advance(members: Sequence[Member], steps: int) -> list[DynamicsState]:
    jobs = [
        m.replicas.langevin.job(m.state.dynamics, m.replicas.rows_like(m.state), m.generator)
        for m in members
    ]
    advance([job for job in jobs if job is not None], steps, _threads(members))
    return [
        _alone(member, steps) if job is None else job_state(job)
        for member, job in zip(members, jobs, strict=True)
    ]


def _alone(member: Member, steps: int) -> DynamicsState:
    replicas, state = member.replicas, member.state
    rows = replicas.rows_like(state)
    return replicas.langevin.run(state.dynamics, rows, steps, member.generator)


def _advance_padded(
    batch: MixedForceField, langevin: Langevin, members: Sequence[Member], steps: int
) -> list[DynamicsState]:
    each = [vars(m.state.dynamics) for m in members]
    names = ("positions", "velocities", "forces")
    padded = {name: batch.pad([one[name] for one in each]) for name in names}
    state = DynamicsState(energy=torch.cat([one["energy"] for one in each]), **padded)
    temperature = torch.cat([m.replicas.rows_like(m.state) for m in members])
    draws = [drawing_from(m.generator) for m in members]

    def draw(count: int, x: Tensor) -> Tensor:
        parts = zip(draws, batch.split(x), strict=True)
        noise = [one(count, part).permute(1, 2, 0, 3) for one, part in parts]
        return batch.pad(noise).permute(2, 0, 1, 3)

    end = langevin.run_torch(state, temperature, steps, draw)
    parts = zip(*(batch.split(getattr(end, name)) for name in names), strict=True)
    energies = end.energy.split(batch.counts)
    return [
        DynamicsState(x, v, energy, f) for (x, v, f), energy in zip(parts, energies, strict=True)
    ]


def _threads(members: Sequence[Member]) -> int:
    return max((num_threads(m.replicas.langevin.potential) for m in members), default=1)
