"""Parallel tempering of ensembles: many walkers at many temperatures, evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from gensci.core.registry import SAMPLERS
from gensci.core.results import SampleSet
from gensci.samplers.base import Info, Sampler
from gensci.samplers.ensemble import (
    Ensemble,
    Surroundings,
    check_walkers,
    exchanged,
    moved,
    new_ensemble,
    next_stage,
    onto_ladder,
    readapted,
    remembered,
    starting_points,
    with_half_kept,
    with_kept,
)
from gensci.samplers.ensemble_moves import ENSEMBLE_MOVES
from gensci.samplers.ensemble_report import chain_quality, ensemble_result, join_ensembles
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.flat import Layout, Space
from gensci.samplers.ladder import geometric_ladder
from gensci.samplers.settings import check_choice, check_share, check_whole
from gensci.samplers.tempered_path import TemperedPath, check_path, has_density, splits

FEWEST_KEPT = 16
"""Times that walkers are kept, at least, where their independence has to be judged."""
USUAL_TEMPERATURES = 8


@SAMPLERS.register("tempering")
@dataclass(frozen=True)
class Tempering(Sampler):
    """Parallel tempering of an ensemble between a base and the target, with the evidence.

    The base is the proposal where it has a density (a prior, or a flow near the posterior), else
    the prior that the target tells by ``log_prior``. Draws of the proposal first descend in stages
    of equal effort, which finds the modes, the ladder and the first places; fresh draws feed the
    hottest temperature ever after. Angles (``target.periods``) go round; symmetries
    (``target.jumps``) are jumped, and most steps are made within one of their modes. One step moves
    every walker at every temperature once, in two calls of half of them each.

    Attributes:
        num_walkers: walkers at each temperature; an even number, more than twice the dimensions.
        num_temperatures: how many; None for as many as the descent asks, 1 for no exchanges.
        path: proposal or prior; None for the proposal where it has a density.
        move: mixed, or one of stretch, differential, snooker, fitted.
        ess_target: conditional ESS fraction that a stage of the descent keeps.
        anneal_moves: steps at each stage.
        warmup: steps after the descent that are thrown away while the ladder adapts.
        thinning: steps between kept rows; None for as many as make the rows as good as independent.
        max_steps: the most steps after the warm-up where ``thinning`` is None.

    Reference: Goodman and Weare (2010), doi:10.2140/camcos.2010.5.65; Vousden, Farr and Mandel
        (2016), arXiv:1501.05823.
    """

    num_walkers: int = 64
    num_temperatures: int | None = None
    path: str | None = None
    move: str = "mixed"
    ess_target: float = 0.5
    anneal_moves: int = 5
    warmup: int = 100
    thinning: int | None = None
    max_steps: int = 20_000

    name: ClassVar[str] = "tempering"
    requires: ClassVar[frozenset[str]] = frozenset({"target.log_prob", "proposal.sample"})
    state_type: ClassVar[type] = Ensemble
    shard_rows: ClassVar[int | None] = None
    walks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("num_walkers", self.num_walkers, 4)
        for name in ("num_temperatures", "thinning"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        if self.path is not None:
            check_choice("path", self.path, ("proposal", "prior"))
        check_choice("move", self.move, ("mixed", *ENSEMBLE_MOVES))
        check_share("ess_target", self.ess_target)
        check_whole("anneal_moves", self.anneal_moves, 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("max_steps", self.max_steps, 1)

    @classmethod
    def lacks(cls, target: Any, proposal: Any) -> list[str]:
        """Return what is missing: a density of the proposal only if the target tells no prior."""
        lacking = super().lacks(target, proposal)
        if not lacking and not has_density(proposal) and not splits(target):
            lacking = ["proposal.sample_and_log_prob"]
        return lacking

    def check(self, target: Any, proposal: Any) -> None:
        """Raise an IncompatibleSampler if something is lacking, the chosen path included."""
        super().check(target, proposal)
        check_path(self.path, target, proposal, self.name)

    def init(
        self, target: Density, proposal: Draws, n: int, generator: torch.Generator
    ) -> Ensemble:
        """Return draws of the proposal: at the base, or at all temperatures of a plain ladder."""
        layout = Layout.of(proposal.sample(1, generator), self.name)
        check_walkers(self._walkers, layout.dim)
        path = self._base_path(target, proposal, layout)
        temperatures = self.num_temperatures or USUAL_TEMPERATURES
        count = self._walkers * temperatures
        theta, base, ratio = starting_points(path, proposal, count, generator)
        if self._from_proposal(proposal):
            beta = torch.zeros(1, dtype=torch.float64)
            walkers = theta[None], base[None], ratio[None]
            state = new_ensemble(*walkers, beta, n, layout.template)
            return replace(state, annealing=True)
        beta = geometric_ladder(0.5 ** (temperatures - 2), temperatures)
        shape = (temperatures, self._walkers)
        if temperatures == 1:
            base, ratio = torch.zeros_like(base), base + ratio
        walkers = theta.reshape(*shape, -1), base.reshape(shape), ratio.reshape(shape)
        return new_ensemble(*walkers, beta, n, layout.template)

    def done(self, state: Ensemble) -> bool:
        """Tell whether the rows are kept."""
        return state.complete

    def step(
        self, state: Ensemble, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Ensemble, Info]:
        """Move every walker once and exchange temperatures; descend before that."""
        if state.annealing and state.moves % self.anneal_moves == 0:
            state = self._descended(state, generator)
        around = self._surroundings(state, target, proposal)
        state, acceptance = moved(state, around, generator)
        state = replace(state, moves=state.moves + 1)
        info = {"acceptance": acceptance, "beta": state.beta[0].item(), "phase": 0.0, "swap": 0.0}
        if state.annealing:
            left = state.moves % self.anneal_moves == 0
            return (remembered(state) if left else state), info
        state, swap = exchanged(state, generator)
        warm = state.moves <= self.warmup
        info.update(phase=1.0 if warm else 2.0, swap=swap)
        return (readapted(state) if warm else self._kept(state, around.space)), info

    def finish(self, state: Ensemble, target: Density, proposal: Draws) -> SampleSet:
        """Return the kept rows, and what they say of the evidence and of their own quality."""
        layout = Layout(state.template)
        space = Space.of(target.subject, layout.dim)
        from_proposal = self._from_proposal(proposal) and len(state.beta) > 1
        return ensemble_result(state, layout, space, from_proposal)

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the rows of all shards; walkers are numbered through."""
        return join_ensembles(shards, self.name)

    def fraction_done(self, state: Ensemble) -> float:
        """Return a guess that never falls: where the rows decide on the end, it is not known."""
        if state.complete:
            return 1.0
        if state.annealing:
            return 0.1 * state.beta[0].item()
        after, draws = max(state.moves - self.warmup, 0), self._draws(state)
        steps = draws * self.thinning if self.thinning is not None else after + 2 * draws
        return 0.1 + 0.89 * min(after / steps, 1.0)

    def describe(self, state: Ensemble) -> str:
        """Return the phase, the step and how many temperatures there are."""
        if state.annealing:
            return f"tempering: descent, inverse temperature {state.beta[0]:.3g}"
        phase = "warm-up" if state.moves <= self.warmup else "sampling"
        return f"tempering: {phase}, step {state.moves}, {len(state.beta)} temperatures"

    @property
    def _walkers(self) -> int:
        """The walkers of one temperature, which are moved half by half."""
        return self.num_walkers + self.num_walkers % 2

    def _draws(self, state: Ensemble) -> int:
        """Return how many times the walkers are to be kept."""
        draws = -(-state.num_rows // self._walkers)
        return draws if self.thinning is not None else max(draws, FEWEST_KEPT)

    def _from_proposal(self, proposal: Draws) -> bool:
        return self.path == "proposal" or (self.path is None and has_density(proposal.subject))

    def _base_path(self, target: Density, proposal: Draws, layout: Layout) -> TemperedPath:
        if self._from_proposal(proposal):
            return TemperedPath.from_proposal(target, proposal, layout)
        if self.num_temperatures == 1:
            return TemperedPath.at_target(target, layout)
        return TemperedPath.from_prior(target, layout)

    def _surroundings(self, state: Ensemble, target: Density, proposal: Draws) -> Surroundings:
        layout = Layout(state.template)
        many = len(state.beta) > 1
        path = self._base_path(target, proposal, layout)
        if not many and not state.annealing:
            path = TemperedPath.at_target(target, layout)
        fed = many and self._from_proposal(proposal) and state.beta[-1].item() == 0.0
        return Surroundings(
            path,
            Space.of(target.subject, layout.dim),
            getattr(target.subject, "jumps", None),
            proposal if fed else None,
            self.move,
        )

    def _descended(self, state: Ensemble, generator: torch.Generator) -> Ensemble:
        if state.beta[0].item() == 1.0:
            return onto_ladder(state, self.num_temperatures, self._walkers, generator)
        return next_stage(state, self.ess_target, generator)

    def _kept(self, state: Ensemble, space: Space) -> Ensemble:
        """Keep rows when it is their time, and end when there are enough."""
        after = state.moves - self.warmup
        interval = self.thinning or state.interval
        if after % interval == 0:
            state = with_kept(state)
        kept, draws = len(state.kept), self._draws(state)
        if self.thinning is not None:
            return replace(state, complete=kept >= draws)
        if after >= self.max_steps and kept >= draws:
            return replace(state, complete=True)
        if kept < 2 * draws:
            return state
        # Twice as many rows as are asked for are kept; they are enough when they are worth those.
        _, ess = chain_quality(state, space)
        enough = ess >= draws * self._walkers
        return replace(state, complete=True) if enough else with_half_kept(state)
