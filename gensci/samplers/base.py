"""What every sampler is, and the one loop that runs them all.

A run is split into shards. Each is an independent population with random streams of its own, found
by name from the seed, the shard and the step; so a run that was killed needs only its last state to
continue to the same bits.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from gensci.core.errors import IncompatibleSampler
from gensci.core.packing import pack, unpack
from gensci.core.posterior import free_coordinates
from gensci.core.protocols import Progress, Proposal, Store, Target, Tensors
from gensci.core.random import stream
from gensci.core.registry import SAMPLERS
from gensci.core.results import SampleSet
from gensci.samplers.evaluate import Density, Draws, MicroBatch, device_of
from gensci.samplers.settings import check_positive, check_whole

Info = dict[str, float]
"""What a step has to report, by name."""

MICRO_BATCH = "micro-batch"


@dataclass(frozen=True)
class Sampler(ABC):
    """Settings of an algorithm, and its parts as functions of an explicit state.

    Attributes:
        name: the registered name.
        requires: capabilities, as ``target.method`` or ``proposal.method``.
        state_type: the dataclass of tensors and numbers that ``init`` and ``step`` return.
        shard_rows: how many rows a shard holds when nothing else is asked; None for all.
        walks: whether it moves samples in their coordinates; a target with ``walkable = False``
            does not allow that.
        frees: whether it works in coordinates without bounds, into which ``run`` then takes targets
            that tell bounds or periods.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]]
    state_type: ClassVar[type]
    shard_rows: ClassVar[int | None] = 256
    walks: ClassVar[bool] = False
    frees: ClassVar[bool] = False

    @abstractmethod
    def init(self, target: Density, proposal: Draws, n: int, generator: torch.Generator) -> Any:
        """Return the state before the first step of a shard of ``n`` rows."""

    @abstractmethod
    def step(
        self, state: Any, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Any, Info]:
        """Return the next state and what happened."""

    @abstractmethod
    def done(self, state: Any) -> bool:
        """Tell whether the shard needs no further step."""

    @abstractmethod
    def finish(self, state: Any, target: Density, proposal: Draws) -> SampleSet:
        """Return the shard: one row for each that was asked for, with unnormalised log-weights."""

    @abstractmethod
    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the joined result with ``rejected`` and ``verdict`` in its meta.

        Raises:
            GensciError: no row has any weight.
        """

    def fraction_done(self, state: Any) -> float:
        """Return how far the shard is, between 0 and 1, for the progress line."""
        return 1.0 if self.done(state) else 0.0

    def describe(self, state: Any) -> str:
        """Return a few words on the state for the progress line."""
        return self.name

    @classmethod
    def lacks(cls, target: Any, proposal: Any) -> list[str]:
        """Return the required capabilities that the target and the proposal do not have."""
        subjects = {"target": target, "proposal": proposal}
        lacking = [need for need in cls.requires if not _has(subjects, need)]
        if cls.walks and not getattr(target, "walkable", True):
            lacking.append("target.walkable")
        # A missing target is told before what the proposal lacks.
        return sorted(lacking, reverse=True)

    def check(self, target: Any, proposal: Any) -> None:
        """Raise an IncompatibleSampler that names the fitting samplers if something is lacking."""
        lacking = self.lacks(target, proposal)
        if not lacking:
            return
        role, _, method = lacking[0].partition(".")
        subject = target if role == "target" else proposal
        described = "which is missing" if subject is None else f"which {_label(subject)} lacks"
        fitting = [name for name in SAMPLERS if not SAMPLERS.get(name).lacks(target, proposal)]
        remedy = f"use one of: {', '.join(fitting)}" if fitting else "no sampler fits; give another"
        if lacking[0] == "target.walkable":
            raise IncompatibleSampler(
                f"sampler {self.name!r} moves samples, and {_label(target)} does not hold them "
                "together: it only weighs what a model draws",
                remedy,
            )
        raise IncompatibleSampler(
            f"sampler {self.name!r} needs a {role} with {method}(), {described}", remedy
        )

    def run(
        self,
        target: Target | None,
        proposal: Proposal,
        n: int,
        *,
        seed: int,
        store: Store | None = None,
        progress: Progress | None = None,
        shard_size: int | None = None,
        batch_size: int = 256,
        save_seconds: float = 30.0,
    ) -> SampleSet:
        """Return ``n`` samples with their weights.

        Args:
            target: the density to sample; may be None where the sampler needs none.
            proposal: where draws come from.
            n: how many samples to make; those of zero weight are dropped and counted in
                ``meta["rejected"]``.
            seed: the same seed and settings give the same bits.
            store: keeps shards and states, so that the same call continues a killed run.
            progress: called with finished samples, ``n`` and a message.
            shard_size: rows in a shard; None leaves it to the sampler.
            batch_size: rows evaluated at once; halved when memory runs out.
            save_seconds: how often the state of an unfinished shard is saved.

        Returns:
            Samples on the CPU. ``meta`` holds sampler, settings, seed, requested, kept, rejected
            and verdict.

        Raises:
            UsageError: a count cannot be used.
            IncompatibleSampler: the target or proposal lacks what the sampler needs.
            GensciError: every weight is zero.
        """
        self.check(target, proposal)
        for name, value in (("num_samples", n), ("batch_size", batch_size)):
            check_whole(name, value, 1)
        size = self.shard_rows if shard_size is None else shard_size
        if size is not None:
            check_whole("shard_size", size, 1)
        if save_seconds:
            check_positive("save_seconds", save_seconds)
        job = _Job(self, target, proposal, n, seed, store, progress, batch_size, save_seconds)
        rows = split_evenly(n, size)
        for index in range(len(rows)):
            job.finish_shard(index, rows)
        result = self.finalize(job.load_all(len(rows)), stream(seed, self.name, "finalize"))
        job.store.drop_state(MICRO_BATCH)
        return result.with_meta(
            sampler=self.name,
            settings=asdict(self),
            seed=seed,
            requested=n,
            kept=len(result),
            num_shards=len(rows),
            batch_size=job.batch.size,
        )


class MemoryStore:
    """A store for runs that nobody will resume."""

    def __init__(self) -> None:
        self._shards: dict[int, Tensors] = {}
        self._states: dict[str, Tensors] = {}

    def load_shard(self, index: int) -> Tensors | None:
        """Return a finished shard, or None."""
        return self._shards.get(index)

    def save_shard(self, index: int, tensors: Tensors) -> None:
        """Keep a finished shard."""
        self._shards[index] = dict(tensors)

    def load_state(self, name: str) -> Tensors | None:
        """Return an unfinished state, or None."""
        return self._states.get(name)

    def save_state(self, name: str, tensors: Tensors) -> None:
        """Keep an unfinished state."""
        self._states[name] = dict(tensors)

    def drop_state(self, name: str) -> None:
        """Forget a state."""
        self._states.pop(name, None)


class _Job:
    """One call of :meth:`Sampler.run`: what its shards share."""

    def __init__(
        self,
        sampler: Sampler,
        target: Any,
        proposal: Any,
        n: int,
        seed: int,
        store: Store | None,
        progress: Progress | None,
        batch_size: int,
        save_seconds: float,
    ) -> None:
        self.sampler, self.n, self.seed = sampler, n, seed
        self.store: Store = MemoryStore() if store is None else store
        self.progress = progress
        self.save_seconds = save_seconds
        # A resumed run goes on with the size to which memory had forced the killed one, because
        # the size decides how noise is shared out among draws.
        kept = self.store.load_state(MICRO_BATCH)
        size = batch_size if kept is None else min(batch_size, int(kept["size"]))
        self.batch = MicroBatch(size, self._remember_size)
        self.constrain: Callable[[SampleSet], SampleSet] = lambda samples: samples
        if sampler.frees:
            target, proposal, self.constrain = free_coordinates(target, proposal)
        self.target = Density(target, self.batch)
        self.proposal = Draws(proposal, self.batch)

    def _remember_size(self, size: int) -> None:
        self.store.save_state(MICRO_BATCH, {"size": torch.tensor(size)})

    def load_all(self, count: int) -> list[SampleSet]:
        """Return every shard as the store gives it back, whoever made it."""
        return [SampleSet.from_tensors(self._stored(index)) for index in range(count)]

    def _stored(self, index: int) -> Tensors:
        tensors = self.store.load_shard(index)
        if tensors is None:
            raise RuntimeError(f"the store did not keep shard {index}")
        return tensors

    def finish_shard(self, index: int, rows: list[int]) -> None:
        """Make shard ``index`` unless the store has it."""
        if self.store.load_shard(index) is None:
            shard = self._make(index, rows)
            self.store.save_shard(index, shard.to_tensors())
        self.store.drop_state(f"shard-{index:06d}")
        self._report(sum(rows[: index + 1]), f"shard {index + 1} of {len(rows)}")

    def _make(self, index: int, rows: list[int]) -> SampleSet:
        name = f"shard-{index:06d}"
        state, infos = self._restore(name) or (self._init(index, rows[index]), [])
        saved = time.monotonic()
        while not self.sampler.done(state):
            generator = self._stream(index, "step", len(infos))
            state, info = self.sampler.step(state, self.target, self.proposal, generator)
            infos.append(info)
            done = sum(rows[:index]) + int(rows[index] * self.sampler.fraction_done(state))
            self._report(done, self.sampler.describe(state))
            if time.monotonic() - saved >= self.save_seconds and not self.sampler.done(state):
                self._save(name, state, infos)
                saved = time.monotonic()
        shard = self.constrain(self.sampler.finish(state, self.target, self.proposal))
        steps = {**_columns(infos), "shard": torch.full((len(infos),), index)} if infos else {}
        return replace(shard, info={**shard.info, **steps})

    def _init(self, index: int, n: int) -> Any:
        return self.sampler.init(self.target, self.proposal, n, self._stream(index, "init"))

    def _stream(self, index: int, *names: str | int) -> torch.Generator:
        return stream(self.seed, self.sampler.name, "shard", index, *names)

    def _save(self, name: str, state: Any, infos: list[Info]) -> None:
        tensors = {f"state/{key}": value for key, value in pack(state).items()}
        tensors.update({f"info/{key}": value for key, value in _columns(infos).items()})
        self.store.save_state(name, tensors)

    def _restore(self, name: str) -> tuple[Any, list[Info]] | None:
        tensors = self.store.load_state(name)
        if tensors is None:
            return None
        packed = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
        columns = {k.removeprefix("info/"): v for k, v in tensors.items() if k.startswith("info/")}
        # A stored state does not say where the models live; one draw does.
        probe = self.proposal.sample(1, stream(self.seed, self.sampler.name, "probe"))
        state = unpack(self.sampler.state_type, packed, device_of(probe))
        lists = {key: value.tolist() for key, value in columns.items()}
        count = len(next(iter(lists.values())))
        return state, [{key: lists[key][i] for key in lists} for i in range(count)]

    def _report(self, done: int, message: str) -> None:
        if self.progress is not None:
            self.progress(done, self.n, message)


def split_evenly(n: int, size: int | None) -> list[int]:
    """Return the rows of each shard: as few of at most ``size`` as hold ``n``, near equal."""
    count = 1 if size is None else -(-n // size)
    return [n // count + (index < n % count) for index in range(count)]


def _columns(infos: list[Info]) -> Tensors:
    names = infos[0].keys() if infos else ()
    return {k: torch.tensor([info[k] for info in infos], dtype=torch.float64) for k in names}


def _has(subjects: dict[str, Any], need: str) -> bool:
    role, _, method = need.partition(".")
    return callable(getattr(subjects[role], method, None))


def _label(subject: Any) -> str:
    return type(subject).__name__
