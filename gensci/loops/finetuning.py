"""Adapt a pretrained flow to one system: draw, weigh, learn, and draw again.

Each round's flow draws with its exact density, the target tells energies, and the draws of all
rounds so far are put into a replay buffer with mixture weights, smoothed. The next flow learns from
it and is judged by draws it has not seen, which then join the buffer. In the end the best round is
held against the pretrained flow by further draws of both, and kept only where it is better.

A store keeps every stage, so that a killed run continues to the same bits.

References: Tan et al. (2025), arXiv:2508.18175 (self-improvement); Cornuet, Marin, Mira and Robert
(2012), arXiv:0907.1254 (adaptive multiple importance sampling); Midgley et al. (2023),
arXiv:2208.01893 (annealed importance samples in a replay buffer).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import GensciError
from gensci.core.protocols import Progress, Store, Tensors
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.core.weights import kish_ess
from gensci.loops.counted_stages import CountedStage, CountedTarget
from gensci.loops.finetuning_report import Judgement, Quality, RoundRecord, judge
from gensci.loops.replay_buffer import Buffer, Draws, Population, fill
from gensci.models.flow_finetuning import FitSettings, Fitting, Lesson
from gensci.models.proposal import FlowProposal
from gensci.samplers.base import MemoryStore, Sampler
from gensci.samplers.importance import Importance
from gensci.samplers.settings import check_choice, check_whole
from gensci.samplers.smc import Smc

Say = Callable[[str], None]
REFRESHES = ("importance", "smc")


@dataclass(frozen=True)
class FinetuneSettings:
    """How a flow is adapted.

    Attributes:
        rounds: How often it learns.
        draws: Of every round but the first, which judge it and then join the buffer.
        held_out: Draws of the pretrained flow, which the first round learns from too, and of the
            best one at the end, by which the two are compared.
        refresh: ``importance``: the buffer holds draws; ``smc``: and in each round a population
            that the smc sampler brings from the flow to the target.
        particles: Of each such population.
        least: Effective rows below which the weights of the buffer are flattened.
        fit: Of the gradient steps.
        smc: Of the sampler.
    """

    rounds: int = 4
    draws: int = 4000
    held_out: int = 10_000
    refresh: str = "importance"
    particles: int = 1000
    least: int = 100
    fit: FitSettings = field(default_factory=FitSettings)
    smc: Smc = field(default_factory=Smc)

    def __post_init__(self) -> None:
        for name in ("rounds", "least"):
            check_whole(name, getattr(self, name), 1)
        for name in ("draws", "held_out", "particles"):
            check_whole(name, getattr(self, name), 10)
        check_choice("refresh", self.refresh, REFRESHES)


@dataclass(frozen=True)
class Finetuned:
    """A flow adapted to one system.

    Attributes:
        weights: Of the flow that is kept, by the names of its state dict.
        records: Of each round; the first is of the flow as it came.
        best: Number of the best round, by its smoothed effective size.
        after: Quality of the best round by draws that did not choose it; None where that is the
            flow as it came.
        judgement: Which flow is kept.
        buffer: All that was drawn in the rounds, with weights that are right for averages too.
        evaluations: Energies in all.
    """

    weights: Tensors
    records: tuple[RoundRecord, ...]
    best: int
    after: Quality | None
    judgement: Judgement
    buffer: Buffer
    evaluations: int

    @property
    def before(self) -> Quality:
        """Quality of the flow as it came."""
        return self.records[0].quality


def finetune(
    target: Any,
    proposal: FlowProposal,
    settings: FinetuneSettings | None = None,
    *,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    save_seconds: float = 30.0,
) -> Finetuned:
    """Adapt a flow to a target.

    Args:
        target: has ``log_prob`` and, for the refresh by smc, ``log_prob_and_grad``.
        proposal: the pretrained flow for the system; it is not changed.
        settings: sizes and rates.
        seed: of all randomness.
        store: keeps every stage, so that the same call continues a killed run.
        progress: told of draws and of rounds.
        say: told a line on each round.
        save_seconds: how often unfinished work is kept.

    Raises:
        IncompatibleSampler: the proposal has no density, or the target no gradients for smc.
        GensciError: no draw of the flow has any weight, or the training goes astray.
    """
    settings = settings or FinetuneSettings()
    Importance().check(target, proposal)
    if settings.refresh == "smc":
        settings.smc.check(target, proposal)
    run = _Run(target, proposal, settings, seed, store or MemoryStore(), progress, save_seconds)
    for number in range(settings.rounds + 1):
        record = run.round(number)
        if say is not None:
            say(described(record))
        if record.quality.ess == 0.0:
            break
    return run.conclude()


def described(record: RoundRecord) -> str:
    """One line on a round."""
    quality = record.quality
    what = f"round {record.number}" if record.number else "pretrained"
    learned = f", learned from {record.learned_from:.0f} effective rows" if record.number else ""
    return (
        f"{what}: ESS {quality.ess:.2%} +- {quality.ess_error:.2%} "
        f"(smoothed {quality.smoothed:.2%}), k-hat {quality.khat:.2f}, "
        f"log Z {quality.log_z:.3f} +- {quality.log_z_error:.3f}, "
        f"{record.evaluations} energies{learned}"
    )


class _Run:
    """The stages of one call, each looked up in the store before it is done."""

    def __init__(
        self,
        target: Any,
        proposal: FlowProposal,
        settings: FinetuneSettings,
        seed: int,
        store: Store,
        progress: Progress | None,
        save_seconds: float,
    ) -> None:
        self.target, self.settings, self.seed = CountedTarget(target), settings, seed
        self.store, self.progress, self.save_seconds = store, progress, save_seconds
        self.cond, self.chunk = proposal.cond, proposal.chunk
        self.drawing = copy.deepcopy(proposal.network)
        self.weights = [{k: v.detach().clone() for k, v in proposal.network.state_dict().items()}]
        self.draws: list[Draws] = []
        self.density = torch.empty(0, 0, dtype=torch.float64)
        self.populations: list[Population] = []
        self.pretrained: list[Tensor] = []  # log-density of the populations under the first flow
        self.records: list[RoundRecord] = []

    def round(self, number: int) -> RoundRecord:
        """Learn, where there is something to learn from, and draw."""
        learned, power = 0.0, 1.0
        if number:
            buffer = self._fill(number - 1)
            learned, power = kish_ess(buffer.log_weight).count, buffer.power
            self.weights.append(self._learned(number, buffer))
        count = self.settings.draws if number else self.settings.held_out
        samples = self._drawn(f"round-{number}", number, count)
        if samples is None and number == 0:
            raise GensciError(
                f"none of {count} draws of the flow has any weight, so there is nothing to learn",
                "give more --held-out draws, or a checkpoint that is closer to this system",
            )
        if samples is not None:
            self._remember(number, samples, count)
        quality = Quality.of(samples, count)
        self.records.append(RoundRecord(number, quality, learned, power, self.target.evaluations))
        return self.records[-1]

    def conclude(self) -> Finetuned:
        """Compare the best round with the flow as it came."""
        best = max(self.records, key=lambda record: record.quality.smoothed).number
        after = None
        if best:
            samples = self._drawn(f"held-out-{best}", best, self.settings.held_out)
            after = Quality.of(samples, self.settings.held_out)
        judgement = judge(self.records[0].quality, after)
        kept = best if judgement.kept == "finetuned" else 0
        # every round that drew anything is in the mixture
        buffer = fill(self.draws, self.density, self.populations, 1)
        return Finetuned(
            self.weights[kept], tuple(self.records), best, after, judgement, buffer,
            self.target.evaluations,
        )  # fmt: skip

    def _proposal(self, number: int) -> FlowProposal:
        """The flow after a round; there is one at a time."""
        self.drawing.load_state_dict(self.weights[number])
        return FlowProposal(self.drawing, self.cond, chunk=self.chunk)

    def _drawn(self, stage: str, number: int, count: int) -> SampleSet | None:
        """Weighted draws of a round's flow, or None where none has any weight."""
        try:
            return self._sampled(stage, Importance(), number, count)
        except GensciError as error:
            if type(error) is GensciError:  # every weight is zero; others have types of their own
                return None
            raise

    def _sampled(self, stage: str, sampler: Sampler, number: int, count: int) -> SampleSet:
        """What a sampler makes of a round's flow."""
        return sampler.run(
            self.target,
            self._proposal(number),
            count,
            seed=_seed(self.seed, stage),
            store=CountedStage(self.store, stage, self.target),
            progress=self.progress,
            save_seconds=self.save_seconds,
        )

    def _remember(self, number: int, samples: SampleSet, count: int) -> None:
        """Add draws to the buffer, with the density of all rows under all flows."""
        x = samples.x["positions"]
        old = torch.cat([part.x for part in self.draws]) if self.draws else x[:0]
        self.draws.append(Draws(x, samples.log_target, count))
        name = f"round-{number}-density"
        kept = self.store.load_state(name)
        if kept is None:
            earlier = [self._log_prob(k, x) for k in range(number)]
            block = torch.stack([*earlier, samples.log_proposal], 1)
            column = self._log_prob(number, old)
            self.store.save_state(name, {"new": block, "old": column})
            kept = {"new": block, "old": column}
        above = torch.cat((self.density, kept["old"][:, None]), 1) if number else self.density
        self.density = torch.cat((above, kept["new"])) if number else kept["new"]

    def _log_prob(self, number: int, x: Tensor) -> Tensor:
        """Log-density (n,) float64 of rows under the flow of a round; -inf where it is none."""
        if not len(x):
            return torch.empty(0, dtype=torch.float64)
        with torch.no_grad():
            value = self._proposal(number).log_prob({"positions": x}).double().cpu()
        return torch.where(torch.isfinite(value), value, -torch.inf)

    def _fill(self, number: int) -> Buffer:
        """The buffer after a round, refreshed where that is asked for."""
        if self.settings.refresh == "smc":
            self._refresh(number)
        return fill(self.draws, self.density, self.populations, self.settings.least)

    def _refresh(self, number: int) -> None:
        """A population brought from the flow of a round to the target."""
        stage = f"refresh-{number}"
        samples = self._sampled(stage, self.settings.smc, number, self.settings.particles)
        self.populations.append(Population.of(samples))
        kept = self.store.load_state(f"{stage}-density")
        if kept is None:
            kept = {"pretrained": self._log_prob(0, samples.x["positions"])}
            self.store.save_state(f"{stage}-density", kept)
        self.pretrained.append(kept["pretrained"])

    def _learned(self, number: int, buffer: Buffer) -> Tensors:
        """Weights after the steps of a round."""
        name = f"round-{number}-weights"
        kept = self.store.load_state(name)
        if kept is not None:
            return kept
        network = copy.deepcopy(self.drawing)
        network.load_state_dict(self.weights[number - 1])
        network.requires_grad_(True)
        latest = len(self.draws[-1].x)
        lesson = Lesson(
            x=buffer.x,
            log_target=buffer.log_target,
            log_weight=buffer.log_weight,
            log_pretrained=torch.cat((self.density[:, 0], *self.pretrained)),
            own=torch.arange(buffer.num_draws - latest, buffer.num_draws),
            log_z=buffer.constant.value,
        )
        fitting = Fitting(network, self.cond, lesson, self.settings.fit, self.seed, number)
        begun = self.store.load_state(f"round-{number}-fitting")
        if begun is not None:
            fitting.restore(begun)
        weights = fitting.run(self._keeper(number), self.save_seconds, self._teller(number))
        self.store.save_state(name, weights)
        self.store.drop_state(f"round-{number}-fitting")
        return weights

    def _keeper(self, number: int) -> Callable[[Tensors], None]:
        return lambda state: self.store.save_state(f"round-{number}-fitting", state)

    def _teller(self, number: int) -> Callable[[int], None]:
        def tell(taken: int) -> None:
            if self.progress is not None:
                self.progress(taken, self.settings.fit.steps, f"steps of round {number}")

        return tell


def _seed(seed: int, *names: str | int) -> int:
    """A seed of its own for a part of the run."""
    return int(torch.randint(2**62, (1,), generator=stream(seed, "finetune", *names)))
