"""Many Markov chains side by side, started from draws of a proposal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from gensci.core.chains import chain_ess, split_rhat
from gensci.core.errors import GensciError
from gensci.core.protocols import Tensors
from gensci.core.registry import SAMPLERS
from gensci.core.results import SampleSet, join_rows
from gensci.samplers.base import Info, Sampler
from gensci.samplers.chain_report import chain_table, join_chains
from gensci.samplers.evaluate import Density, Draws, num_rows, take, wrapped
from gensci.samplers.moves import (
    MOVES,
    Move,
    Point,
    adapted,
    check_move_settings,
    local_scale,
    num_coordinates,
)
from gensci.samplers.path import path_evaluator
from gensci.samplers.settings import check_whole
from gensci.samplers.verdict import drop_rejected, require_weight, verdict

WINDOW_ROWS = 64
"""How many recent points the local scale is estimated from, at least."""
START_ATTEMPTS = 20


@dataclass(frozen=True)
class Chains:
    """The chains between two moves.

    ``drawn`` and ``drawn_log_target`` are the rows kept so far, draw by draw; ``window`` and
    ``window_grad`` hold recent points of the warm-up; ``log_step`` is the mean log step size over
    its second half, which the chains then keep.
    """

    x: Tensors
    log_target: torch.Tensor
    drawn_log_target: torch.Tensor
    step_size: float
    num_rows: int
    grad: Tensors = field(default_factory=dict)
    scale: Tensors = field(default_factory=dict)
    drawn: Tensors = field(default_factory=dict)
    window: Tensors = field(default_factory=dict)
    window_grad: Tensors = field(default_factory=dict)
    log_step: float = 0.0
    moves: int = 0


@SAMPLERS.register("mcmc")
@dataclass(frozen=True)
class Mcmc(Sampler):
    """Metropolis-Hastings chains of the target; the proposal only gives the first points.

    Chains do not cross barriers that their kernel cannot cross: what they find depends on where the
    proposal starts them. Step size and scale are adapted during the warm-up and fixed after it.
    R-hat and the effective size of the verdict are those of the log-density; slower quantities have
    fewer effective samples.

    Attributes:
        move: random_walk, mala or hmc.
        num_chains: chains side by side in a shard.
        warmup: moves that are thrown away while step size and scale adapt.
        thinning: moves between kept rows.
        num_leapfrog: leapfrog steps of an hmc move.
        target_acceptance: what the step size is adapted to; None for the best of the move.
        step_size: the first step size, in units of the local scale; None for the best of the move.

    Reference: Robert and Casella (2004), Monte Carlo Statistical Methods, chapter 7.
    """

    move: str = "hmc"
    num_chains: int = 64
    warmup: int = 300
    thinning: int = 5
    num_leapfrog: int = 5
    target_acceptance: float | None = None
    step_size: float | None = None

    name: ClassVar[str] = "mcmc"
    requires: ClassVar[frozenset[str]] = frozenset({"target.log_prob", "proposal.sample"})
    state_type: ClassVar[type] = Chains
    shard_rows: ClassVar[int | None] = None
    walks: ClassVar[bool] = True
    frees: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("num_chains", self.num_chains, 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("thinning", self.thinning, 1)
        check_move_settings(self.move, self.num_leapfrog, self.target_acceptance, self.step_size)

    @property
    def kernel(self) -> Move:
        """The chosen move."""
        return MOVES.get(self.move)

    def init(self, target: Density, proposal: Draws, n: int, generator: torch.Generator) -> Chains:
        """Return chains at draws of the proposal that have a density."""
        x = starting_points(target, proposal, min(self.num_chains, n), generator)
        point = path_evaluator(target, None, 1.0, self.kernel.needs_grad)(x)
        weight = torch.ones_like(point.log_target) / num_rows(x)
        return Chains(
            x,
            point.log_target,
            drawn_log_target=point.log_target[:0],
            step_size=self.step_size or self.kernel.first_step(num_coordinates(x)),
            num_rows=n,
            grad=point.grad,
            scale=local_scale(x, point.grad, weight),
        )

    def done(self, state: Chains) -> bool:
        """Tell whether all rows are kept."""
        return state.drawn_log_target.numel() >= state.num_rows

    def step(
        self, state: Chains, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Chains, Info]:
        """Move every chain once; adapt in the warm-up, keep rows after it."""
        evaluate = path_evaluator(target, None, 1.0, self.kernel.needs_grad)
        point = Point(state.x, state.log_target, state.grad, state.log_target, state.log_target)
        moved, acceptance, _ = self.kernel.apply(
            point, evaluate, state.scale, state.step_size, self.num_leapfrog, generator
        )
        info = {"acceptance": acceptance, "step_size": state.step_size}
        state = replace(
            state,
            x=wrapped(moved.x, target),
            grad=moved.grad,
            log_target=moved.log_target,
            moves=state.moves + 1,
        )
        if state.moves <= self.warmup:
            return self._adapt(state, acceptance), info
        if (state.moves - self.warmup) % self.thinning == 0:
            state = _keep(state)
        return state, info

    def finish(self, state: Chains, target: Density, proposal: Draws) -> SampleSet:
        """Return the kept rows, equally weighted, with the chain that each came from."""
        n, chains = state.num_rows, num_rows(state.x)
        log_target = state.drawn_log_target[:n]
        rows = torch.arange(n, device=log_target.device)
        return SampleSet(
            {name: value[:n] for name, value in state.drawn.items()},
            torch.zeros_like(log_target),
            log_target,
            chain=rows % chains,
        )

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the rows of all shards; chains are numbered through."""
        joined = join_chains(shards)
        alive = torch.isfinite(joined.log_target)
        require_weight(joined, self.name)
        kept, rejected = drop_rejected(joined, alive)
        table = chain_table(joined.log_target, joined.chain)
        rhat, ess = split_rhat(table), chain_ess(table)
        ess = ess if math.isfinite(ess) else float(joined.chain.max() + 1)
        report = verdict(
            ess=ess,
            ess_fraction=ess / len(joined),
            rhat=rhat,
            acceptance=self._acceptance(shards),
            advice=_advice(rhat, ess),
        )
        return kept.with_meta(rejected=rejected, verdict=report)

    def _acceptance(self, shards: Sequence[SampleSet]) -> float:
        """Return the mean acceptance of the moves after the warm-up."""
        kept = [shard.info["acceptance"][self.warmup :] for shard in shards]
        return torch.cat(kept).double().mean().item()

    def fraction_done(self, state: Chains) -> float:
        """Return the share of the moves that are made."""
        draws = -(-state.num_rows // num_rows(state.x))
        return min(state.moves / (self.warmup + draws * self.thinning), 1.0)

    def describe(self, state: Chains) -> str:
        """Return the phase and the step size."""
        phase = "warm-up" if state.moves <= self.warmup else "sampling"
        return f"mcmc: {phase}, move {state.moves}, step size {state.step_size:.3g}"

    def _adapt(self, state: Chains, acceptance: float) -> Chains:
        aim = self.target_acceptance or self.kernel.acceptance
        # A falling gain lets the step size settle although few chains make a noisy acceptance.
        gain = max(0.5 / state.moves**0.5, 0.03)
        step = adapted(state.step_size, acceptance, aim, gain)
        half = self.warmup // 2
        if state.moves <= half:
            return self._rescale(replace(state, step_size=step))
        count = state.moves - half
        log_step = state.log_step + (math.log(step) - state.log_step) / count
        if state.moves == self.warmup:
            step = math.exp(log_step)
        return replace(state, step_size=step, log_step=log_step, window={}, window_grad={})

    def _rescale(self, state: Chains) -> Chains:
        """Gather recent points, and take the scale from them whenever the moves have doubled."""
        rounds = -(-WINDOW_ROWS // num_rows(state.x))
        limit = rounds * num_rows(state.x)
        window = _append(state.window, state.x, limit)
        grads = _append(state.window_grad, state.grad, limit)
        state = replace(state, window=window, window_grad=grads)
        if state.moves < 8 or state.moves & (state.moves - 1):
            return state
        weight = torch.full((num_rows(window),), 1.0 / num_rows(window), dtype=torch.float64)
        return replace(state, scale=local_scale(window, grads, weight))


def starting_points(
    target: Density, proposal: Draws, n: int, generator: torch.Generator
) -> Tensors:
    """Return ``n`` draws of finite density, redrawing and at last repeating those that have it."""
    found: list[Tensors] = []
    count = 0
    for _ in range(START_ATTEMPTS):
        x = proposal.sample(n, generator)
        alive = torch.isfinite(target.log_prob(x)).nonzero()[:, 0]
        if alive.numel():
            found.append(take(x, alive))
        count += alive.numel()
        if count >= n:
            break
    if not count:
        raise GensciError(
            f"none of {START_ATTEMPTS * n} draws of the proposal has any target density",
            "use a proposal that is trained for this system",
        )
    return take(join_rows(found), torch.arange(n) % count)


def _keep(state: Chains) -> Chains:
    drawn = join_rows([state.drawn, state.x]) if state.drawn else dict(state.x)
    log_target = torch.cat([state.drawn_log_target, state.log_target])
    return replace(state, drawn=drawn, drawn_log_target=log_target)


def _append(window: Tensors, x: Tensors, limit: int) -> Tensors:
    grown = join_rows([window, x]) if window else dict(x)
    return {name: value[-limit:] for name, value in grown.items()}


def _advice(rhat: float, ess: float) -> str:
    if math.isnan(rhat):
        return "too few draws in each chain to judge: raise num_samples or lower num_chains"
    if rhat > 1.05:
        return (
            f"the chains disagree (R-hat {rhat:.2f}): raise warmup, or use the smc sampler where "
            "the proposal has a density"
        )
    if ess < 50:
        return f"too few effective samples ({ess:.0f}): raise num_samples or thinning"
    return "the chains agree; barriers that none of them crossed cannot be seen"
