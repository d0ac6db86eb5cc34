"""What was simulated, kept round by round: parameters, data, seeds, and how each simulation ended.

A finished round lies in numbered shards. The rows of an unfinished one are saved as a state every
few seconds, so that a run killed at any instant loses nothing that its progress told of.
Simulations that failed stay, with their reason, and are counted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from gensci.core.errors import GensciError
from gensci.core.protocols import Progress, Store, Tensors

STATUSES = ("done", "failed", "timed out", "wrong shape", "not finite")
DONE, FAILED, TIMED_OUT, WRONG_SHAPE, NOT_FINITE = range(len(STATUSES))
PENDING = -1
_SHARD_ROWS = 1000
_HOPELESS = 8  # simulations; a simulator that fails on all of the first ones is not asked further


class SimulatorError(GensciError):
    """The simulator fails on everything, or on too much."""


Report = Callable[[Sequence[int], Tensor, Sequence[int], str], None]
"""Told of finished rows: their numbers, their (k, dim) data (NaN where there are none), their
status and one line of what went wrong."""


class RowSimulator(Protocol):
    """What makes data of parameters, row by row, and never raises for a row that fails."""

    dim: int
    calls: int

    def run(self, theta: Tensor, seeds: Tensor, report: Report) -> None:
        """Simulate (n, d) points with (n,) seeds, in any order; each row is reported once."""
        ...


@dataclass(frozen=True)
class Simulations:
    """Simulations of one round or of several.

    Attributes:
        theta: (n, d) float64 parameters.
        x: (n, dim) float64 data, NaN in rows without.
        seed: (n,) int64, what the simulator's random numbers were started with.
        status: (n,) int64, index into `STATUSES`; -1 where still to be simulated.
        round: (n,) int64, counted from 0.
        errors: How often simulations ended with which line.
    """

    theta: Tensor
    x: Tensor
    seed: Tensor
    status: Tensor
    round: Tensor
    errors: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def usable(self) -> Tensor:
        """(n,) booleans: the simulation came to its end with finite data of the right shape."""
        return self.status == DONE

    @property
    def counts(self) -> dict[str, int]:
        """Number of simulations by status, those without any left out."""
        found = {name: int((self.status == k).sum()) for k, name in enumerate(STATUSES)}
        return {name: count for name, count in found.items() if count}

    def select(self, rows: Tensor) -> Simulations:
        """The given rows; the lines of errors stay those of all."""
        columns = {name: value[rows] for name, value in self.to_tensors().items()}
        return Simulations(**columns, errors=self.errors)

    def to_tensors(self) -> Tensors:
        """The columns by name, without the lines of errors."""
        names = ("theta", "x", "seed", "status", "round")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def pending(cls, theta: Tensor, seed: Tensor, dim: int, number: int) -> Simulations:
        """Rows of round `number` that are still to be simulated."""
        n = len(theta)
        x = torch.full((n, dim), torch.nan, dtype=torch.float64)
        status, rounds = torch.full((n,), PENDING), torch.full((n,), number)
        return cls(theta, x, seed, status, rounds)

    @classmethod
    def concatenate(cls, parts: Sequence[Simulations]) -> Simulations:
        """The rows of several in order."""
        tables = [part.to_tensors() for part in parts]
        joined = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
        errors: Counter[str] = Counter()
        for part in parts:
            errors.update(part.errors)
        return cls(**joined, errors=dict(errors))


class SimulationStore:
    """The simulations of a run, in a store that survives kills.

    Args:
        store: Keeps shards and states.
        sizes: Number of simulations of each round; they decide which shard holds what.
        save_seconds: How often the rows of an unfinished round are saved.
    """

    def __init__(self, store: Store, sizes: Sequence[int], save_seconds: float = 2.0) -> None:
        self.store, self.sizes, self.save_seconds = store, tuple(sizes), save_seconds

    def load(self, number: int) -> Simulations | None:
        """Round `number` as far as it is known; None where nothing of it is."""
        finished = self._finished(number)
        if finished is not None:
            return finished
        state = self.store.load_state(_state(number))
        return None if state is None else _unpack(state)

    def _finished(self, number: int) -> Simulations | None:
        """Round `number` from its shards, if they are all there."""
        shards = [self.store.load_shard(index) for index in self._shards(number)]
        if any(shard is None for shard in shards):
            return None
        return Simulations.concatenate([_unpack(shard) for shard in shards if shard])

    def complete(
        self,
        number: int,
        theta: Tensor,
        seeds: Tensor,
        simulator: RowSimulator,
        *,
        retry_failed: bool = False,
        progress: Progress | None = None,
    ) -> Simulations:
        """Simulate what is missing of a round and keep it.

        Args:
            number: Of the round, from 0.
            theta: (n, d) points; where part of the round is known, its own points are kept.
            seeds: (n,) int64.
            simulator: Makes the data.
            retry_failed: Simulate again what failed earlier.
            progress: Told of simulations that are saved.

        Returns:
            All rows of the round.

        Raises:
            SimulatorError: The first simulations all fail; nothing of them is kept.
        """
        rows = self.load(number)
        if rows is None:
            rows = Simulations.pending(theta, seeds, simulator.dim, number)
        if retry_failed:
            rows = _reopened(rows)
        missing = (rows.status == PENDING).nonzero().squeeze(1)
        if len(missing):
            rows = self._simulate(rows, missing, simulator, progress)
        elif self._finished(number) is None:  # ended after the last row, before the first shard
            self._write(rows)
        return rows

    def _simulate(
        self, rows: Simulations, missing: Tensor, simulator: RowSimulator, progress: Progress | None
    ) -> Simulations:
        journal = _Journal(self.store, rows, self.save_seconds, progress)

        def report(local: Sequence[int], x: Tensor, status: Sequence[int], error: str) -> None:
            journal.note(missing[torch.as_tensor(local)], x, torch.as_tensor(status), error)

        try:
            simulator.run(rows.theta[missing], rows.seed[missing], report)
        finally:
            journal.save()
        self._write(journal.rows)
        return journal.rows

    def _write(self, rows: Simulations) -> None:
        """Put a finished round into its shards."""
        number = int(rows.round[0])
        pieces = torch.arange(len(rows)).split(_SHARD_ROWS)
        for position, (index, piece) in enumerate(zip(self._shards(number), pieces, strict=True)):
            part = rows.select(piece)
            self.store.save_shard(index, _pack(part if position == 0 else replace(part, errors={})))
        self.store.drop_state(_state(number))

    def _shards(self, number: int) -> range:
        """Numbers of the shards of a round."""
        pieces = [-(-size // _SHARD_ROWS) for size in self.sizes]
        begin = sum(pieces[:number])
        return range(begin, begin + pieces[number])


class _Journal:
    """The rows of a round while they are being simulated."""

    def __init__(
        self, store: Store, rows: Simulations, save_seconds: float, progress: Progress | None
    ) -> None:
        copies = {name: value.clone() for name, value in rows.to_tensors().items()}
        self.rows = Simulations(**copies, errors=dict(rows.errors))
        self.store, self.save_seconds, self.progress = store, save_seconds, progress
        self.seen = 0
        self.next_save = time.monotonic() + save_seconds

    def note(self, rows: Tensor, x: Tensor, status: Tensor, error: str) -> None:
        """Enter finished rows; raise where all that were ever tried failed."""
        status = torch.where((status == DONE) & ~x.isfinite().all(1), NOT_FINITE, status)
        self.rows.x[rows], self.rows.status[rows] = x, status
        failed = int((status != DONE).sum())
        if failed:
            line = error or "the data hold NaN or infinity"
            self.rows.errors[line] = self.rows.errors.get(line, 0) + failed
        self.seen += len(rows)
        if self.seen >= min(_HOPELESS, len(self.rows)) and not self.rows.usable.any():
            raise SimulatorError(
                f"the simulator failed on the first {self.seen} simulations ({_told(self.rows)})",
                "mend the simulator or the prior and run the same command again",
            )
        if time.monotonic() >= self.next_save:
            self.save()

    def save(self) -> None:
        """Keep what is there, unless it is nothing of use, and tell of it."""
        if not self.rows.usable.any():
            return
        begun = time.monotonic()
        self.store.save_state(_state(int(self.rows.round[0])), _pack(self.rows))
        done = int((self.rows.status != PENDING).sum())
        if self.progress is not None:
            self.progress(done, len(self.rows), "simulations")
        now = time.monotonic()
        # large data take a while to write, which must not become the main work
        self.next_save = now + max(self.save_seconds, 20 * (now - begun))


def check_failures(rows: Simulations, largest_share: float) -> None:
    """Refuse a round in which too much failed.

    Raises:
        SimulatorError: More than this share of the simulations failed.
    """
    failed = int((~rows.usable).sum())
    if failed > largest_share * len(rows):
        raise SimulatorError(
            f"{failed} of {len(rows)} simulations of round {int(rows.round[0]) + 1} failed "
            f"({_told(rows)})",
            f"those that worked are kept: mend the simulator and run the same command with "
            f"--retry-failed, or allow it by --max-failed {failed / len(rows):.2f}",
        )


def _told(rows: Simulations) -> str:
    """The most frequent line of error."""
    return max(rows.errors, key=rows.errors.__getitem__) if rows.errors else "no reason known"


def _reopened(rows: Simulations) -> Simulations:
    """The same rows, those that failed to be simulated again."""
    again = (rows.status != PENDING) & ~rows.usable
    if not again.any():
        return rows
    return replace(rows, status=torch.where(again, PENDING, rows.status), errors={})


def _state(number: int) -> str:
    return f"simulating-{number:04d}"


def _pack(rows: Simulations) -> Tensors:
    return {**rows.to_tensors(), "errors": text_tensor(rows.errors)}


def _unpack(tensors: Tensors) -> Simulations:
    columns = {name: value for name, value in tensors.items() if name != "errors"}
    return Simulations(**columns, errors=read_text(tensors["errors"]))


def text_tensor(content: object) -> Tensor:
    """Anything that JSON can hold, as bytes in a tensor."""
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


def read_text(tensor: Tensor) -> dict:
    """What `text_tensor` was given."""
    return json.loads(bytes(tensor.tolist()).decode())
