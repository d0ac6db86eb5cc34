"""The posterior of a LISA observation into a run folder: `gensci infer --system lisa:mbhb`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensci.commands.infer_inputs import load_prior, parse_simulations, settings_of
from gensci.commands.infer_lisa_check import ResidualCheck, check_residuals
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
from gensci.commands.lisa_proposals import lisa_labels
from gensci.commands.record import begin_record
from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.core.results import SampleSet, log_or_none
from gensci.core.weights import LogZ
from gensci.io.figures import Draws
from gensci.io.posterior import PosteriorExtras
from gensci.io.run_folder import RunFolder, read_record
from gensci.loops.lisa_inference import LisaResult, LisaSettings, infer_lisa, usual_settings
from gensci.loops.lisa_surrogate import save_surrogate, unfolded
from gensci.loops.rounds import RoundRecord
from gensci.loops.simulation_store import read_text, text_tensor
from gensci.samplers.verdict import importance_advice
from gensci.sims.lisa import PARAMETERS
from gensci.systems.lisa_coordinates import SIMPLE
from gensci.systems.lisa_noise import Gaussian
from gensci.systems.lisa_observation import Observation, load_observation, make_observation
from gensci.systems.lisa_problem import Problem, load_problem
from gensci.systems.resolve import resolve_one

SURROGATE = "surrogate"
PREDICTIVE = 50
DISAGREE = 1.2  # R-hat of the walkers
UNSETTLED = 1.0  # nats by which the posterior moved in the last round


@dataclass(frozen=True)
class LisaSubject:
    """One observation and what is known before.

    Attributes:
        problem: Setting, prior, kind of noise.
        observation: The data.
        name: Of the run, from the problem or the file.
        injected: Whether the data are the problem's own.
    """

    problem: Problem
    observation: Observation
    name: str
    injected: bool = False

    @classmethod
    def of(cls, problem: str | None, observation: str | None, prior: str | None) -> LisaSubject:
        """Read what was named.

        Raises:
            UsageError: Too little is given, a file cannot be read, the observation was taken
                otherwise than the problem's (both values are named), or the prior does not fit.
        """
        if observation is None:
            known = _with_prior(load_problem(problem or "loud"), prior)
            return cls(known, make_observation(known), known.name, injected=True)
        data = load_observation(observation)
        name = Path(observation).stem
        if problem is not None:
            known = _with_prior(load_problem(problem), prior)
            data.check(known.setting, f"problem {known.name!r}")
            return cls(known, data, name)
        if prior is None:
            raise UsageError(
                f"--observation {observation} needs a prior",
                "give --prior prior.json, or --problem for the prior of a shipped one",
            )
        nothing = torch.full((len(PARAMETERS),), math.nan, dtype=torch.float64)
        known = Problem(
            name=name, description=observation, setting=data.setting, prior=lisa_prior(prior),
            truth=nothing, noise=Gaussian(), seed=0, snr=math.nan,
        )  # fmt: skip
        return cls(known, data, name)

    def facts(self) -> dict[str, Any]:
        """What of it decides the numbers."""
        return {
            "system": "lisa:mbhb",
            "problem": self.problem.name,
            "prior": self.problem.prior.to_json(),
            "noise": repr(self.problem.noise) if _has_fields(self.problem) else self.kind,
            "setting": self.observation.setting.to_json(),
            **self._source(),
        }

    def _source(self) -> dict[str, Any]:
        """What tells the data; injections differ in their last bits with the number of threads."""
        if self.injected:
            return {"truth": self.problem.truth.tolist(), "noise_seed": self.problem.seed}
        data = torch.view_as_real(self.observation.data).contiguous().numpy()
        return {"observation_sha256": hashlib.sha256(data.tobytes()).hexdigest()}

    @property
    def kind(self) -> str:
        """Of the noise."""
        return self.problem.noise.kind


def _has_fields(problem: Problem) -> bool:
    return hasattr(problem.noise, "__dataclass_fields__")


def _with_prior(problem: Problem, prior: str | None) -> Problem:
    return problem if prior is None else replace(problem, prior=lisa_prior(prior))


def lisa_prior(text: str) -> Prior:
    """The prior of a file, which must name the parameters of a binary in their order.

    Raises:
        UsageError: It is no prior, or of other parameters; both orders are named.
    """
    prior = load_prior(text)
    if prior.names != PARAMETERS:
        raise UsageError(
            f"--prior {text} is over {', '.join(prior.names)}",
            f"name the parameters of a binary in their order: {', '.join(PARAMETERS)}",
        )
    return prior


def lisa_settings(
    problem: Problem, common: Mapping[str, Any], settings: Mapping[str, Any]
) -> LisaSettings:
    """The settings of the pipeline from options.

    Raises:
        UsageError: An unknown one, or a value that cannot be used.
    """
    usual = usual_settings(problem)
    sizes: Any = usual.loop.simulations
    if "simulations" in common:
        sizes = parse_simulations(common["simulations"])
    rounds = common.get("rounds") or (len(sizes) if isinstance(sizes, tuple) else usual.loop.rounds)
    if isinstance(sizes, tuple) and "simulations" not in common:
        sizes = (*sizes, *([sizes[-1]] * rounds))[:rounds]  # the last round's size for more rounds
    num_samples = common.get("num_samples", usual.loop.num_samples)
    loop = replace(usual.loop, rounds=rounds, simulations=sizes, num_samples=num_samples)
    return settings_of(replace(usual, loop=loop), "lisa", settings)


def infer_lisa_run(
    system: str,
    problem: str | None,
    observation: str | None,
    prior: str | None,
    common: Mapping[str, Any],
    settings: Mapping[str, Any],
    argv: list[str],
    say: Say,
) -> SampleSet:
    """Infer a binary into a run folder, continuing where an earlier call was stopped.

    Args:
        system: `lisa:mbhb`.
        problem: A shipped problem, or None.
        observation: An HDF5 file, or None for the problem's own.
        prior: A file, or None for the problem's own.
        common: Options that simulators have too: out, seed, rounds, simulations, num_samples,
            predictive.
        settings: Of the pipeline, as `--lisa.NAME`.
        argv: The command line, for the record.
        say: Shows one line to the user.

    Raises:
        UsageError: An input or a setting cannot be used; nothing is written.
        RunFolderError: The folder is foreign, of other settings, or cannot be written.
    """
    check_packages()
    choice = resolve_one(system)
    if choice.family != "lisa":
        raise UsageError(f"--system {system} cannot be inferred", "give lisa:mbhb or --simulator")
    subject = LisaSubject.of(problem, observation, prior)
    plan = lisa_settings(subject.problem, common, settings)
    checks = int(common.get("predictive", PREDICTIVE))
    if checks < 0:
        raise UsageError(f"--predictive {checks}", "give 0 or more")
    path = Path(common["out"]) if common.get("out") else Path("results", subject.name)
    earlier = read_record(path, "infer")
    # kept simulations are rows of these
    facts = {**subject.facts(), "lisa": asdict(plan), "coordinates": list(SIMPLE)}
    record = begin_record(path, earlier, "infer", facts, common.get("seed"), argv, PACKAGES)
    folder = RunFolder(path, {**record, "inputs": {"observation": observation, "prior": prior}})
    folder.claim()
    outcome = earlier and earlier["outcome"]
    verb = {None: "inferring", "complete": "complete before, reading"}.get(outcome, "continuing")
    say(f"lisa:mbhb {subject.name}: {verb} {len(PARAMETERS)} parameters, seed {record['seed']}")
    watch = Stopwatch(record.get("seconds"))
    found = conduct(folder, watch, lambda: _find(subject, plan, checks, folder, say))
    for line in told(found, path, folder.record["seconds"]):
        say(line)
    return found.samples.with_meta(parameters=list(PARAMETERS), seed=record["seed"])


def _find(
    subject: LisaSubject, plan: LisaSettings, checks: int, folder: RunFolder, say: Say
) -> Found:
    seed = folder.record["seed"]
    known = folder.load_state("lisa")
    if known is None:
        result = infer_lisa(subject.problem, subject.observation, plan, folder, seed=seed, say=say)
        _write_surrogate(subject, result, folder.path, seed)
        known = _packed(result, plan)
        folder.save_state("lisa", known)
    kept = _unpacked(known)
    check = None
    if checks:
        check = check_residuals(subject.problem, subject.observation, kept.posterior, checks, seed)
    return _found(subject, kept, check, _rounds(subject, folder, kept, seed), seed)


def _write_surrogate(subject: LisaSubject, result: LisaResult, path: Path, seed: int) -> None:
    """A checkpoint for `gensci sample --checkpoint`, where there is a proposal to draw from."""
    if result.proposal is None:
        return
    meta = {
        "system": "lisa:mbhb", "problem": subject.problem.name, "seed": seed,
        "counts": result.counts, "khat": log_or_none(result.khat),
        "efficiency": log_or_none(result.efficiency),
    }  # fmt: skip
    save_surrogate(
        path / SURROGATE, result.surrogate, result.proposal, subject.problem.prior,
        result.images.skies, meta,
    )  # fmt: skip


@dataclass(frozen=True)
class _Kept:
    """What a store keeps of a result."""

    posterior: SampleSet
    surrogate: SampleSet
    records: tuple[RoundRecord, ...]
    verdict: dict[str, Any]
    counts: dict[str, int]
    seconds: dict[str, float]


def _packed(result: LisaResult, plan: LisaSettings) -> Tensors:
    note = {
        "records": [asdict(record) for record in result.records],
        "verdict": _verdict(result, plan), "counts": result.counts, "seconds": result.seconds,
    }  # fmt: skip
    own = {f"posterior/{k}": v for k, v in _alive(result.posterior).to_tensors().items()}
    other = {
        f"surrogate/{k}": v for k, v in _alive(result.surrogate_posterior).to_tensors().items()
    }
    return {**own, **other, "note": text_tensor(note)}


def _unpacked(tensors: Tensors) -> _Kept:
    note = read_text(tensors["note"])
    sets = {}
    for name in ("posterior", "surrogate"):
        start = f"{name}/"
        rows = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        sets[name] = tidied(SampleSet.from_tensors(rows))
    records = tuple(RoundRecord(**record) for record in note["records"])
    return _Kept(**sets, records=records, **{k: note[k] for k in ("verdict", "counts", "seconds")})


def _alive(samples: SampleSet) -> SampleSet:
    return samples.select(torch.isfinite(samples.log_weight))


def _verdict(result: LisaResult, plan: LisaSettings) -> dict[str, Any]:
    samples = _alive(result.posterior)
    corrected = math.isfinite(result.khat) or result.fallback is not None
    told = {
        "ess": samples.ess.count, "khat": log_or_none(result.khat),
        "efficiency": log_or_none(result.efficiency), "fallback": result.fallback,
        "corrected": corrected,
    }  # fmt: skip
    value, error = result.evidence or LogZ(math.nan, math.nan)
    told |= {"log_z": log_or_none(value), "log_z_error": log_or_none(error)}
    known = result.posterior.meta.get("verdict", {})
    if not corrected:
        advice = "drawn from the surrogate: in this noise no exact likelihood corrects it"
        moved = result.records[-1].change
        if moved is not None and moved > UNSETTLED:
            advice = (
                f"do not trust these draws: the posterior still moved by {moved:.1f} nats in the "
                "last round; give more --lisa.loop.simulations"
            )
        elif known.get("rhat", 1.0) > DISAGREE:
            advice = f"{advice}; {known['advice']}"
        return {**told, "ess": known.get("ess", told["ess"]), "advice": advice}
    if result.fallback is not None:
        advice = f"{result.fallback}: these are draws of a short exact chain instead"
        return {**told, "ess": known.get("ess", told["ess"]), "advice": advice}
    number = plan.reweight.num_draws if plan.reweight else len(samples)
    judged = importance_advice(told["ess"], result.khat, number)
    return {**told, "advice": f"corrected by the exact likelihood; {judged}"}


def _rounds(subject: LisaSubject, folder: RunFolder, kept: _Kept, seed: int) -> dict[str, Draws]:
    """The draws after each round, and the posterior at the end."""
    rounds, setting = {}, subject.problem.setting
    for record in kept.records:
        state = folder.load_state(f"round-{record.number:04d}")
        if state is not None:
            generator = stream(seed, "picture", record.number)
            draws = unfolded(state["x/theta"].double(), setting, generator)
            rounds[f"round {record.number + 1}"] = Draws(draws.numpy())
    if kept.verdict["corrected"]:
        rounds["exact"] = drawable(kept.posterior)
    return rounds


def _found(
    subject: LisaSubject,
    kept: _Kept,
    check: ResidualCheck | None,
    rounds: dict[str, Draws],
    seed: int,
) -> Found:
    verdict, posterior = kept.verdict, kept.posterior
    theta = posterior.x["theta"]
    prior = subject.problem.prior
    extras = PosteriorExtras(
        log_likelihood=_likelihood(posterior, prior) if verdict["corrected"] else None,
        log_prior=prior.log_prob(theta),
        khat=verdict["khat"],
        evidence=_evidence(verdict),
        observed={
            "data": subject.observation.data.numpy(),
            "frequency": subject.observation.frequencies.numpy(),
        },
        attributes={"system": "lisa:mbhb", "problem": subject.problem.name, "seed": seed},
    )
    counts = dict(kept.counts)
    if check is not None:
        counts["predictive"] = check.waveforms
        counts["total"] += check.waveforms
    kinds = ("search", "simulator", "exact", "predictive")
    parts = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds if kind in counts)
    return Found(
        samples=posterior.with_meta(verdict=verdict),
        labels=lisa_labels(subject.problem),
        extras=extras,
        records=kept.records,
        rounds=rounds,
        overlay={"surrogate": drawable(kept.surrogate)} if verdict["corrected"] else {},
        counts=counts,
        calls=f"{counts['total']:,} waveforms ({parts}), {counts['surrogate']:,} surrogate calls",
        facts={"parts": kept.seconds, **({} if check is None else check.facts())},
        lines=() if check is None else (check.line(),),
        pictures=() if check is None else (check.write,),
    )


def _likelihood(posterior: SampleSet, prior: Prior) -> Tensor | None:
    """The exact log-likelihoods of rows."""
    if posterior.log_target is None:
        return None
    return posterior.log_target - prior.log_prob(posterior.x["theta"])


def _evidence(verdict: Mapping[str, Any]) -> LogZ | None:
    if verdict["log_z"] is None:
        return None
    error = verdict["log_z_error"]
    return LogZ(verdict["log_z"], math.nan if error is None else error)
