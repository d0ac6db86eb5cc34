"""Sequential Monte Carlo from the proposal to the target along the geometric path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from gensci.core.errors import UsageError
from gensci.core.protocols import Tensors
from gensci.core.registry import SAMPLERS
from gensci.core.resampling import RESAMPLERS, resample
from gensci.core.results import SampleSet
from gensci.core.schedules import linear_grid, next_temperature, power_grid
from gensci.core.weights import clean, kish_ess, log_z, mean_one, normalise
from gensci.samplers import waste_free
from gensci.samplers.base import Info, Sampler
from gensci.samplers.evaluate import Density, Draws, take, wrapped
from gensci.samplers.islands import (
    cluster_size,
    cluster_sums,
    combine_islands,
    effective_families,
    number_ancestors,
    spread_variance,
)
from gensci.samplers.moves import (
    MOVES,
    Move,
    Point,
    adapted,
    check_move_settings,
    local_scale,
    num_coordinates,
)
from gensci.samplers.path import FORCES, PathDensity
from gensci.samplers.settings import check_choice, check_flag, check_share, check_whole
from gensci.samplers.verdict import drop_rejected, require_weight, verdict

ADAPTATION_GAIN = 0.2
"""In many dimensions acceptance falls steeply with step size; twice this gain overshoots."""


@dataclass(frozen=True)
class Population:
    """The particles of one shard between two moves.

    ``log_weight`` grows since the last resampling; ``log_z`` is the log of the mean weight up to
    it, and ``variance`` the relative variance of that. ``gain`` (first particles,) is the weight
    that their descendants gained at all changes of temperature. ``scale`` and ``step_size`` belong
    to the move; ``grad`` is the slope that drives it. Of ``num_rows`` particles waste-free moves
    have made those that are there so far, in ``num_chains`` chains: row r is of chain
    ``r % num_chains``. Else each row is a chain.
    """

    x: Tensors
    log_target: torch.Tensor
    log_proposal: torch.Tensor
    log_weight: torch.Tensor
    ancestor: torch.Tensor
    gain: torch.Tensor
    step_size: float
    num_rows: int
    num_chains: int
    grad: Tensors = field(default_factory=dict)
    scale: Tensors = field(default_factory=dict)
    log_z: float = 0.0
    variance: float = 0.0
    temperature: float = 0.0
    stage: int = 0
    moves_left: int = 0


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
        waste_free: keep the states between the moves: of n particles, n / (num_moves + 1) are
            resampled after each change of temperature, and each becomes a chain of num_moves
            states more, all of which are particles.
        force: whose slope drives mala and hmc: that of the path, or of the target alone, which
            spares a network's gradients. Both are exact. None for target where the proposal says
            ``dear_slopes``, else path.
        num_leapfrog: leapfrog steps of an hmc move.
        target_acceptance: what the step size is adapted to; None for the best of the move.
        step_size: the first step size, in units of the local scale; None for the best of the move.

    The verdict's ``ess`` is the smaller of ``effective_ancestors`` (from how many draws the rows
    descend) and ``ess_if_moves_mix`` (that of the weights, as if moves had parted the rows).

    References: Del Moral, Doucet and Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x; Dau and
    Chopin (2022), arXiv:2011.02328, for waste-free moves.
    """

    schedule: str = "adaptive"
    num_steps: int | None = None
    ess_target: float = 0.9
    resample_threshold: float = 0.5
    resampling: str = "systematic"
    move: str = "hmc"
    num_moves: int = 3
    waste_free: bool = False
    force: str | None = None
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
        check_flag("waste_free", self.waste_free)
        if self.force is not None:
            check_choice("force", self.force, FORCES)
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
        if self.waste_free and n < 2:
            raise UsageError("waste_free needs more than one sample", "raise num_samples")
        log_weight = torch.where(alive, 0.0, -math.inf).double()
        return Population(
            x,
            log_target,
            log_proposal,
            log_weight,
            ancestor=torch.arange(n, device=log_target.device),
            gain=normalise(log_weight) - 1.0 / n,
            step_size=self.step_size or self.kernel.first_step(num_coordinates(x)),
            num_rows=n,
            num_chains=n,
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
            state = self._prepare_moves(state, self._evaluator(state, target, proposal))
        state, info = self._move(state, self._evaluator(state, target, proposal), generator)
        return replace(state, x=wrapped(state.x, target)), info

    def finish(self, state: Population, target: Density, proposal: Draws) -> SampleSet:
        """Return the particles; the mean of their weights estimates Z."""
        info = {"variance": population_variance(state), "kept_size": float(state.num_rows)}
        if self.waste_free:
            info["kept_size"] = cluster_size(state.log_target, state.num_chains)
        # Moves at temperature 1 do not look at the proposal, so its log-density is found once here.
        log_proposal = proposal.log_prob(state.x)
        return SampleSet(
            state.x,
            clean(state.log_weight + state.log_z),
            state.log_target,
            log_proposal,
            state.ancestor,
            info={k: torch.tensor([v], dtype=torch.float64) for k, v in info.items()},
        )

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return all particles; each island counts in proportion to its own estimate of Z."""
        constant = combine_islands(shards)
        smallest = min(_smallest(shard.info) for shard in shards)
        joined = SampleSet.concatenate(number_ancestors(shards))
        joined.info.pop("variance")
        independent = joined.info.pop("kept_size").sum().item()
        require_weight(joined, self.name)
        kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_weight))
        families = effective_families(kept)
        # States of one waste-free chain are alike: the weights alone do not tell.
        weighted = kish_ess(kept.log_weight, len(joined)).count * independent / len(joined)
        # Nor do they tell whether moves took descendants of one draw apart: at worst not at all.
        ess = min(weighted, families)
        report = verdict(
            ess=ess,
            ess_fraction=ess / len(joined),
            ess_if_moves_mix=weighted,
            log_z=constant.value,
            log_z_error=constant.error,
            effective_ancestors=families,
            smallest_ess_fraction=smallest,
            acceptance=_mean(kept.info, "acceptance"),
            advice=_advice(ess, families, constant.error),
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
        log_weight = clean(state.log_weight + (temperature - state.temperature) * ratio)
        gained = normalise(log_weight) - normalise(state.log_weight)
        return replace(
            state,
            temperature=temperature,
            stage=state.stage + 1,
            log_weight=log_weight,
            gain=state.gain + cluster_sums(gained, state.ancestor, state.num_rows),
        )

    def _resample(self, state: Population, generator: torch.Generator) -> Population:
        dead = ~torch.isfinite(state.log_weight)
        fraction = kish_ess(state.log_weight).fraction
        # Rows without weight would spoil the acceptance that the step size is adapted to.
        enough = fraction >= self.resample_threshold and not self.waste_free
        if dead.all() or (enough and not dead.any()):
            return state
        n = state.num_rows
        chains = waste_free.num_chains(n, self.num_moves) if self.waste_free else n
        rows = resample(self.resampling, state.log_weight, chains, generator)
        return replace(
            state,
            x=take(state.x, rows),
            log_target=state.log_target[rows],
            log_proposal=state.log_proposal[rows],
            ancestor=state.ancestor[rows],
            log_weight=torch.zeros(chains, dtype=torch.float64),
            num_chains=chains,
            log_z=state.log_z + log_z(state.log_weight).value,
            variance=state.variance + spread_variance(state.log_weight, state.num_chains),
        )

    def _evaluator(self, state: Population, target: Density, proposal: Draws) -> PathDensity:
        dear = getattr(proposal.subject, "dear_slopes", False)
        force = self.force or ("target" if dear else "path")
        return PathDensity(target, proposal, state.temperature, self.kernel.needs_grad, force)

    def _prepare_moves(self, state: Population, evaluate: PathDensity) -> Population:
        grad = evaluate.between(state.x).grad if self.kernel.needs_grad else {}
        scale = local_scale(state.x, grad, normalise(state.log_weight))
        moves = waste_free.moves_to_fill(state) if self.waste_free else self.num_moves
        return replace(state, grad=grad, scale=scale, moves_left=moves)

    def _move(
        self, state: Population, evaluate: PathDensity, generator: torch.Generator
    ) -> tuple[Population, Info]:
        front = waste_free.front(state) if self.waste_free else state
        t = state.temperature
        log_path = front.log_target if t == 1.0 else _path(front, t)
        point = Point(front.x, log_path, front.grad, front.log_target, front.log_proposal)
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
        after = replace(
            front,
            x=moved.x,
            grad=moved.grad,
            log_target=moved.log_target,
            log_proposal=moved.log_proposal,
            step_size=adapted(state.step_size, acceptance, aim, ADAPTATION_GAIN),
            moves_left=state.moves_left - 1,
        )
        return (waste_free.grown(state, after) if self.waste_free else after), info


def population_variance(state: Population) -> float:
    """Return the relative variance of an island's Z: the larger of two estimates.

    One adds up the spread of the weights at each resampling and at the end, as if the moves in
    between mixed perfectly. The other takes what the first particles' descendants gained at all
    changes of temperature together, which is right while many of them have descendants.

    Reference: Lee and Whiteley (2018), arXiv:1509.00394, for estimates from the genealogy.
    """
    last = spread_variance(state.log_weight, state.num_chains)
    return max(state.variance + last, state.gain.square().sum().item())


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
