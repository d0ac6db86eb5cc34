"""The geometric path between a proposal and a target."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gensci.core.protocols import Tensors
from gensci.core.weights import clean
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.moves import Point

FORCES = ("path", "target")


@dataclass(frozen=True)
class PathDensity:
    """``(1 - t) log q + t log p`` for moves.

    At t = 1 the proposal is not asked, so that only the target's cost is paid; the points then
    carry ``log_target`` in the place of ``log_proposal``.

    Attributes:
        target: the density p.
        proposal: the density q; may be None at t = 1.
        temperature: t, above 0 and at most 1.
        needs_grad: whether the points carry gradients.
        force: whose slope drives a trajectory: that of the path, or of the target alone. Any force
            that depends on the position alone leaves the density invariant, because a trajectory is
            accepted by the values at its ends; where p is cheap and q is a network, the second
            spares q's gradients and all its values but the last.
    """

    target: Density
    proposal: Draws | None
    temperature: float
    needs_grad: bool
    force: str = "path"

    def __call__(self, x: Tensors) -> Point:
        """Return the points with all that a decision on them needs."""
        alone = self._alone
        target, slope = _evaluate(self.target, x, self.needs_grad)
        if alone is None:
            return Point(x, target, slope, target, target)
        driven = self.needs_grad and self.force == "path"
        proposal, slope_q = _evaluate(alone, x, driven)
        t = self.temperature
        if driven:
            slope = {name: (1.0 - t) * slope_q[name] + t * slope[name] for name in slope}
        return Point(x, clean((1.0 - t) * proposal + t * target), slope, target, proposal)

    def between(self, x: Tensors) -> Point:
        """Return points on the way, of which only the slope may be used."""
        if self.force == "path":
            return self(x)
        target, slope = _evaluate(self.target, x, self.needs_grad)
        return Point(x, target, slope, target, target)

    @property
    def _alone(self) -> Draws | None:
        """The proposal, where it counts."""
        return None if self.temperature == 1.0 else self.proposal


def path_evaluator(
    target: Density, proposal: Draws | None, temperature: float, needs_grad: bool
) -> PathDensity:
    """Return the path density whose own slope drives the moves; see :class:`PathDensity`."""
    return PathDensity(target, proposal, temperature, needs_grad)


def _evaluate(density: Density, x: Tensors, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    return density.log_prob_and_grad(x) if needs_grad else (density.log_prob(x), {})
