"""The posterior of a simulator that a user brings: rounds, exact weights, checks."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensci.commands.infer_calibration import Calibration, Judged, check_calibration
from gensci.commands.infer_checks import Predictive, check_predictive
from gensci.commands.infer_exact import Exact, correct
from gensci.commands.infer_inputs import UserLogLikelihood, source_of
from gensci.commands.infer_plan import Plan, Subject
from gensci.commands.infer_run import (
    PACKAGES,
    Found,
    Say,
    Stopwatch,
    check_packages,
    conduct,
    drawable,
    tidied,
    told,
)
from gensci.commands.record import begin_record
from gensci.core.protocols import Progress, Store
from gensci.core.results import SampleSet
from gensci.io.figures import Draws
from gensci.io.posterior import PosteriorExtras
from gensci.io.posterior_summary import Labels
from gensci.io.progress import ProgressReport
from gensci.io.run_folder import RunFolder, read_record
from gensci.loops.fitting import FlowEstimator, SurrogateSampler
from gensci.loops.rounds import InferenceProblem, LoopSettings, SequentialResult
from gensci.loops.sequential import run_rounds
from gensci.loops.simulate_rows import UserSimulator
from gensci.models.neural_likelihood import NeuralLikelihood
from gensci.samplers.base import MemoryStore

COMMAND = "infer"


def infer_into(path: Path, subject: Subject, plan: Plan, argv: list[str], say: Say) -> SampleSet:
    """Infer into a run folder, continuing where an earlier call was stopped.

    Everything that can be wrong with the input is found before the first write.

    Args:
        path: The run folder, new, empty or of the same run.
        subject: What the user brings.
        plan: How to infer.
        argv: The command line, for the record.
        say: Shows one line to the user.

    Raises:
        UsageError: An input or a setting cannot be used.
        SimulatorError: The simulator fails on everything or on too much.
        RunFolderError: The folder is foreign, of other settings, or cannot be written.
    """
    check_packages()
    earlier = read_record(path, COMMAND)
    settings = {**subject.facts(), **plan.facts()}
    record = begin_record(path, earlier, COMMAND, settings, plan.seed, argv, PACKAGES)
    with _simulator(subject, plan) as simulator:
        folder = RunFolder(path, {**record, **_origin(subject)})
        folder.claim()
        for line in _changes(subject, earlier):
            say(f"warning: {line}")
        say(_headline(subject, plan, folder.record["seed"], earlier))
        watch = Stopwatch(record.get("seconds"), simulator)
        with ProgressReport(path.name) as progress:
            work = _Inference(subject, plan, folder, simulator, folder.record["seed"], progress)
            found = conduct(folder, watch, lambda: work.find(_saving(say, folder, watch)))
        for line in told(found, path, folder.record["seconds"]):
            say(line)
    return _with_meta(found, folder.record["seed"], folder.record["seconds"])


def infer_here(subject: Subject, plan: Plan, say: Say) -> SampleSet:
    """Infer in memory; nothing is written."""
    check_packages(("normflows", "scipy"))
    seed = secrets.randbits(32) if plan.seed is None else plan.seed
    with _simulator(subject, plan) as simulator:
        watch = Stopwatch(elsewhere=simulator)
        found = _Inference(subject, plan, MemoryStore(), simulator, seed, None).find(say)
    return _with_meta(found, seed, watch.read())


def _simulator(subject: Subject, plan: Plan) -> UserSimulator:
    return UserSimulator(subject.simulate, subject.observation.shape, plan.calls)


def _with_meta(found: Found, seed: int, seconds: Mapping[str, float]) -> SampleSet:
    meta = {"seed": seed, "counts": dict(found.counts), "seconds": dict(seconds), **found.facts}
    return found.samples.with_meta(**meta, parameters=list(found.labels.parameters))


def _saving(say: Say, folder: RunFolder, watch: Stopwatch) -> Say:
    """Show a line, and note in the record how long it took so far."""

    def told_and_saved(line: str) -> None:
        say(line)
        folder.save(seconds=watch.read())

    return told_and_saved


def _origin(subject: Subject) -> dict[str, Any]:
    """Where the inputs came from; these may change between calls of one run."""
    source = source_of(subject.simulate)
    digest = None if source is None else hashlib.sha256(source.read_bytes()).hexdigest()
    paths = {k: v for k, v in subject.spelled.items() if k in ("observation", "prior")}
    return {"inputs": {**paths, "simulator_file": str(source), "simulator_sha256": digest}}


def _changes(subject: Subject, earlier: dict[str, Any] | None) -> list[str]:
    before = ((earlier or {}).get("inputs") or {}).get("simulator_sha256")
    if before is None or before == _origin(subject)["inputs"]["simulator_sha256"]:
        return []
    return ["the simulator's file has changed; simulations that were made before are kept"]


def _headline(subject: Subject, plan: Plan, seed: int, earlier: dict[str, Any] | None) -> str:
    sizes = plan.loop.sizes
    each = f"{sizes[0]}" if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    outcome = earlier and earlier["outcome"]
    verb = {None: "inferring", "complete": "complete before, reading"}.get(outcome, "continuing")
    return (
        f"{subject.facts()['simulator']}: {verb} {subject.prior.dim} parameters from "
        f"{subject.observation.size} data in {len(sizes)} rounds of {each} simulations, seed {seed}"
    )


class _Inference:
    """One inference, with what it needs at hand."""

    def __init__(
        self,
        subject: Subject,
        plan: Plan,
        store: Store,
        simulator: UserSimulator,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.subject, self.plan, self.store = subject, plan, store
        self.simulator, self.seed, self.progress = simulator, seed, progress
        self.estimator = FlowEstimator(plan.model, periods=subject.prior.periods)
        self.sampler = SurrogateSampler(subject.prior, plan.walks)

    def find(self, say: Say) -> Found:
        """Run the rounds, correct the posterior where that can be done, and check it."""
        result = run_rounds(
            InferenceProblem(self.subject.prior, self.subject.data, self.simulator),
            self.plan.loop, self.estimator, self.sampler, self.store, seed=self.seed,
            retry_failed=self.plan.retry_failed, progress=self.progress, say=say,
        )  # fmt: skip
        say(f"no more rounds: {result.stopped}")
        surrogate = tidied(result.posterior)
        exact = self._exact(surrogate, result.surrogate.log_likelihood, say)
        samples = surrogate if exact is None else exact.posterior
        checks = _Checks(self._predictive(samples), tuple(self._calibrations(result, say)))
        return self._found(result, samples, exact, checks)

    def _found(
        self, result: SequentialResult, samples: SampleSet, exact: Exact | None, checks: _Checks
    ) -> Found:
        prior = self.subject.prior
        theta = samples.x["theta"]
        value = exact.log_likelihood if exact else _surrogate_values(result.surrogate, theta)
        extras = PosteriorExtras(
            log_likelihood=value,
            log_prior=prior.log_prob(theta),
            khat=None if exact is None else exact.verdict["khat"],
            evidence=None if exact is None else exact.evidence,
            observed={"x": self.subject.observation},
            attributes={"simulator": self.subject.facts()["simulator"], "seed": self.seed},
        )
        rounds = {f"round {k + 1}": Draws(draws.numpy()) for k, draws in enumerate(result.rounds)}
        overlay = {}
        if exact is not None:
            rounds["exact"] = drawable(samples)
            overlay["surrogate"] = drawable(result.posterior)
        counts = _counts(result, exact, checks)
        verdict = _verdict(result, samples, exact, checks, self.plan.loop)
        return Found(
            samples=samples.with_meta(verdict=verdict),
            labels=Labels(prior.names, periods=prior.periods),
            extras=extras,
            records=result.records,
            rounds=rounds,
            overlay=overlay,
            counts=counts,
            calls=", ".join(f"{count:,} {name} calls" for name, count in counts.items()),
            facts={"stopped": result.stopped, **_failures(result), **checks.facts()},
            lines=checks.lines(),
            pictures=checks.pictures(),
        )

    def _exact(
        self, draws: SampleSet, surrogate: Callable[[Tensor], Tensor], say: Say
    ) -> Exact | None:
        """The surrogate's posterior corrected by the user's likelihood, where there is one."""
        if self.subject.log_likelihood is None:
            return None
        calls = self.plan.calls
        exact = UserLogLikelihood(self.subject.log_likelihood, calls.batched, calls.array)
        return correct(
            draws, self.subject.prior, surrogate, exact, self.plan.exact, self.store, self.seed, say
        )

    def _predictive(self, samples: SampleSet) -> Predictive | None:
        if self.plan.predictive == 0:
            return None
        return check_predictive(
            samples, self.subject.data, self.plan.predictive, self.store, self.simulator,
            self.seed, self.progress,
        )  # fmt: skip

    def _calibrations(self, result: SequentialResult, say: Say) -> list[Calibration]:
        """Of the surrogate of the first round over the prior, and of the last about the data."""
        kinds = [(False, self.plan.calibration), (True, self.plan.local_calibration)]
        found = []
        for local, number in kinds:
            if number:
                say(f"{number} runs of {'the last' if local else 'the first'} surrogate")
                judged = self._judged(result, local)
                found.append(
                    check_calibration(
                        judged, self.subject.prior, number, self.store, self.simulator, self.seed,
                        local=local, progress=self.progress,
                    )
                )  # fmt: skip
        return found

    def _judged(self, result: SequentialResult, local: bool) -> Judged:
        tensors = self.store.load_state("surrogate-0000")
        last = local or tensors is None
        surrogate = result.surrogate if last else self.estimator.unpack(tensors)
        summary = getattr(surrogate, "summary", None)
        summarise = summary.summarise if summary is not None else _same

        def rows(x: Tensor, theta: Tensor) -> Tensor:
            return surrogate.log_prob(summarise(x), theta)

        draws = result.posterior.x["theta"] if last else result.rounds[0]
        words = "the last surrogate" if last else "the first surrogate"
        return Judged(words, rows, self.subject.data, draws.double(), summarise)


@dataclass(frozen=True)
class _Checks:
    """What the checks of an inference found."""

    predictive: Predictive | None
    calibrations: tuple[Calibration, ...]

    def facts(self) -> dict[str, Any]:
        """For `run.json`."""
        found: dict[str, Any] = {c.name.replace("-", "_"): c.facts() for c in self.calibrations}
        if self.predictive is not None:
            found["predictive"] = self.predictive.facts()
        return found

    def lines(self) -> tuple[str, ...]:
        """For the user."""
        first = () if self.predictive is None else (self.predictive.line(),)
        return (*first, *(line for c in self.calibrations for line in c.lines()))

    def pictures(self) -> tuple[Callable[[Path], None], ...]:
        """What writes their files."""
        writers = [c.write for c in self.calibrations]
        return (*writers, *([] if self.predictive is None else [self.predictive.write]))

    def complaints(self) -> list[str]:
        """What they find wrong, in a few words each."""
        told = [f"{c.words} is not calibrated" for c in self.calibrations if not c.good]
        if self.predictive is not None and self.predictive.check.surprising():
            told.append("the observation is unlike its predictions")
        return told


def _same(x: Tensor) -> Tensor:
    return x


def _surrogate_values(surrogate: NeuralLikelihood, theta: Tensor) -> Tensor:
    with torch.no_grad():
        return surrogate.log_likelihood(theta.double())


def _counts(result: SequentialResult, exact: Exact | None, checks: _Checks) -> dict[str, int]:
    """Calls by kind; the simulator's are told apart by what they were for."""
    rounds = sum(record.simulator_calls for record in result.records)
    surrogate = sum(record.surrogate_calls for record in result.records)
    surrogate += int(result.posterior.meta.get("surrogate_calls", 0))
    surrogate += sum(c.calls for c in checks.calibrations)
    predictive = checks.predictive
    extra = 0 if predictive is None else len(predictive.predicted) + predictive.failed
    extra += sum(c.report.runs + c.report.failed for c in checks.calibrations)
    if exact is not None:
        surrogate += exact.calls["surrogate"]
    counts = {"simulator": rounds + extra, "surrogate": surrogate}
    return counts | {"exact": 0 if exact is None else exact.calls["exact"]}


def _failures(result: SequentialResult) -> dict[str, Any]:
    """Simulations by how they ended, and the lines of those that failed."""
    rows = result.simulations
    return {"simulations": rows.counts, "errors": rows.errors}


def _verdict(
    result: SequentialResult,
    samples: SampleSet,
    exact: Exact | None,
    checks: _Checks,
    loop: LoopSettings,
) -> dict[str, Any]:
    """The numbers on the samples and what to make of them."""
    if exact is not None:
        return {**exact.verdict, "corrected": True}
    last = result.records[-1]
    told = checks.complaints()
    if last.change is not None and last.change > max(5 * loop.stop_change, 0.1):
        told.append(f"the last round still moved the posterior by {last.change:.2f} nats: go on")
    before = "drawn from the surrogate, which no exact likelihood corrects"
    judged = "; ".join(told) or _reassurance(checks)
    known = result.posterior.meta.get("verdict", {})
    numbers = {name: known.get(name) for name in ("ess", "ess_fraction", "rhat", "acceptance")}
    return {
        **numbers, "khat": None, "log_z": None, "log_z_error": None, "corrected": False,
        "advice": f"{before}; {judged}",
    }  # fmt: skip


def _reassurance(checks: _Checks) -> str:
    if checks.calibrations:
        return "its runs are calibrated"
    return "--calibration 300 judges it by as many more simulations"
