"""Moves of ensembles within one of several symmetric modes.

Walkers in separate modes tell a move little: their differences lead elsewhere, and their moments
are those of no mode. Here all walkers are brought into one mode by the target's symmetries, moved
by the others' places in it, and taken back to the mode they were in. The mode is the set of points
that are nearer to a centre than their images are; a step that leaves it is refused. Centre and
units are told by the walkers that stand still, so that the product density stays invariant, with
symmetries that hold only nearly, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gensci.samplers.ensemble_moves import EnsembleMove, Proposed
from gensci.samplers.flat import Space

ROUNDS = 3
"""Times that the centre is found anew from what lies nearest to it."""

Images = Callable[[Tensor], Tensor]


def folded(
    move: EnsembleMove,
    theta: Tensor,
    others: Tensor,
    jumps: Images,
    space: Space,
    generator: Generator,
) -> Proposed:
    """Move each walker within its mode by the places that the others have in it.

    Args:
        move: one of `ENSEMBLE_MOVES`.
        theta: (T, m, d) walkers.
        others: (T, k, d) walkers that stand still.
        jumps: (n, d) points to their (g, n, d) images under a group that keeps volumes.
        space: the geometry.
        generator: the source of randomness.
    """
    near = _images(others, jumps, space)
    centre, units = others[:, :1], _units(others, others[:, :1], space)
    for _ in range(ROUNDS):
        inside = _pick(near, _distance(near, centre, units, space).argmin(0))
        centre = space.centre(inside)[:, None]
        units = _units(inside, centre, space)
    every = _images(theta, jumps, space)
    here = _pick(every, _distance(every, centre, units, space).argmin(0))
    # which image leads back to where the walker was
    back = _distance(_images(here, jumps, space), theta, units, space).argmin(0)
    new = move(here, inside, space, generator)
    moved = _images(new.theta, jumps, space)
    apart = _distance(moved, centre, units, space)
    own = _distance(new.theta, centre, units, space)
    inside_mode = own <= apart.amin(0) * (1 + 1e-12)
    correction = torch.where(inside_mode, new.log_correction, -math.inf)
    return Proposed(_pick(moved, back), correction)


def _images(theta: Tensor, jumps: Images, space: Space) -> Tensor:
    """The (g, T, m, d) images of (T, m, d) points."""
    flat = theta.reshape(-1, theta.shape[-1])
    images = jumps(flat).to(torch.float64)
    return space.wrap(images).reshape(len(images), *theta.shape)


def _distance(points: Tensor, centre: Tensor, units: Tensor, space: Space) -> Tensor:
    """Squared distances of (..., T, m, d) points from (T, 1 or m, d)."""
    return (space.shortest(points - centre) / units).square().sum(-1)


def _units(theta: Tensor, centre: Tensor, space: Space) -> Tensor:
    """Root mean squares (T, 1, d) of distances from the centre."""
    away = space.shortest(theta - centre)
    return away.square().mean(-2, keepdim=True).sqrt().clamp_min(1e-300)


def _pick(images: Tensor, numbers: Tensor) -> Tensor:
    """The (T, m, d) images that (T, m) numbers name."""
    index = numbers[None, ..., None].expand(1, *images.shape[1:])
    return images.gather(0, index)[0]
