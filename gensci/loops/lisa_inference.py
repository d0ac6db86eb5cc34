"""The posterior of one LISA observation from few waveforms, judged by the exact likelihood.

Search the data for the best point; simulate whitened signals about it, first widely, then where the
learned likelihood believes the posterior to be; sample that; fit a flow to the samples and weigh
its draws by the exact heterodyned likelihood. Where noise is not Gaussian there is no exact
likelihood, and the surrogate's posterior is the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.posterior import THETA, PosteriorTarget
from gensci.core.protocols import Store
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.loops.fitting import SurrogateSampler
from gensci.loops.kept_reweighting import pack, unpack
from gensci.loops.lisa_surrogate import (
    LisaEstimator,
    LisaSurrogate,
    SignalSimulator,
    unfolded,
)
from gensci.loops.reweighting import Reweighted, ReweightSettings, reweight
from gensci.loops.rounds import InferenceProblem, LoopSettings, RoundRecord, SequentialResult
from gensci.loops.sequential import run_rounds
from gensci.models.neural_likelihood import LikelihoodSettings
from gensci.models.proposal_flow import ProposalFlow, ProposalSettings
from gensci.samplers.tempering import Tempering
from gensci.systems.lisa_chart import SmoothChart
from gensci.systems.lisa_coordinates import (
    COPIES,
    SimplePrior,
    from_simple,
    log_abs_det_jacobian,
    to_simple,
)
from gensci.systems.lisa_glitch_search import find_among_glitches
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_noise import Gap, Glitches
from gensci.systems.lisa_observation import Observation
from gensci.systems.lisa_problem import Problem
from gensci.systems.lisa_search import find_reference
from gensci.systems.lisa_setting import Setting
from gensci.systems.lisa_summaries import HeterodynedBins, ScoreCompression
from gensci.systems.lisa_wide import WideProposal, WideSettings, wide_proposal

Say = Callable[[str], None]
SUMMARIES = ("bins", "score")
NODES, FEWER_NODES = 64, 40
KNOWN_NOISE = LikelihoodSettings(kind="gaussian", degree=3, steps=600, batch=256)
LEARNED_NOISE = LikelihoodSettings(
    kind="mixture", degree=3, hidden=512, bins=4, steps=3000, batch=250, patience=60,
    noise_steps=12_000,
)  # fmt: skip
ROUNDS = LoopSettings(
    rounds=5, simulations=(600, 800, 1000, 1200, 1500), defensive=0.1, temperature=4.0,
    draws=2000, num_samples=8000, stop_change=0.03,
)  # fmt: skip
LARGER_ROUNDS = replace(ROUNDS, rounds=4, simulations=(1000, 1500, 2000, 2000))
SHORT = Tempering(num_walkers=400, warmup=200, thinning=20)
LONG = Tempering(num_walkers=400, warmup=500, thinning=30)
# binaries seen face-on lie six deviations out in whitened coordinates
REWEIGHT = ReweightSettings(
    fit_draws=40_000, rehearsal_draws=60_000,
    proposal=ProposalSettings(bins=12, tail_bound=8.0, steps=2000, patience=20),
)  # fmt: skip


@dataclass(frozen=True)
class LisaSettings:
    """How a LISA observation is inferred.

    Attributes:
        nodes: splines of the heterodyned bins, in each channel.
        summary: what the likelihood is learned of: bins, or score for eleven numbers, which do not
            tell glitches from signals.
        population: of the search.
        generations: of the search.
        skies: of the search.
        wide: where round 1 simulates.
        loop: rounds and their sizes.
        likelihood: the network; None for what fits the noise.
        tempering: the sampler of surrogate posteriors.
        reweight: the correction; None for no correction.
    """

    nodes: int = NODES
    summary: str = "bins"
    population: int = 40
    generations: int = 15
    skies: int = 200
    wide: WideSettings = field(default_factory=WideSettings)
    loop: LoopSettings = ROUNDS
    likelihood: LikelihoodSettings | None = None
    tempering: Tempering = SHORT
    reweight: ReweightSettings | None = REWEIGHT

    def __post_init__(self) -> None:
        if self.summary not in SUMMARIES:
            raise UsageError(f"summary={self.summary!r}", f"choose from: {', '.join(SUMMARIES)}")


def usual_settings(problem: Problem) -> LisaSettings:
    """The settings to begin with.

    Where the density of the noise is to be learned, there are fewer numbers to learn it of, more
    simulations, since bursts hide how the signal changes, and longer chains, since no exact
    likelihood corrects the draws. The noise is learned once, and at length: its draws are free.
    """
    if _noise(problem) is None:
        return LisaSettings(likelihood=KNOWN_NOISE)
    return LisaSettings(
        nodes=FEWER_NODES, loop=LARGER_ROUNDS, likelihood=LEARNED_NOISE, tempering=LONG
    )


@dataclass(frozen=True)
class LisaResult:
    """What is known of a binary.

    Attributes:
        posterior: weighted rows `{"theta": (n, 11)}`, columns `gensci.sims.lisa.PARAMETERS`.
        evidence: the exact ln Z; NaN where there is no exact likelihood.
        khat: of the importance weights; NaN without them.
        efficiency: of the importance weights; NaN without them.
        fallback: why an exact chain took over, or None.
        counts: waveform calls of search, simulator and derivatives; exact calls; surrogate calls;
            all calls that took a waveform.
        surrogate_posterior: weighted rows of the surrogate's posterior, of the same columns.
        records: one per round.
        seconds: wall and CPU by part, those of earlier calls with the same store included; of the
            search only where this call made it.
        surrogate: the last one, over simple coordinates.
        proposal: the flow, over simple coordinates, or None.
        images: the skies by which the flow is folded.
    """

    posterior: SampleSet
    evidence: LogZ
    khat: float
    efficiency: float
    fallback: str | None
    counts: dict[str, int]
    surrogate_posterior: SampleSet
    records: tuple[RoundRecord, ...]
    seconds: dict[str, float]
    surrogate: LisaSurrogate
    proposal: ProposalFlow | None
    images: Callable[[Tensor], Tensor]


def infer_lisa(
    problem: Problem,
    observation: Observation,
    settings: LisaSettings,
    store: Store,
    *,
    seed: int,
    say: Say | None = None,
) -> LisaResult:
    """Infer the binary of an observation; the truth of the problem is not looked at.

    Args:
        problem: its setting, prior and kind of noise.
        observation: the data.
        settings: sizes.
        store: keeps what is found and simulated; a run that was killed goes on from there to the
            same bits.
        seed: of all randomness.
        say: told a line on each part.

    Raises:
        UsageError: the observation was made with another setting than the problem's, or the prior
            does not span all phases and polarisations.
    """
    problem.setting.check(observation.setting, "the problem", "the observation")
    parts = _Parts.of(problem, observation, settings, store, seed, say)
    result = run_rounds(
        parts.problem, settings.loop, parts.estimator, parts.sampler, store, seed=seed, say=say
    )
    gaussian = not isinstance(problem.noise, Glitches | Gap)
    if settings.reweight is None or not gaussian:
        return _uncorrected(parts, result, seed)
    corrected = _reweighted(parts, result, settings.reweight, store, seed, say)
    return _corrected(parts, result, corrected, seed)


def _reweighted(
    parts: _Parts,
    result: SequentialResult,
    settings: ReweightSettings,
    store: Store,
    seed: int,
    say: Say | None,
) -> Reweighted:
    """The exact posterior, made or read from the store."""
    prior, images = parts.wide.prior, _skies(parts.wide)
    known = store.load_state("reweighted")
    chart = SmoothChart.of(prior)
    if known is None:
        surrogate = PosteriorTarget(prior, result.surrogate.log_likelihood, parts.wide.images)
        made = reweight(
            result.posterior, parts.target, surrogate=surrogate, images=images, chart=chart,
            settings=settings, seed=seed, say=say,
        )  # fmt: skip
        known = pack(made)
        store.save_state("reweighted", known)
    return unpack(known, prior, images, chart)


@dataclass(frozen=True)
class _Parts:
    """What the loop and the correction work with."""

    problem: InferenceProblem
    estimator: LisaEstimator
    sampler: SurrogateSampler
    wide: WideProposal
    target: PosteriorTarget
    searched: int
    seconds: dict[str, float]

    @classmethod
    def of(
        cls,
        problem: Problem,
        observation: Observation,
        settings: LisaSettings,
        store: Store,
        seed: int,
        say: Say | None,
    ) -> _Parts:
        begun = time.monotonic(), time.process_time()
        best, cleaned, searched = _searched(problem, observation, settings, store, seed, say)
        seconds = {
            "search_wall": time.monotonic() - begun[0],
            "search_cpu": time.process_time() - begun[1],
        }
        nodes = settings.nodes
        exact = HeterodynedLikelihood(observation, best, nodes)
        setting = problem.setting
        prior, centre = SimplePrior(problem.prior, setting), to_simple(best[None], setting)[0]
        if cleaned is not observation:
            # glitches would draw the wide density elsewhere; only it looks at cleaned data
            exact = HeterodynedLikelihood(cleaned, best, nodes)
        wide = wide_proposal(exact, prior, centre, settings.wide)
        bins = HeterodynedBins(observation, best, nodes, _noise(problem))
        summary = bins if settings.summary == "bins" else ScoreCompression(bins, best)
        # Signals are told apart from that of the best point, so that none is large.
        offset = summary.signal(best[None])[0]
        sequential = InferenceProblem(
            prior, summary.data() - offset, SignalSimulator(summary, offset, setting),
            summary.noise, lambda n, generator: wide.sample(n, generator)[THETA],
        )  # fmt: skip
        usual = KNOWN_NOISE if _noise(problem) is None else LEARNED_NOISE
        target = PosteriorTarget(
            prior, lambda simple: exact(from_simple(simple, setting)), wide.images
        )
        estimator = LisaEstimator(setting, settings.likelihood or usual)
        sampler = SurrogateSampler(prior, settings.tempering, wide.images, wide)
        calls = searched + exact.calls + bins.calls
        return cls(sequential, estimator, sampler, wide, target, calls, seconds)


def _searched(
    problem: Problem,
    observation: Observation,
    settings: LisaSettings,
    store: Store,
    seed: int,
    say: Say | None,
) -> tuple[Tensor, Observation, int]:
    """The best point, the data without what glitches were found, and the waveforms it took."""
    known = store.load_state("search")
    if known is None:
        cleaned, generator = observation, stream(seed, "search")
        if isinstance(problem.noise, Glitches):
            best, cleaned, calls = find_among_glitches(
                observation, problem.prior, problem.noise, generator
            )
        else:
            best, calls = find_reference(
                observation, problem.prior, generator, population=settings.population,
                generations=settings.generations, skies=settings.skies,
            )  # fmt: skip
        known = {"best": best, "calls": torch.tensor(calls)}
        if cleaned is not observation:
            known["cleaned"] = torch.view_as_real(cleaned.data).contiguous()
        store.save_state("search", known)
    cleaned = observation
    if "cleaned" in known:
        cleaned = replace(observation, data=torch.view_as_complex(known["cleaned"]))
    calls = int(known["calls"])
    if say is not None:
        say(f"search: best point found with {calls} waveforms")
    return known["best"], cleaned, calls


def _noise(problem: Problem) -> Any:
    """The kind of noise, or None where it is stationary and Gaussian."""
    return problem.noise if isinstance(problem.noise, Glitches | Gap) else None


def _skies(wide: WideProposal) -> Any:
    """The images to fold by, or None where there is one sky."""
    return wide.images if len(wide.images.skies) > 1 else None


def _corrected(
    parts: _Parts, result: SequentialResult, corrected: Reweighted, seed: int
) -> LisaResult:
    setting = result.surrogate.setting
    approximate = result.posterior if corrected.surrogate is None else corrected.surrogate
    return LisaResult(
        posterior=_binaries(corrected.samples, setting, stream(seed, "copies")),
        evidence=corrected.evidence,
        khat=corrected.khat,
        efficiency=corrected.efficiency,
        fallback=corrected.fallback,
        counts=_counts(parts, result, corrected.calls),
        surrogate_posterior=_binaries(approximate, setting, stream(seed, "surrogate copies")),
        records=result.records,
        seconds=_seconds(parts, result, corrected.seconds),
        surrogate=result.surrogate,
        proposal=corrected.proposal,
        images=parts.wide.images,
    )


def _uncorrected(parts: _Parts, result: SequentialResult, seed: int) -> LisaResult:
    setting = result.surrogate.setting
    posterior = _binaries(result.posterior, setting, stream(seed, "copies"))
    nan = float("nan")
    return LisaResult(
        posterior=posterior,
        evidence=LogZ(nan, nan),
        khat=nan,
        efficiency=nan,
        fallback=None,
        counts=_counts(parts, result, {"exact": 0, "surrogate": 0}),
        surrogate_posterior=posterior,
        records=result.records,
        seconds=_seconds(parts, result, {}),
        surrogate=result.surrogate,
        proposal=None,
        images=parts.wide.images,
    )


def _counts(parts: _Parts, result: SequentialResult, calls: dict[str, int]) -> dict[str, int]:
    simulated = sum(record.simulator_calls for record in result.records)
    sampled = sum(record.surrogate_calls for record in result.records)
    sampled += int(result.posterior.meta.get("surrogate_calls", 0))
    waveform = parts.searched + simulated
    return {
        "search": parts.searched,
        "simulator": simulated,
        "waveform": waveform,
        "exact": calls["exact"],
        "total": waveform + calls["exact"],
        "surrogate": sampled + calls["surrogate"],
    }


def _binaries(samples: SampleSet, setting: Setting, generator: torch.Generator) -> SampleSet:
    """Rows over binaries, with their log-densities; each one of its equal copies at random."""
    theta = unfolded(samples.x[THETA], setting, generator)
    shift = log_abs_det_jacobian(theta, setting) - math.log(COPIES)

    def moved(density: Tensor | None) -> Tensor | None:
        return None if density is None else density + shift

    return SampleSet(
        {THETA: theta}, samples.log_weight, moved(samples.log_target),
        moved(samples.log_proposal), chain=samples.chain, meta=samples.meta,
    )  # fmt: skip


def _seconds(
    parts: _Parts, result: SequentialResult, reweighting: dict[str, float]
) -> dict[str, float]:
    """Wall and CPU seconds of search, rounds and reweighting."""
    rounds = {
        "rounds_wall": sum(sum(record.wall_seconds.values()) for record in result.records),
        "rounds_cpu": sum(sum(record.cpu_seconds.values()) for record in result.records),
    }
    last = {f"reweighting_{kind}": value for kind, value in reweighting.items()}
    everything = {**parts.seconds, **rounds, **last}
    return {name: round(value, 2) for name, value in everything.items()}
