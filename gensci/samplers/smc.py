"""Sequential Monte Carlo from the proposal to the target along the geometric path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from gensci.core.protocols import Tensors
from gensci.core.registry import SAMPLERS, normalise_name
from gensci.core.resampling import RESAMPLERS, resample
from gensci.core.results import SampleSet
from gensci.core.schedules import linear_grid, next_temperature, power_grid
from gensci.core.weights import LogZ, clean, kish_ess, log_z, mean_one, normalise
from gensci.samplers.base import Info, Sampler
from gensci.samplers.evaluate import Density, Draws, num_rows, take, wrapped
from gensci.samplers.moves import (
    MOVES,
    Evaluate,
    Move,
    Point,
    adapted,
    check_move_settings,
    local_scale,
    num_coordinates,
)
from gensci.samplers.path import path_evaluator
from gensci.samplers.settings import check_choice, check_share, check_whole
from gensci.samplers.verdict import drop_rejected, require_weight, verdict

ADAPTATION_GAIN = 0.2
"""In many dimensions acceptance falls steeply with step size; twice this gain overshoots."""


@dataclass(frozen=True)
class Population:
    """The particles of one shard between two moves.

    ``log_weight`` grows since the last resampling; ``log_z`` is the log of the mean weight up to
    it, and ``variance`` the relative variance of that. ``scale`` and ``step_size`` belong to the
    move; ``grad`` is the slope of the path density at ``temperature``.
    """

    x: Tensors
    log_target: torch.Tensor
    log_proposal: torch.Tensor
    log_weight: torch.Tensor
    ancestor: torch.Tensor
    step_size: float
    grad: Tensors = field(default_factory=dict)
    scale: Tensors = field(default_factory=dict)
    log_z: float = 0.0
    variance: float = 0.0
    temperature: float = 0.0
    stage: int = 0
    moves_left: int = 0
    num_resampled: int = 0


@SAMPLERS.register("smc")
@dataclass(frozen=True)
class Smc(Sampler):
    """Tempered sequential Monte Carlo along ``(1 - t) log q + t log p`` from t = 0 to t = 1.

    Attributes:
        schedule: adaptive (by conditional ESS), or the fixed grids linear and power.
        num_steps: temperatures of a fixed grid (default 64); the most an adaptive schedule may take
            (default 1000), which never falls behind the power grid of that many steps.
        ess_target: conditional ESS fraction that an adaptive step keeps.
        resample_threshold: resample when the ESS fraction falls below it; 1 for always.
        resampling: multinomial, residual, stratified or systematic.
        move: random_walk, mala or hmc.
        num_moves: moves after each change of temperature.
        num_leapfrog: leapfrog steps of an hmc move.
        target_acceptance: what the step size is adapted to; None for the best of the move.
        step_size: the first step size, in units of the local scale; None for the best of the move.

    Reference: Del Moral, Doucet and Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x.
    """

    schedule: str = "adaptive"
    num_steps: int | None = None
    ess_target: float = 0.9
    resample_threshold: float = 0.5
    resampling: str = "systematic"
    move: str = "hmc"
    num_moves: int = 3
    num_leapfrog: int = 5
    target_acceptance: float | None = None
    step_size: float | None = None

    name: ClassVar[str] = "smc"
    requires: ClassVar[frozenset[str]] = frozenset(
        {"target.log_prob", "proposal.sample_and_log_prob", "proposal.log_prob"}
    )
    state_type: ClassVar[type] = Population
    shard_rows: ClassVar[int | None] = 1024
    walks: ClassVar[bool] = True
    frees: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, ("adaptive", "linear", "power"))
        if self.num_steps is not None:
            check_whole("num_steps", self.num_steps, 1)
        check_share("ess_target", self.ess_target)
        check_share("resample_threshold", self.resample_threshold, zero=True, one=True)
        RESAMPLERS.get(str(self.resampling))
        check_whole("num_moves", self.num_moves, 1)
        check_move_settings(self.move, self.num_leapfrog, self.target_acceptance, self.step_size)

    @property
    def kernel(self) -> Move:
        """The chosen move."""
        return MOVES.get(self.move)

    def init(
        self, target: Density, proposal: Draws, n: int, generator: torch.Generator
    ) -> Population:
        """Return ``n`` draws of the proposal; those of zero target density have no weight."""
        x, log_proposal = proposal.sample_and_log_prob(n, generator)
        log_target = target.log_prob(x)
        alive = torch.isfinite(log_target) & torch.isfinite(log_proposal)
        return Population(
            x,
            log_target,
            log_proposal,
            log_weight=torch.where(alive, 0.0, -math.inf).double(),
            ancestor=torch.arange(n, device=log_target.device),
            step_size=self.step_size or self.kernel.first_step(num_coordinates(x)),
        )

    def done(self, state: Population) -> bool:
        """Tell whether the moves at temperature 1 are made, or nothing is left alive."""
        arrived = state.temperature == 1.0 and state.moves_left == 0
        return arrived or not torch.isfinite(state.log_weight).any()

    def step(
        self, state: Population, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Population, Info]:
        """Change the temperature if its moves are made, then make one move."""
        if state.moves_left == 0:
            state = self._resample(self._reweight(state), generator)
            evaluate = self._evaluator(state, target, proposal)
            state = self._prepare_moves(state, evaluate)
        state, info = self._move(state, self._evaluator(state, target, proposal), generator)
        return replace(state, x=wrapped(state.x, target)), info

    def finish(self, state: Population, target: Density, proposal: Draws) -> SampleSet:
        """Return the particles; the mean of their weights estimates Z."""
        variance = torch.tensor([total_variance(state, self.resampling)], dtype=torch.float64)
        # Moves at temperature 1 do not look at the proposal, so its log-density is found once here.
        log_proposal = proposal.log_prob(state.x)
        return SampleSet(
            state.x,
            clean(state.log_weight + state.log_z),
            state.log_target,
            log_proposal,
            state.ancestor,
            info={"variance": variance},
        )

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return all particles; each island counts in proportion to its own estimate of Z."""
        constant = combine_islands(shards)
        smallest = min(_smallest(shard.info) for shard in shards)
        joined = SampleSet.concatenate(_number_ancestors(shards))
        joined.info.pop("variance")
        require_weight(joined, self.name)
        kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_weight))
        ess, families = kish_ess(kept.log_weight, len(joined)), effective_families(kept)
        report = verdict(
            ess=ess.count,
            ess_fraction=ess.fraction,
            log_z=constant.value,
            log_z_error=constant.error,
            effective_ancestors=families,
            smallest_ess_fraction=smallest,
            acceptance=_mean(kept.info, "acceptance"),
            advice=_advice(ess.count, families, constant.error),
        )
        kept = replace(kept, log_weight=mean_one(kept.log_weight))
        return kept.with_meta(rejected=rejected, verdict=report)

    def fraction_done(self, state: Population) -> float:
        """Return the inverse temperature: a poor clock, but one that never runs backwards."""
        return 0.99 * state.temperature if not self.done(state) else 1.0

    def describe(self, state: Population) -> str:
        """Return the temperature and the step size."""
        return f"smc: temperature {state.temperature:.4f}, step size {state.step_size:.3g}"

    def _next_temperature(self, state: Population) -> float:
        stage = state.stage + 1
        if self.schedule != "adaptive":
            steps = self.num_steps or 64
            grid = linear_grid(steps) if self.schedule == "linear" else power_grid(steps)
            return grid[stage].item()
        ratio = state.log_target - state.log_proposal
        adaptive = next_temperature(state.log_weight, ratio, state.temperature, self.ess_target)
        return max(adaptive, power_grid(self.num_steps or 1000)[stage].item())

    def _reweight(self, state: Population) -> Population:
        temperature = self._next_temperature(state)
        ratio = torch.where(
            torch.isfinite(state.log_weight), state.log_target - state.log_proposal, -math.inf
        )
        increment = clean((temperature - state.temperature) * ratio)
        return replace(
            state,
            temperature=temperature,
            stage=state.stage + 1,
            log_weight=clean(state.log_weight + increment),
        )

    def _resample(self, state: Population, generator: torch.Generator) -> Population:
        dead = ~torch.isfinite(state.log_weight)
        fraction = kish_ess(state.log_weight).fraction
        # Rows without weight would spoil the acceptance that the step size is adapted to.
        if dead.all() or (fraction >= self.resample_threshold and not dead.any()):
            return state
        n = num_rows(state.x)
        rows = resample(self.resampling, state.log_weight, n, generator)
        mean = log_z(state.log_weight)
        return replace(
            state,
            x=take(state.x, rows),
            log_target=state.log_target[rows],
            log_proposal=state.log_proposal[rows],
            ancestor=state.ancestor[rows],
            log_weight=torch.zeros_like(state.log_weight),
            log_z=state.log_z + mean.value,
            variance=state.variance + mean.error**2,
            num_resampled=state.num_resampled + 1,
        )

    def _evaluator(self, state: Population, target: Density, proposal: Draws) -> Evaluate:
        return path_evaluator(target, proposal, state.temperature, self.kernel.needs_grad)

    def _prepare_moves(self, state: Population, evaluate: Evaluate) -> Population:
        if not self.kernel.needs_grad:
            scale = local_scale(state.x, {}, normalise(state.log_weight))
            return replace(state, scale=scale, moves_left=self.num_moves)
        point = evaluate(state.x)
        scale = local_scale(state.x, point.grad, normalise(state.log_weight))
        return replace(state, grad=point.grad, scale=scale, moves_left=self.num_moves)

    def _move(
        self, state: Population, evaluate: Evaluate, generator: torch.Generator
    ) -> tuple[Population, Info]:
        t = state.temperature
        log_path = state.log_target if t == 1.0 else _path(state, t)
        point = Point(state.x, log_path, state.grad, state.log_target, state.log_proposal)
        moved, acceptance, _ = self.kernel.apply(
            point, evaluate, state.scale, state.step_size, self.num_leapfrog, generator
        )
        aim = self.target_acceptance or self.kernel.acceptance
        info = {
            "temperature": t,
            "ess": kish_ess(state.log_weight).fraction,
            "acceptance": acceptance,
            "step_size": state.step_size,
            "log_z": state.log_z + log_z(state.log_weight).value,
        }
        state = replace(
            state,
            x=moved.x,
            grad=moved.grad,
            log_target=moved.log_target,
            log_proposal=moved.log_proposal,
            step_size=adapted(state.step_size, acceptance, aim, ADAPTATION_GAIN),
            moves_left=state.moves_left - 1,
        )
        return state, info


def total_variance(state: Population, scheme: str) -> float:
    """Return the relative variance of an island's Z: the larger of two estimates.

    One adds up the spread of the weights at each resampling and at the end, as if the moves in
    between mixed perfectly. The other reads it from how unequally the first particles are
    represented at the end.

    Reference: Lee and Whiteley (2018), arXiv:1509.00394, for the second.
    """
    weight = normalise(state.log_weight)
    n = weight.numel()
    families = torch.zeros_like(weight).index_add_(0, state.ancestor, weight)
    # The factor takes out the noise that multinomial draws add; the other schemes add far less,
    # and with the factor their error bars came out a third too short on a mixture.
    rounds = state.num_resampled if normalise_name(scheme) == "multinomial" else 0
    factor = (n / max(n - 1, 1)) ** (rounds + 1)
    genealogy = 1.0 - factor * (1.0 - families.square().sum().item())
    return max(state.variance + log_z(state.log_weight).error ** 2, genealogy)


def combine_islands(shards: Sequence[SampleSet]) -> LogZ:
    """Return log Z over independent islands, each unbiased for Z, and its standard error."""
    sizes = torch.tensor([len(shard) for shard in shards], dtype=torch.float64)
    values = torch.stack([torch.logsumexp(shard.log_weight.cpu(), 0) for shard in shards])
    variance = torch.stack([shard.info["variance"].cpu()[0] for shard in shards])
    total = torch.logsumexp(values, 0)
    if total == -math.inf:
        return LogZ(-math.inf, math.inf)
    share = (values - total).exp()
    alive = share > 0
    within = (share[alive].square() * variance[alive]).sum()
    # From four islands on, their scatter is a second witness.
    count = len(shards)
    scatter = (share - sizes / sizes.sum()).square().sum() * count / max(count - 1, 1)
    error = torch.maximum(within, scatter) if count >= 4 else within
    return LogZ((total - sizes.sum().log()).item(), error.sqrt().item())


def effective_families(samples: SampleSet) -> float:
    """Return the effective number of first particles that the weights descend from."""
    weight, ancestor = samples.weight, samples.ancestor
    shares = torch.zeros(int(ancestor.max()) + 1, dtype=weight.dtype).index_add_(
        0, ancestor.cpu(), weight.cpu()
    )
    return 1.0 / shares.square().sum().item()


def _number_ancestors(shards: Sequence[SampleSet]) -> list[SampleSet]:
    """Return the shards with ancestors that are row numbers in the joined set."""
    numbered, start = [], 0
    for shard in shards:
        numbered.append(replace(shard, ancestor=shard.ancestor + start))
        start += len(shard)
    return numbered


def _path(state: Population, temperature: float) -> torch.Tensor:
    return clean((1.0 - temperature) * state.log_proposal + temperature * state.log_target)


def _mean(info: dict[str, torch.Tensor], name: str) -> float | None:
    return info[name].double().mean().item() if name in info and info[name].numel() else None


def _smallest(info: dict[str, torch.Tensor]) -> float:
    return info["ess"].min().item() if "ess" in info and info["ess"].numel() else 0.0


def _advice(ess: float, families: float, error: float) -> str:
    if not math.isfinite(error) or error > 1.0 or families < 10:
        return (
            f"the population collapsed to {families:.0f} effective ancestors: use more samples per "
            "shard, a higher ess_target or more moves"
        )
    if ess < 50:
        return f"too few effective samples ({ess:.0f}): draw more"
    return "the weights can be trusted"
