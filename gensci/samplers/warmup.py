"""Chains in free coordinates, and how their step size and scale are found in the warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from gensci.core.protocols import Tensors

WINDOW_ENDS = (0.1, 0.2, 0.4, 0.75)
"""Shares of the warm-up after which the scale is taken anew; the rest settles the step size."""
FORGET, DELAY, SHRINK = 0.75, 10.0, 0.05
"""Constants of dual averaging: kappa, t0 and gamma of its authors."""
PRIOR_DRAWS = 5.0
"""For how many draws the scale so far counts beside those of a window."""


@dataclass(frozen=True)
class FreeChains:
    """Chains between two moves.

    ``place`` (c, d) float64, ``log_density`` (c,) and ``grad`` (c, d) are where they are (``grad``
    has no columns where it is not needed). ``scale`` holds the lengths (d,) that a step of one
    means. ``kept`` (m, c, d) and ``kept_log_density`` (m, c) are the rows kept so far. The others
    belong to the warm-up: ``mean_log_step``, ``miss``, ``anchor`` and ``age`` to dual averaging,
    ``seen`` and the sums of a window to the scale: ``centre`` and ``square`` (d,) of the places,
    ``slope_square`` (d,) of the gradients.
    """

    place: torch.Tensor
    log_density: torch.Tensor
    grad: torch.Tensor
    scale: torch.Tensor
    kept: torch.Tensor
    kept_log_density: torch.Tensor
    centre: torch.Tensor
    square: torch.Tensor
    slope_square: torch.Tensor
    num_rows: int
    step_size: float
    anchor: float
    mean_log_step: float = 0.0
    miss: float = 0.0
    age: int = 0
    seen: int = 0
    moves: int = 0
    template: Tensors = field(default_factory=dict)


def averaged(state: FreeChains, acceptance: float, aim: float) -> FreeChains:
    """Return the chains with the step size after one more step of dual averaging.

    Args:
        state: the chains.
        acceptance: what the last move had, between 0 and 1.
        aim: what it should be.

    Reference: Hoffman and Gelman (2014), arXiv:1111.4246, section 3.2.
    """
    age = state.age + 1
    miss = state.miss + (aim - acceptance - state.miss) / (age + DELAY)
    log_step = state.anchor - math.sqrt(age) / SHRINK * miss
    log_step = min(max(log_step, -30.0), 15.0)
    mean = state.mean_log_step + age**-FORGET * (log_step - state.mean_log_step)
    return replace(
        state, step_size=math.exp(log_step), mean_log_step=mean, miss=miss, age=age
    )  # fmt: skip


def restarted(state: FreeChains, first_step: float) -> FreeChains:
    """Return the chains with dual averaging begun anew, from the first step size."""
    return replace(state, step_size=first_step, anchor=math.log(first_step), miss=0.0, age=0)


def settled(state: FreeChains) -> FreeChains:
    """Return the chains with the mean step size, which they keep from here on."""
    return replace(state, step_size=math.exp(state.mean_log_step)) if state.age else state


def observed(state: FreeChains) -> FreeChains:
    """Return the chains with their places and slopes in the sums of the window."""
    count = len(state.place)
    seen = state.seen + count
    mean = state.place.mean(0)
    shift = mean - state.centre
    within = (state.place - mean).square().sum(0)
    return replace(
        state,
        seen=seen,
        centre=state.centre + shift * (count / seen),
        square=state.square + within + shift.square() * (state.seen * count / seen),
        slope_square=state.slope_square + state.grad.square().sum(0),
    )


def rescaled(state: FreeChains) -> FreeChains:
    """Return the chains with the scale that the window shows, and an empty window.

    It is the geometric mean of the spread of the places and of one over that of the slopes, which
    for a Gaussian of independent coordinates are the same.

    Reference: Titsias (2023), arXiv:2305.14442, for slopes as a preconditioner.
    """
    weight = state.seen + PRIOR_DRAWS
    spread = ((state.square + PRIOR_DRAWS * state.scale.square()) / weight).sqrt()
    length = spread
    if state.grad.shape[1]:
        # The mean slope of a density is zero, so that no centre is needed.
        prior = PRIOR_DRAWS / state.scale.square()
        inverse = (weight / (state.slope_square + prior)).sqrt()
        length = (spread * torch.minimum(spread, inverse)).sqrt()
    empty = torch.zeros_like(state.square)
    return replace(
        state,
        scale=length.clamp(1e-150, 1e150),
        seen=0,
        centre=empty,
        square=empty,
        slope_square=torch.zeros_like(state.slope_square),
    )


def window_ends(warmup: int) -> tuple[int, ...]:
    """Return after which moves of a warm-up the scale is taken anew."""
    ends = [int(share * warmup) for share in WINDOW_ENDS]
    return tuple(end for end in ends if end >= 5)
