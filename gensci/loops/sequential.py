"""Sequential neural likelihood: propose, simulate, train, sample, and again about what was found.

Round 1 simulates at points of a wide proposal (the prior, if nothing better is known); each later
round at draws of the posterior that the surrogate of the round before believes in, with a defensive
share of the wide proposal. All rounds train one surrogate of the likelihood, which does not depend
on where the points came from.

Every round is kept in a store: its simulations, its surrogate, its draws and its record. A run that
was killed at any instant goes on from there to the same bits.

Reference: Papamakarios, Sterratt and Murray (2019), arXiv:1805.07226.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.protocols import Progress, Store, Tensors
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.loops.rounds import (
    Clock,
    CountedLikelihood,
    Estimator,
    InferenceProblem,
    LoopSettings,
    PosteriorSampler,
    RoundRecord,
    SequentialResult,
    TrainingData,
    describe,
    posterior_change,
)
from gensci.loops.simulation_store import (
    PENDING,
    Simulations,
    SimulationStore,
    check_failures,
    read_text,
    text_tensor,
)


def run_rounds(
    problem: InferenceProblem,
    settings: LoopSettings,
    estimator: Estimator,
    sampler: PosteriorSampler,
    store: Store,
    *,
    seed: int,
    retry_failed: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> SequentialResult:
    """Run all rounds, or those that an earlier call with the same store left.

    Args:
        problem: What to infer from what.
        settings: Of the loop.
        estimator: Trains surrogates.
        sampler: Draws from their posteriors.
        store: Keeps simulations as shards, surrogates, draws and records as states.
        seed: Of all randomness.
        retry_failed: Simulate again what failed in the round that was not finished.
        progress: Told of simulations that are saved.
        say: Told a line on each round.

    Raises:
        SimulatorError: The simulator fails on everything or on too much.
        UsageError: The observation has another number of values than the simulator's data.
    """
    _check(problem)
    loop = _Loop(problem, settings, estimator, sampler, store, seed, progress)
    stopped = "all rounds done"
    for number in range(settings.rounds):
        record = loop.round(number, retry_failed)
        if say is not None:
            say(describe(record))
        if loop.settled(record):
            stopped = f"the posterior moved by {record.change:.3f} nats"
            break
    return loop.result(stopped)


class _Loop:
    """One call of `run_rounds`."""

    def __init__(
        self,
        problem: InferenceProblem,
        settings: LoopSettings,
        estimator: Estimator,
        sampler: PosteriorSampler,
        store: Store,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.problem, self.settings, self.estimator = problem, settings, estimator
        self.sampler, self.store, self.seed, self.progress = sampler, store, seed, progress
        self.simulations = SimulationStore(store, settings.sizes)
        self.done: list[Simulations] = []
        self.records: list[RoundRecord] = []
        self.draws: list[SampleSet] = []
        self.surrogate: Any = None
        self._extra_calls = 0  # of the surrogate, for points of this round

    def round(self, number: int, retry_failed: bool) -> RoundRecord:
        """Make round `number`, or read what an earlier call made of it."""
        clock = Clock(self.problem.simulator)
        self._extra_calls = 0
        known = self.store.load_state(f"round-{number:04d}")
        with clock.part("simulate"):
            rows, calls = self._simulate(number, retry_failed and known is None)
        self.done.append(rows)
        with clock.part("train"):
            previous, self.surrogate = self.surrogate, self._trained(number)
        if known is None:
            known = self._sample(number, previous, clock, rows, calls)
            self.store.save_state(f"round-{number:04d}", known)
        record = RoundRecord(**read_text(known["record"]))
        self.records.append(record)
        columns = {name: value for name, value in known.items() if name != "record"}
        self.draws.append(SampleSet.from_tensors(columns, {"verdict": record.verdict}))
        return record

    def settled(self, record: RoundRecord) -> bool:
        """Whether the stop rule holds."""
        return (
            record.change is not None
            and record.number + 1 >= self.settings.least_rounds
            and record.change < self.settings.stop_change
        )

    def result(self, stopped: str) -> SequentialResult:
        """The draws of the last surrogate, as many as were asked for, and all that led to them."""
        known = self.store.load_state("posterior")
        if known is None:
            counted = CountedLikelihood(self.surrogate.log_likelihood)
            samples = self._draw(counted, self.settings.num_samples, "posterior")
            note = {"verdict": samples.meta.get("verdict", {}), "surrogate_calls": counted.calls}
            known = {**samples.to_tensors(), "note": text_tensor(note)}
            self.store.save_state("posterior", known)
        note = read_text(known["note"])
        columns = {name: value for name, value in known.items() if name != "note"}
        return SequentialResult(
            posterior=SampleSet.from_tensors(columns, note),
            surrogate=self.surrogate,
            simulations=Simulations.concatenate(self.done),
            records=tuple(self.records),
            stopped=stopped,
            rounds=tuple(draws.x["theta"] for draws in self.draws),
        )

    def _simulate(self, number: int, retry_failed: bool) -> tuple[Simulations, int]:
        """The simulations of a round, and how often the simulator was called for them."""
        n = self.settings.sizes[number]
        known = self.simulations.load(number)
        there = 0 if known is None else int((known.status != PENDING).sum())
        before = self.problem.simulator.calls
        generator = stream(self.seed, "seeds", number)
        rows = self.simulations.complete(
            number,
            self._points(number, n) if known is None else known.theta,
            torch.randint(2**62, (n,), generator=generator),
            self.problem.simulator,
            retry_failed=retry_failed,
            progress=self.progress,
        )
        check_failures(rows, self.settings.max_failed)
        return rows, there + self.problem.simulator.calls - before

    def _draw(
        self,
        likelihood: CountedLikelihood,
        n: int,
        purpose: str,
        number: int = 0,
        temperature: float = 1.0,
    ) -> SampleSet:
        """Draws of the present surrogate's posterior."""
        return self.sampler.draw(
            likelihood,
            n,
            temperature=temperature,
            seed=_seed(self.seed, purpose, number),
            candidates=torch.cat([rows.theta[rows.usable] for rows in self.done]),
        )

    def _points(self, number: int, n: int) -> Tensor:
        """(n, d) points of a round."""
        wide = self.problem.wide or self.problem.prior.sample
        generator = stream(self.seed, "points", number)
        if number == 0:
            return wide(n, generator)
        share = round(self.settings.defensive * n)
        draws = self.draws[-1].x["theta"]
        if self.settings.temperature != 1.0 or n - share > len(draws):
            counted = CountedLikelihood(self.surrogate.log_likelihood)
            samples = self._draw(counted, n - share, "points", number, self.settings.temperature)
            self._extra_calls += counted.calls
            draws = samples.resample("systematic", generator).x["theta"]
        chosen = torch.randperm(len(draws), generator=generator)[: n - share]
        return torch.cat([wide(share, generator), draws[chosen].double()])

    def _trained(self, number: int) -> Any:
        """The surrogate after a round, as the store gives it back, whoever trained it."""
        name = f"surrogate-{number:04d}"
        tensors = self.store.load_state(name)
        if tensors is None:
            rows = Simulations.concatenate(self.done)
            rows = rows.select(rows.usable)
            data = TrainingData(
                rows.theta, rows.x, rows.round, self.problem.observation, self.problem.noise
            )
            fitted = self.estimator.fit(data, self.surrogate, _seed(self.seed, "train", number))
            tensors = self.estimator.pack(fitted)
            self.store.save_state(name, tensors)
        return self.estimator.unpack(tensors)

    def _sample(
        self, number: int, previous: Any, clock: Clock, rows: Simulations, calls: int
    ) -> Tensors:
        """Draws of the posterior after a round and its record, as tensors."""
        counted = CountedLikelihood(self.surrogate.log_likelihood)
        with clock.part("sample"):
            samples = self._draw(counted, self.settings.draws, "sample", number)
            generator = stream(self.seed, "resample", number)
            samples = samples.resample("systematic", generator)
            change = None
            if previous is not None:
                theta = samples.x["theta"]
                new, old = counted(theta), previous.log_likelihood(theta)
                counted.calls += len(theta)
                change = posterior_change(new, old, samples.log_weight)
        record = RoundRecord(
            number=number,
            simulator_calls=calls,
            failed={name: k for name, k in rows.counts.items() if name != "done"},
            errors=rows.errors,
            surrogate_calls=counted.calls + self._extra_calls,
            change=change,
            wall_seconds=clock.wall,
            cpu_seconds=clock.cpu,
            training=dict(getattr(self.surrogate, "report", {})),
            verdict=dict(samples.meta.get("verdict", {})),
        )
        return {**samples.to_tensors(), "record": text_tensor(asdict(record))}


def _seed(seed: int, *names: str | int) -> int:
    """A seed of a part of the run."""
    return int(torch.randint(2**62, (1,), generator=stream(seed, *names)))


def _check(problem: InferenceProblem) -> None:
    """Refuse an observation that cannot be inferred from."""
    x = problem.observation
    if x.ndim != 1 or len(x) != problem.simulator.dim:
        raise UsageError(
            f"the observation has {tuple(x.shape)} values, the simulator makes "
            f"{problem.simulator.dim}",
            "give an observation of the simulator's shape",
        )
    if not x.isfinite().all():
        bad = int((~x.isfinite()).nonzero()[0])
        raise UsageError(f"the observation holds NaN or infinity (value {bad})", "give finite data")
