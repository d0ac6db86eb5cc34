"""Markov kernels that leave a density invariant: random walk, MALA and Hamiltonian Monte Carlo.

Proposals are scaled coordinate by coordinate by a preconditioner, so that a step size of order one
suits a stiff bond of 0.003 nm and a free torsion alike; the step size is then adapted until the
acceptance meets a target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gensci.core.protocols import Tensors
from gensci.core.random import randn_like, uniform
from gensci.core.registry import Registry
from gensci.samplers.evaluate import choose, expand, floating, num_rows
from gensci.samplers.settings import check_positive, check_share, check_whole

DIVERGENCE = 1000.0
"""Loss of log-density, in nats, along a trajectory that says that it went astray."""
GRADIENT_LIMIT = 10.0
"""Largest slope used in a kick, in standard deviations of the preconditioner.

Any force that depends on the position alone keeps the leapfrog map reversible and its volume, so
the limit costs no exactness; without it a chain that starts inside a clash is thrown far away.
"""


class Point(NamedTuple):
    """Positions with all that their density was found to be.

    ``log_path`` (n,) is the density that a move leaves invariant; ``grad`` its slope (empty for
    moves that need none); ``log_target`` and ``log_proposal`` (n,) are carried along.
    """

    x: Tensors
    log_path: torch.Tensor
    grad: Tensors
    log_target: torch.Tensor
    log_proposal: torch.Tensor


Evaluate = Callable[[Tensors], Point]


class Moved(NamedTuple):
    """The rows after a move, the mean acceptance probability and how many went far astray."""

    point: Point
    acceptance: float
    divergent: int = 0


@dataclass(frozen=True)
class Move:
    """A kernel.

    Attributes:
        apply: ``(point, evaluate, scale, step_size, num_leapfrog, generator) -> Moved``.
        needs_grad: whether ``evaluate`` must give gradients.
        acceptance: the acceptance at which the kernel works best in many dimensions.
        first_step: the step size to try first, from the number of coordinates.
    """

    apply: Callable[[Point, Evaluate, Tensors, float, int, torch.Generator], Moved]
    needs_grad: bool
    acceptance: float
    first_step: Callable[[int], float]


def random_walk(
    point: Point,
    evaluate: Evaluate,
    scale: Tensors,
    step_size: float,
    num_leapfrog: int,
    generator: torch.Generator,
) -> Moved:
    """Return the rows after one Gaussian random-walk Metropolis step.

    Reference: Roberts, Gelman and Gilks (1997), doi:10.1214/aoap/1034625254.
    """
    x = dict(point.x)
    for name, leaf in floating(point.x).items():
        x[name] = leaf + step_size * scale[name] * randn_like(leaf, generator)
    return _metropolis(point, evaluate(x), torch.zeros_like(point.log_path), generator)


def hamiltonian(
    point: Point,
    evaluate: Evaluate,
    scale: Tensors,
    step_size: float,
    num_leapfrog: int,
    generator: torch.Generator,
) -> Moved:
    """Return the rows after one trajectory of Hamiltonian Monte Carlo.

    With one leapfrog step this is the Metropolis-adjusted Langevin algorithm.

    Reference: Neal (2011), arXiv:1206.1901.
    """
    # A step that varies from move to move avoids trajectories that close on themselves.
    step = step_size * (0.8 + 0.4 * uniform(1, generator).item())
    momentum = {k: randn_like(leaf, generator) for k, leaf in floating(point.x).items()}
    before = _kinetic(momentum)
    new = point
    momentum = _kick(momentum, new.grad, scale, 0.5 * step)
    between = getattr(evaluate, "between", evaluate)  # on the way only the slope counts
    for index in range(num_leapfrog):
        drift = {k: new.x[k] + step * scale[k] * momentum[k] for k in momentum}
        last = index == num_leapfrog - 1
        new = (evaluate if last else between)({**new.x, **drift})
        momentum = _kick(momentum, new.grad, scale, (0.5 if last else 1.0) * step)
    return _metropolis(point, new, before - _kinetic(momentum), generator)


def langevin(
    point: Point,
    evaluate: Evaluate,
    scale: Tensors,
    step_size: float,
    num_leapfrog: int,
    generator: torch.Generator,
) -> Moved:
    """Return the rows after one Metropolis-adjusted Langevin step (MALA).

    Reference: Roberts and Tweedie (1996), doi:10.2307/3318418.
    """
    return hamiltonian(point, evaluate, scale, step_size, 1, generator)


MOVES: Registry[Move] = Registry("move")
MOVES.register("random-walk")(Move(random_walk, False, 0.234, lambda d: 2.4 / d**0.5))
MOVES.register("mala")(Move(langevin, True, 0.574, lambda d: 1.6 / d ** (1 / 6)))
MOVES.register("hmc")(Move(hamiltonian, True, 0.75, lambda d: 1.0 / d**0.25))


def check_move_settings(
    move: str, num_leapfrog: int, target_acceptance: float | None, step_size: float | None
) -> None:
    """Raise a UsageError that names the first setting that cannot be used."""
    MOVES.get(move)
    check_whole("num_leapfrog", num_leapfrog, 1)
    if target_acceptance is not None:
        check_share("target_acceptance", target_acceptance)
    if step_size is not None:
        check_positive("step_size", step_size)


def adapted(step_size: float, acceptance: float, target: float, gain: float) -> float:
    """Return the step size after one move: longer if too much was accepted, shorter if too little.

    The change in log step size is proportional to the miss, as in Robbins-Monro. Where almost
    nothing or almost all is accepted the miss says only the direction, and the change is four times
    as large, so that orders of magnitude take a few moves.

    Reference: Andrieu and Thoms (2008), doi:10.1007/s11222-008-9110-y.
    """
    miss = (acceptance - target) / (target * (1.0 - target))
    if acceptance < 0.1 * target or 1.0 - acceptance < 0.1 * (1.0 - target):
        gain *= 4.0
    return min(max(step_size * math.exp(gain * miss), 1e-12), 1e6)


def local_scale(x: Tensors, grad: Tensors, weight: torch.Tensor) -> Tensors:
    """Return the length over which the density changes, for every coordinate.

    The smaller of the population's standard deviation and of one over the typical slope: for a
    Gaussian both are its standard deviation, and along a stiff bond in a tumbling molecule only
    the second is small. Slopes enter by their median, which a few clashes cannot move.

    Args:
        x: the rows.
        grad: slopes of the log-density, or empty to use the spread of the population alone.
        weight: (n,) weights that sum to one; zero for rows to leave out.

    Returns:
        One tensor (...) without the leading dimension for each floating tensor of ``x``.

    Reference: Titsias (2023), arXiv:2305.14442, for slopes as a preconditioner.
    """
    alive = weight > 0
    scale = {}
    for name, leaf in floating(x).items():
        rows = alive.to(leaf.device)
        spread = _spread(leaf[rows].cpu().double(), weight[alive].double())
        if name in grad:
            slope = grad[name][rows].cpu().double().abs().median(dim=0).values / 0.6745
            spread = torch.minimum(spread, 1.0 / slope.clamp(min=1e-30))
        scale[name] = spread.clamp(1e-12, 1e12).to(leaf)
    return scale


def _spread(leaf: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the weighted standard deviation of each coordinate; one where it cannot be told."""
    mean = torch.tensordot(weight, leaf, dims=([0], [0]))
    deviation = torch.tensordot(weight, (leaf - mean).square(), dims=([0], [0])).sqrt()
    return torch.where(deviation > 1e-9 * (1.0 + mean.abs()), deviation, torch.ones_like(deviation))


def num_coordinates(x: Tensors) -> int:
    """Return how many floating numbers make up one sample."""
    return sum(leaf[0].numel() for leaf in floating(x).values())


def _kick(momentum: Tensors, grad: Tensors, scale: Tensors, step: float) -> Tensors:
    return {
        k: p + step * (scale[k] * grad[k]).clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
        for k, p in momentum.items()
    }


def _kinetic(momentum: Tensors) -> torch.Tensor:
    squares = [p.cpu().double().square().unsqueeze(-1) for p in momentum.values()]
    return torch.stack([0.5 * square.flatten(1).sum(1) for square in squares]).sum(0)


def _metropolis(
    old: Point, new: Point, log_correction: torch.Tensor, generator: torch.Generator
) -> Moved:
    """Accept each row with probability min(1, ratio); between two zero densities it stays."""
    log_ratio = torch.nan_to_num(new.log_path - old.log_path + log_correction, nan=-math.inf)
    probability = log_ratio.clamp(max=0.0).exp()
    accept = uniform(num_rows(old.x), generator).cpu() < probability
    grad = {k: torch.where(expand(accept, new.grad[k]), new.grad[k], old.grad[k]) for k in new.grad}
    point = Point(
        choose(accept, new.x, old.x),
        torch.where(accept, new.log_path, old.log_path),
        grad,
        torch.where(accept, new.log_target, old.log_target),
        torch.where(accept, new.log_proposal, old.log_proposal),
    )
    divergent = int((log_ratio < -DIVERGENCE).sum())
    return Moved(point, probability.mean().item(), divergent)
