"""Moves of a walker by the places of others: they need no scale, and no gradient.

A walker is moved with the help of walkers that stand still meanwhile, so each move leaves the
product density invariant. All act at every temperature at once: walkers are (T, m, d), those that
stand still (T, k, d). Angles are differenced the short way round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from gensci.core.registry import Registry
from gensci.samplers.flat import Space

STRETCH = 2.0
"""Largest factor of a stretch, the usual one."""
DEGREES_OF_FREEDOM = 8.0
"""Tails of the fitted density: heavier than a Gaussian's, as posteriors often have them."""


class Proposed(NamedTuple):
    """New places (T, m, d) and the (T, m) logarithm of how much likelier the way back is."""

    theta: torch.Tensor
    log_correction: torch.Tensor


EnsembleMove = Callable[[torch.Tensor, torch.Tensor, Space, torch.Generator], Proposed]
ENSEMBLE_MOVES: Registry[EnsembleMove] = Registry("ensemble move")


@ENSEMBLE_MOVES.register("stretch")
def stretch(
    theta: torch.Tensor, others: torch.Tensor, space: Space, generator: torch.Generator
) -> Proposed:
    """Move each walker along the line through another one.

    Reference: Goodman and Weare (2010), doi:10.2140/camcos.2010.5.65.
    """
    anchor = _pick(others, _numbers(theta, others.shape[1], generator))
    root = STRETCH**-0.5
    factor = (root + (1.0 / root - root) * _uniform(theta, generator)).square()
    step = factor[..., None] * space.shortest(theta - anchor)
    log_correction = (theta.shape[-1] - 1) * factor.log()
    return _along_line(anchor, step, log_correction, space)


@ENSEMBLE_MOVES.register("differential")
def differential(
    theta: torch.Tensor, others: torch.Tensor, space: Space, generator: torch.Generator
) -> Proposed:
    """Move each walker by a multiple of the difference of two others.

    One step in ten is the whole difference, which leads from mode to mode.

    Reference: ter Braak (2006), doi:10.1007/s11222-006-8769-1.
    """
    k, d = others.shape[1], theta.shape[-1]
    first, second = _two_numbers(theta, k, generator)
    between = space.shortest(_pick(others, first) - _pick(others, second))
    # Steps of several lengths serve narrow and wide directions of a density that is no Gaussian.
    length = 2.38 / math.sqrt(2 * d) * (0.3 + 0.9 * _uniform(theta, generator))
    whole = _uniform(theta, generator) < 0.1
    factor = torch.where(whole, 1.0, length)
    moved = space.wrap(theta + factor[..., None] * between)
    return Proposed(moved, torch.zeros_like(factor))


@ENSEMBLE_MOVES.register("snooker")
def snooker(
    theta: torch.Tensor, others: torch.Tensor, space: Space, generator: torch.Generator
) -> Proposed:
    """Move each walker on the line to another one, by how two more differ along it.

    Reference: ter Braak and Vrugt (2008), doi:10.1007/s11222-008-9104-9.
    """
    k = others.shape[1]
    first, second = _two_numbers(theta, k, generator)
    anchor = _pick(others, _numbers(theta, k, generator))
    line = space.shortest(theta - anchor)
    between = space.shortest(_pick(others, first) - _pick(others, second))
    length = line.square().sum(-1)
    share = (line * between).sum(-1) / length.clamp(min=1e-300)
    factor = 1.0 + (1.2 + _uniform(theta, generator)) * share
    log_correction = (theta.shape[-1] - 1) * factor.abs().clamp(min=1e-300).log()
    log_correction = torch.where(length > 0, log_correction, -math.inf)
    return _along_line(anchor, factor[..., None] * line, log_correction, space)


@ENSEMBLE_MOVES.register("fitted")
def fitted(
    theta: torch.Tensor, others: torch.Tensor, space: Space, generator: torch.Generator
) -> Proposed:
    """Move each walker reversibly under a Student's t density with the others' moments.

    Half of the steps forget where the walker was; where the density is near its fit, chains then
    mix in a few steps, which the moves along differences never do in many dimensions.

    Reference: Grumitt, Karamanis and Seljak (2024), arXiv:2407.07781, for the reversible step.
    """
    d, nu = theta.shape[-1], DEGREES_OF_FREEDOM
    centre = space.centre(others)[:, None]
    factor = _cholesky(space.shortest(others - centre))
    from_centre = space.shortest(theta - centre)
    before = _mahalanobis(from_centre, factor)
    # Given the place, a Student's t is a Gaussian of a random scale.
    alpha = torch.full_like(before, 0.5 * (nu + d))
    scale = 0.5 * (nu + before) / torch._standard_gamma(alpha, generator=generator)
    noise = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    fresh = scale.sqrt()[..., None] * (noise @ factor.mT)
    dice, turn = _uniform(theta, generator), 0.2 + 0.6 * _uniform(theta, generator)
    turn = torch.where(dice < 0.5, 1.0, turn)[..., None]
    step = (1.0 - turn.square()).sqrt() * from_centre + turn * fresh
    after = _mahalanobis(step, factor)
    log_correction = 0.5 * (nu + d) * (torch.log1p(after / nu) - torch.log1p(before / nu))
    return _along_line(centre, step, log_correction, space)


def jump(
    theta: torch.Tensor, jumps: Callable, space: Space, generator: torch.Generator
) -> Proposed:
    """Move each walker to one of its images under the symmetries of the target.

    Args:
        theta: (T, m, d) walkers.
        jumps: (n, d) points to their (k, n, d) images under a group that keeps volumes.
        space: the geometry.
        generator: the source of randomness.
    """
    flat = theta.reshape(-1, theta.shape[-1])
    images = jumps(flat).to(torch.float64)
    which = torch.randint(len(images), (len(flat),), generator=generator)
    moved = images[which, torch.arange(len(flat))].reshape(theta.shape)
    return Proposed(space.wrap(moved), torch.zeros(theta.shape[:-1], dtype=torch.float64))


def _along_line(
    anchor: torch.Tensor, step: torch.Tensor, log_correction: torch.Tensor, space: Space
) -> Proposed:
    """Return ``anchor + step``, refused where an angle goes so far that the way back is another."""
    log_correction = torch.where(space.is_short(step), log_correction, -math.inf)
    return Proposed(space.wrap(anchor + step), log_correction)


def _cholesky(deviation: torch.Tensor) -> torch.Tensor:
    """Return (T, d, d) lower factors of the covariances of (T, k, d) deviations from the mean."""
    k, d = deviation.shape[-2:]
    spread = deviation.square().mean(-2).sqrt().clamp(min=1e-300)
    unit = deviation / spread[:, None]
    correlation = unit.mT @ unit / k
    # Few walkers leave directions flat; a share of independent coordinates fills them.
    share = max(1e-9, min(1.0, d / k) ** 2 * 0.1 if k < 4 * d else 0.0)
    eye = torch.eye(d, dtype=torch.float64)
    factor, trouble = torch.linalg.cholesky_ex((1.0 - share) * correlation + share * eye)
    factor = torch.where((trouble > 0)[:, None, None], eye, factor)
    return spread[..., None] * factor


def _mahalanobis(step: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    white = torch.linalg.solve_triangular(factor, step.mT, upper=False)
    return white.square().sum(-2)


def _uniform(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(theta.shape[:-1], generator=generator, dtype=torch.float64)


def _numbers(theta: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(k, theta.shape[:-1], generator=generator)


def _two_numbers(
    theta: torch.Tensor, k: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    first = _numbers(theta, k, generator)
    other = 1 + torch.randint(k - 1, theta.shape[:-1], generator=generator)
    return first, (first + other) % k


def _pick(others: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return the (T, m, d) walkers with the (T, m) numbers."""
    return torch.gather(others, 1, numbers[..., None].expand(-1, -1, others.shape[-1]))
