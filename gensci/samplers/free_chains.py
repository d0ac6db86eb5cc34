"""What chains in coordinates without bounds have in common: their start, warm-up and report."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gensci.core.protocols import Tensors
from gensci.core.results import SampleSet
from gensci.samplers.base import Info, Sampler
from gensci.samplers.chain_report import (
    chains_advice,
    join_chains,
    joint_rhat,
    number_or_none,
    worst_ranks,
)
from gensci.samplers.evaluate import Density, Draws, wrapped
from gensci.samplers.flat import Layout, Space
from gensci.samplers.mcmc import starting_points
from gensci.samplers.moves import local_scale
from gensci.samplers.settings import check_whole
from gensci.samplers.verdict import drop_rejected, require_weight, verdict
from gensci.samplers.warmup import (
    FreeChains,
    averaged,
    observed,
    rescaled,
    restarted,
    settled,
    window_ends,
)

FLAT = "u"
"""The name of the one matrix in which chains hold their samples."""


@dataclass(frozen=True)
class FlatDensity:
    """A density over ``{"u": (n, d)}`` float64, whatever tensors it asks for itself."""

    density: Density
    layout: Layout

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density in nats; -inf where anything is unfit."""
        return self.density.log_prob(self.layout.rows(x[FLAT]))

    def log_prob_and_grad(self, x: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Return the log-density and its (n, d) gradient, zero where it is not finite."""
        value, grads = self.density.log_prob_and_grad(self.layout.rows(x[FLAT]))
        return value, {FLAT: self.layout.matrix(grads)}

    def wrap(self, place: torch.Tensor) -> torch.Tensor:
        """Return the (n, d) points with each angle within one period."""
        if getattr(self.density.subject, "wrap", None) is None:
            return place
        return self.layout.matrix(wrapped(self.layout.rows(place), self.density))


@dataclass(frozen=True)
class ChainSampler(Sampler):
    """Markov chains side by side that share a step size and a scale.

    Attributes:
        num_chains: chains side by side in a shard.
        warmup: moves that are thrown away while step size and scale adapt.
        thinning: moves between kept rows.
    """

    num_chains: int = 16
    warmup: int = 300
    thinning: int = 1

    requires: ClassVar[frozenset[str]] = frozenset({"target.log_prob", "proposal.sample"})
    state_type: ClassVar[type] = FreeChains
    shard_rows: ClassVar[int | None] = None
    walks: ClassVar[bool] = True
    frees: ClassVar[bool] = True
    needs_grad: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("num_chains", self.num_chains, 1)
        check_whole("warmup", self.warmup, 0)
        check_whole("thinning", self.thinning, 1)

    @abstractmethod
    def first_step(self, dim: int) -> float:
        """Return the step size to begin with, in units of the scale."""

    @abstractmethod
    def moved(
        self, state: FreeChains, density: FlatDensity, generator: torch.Generator
    ) -> tuple[FreeChains, Info]:
        """Return the chains after one move, with its acceptance and divergences."""

    def adapted(self, state: FreeChains, info: Info) -> FreeChains:
        """Return the chains with another step size after a move of the warm-up."""
        return averaged(state, info["acceptance"], self.aim)

    @property
    def aim(self) -> float:
        """The acceptance that the step size is adapted to."""
        return 0.8

    def init(
        self, target: Density, proposal: Draws, n: int, generator: torch.Generator
    ) -> FreeChains:
        """Return chains at draws of the proposal that have a density."""
        x = starting_points(target, proposal, min(self.num_chains, n), generator)
        layout = Layout.of(x, self.name)
        place = layout.matrix(x)
        density = FlatDensity(target, layout)
        if self.needs_grad:
            value, grads = density.log_prob_and_grad({FLAT: place})
            grad = grads[FLAT]
        else:
            value, grad = density.log_prob({FLAT: place}), place[:, :0]
        weight = torch.full((len(place),), 1.0 / len(place), dtype=torch.float64)
        slopes = {FLAT: grad} if self.needs_grad else {}
        step, zero = self.first_step(layout.dim), torch.zeros(layout.dim, dtype=torch.float64)
        return FreeChains(
            place,
            value,
            grad,
            local_scale({FLAT: place}, slopes, weight)[FLAT],
            kept=place[None][:0],
            kept_log_density=value[None][:0],
            centre=zero,
            square=zero,
            slope_square=zero[: grad.shape[1]],
            num_rows=n,
            step_size=step,
            anchor=math.log(step),
            template=layout.template,
        )

    def done(self, state: FreeChains) -> bool:
        """Tell whether all rows are kept."""
        return state.kept_log_density.numel() >= state.num_rows

    def step(
        self, state: FreeChains, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[FreeChains, Info]:
        """Move every chain once; adapt in the warm-up, keep rows after it."""
        density = FlatDensity(target, Layout(state.template))
        state, info = self.moved(state, density, generator)
        state = replace(state, place=density.wrap(state.place), moves=state.moves + 1)
        warm = state.moves <= self.warmup
        info.update(warmup=float(warm), step_size=state.step_size)
        if warm:
            return self._warmed(self.adapted(state, info)), info
        if (state.moves - self.warmup) % self.thinning == 0:
            state = replace(
                state,
                kept=torch.cat((state.kept, state.place[None])),
                kept_log_density=torch.cat((state.kept_log_density, state.log_density[None])),
            )
        return state, info

    def finish(self, state: FreeChains, target: Density, proposal: Draws) -> SampleSet:
        """Return the kept rows, equally weighted, with the chain that each came from."""
        n, layout = state.num_rows, Layout(state.template)
        log_target = state.kept_log_density.flatten()[:n]
        quantities = Space.of(target.subject, layout.dim).unrolled(state.kept)
        quantities = torch.cat((quantities, state.kept_log_density[..., None]), -1)
        numbers = dict(zip(("rhat", "chain_ess"), worst_ranks(quantities), strict=True))
        return SampleSet(
            layout.rows(state.kept.reshape(-1, layout.dim)[:n]),
            torch.zeros_like(log_target),
            log_target,
            chain=torch.arange(n) % len(state.place),
            info={k: torch.tensor([number_or_none(v)]).double() for k, v in numbers.items()},
        )

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the rows of all shards; chains are numbered through."""
        joined = join_chains(shards)
        rhats, sizes = joined.info.pop("rhat"), joined.info.pop("chain_ess")
        require_weight(joined, self.name)
        rows = torch.tensor([float(len(shard)) for shard in shards], dtype=torch.float64)
        chains = torch.tensor([float(len(shard.chain.unique())) for shard in shards])
        # A shard too short to tell has one independent row for each chain, or they are few.
        ess = torch.minimum(torch.where(sizes > 0, sizes, chains), rows).sum().item()
        rhat = joint_rhat(joined, rhats)
        kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_target))
        sampling = joined.info["warmup"] == 0
        moves = int(sampling.sum()) * self.num_chains
        divergences = int(joined.info["divergent"][sampling].sum())
        report = verdict(
            ess=ess,
            ess_fraction=ess / len(joined),
            rhat=rhat,
            acceptance=joined.info["acceptance"][sampling].double().mean().item(),
            step_size=joined.info["step_size"][-1].item(),
            divergences=divergences,
            advice=chains_advice(rhat, ess, divergences, moves),
        )
        return kept.with_meta(rejected=rejected, verdict=report)

    def fraction_done(self, state: FreeChains) -> float:
        """Return the share of the moves that are made."""
        draws = -(-state.num_rows // len(state.place))
        return min(state.moves / (self.warmup + draws * self.thinning), 1.0)

    def describe(self, state: FreeChains) -> str:
        """Return the phase and the step size."""
        phase = "warm-up" if state.moves <= self.warmup else "sampling"
        return f"{self.name}: {phase}, move {state.moves}, step size {state.step_size:.3g}"

    def _warmed(self, state: FreeChains) -> FreeChains:
        ends = window_ends(self.warmup)
        if state.moves == self.warmup:
            return settled(state)
        if not ends or state.moves > ends[-1]:
            return state
        state = observed(state)
        if state.moves not in ends:
            return state
        return restarted(rescaled(state), self.first_step(state.place.shape[1]))
