"""Replica exchange of several molecules in one batch, each with the bits it would have alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..forcefield.stepping import advance
from .langevin import centred, job_state, num_threads
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
    not leave threads idle. Members without the C kernel are advanced one after another.

    Raises:
        ValueError: exchange intervals differ, or two members share a generator.
    """
    if not members:
        return []
    intervals = {m.replicas.exchange_interval for m in members}
    if len(intervals) > 1:
        raise ValueError(f"exchange intervals {sorted(intervals)} differ; give one batch the same")
    if len({id(m.generator) for m in members}) < len(members):
        raise ValueError("two members share a generator; give each its own")
    done, interval = 0, intervals.pop()
    while done < steps:
        count = min(interval, steps - done)
        members = _advance(members, count)
        if count == interval:
            members = [replace(m, state=_exchanged(m)) for m in members]
        done += count
    return [m.state for m in members]


def _advance(members: Sequence[Member], steps: int) -> list[Member]:
    jobs = [
        m.replicas.langevin.job(m.state.dynamics, m.replicas.rows_like(m.state), m.generator)
        for m in members
    ]
    advance([job for job in jobs if job is not None], steps, _threads(members))
    moved = []
    for member, job in zip(members, jobs, strict=True):
        state, langevin = member.state, member.replicas.langevin
        if job is None:
            rows = member.replicas.rows_like(state)
            dynamics = langevin.run(state.dynamics, rows, steps, member.generator)
        else:
            dynamics = job_state(job)
        moved.append(replace(member, state=replace(state, dynamics=centred(dynamics))))
    return moved


def _exchanged(member: Member) -> ReplicaState:
    if member.replicas.num_temperatures == 1:
        return member.state
    return member.replicas.exchange(member.state, member.generator)


def _threads(members: Sequence[Member]) -> int:
    return max(num_threads(m.replicas.langevin.potential) for m in members)
