"""The walkers of parallel tempering, and what one step does with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gensci.core.errors import GensciError, UsageError
from gensci.core.protocols import Tensors
from gensci.core.random import uniform
from gensci.core.resampling import resample
from gensci.core.schedules import next_temperature
from gensci.samplers.ensemble_moves import ENSEMBLE_MOVES, Proposed, jump
from gensci.samplers.evaluate import Draws
from gensci.samplers.flat import Space
from gensci.samplers.folded_moves import folded
from gensci.samplers.ladder import adapted_ladder, choose_ladder, exchanges
from gensci.samplers.tempered_path import TemperedPath, path_density

SHARES = {"fitted": 0.45, "differential": 0.35, "stretch": 0.15, "snooker": 0.05}
"""How often each move is made where all are."""
JUMP_SHARE = 0.2
FOLDED_SHARE = 0.6
"""How often walkers jump to an image, and move within one mode, where there are symmetries."""
START_ATTEMPTS = 20


@dataclass(frozen=True)
class Ensemble:
    """The walkers between two steps.

    ``theta`` (T, W, d), ``log_base`` and ``log_ratio`` (T, W) are where they are; the first
    temperature is the target's. While ``annealing``, T is 1 and all walkers descend together;
    ``past`` (k, N, d) holds them as they left each of the ``stages`` (k,). ``kept`` (m, W, d) are
    the rows kept every ``interval`` steps, with ``kept_base`` (m, W) and ``kept_ratio`` (m, T, W).
    """

    theta: torch.Tensor
    log_base: torch.Tensor
    log_ratio: torch.Tensor
    beta: torch.Tensor
    stages: torch.Tensor
    past: torch.Tensor
    past_base: torch.Tensor
    past_ratio: torch.Tensor
    kept: torch.Tensor
    kept_base: torch.Tensor
    kept_ratio: torch.Tensor
    swap_rate: torch.Tensor
    num_rows: int
    template: Tensors = field(default_factory=dict)
    annealing: bool = False
    complete: bool = False
    moves: int = 0
    interval: int = 1


@dataclass(frozen=True)
class Surroundings:
    """What walkers move in.

    Attributes:
        path: the densities.
        space: the geometry.
        jumps: symmetries of the target, or None.
        fresh: where the hottest walkers are drawn anew at each step, or None.
        move: mixed, or the name of one move.
    """

    path: TemperedPath
    space: Space
    jumps: Any
    fresh: Draws | None
    move: str


def check_walkers(walkers: int, dim: int) -> None:
    """Raise a UsageError unless half the walkers span the space."""
    if walkers <= 2 * dim:
        raise UsageError(
            f"num_walkers={walkers} are too few for {dim} dimensions",
            f"give at least {2 * dim + 2}",
        )


def starting_points(
    path: TemperedPath, proposal: Draws, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``count`` draws with a density, (n, d), their log base and log ratio.

    Draws are repeated where too few are found.

    Raises:
        GensciError: no draw has any target density.
    """
    found: list[tuple[torch.Tensor, ...]] = []
    for _ in range(START_ATTEMPTS):
        theta = path.layout.matrix(proposal.sample(count, generator))
        log_base = path.log_base(theta)
        log_ratio = path.log_ratio(theta, log_base)
        rows = torch.isfinite(log_ratio).nonzero()[:, 0]
        found.append((theta[rows], log_base[rows], log_ratio[rows]))
        if sum(len(part[0]) for part in found) >= count:
            break
    theta, log_base, log_ratio = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not len(theta):
        raise GensciError(
            f"none of {START_ATTEMPTS * count} draws of the proposal has any target density",
            "use a proposal that is trained for this system",
        )
    rows = torch.arange(count) % len(theta)
    return theta[rows], log_base[rows], log_ratio[rows]


def new_ensemble(
    theta: torch.Tensor,
    log_base: torch.Tensor,
    log_ratio: torch.Tensor,
    beta: torch.Tensor,
    num_rows: int,
    template: Tensors,
) -> Ensemble:
    """Return (T, W, d) walkers at the inverse temperatures (T,), with nothing kept yet."""
    return Ensemble(
        theta=theta,
        log_base=log_base,
        log_ratio=log_ratio,
        beta=beta,
        stages=beta[:1],
        past=theta[:1],
        past_base=log_base[:1],
        past_ratio=log_ratio[:1],
        kept=theta[:0],
        kept_base=log_base[:0],
        kept_ratio=log_ratio[None][:0],
        swap_rate=torch.full((len(beta) - 1,), 0.25, dtype=torch.float64),
        num_rows=num_rows,
        template=template,
    )


def next_stage(state: Ensemble, ess_target: float, generator: torch.Generator) -> Ensemble:
    """Return the descending walkers at the next inverse temperature, resampled to it."""
    ratio, beta = state.log_ratio[0], state.beta[0].item()
    increment = next_temperature(torch.zeros_like(ratio), ratio, beta, ess_target)
    rows = resample("systematic", (increment - beta) * ratio, len(ratio), generator)
    return replace(
        state,
        theta=state.theta[:, rows],
        log_base=state.log_base[:, rows],
        log_ratio=state.log_ratio[:, rows],
        beta=torch.tensor([increment], dtype=torch.float64),
    )


def remembered(state: Ensemble) -> Ensemble:
    """Return the descending walkers with their places at this stage kept for the ladder."""
    return replace(
        state,
        stages=torch.cat((state.stages, state.beta)),
        past=torch.cat((state.past, state.theta)),
        past_base=torch.cat((state.past_base, state.log_base)),
        past_ratio=torch.cat((state.past_ratio, state.log_ratio)),
    )


def onto_ladder(
    state: Ensemble, num_temperatures: int | None, walkers: int, generator: torch.Generator
) -> Ensemble:
    """Return walkers at every temperature of a ladder, taken from the stages of the descent."""
    beta = choose_ladder(state.stages, num_temperatures)
    # Of the two stages about a temperature, the colder one.
    stage = torch.searchsorted(state.stages, beta * (1.0 - 1e-12)).clamp(max=len(state.stages) - 1)
    count = state.past.shape[1]
    rows = torch.stack([torch.randperm(count, generator=generator) for _ in beta])[:, :walkers]
    theta, base, ratio = (
        past[stage[:, None], rows] for past in (state.past, state.past_base, state.past_ratio)
    )
    if len(beta) == 1:
        base, ratio = torch.zeros_like(base), base + ratio
    return new_ensemble(theta, base, ratio, beta, state.num_rows, state.template)


def moved(
    state: Ensemble, around: Surroundings, generator: torch.Generator
) -> tuple[Ensemble, float]:
    """Return the ensemble with every walker moved once, and the coldest walkers' acceptance."""
    walkers = state.theta.shape[1]
    order = torch.randperm(walkers, generator=generator)
    halves = order[: walkers // 2], order[walkers // 2 :]
    accepted = 0.0
    for mine, others in (halves, halves[::-1]):
        state, share = _half_moved(state, mine, others, around, generator)
        accepted += 0.5 * share
    return state, accepted


def _half_moved(
    state: Ensemble,
    mine: torch.Tensor,
    others: torch.Tensor,
    around: Surroundings,
    generator: torch.Generator,
) -> tuple[Ensemble, float]:
    hot = len(state.beta) - (around.fresh is not None)
    beta, path = state.beta[:hot], around.path
    new = _proposed(state.theta[:hot, mine], state.theta[:hot, others], around, generator)
    theta = path.layout.round(new.theta.flatten(0, 1))
    log_base = path.log_base(theta)
    if around.fresh is not None:
        x, log_prob = around.fresh.sample_and_log_prob(len(mine), generator)
        theta = torch.cat((theta, path.layout.matrix(x)))
        log_base = torch.cat((log_base, log_prob))
    shape = (-1, len(mine))
    log_ratio = path.log_ratio(theta, log_base).reshape(shape)
    theta, log_base = theta.reshape(*shape, theta.shape[-1]), log_base.reshape(shape)
    before = path_density(beta, state.log_base[:hot, mine], state.log_ratio[:hot, mine])
    after = path_density(beta, log_base[:hot], log_ratio[:hot])
    gain = torch.nan_to_num(after - before + new.log_correction, nan=-math.inf)
    dice = torch.rand(gain.shape, generator=generator, dtype=torch.float64)
    accept = torch.ones_like(log_ratio, dtype=torch.bool)
    accept[:hot] = dice.log() < gain
    state = replace(
        state,
        theta=_replaced(state.theta, mine, theta, accept[..., None]),
        log_base=_replaced(state.log_base, mine, log_base, accept),
        log_ratio=_replaced(state.log_ratio, mine, log_ratio, accept),
    )
    return state, accept[0].double().mean().item()


def _proposed(
    theta: torch.Tensor, others: torch.Tensor, around: Surroundings, generator: torch.Generator
) -> Proposed:
    dice = uniform(1, generator).item()
    if around.jumps is not None and dice < JUMP_SHARE:
        return jump(theta, around.jumps, around.space, generator)
    name = around.move
    if name == "mixed":
        shares = torch.tensor(list(SHARES.values())).cumsum(0)
        number = int((uniform(1, generator).item() > shares[:-1]).sum())
        name = list(SHARES)[number]
    move = ENSEMBLE_MOVES.get(name)
    if around.jumps is not None and dice < JUMP_SHARE + FOLDED_SHARE:
        return folded(move, theta, others, around.jumps, around.space, generator)
    return move(theta, others, around.space, generator)


def _replaced(
    old: torch.Tensor, columns: torch.Tensor, new: torch.Tensor, accept: torch.Tensor
) -> torch.Tensor:
    return old.index_copy(1, columns, torch.where(accept, new, old[:, columns]))


def exchanged(state: Ensemble, generator: torch.Generator) -> tuple[Ensemble, float]:
    """Return the ensemble after exchanges between neighbours, and the mean acceptance."""
    if len(state.beta) == 1:
        return state, 0.0
    source, rate = exchanges(state.beta, state.log_ratio, state.moves % 2, generator)
    tried = ~torch.isnan(rate)
    # A mean over about ten steps: the ladder must not follow the noise of one.
    mean = torch.where(tried, 0.8 * state.swap_rate + 0.2 * rate, state.swap_rate)
    walkers = torch.arange(source.shape[1])
    state = replace(
        state,
        theta=state.theta[source, walkers],
        log_base=state.log_base[source, walkers],
        log_ratio=state.log_ratio[source, walkers],
        swap_rate=mean,
    )
    return state, rate[tried].mean().item() if tried.any() else 0.0


def readapted(state: Ensemble) -> Ensemble:
    """Return the ensemble with its ladder a little nearer to equal exchange rates."""
    gain = 0.5 / (1.0 + state.moves / 20.0)
    return replace(state, beta=adapted_ladder(state.beta, state.swap_rate, gain))


def with_kept(state: Ensemble) -> Ensemble:
    """Return the ensemble with the present rows kept."""
    return replace(
        state,
        kept=torch.cat((state.kept, state.theta[:1])),
        kept_base=torch.cat((state.kept_base, state.log_base[:1])),
        kept_ratio=torch.cat((state.kept_ratio, state.log_ratio[None])),
    )


def with_half_kept(state: Ensemble) -> Ensemble:
    """Return the ensemble with every second kept row, and twice the interval."""
    return replace(
        state,
        kept=state.kept[1::2],
        kept_base=state.kept_base[1::2],
        kept_ratio=state.kept_ratio[1::2],
        interval=2 * state.interval,
    )
