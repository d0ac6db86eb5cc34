"""From draws of an approximate posterior to the exact one: fit a proposal, draw, weigh.

A flow is fitted to thinned draws of a surrogate's posterior. Where the surrogate can be asked
itself, which costs nothing that counts, the flow is first rehearsed: its own draws are weighed by
the surrogate, or where few of them bear weight, moved by a chain between flow and surrogate; and it
is fitted again to those, until enough of its draws bear weight. Then the best flow draws once more,
the exact target weighs, and the shape of the weights' tail says whether they may be trusted. If
not, a short exact chain starts at the draws.

Reference: Dax et al. (2023), arXiv:2210.05686, for neural proposals; Vehtari et al. (2024),
arXiv:1507.02646, for k-hat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from gensci.core.errors import UsageError
from gensci.core.posterior import THETA, PosteriorTarget
from gensci.core.priors import Prior
from gensci.core.protocols import DensityProposal
from gensci.core.random import stream
from gensci.core.results import SampleSet, log_or_none
from gensci.core.weights import LogZ, kish_ess, log_z, psis
from gensci.models.mode_folding import Images
from gensci.models.proposal_flow import Chart, ProposalFlow, ProposalSettings
from gensci.samplers.tempering import Tempering
from gensci.samplers.verdict import importance_advice, khat_limit, verdict

LARGEST_CALL = 20_000
Say = Callable[[str], None]


@dataclass(frozen=True)
class ReweightSettings:
    """How a posterior is corrected.

    Attributes:
        num_draws: exact evaluations, one per draw.
        fit_draws: draws of the surrogate's posterior that the flow is fitted to, at most.
        rehearsals: most times that the flow is fitted to its own draws, weighed by the surrogate;
            the best of them goes on.
        enough: efficiency after which the flow is fitted once more at most.
        rehearsal_draws: draws of each; evaluations of the surrogate.
        walk_below: efficiency of a rehearsal below which its draws are walked.
        walk: the chain that walks them.
        walk_rows: rows that it returns.
        proposal: sizes of the flow and length of its training.
        chain: the exact sampler where the weights cannot be trusted.
        chain_rows: rows that it returns.
    """

    num_draws: int = 20_000
    fit_draws: int = 20_000
    rehearsals: int = 3
    enough: float = 0.2
    rehearsal_draws: int = 100_000
    walk_below: float = 0.1
    walk: Tempering = field(
        default_factory=lambda: Tempering(num_walkers=200, warmup=60, thinning=8)
    )
    walk_rows: int = 20_000
    proposal: ProposalSettings = field(default_factory=ProposalSettings)
    chain: Tempering = field(
        default_factory=lambda: Tempering(num_walkers=100, warmup=50, thinning=5)
    )
    chain_rows: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("num_draws", 2), ("fit_draws", 2), ("rehearsals", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name}={getattr(self, name)} is not usable", f"give {least} or more"
                )


@dataclass(frozen=True)
class Reweighted:
    """An exact posterior and how it came about.

    Attributes:
        samples: weighted rows `{"theta": (n, d)}` with `log_target` and `log_proposal`, in nats;
            equally weighted rows of a chain where `fallback` says so.
        evidence: the exact ln Z.
        khat: shape of the tail of the importance weights.
        efficiency: their effective sample size over the draws.
        fallback: why a chain was run, or None.
        proposal: the flow.
        surrogate: weighted draws of the surrogate's posterior, where there was a rehearsal.
        surrogate_evidence: its ln Z, or None.
        calls: exact evaluations and those of the surrogate, inside the prior.
        seconds: wall and CPU of the fits, rehearsals and exact draws together.
    """

    samples: SampleSet
    evidence: LogZ
    khat: float
    efficiency: float
    fallback: str | None
    proposal: ProposalFlow
    surrogate: SampleSet | None
    surrogate_evidence: LogZ | None
    calls: dict[str, int]
    seconds: dict[str, float]


def reweight(
    draws: SampleSet,
    target: PosteriorTarget,
    *,
    surrogate: PosteriorTarget | None = None,
    images: Images | None = None,
    chart: Chart | None = None,
    settings: ReweightSettings | None = None,
    seed: int = 0,
    say: Say | None = None,
) -> Reweighted:
    """Correct draws of an approximate posterior.

    Args:
        draws: of the approximation, weighted or not, `{"theta": (n, d)}`; those of chains in the
            chains' order. With `chain` numbers, whole chains are held out when the flow is fitted.
        target: prior times exact likelihood.
        surrogate: the approximation itself, for rehearsals.
        images: symmetries by which the draws are folded, identity first, as a group.
        chart: coordinates in which the folded draws are smoother.
        settings: sizes.
        seed: of all randomness.
        say: told a line on each step.

    Raises:
        UsageError: a draw lies outside the prior, or there are too few.
    """
    settings = settings or ReweightSettings()
    begun = time.monotonic(), time.process_time()
    calls = {"exact": target.calls, "surrogate": surrogate.calls if surrogate else 0}
    shape = _Shape(target.prior, images, chart)
    flow = _fitted(draws, shape, settings, seed, 0)
    rehearsed, constant = None, None
    if surrogate is not None and settings.rehearsals:
        flow, _, rehearsed, constant = _rehearsed(flow, shape, surrogate, settings, seed, say)
    generator = stream(seed, "exact draws")
    samples, evidence = _weighed(flow, target, settings.num_draws, generator)
    khat = psis(samples.log_weight).khat
    efficiency = _told(say, "exact weights", samples, settings.num_draws)
    fallback = None
    if not khat <= khat_limit(settings.num_draws):
        fallback = f"k-hat {khat:.2f} is above {khat_limit(settings.num_draws):.2f}"
        if say is not None:
            say(f"{fallback}: a short exact chain takes over")
        last = settings.chain, settings.chain_rows, "chain"
        samples, evidence = _chain(flow, target, *last, seed, say)
    calls["exact"] = target.calls - calls["exact"]
    calls["surrogate"] = surrogate.calls - calls["surrogate"] if surrogate else 0
    seconds = {
        "wall": round(time.monotonic() - begun[0], 3),
        "cpu": round(time.process_time() - begun[1], 3),
    }
    return Reweighted(
        samples, evidence, khat, efficiency, fallback, flow, rehearsed, constant, calls, seconds
    )


class _NoWeightError(UsageError):
    """No draw of a proposal has any target density."""


class _Shape(NamedTuple):
    """What flows are fitted with besides draws."""

    prior: Prior
    images: Images | None
    chart: Chart | None


class _Rehearsed(NamedTuple):
    """A flow, the efficiency of its draws for the surrogate, and draws of the latter with ln Z."""

    flow: ProposalFlow
    efficiency: float
    draws: SampleSet
    constant: LogZ


def _rehearsed(
    flow: ProposalFlow,
    shape: _Shape,
    surrogate: PosteriorTarget,
    settings: ReweightSettings,
    seed: int,
    say: Say | None,
) -> _Rehearsed:
    """The best of the flow and those fitted to its draws, until enough of them bear weight."""
    best = None
    for number in range(settings.rehearsals + 1):
        size, generator = settings.rehearsal_draws, stream(seed, "rehearsal", number)
        try:
            draws, constant = _weighed(flow, surrogate, size, generator)
        except _NoWeightError:
            if best is None:
                raise
            break
        efficiency = _told(say, "rehearsal", draws, size)
        if best is not None and efficiency <= best.efficiency:
            break  # too few draws bore weight for a better fit
        last = number == settings.rehearsals or (best and best.efficiency >= settings.enough)
        if not last and efficiency < settings.walk_below:
            walked = settings.walk, settings.walk_rows, f"walk {number}"
            draws, constant = _chain(flow, surrogate, *walked, seed, say)
        best = _Rehearsed(flow, efficiency, draws, constant)
        if last:
            break
        flow = _fitted(draws, shape, settings, seed, number + 1)
    return best


def _fitted(
    draws: SampleSet, shape: _Shape, settings: ReweightSettings, seed: int, number: int
) -> ProposalFlow:
    """A flow fitted to draws, equally weighted ones, so that every batch counts."""
    generator = stream(seed, "fit", number)
    draws = draws.select(torch.isfinite(draws.log_weight))
    if bool((draws.log_weight != draws.log_weight[0]).any()):
        size = min(settings.fit_draws, int(2 * draws.ess.count) + 1)
        draws = draws.resample("systematic", generator, size)
    # Equal rows, and rows of one chain, are held out together.
    blocks = draws.ancestor if draws.chain is None else draws.chain
    keep = torch.arange(len(draws))
    if len(draws) > settings.fit_draws:
        keep = (keep[: settings.fit_draws] * len(draws)) // settings.fit_draws
    blocks = None if blocks is None else blocks[keep]
    return ProposalFlow.fit(
        draws.x[THETA][keep], shape.prior, blocks=blocks, images=shape.images, chart=shape.chart,
        settings=settings.proposal, seed=seed + number,
    )  # fmt: skip


def _weighed(
    proposal: DensityProposal, target: PosteriorTarget, n: int, generator: torch.Generator
) -> tuple[SampleSet, LogZ]:
    """Draws of the proposal with weights, and ln Z of the target."""
    parts = []
    for start in range(0, n, LARGEST_CALL):
        size = min(LARGEST_CALL, n - start)
        x, log_proposal = proposal.sample_and_log_prob(size, generator)
        with torch.no_grad():
            log_target = target.log_prob(x)
        parts.append(SampleSet(x, log_target - log_proposal, log_target, log_proposal))
    samples = SampleSet.concatenate(parts)
    alive = torch.isfinite(samples.log_weight)
    if not alive.any():
        raise _NoWeightError(
            "none of the draws of the proposal has any target density",
            "give draws of a posterior that overlaps with the exact one",
        )
    return samples, log_z(samples.log_weight)


def _told(say: Say | None, what: str, samples: SampleSet, n: int) -> float:
    """The efficiency, said."""
    efficiency = kish_ess(samples.log_weight).fraction
    if say is not None:
        khat = psis(samples.log_weight).khat
        say(f"{what}: efficiency {efficiency:.1%} of {n} draws, k-hat {khat:.2f}")
    return efficiency


def _chain(
    flow: ProposalFlow,
    target: PosteriorTarget,
    chain: Tempering,
    rows: int,
    purpose: str,
    seed: int,
    say: Say | None,
) -> tuple[SampleSet, LogZ]:
    """A chain between the flow and a target, which starts at draws of the flow."""
    number = int(torch.randint(2**62, (1,), generator=stream(seed, purpose)))
    samples = chain.run(target, flow, rows, seed=number, batch_size=LARGEST_CALL)
    told = samples.meta["verdict"]
    if say is not None:
        say(f"{purpose}: {rows} rows worth {told['ess']:.0f}; {told['advice']}")
    return samples, LogZ(_number(told["log_z"]), _number(told["log_z_error"]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def report(result: Reweighted, num_draws: int) -> dict[str, Any]:
    """What may be said of a correction, as JSON can hold it."""
    ess = result.efficiency * num_draws
    return verdict(
        ess=ess if result.fallback is None else result.samples.meta["verdict"]["ess"],
        ess_fraction=result.efficiency,
        khat=result.khat,
        log_z=result.evidence.value,
        log_z_error=result.evidence.error,
        fallback=result.fallback,
        surrogate_log_z=log_or_none(
            result.surrogate_evidence.value if result.surrogate_evidence else float("nan")
        ),
        advice=result.fallback or importance_advice(ess, result.khat, num_draws),
    )
