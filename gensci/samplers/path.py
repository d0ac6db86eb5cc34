"""The geometric path between a proposal and a target."""

from __future__ import annotations

import torch

from gensci.core.protocols import Tensors
from gensci.core.weights import clean
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.moves import Evaluate, Point


def path_evaluator(
    target: Density, proposal: Draws | None, temperature: float, needs_grad: bool
) -> Evaluate:
    """Return the function that evaluates ``(1 - t) log q + t log p`` for moves.

    At t = 1 the proposal is not asked, so that only the target's cost is paid; the points then
    carry ``log_target`` in the place of ``log_proposal``.

    Args:
        target: the density p.
        proposal: the density q; may be None at t = 1.
        temperature: t, above 0 and at most 1.
        needs_grad: whether the points carry gradients.
    """

    def evaluate(x: Tensors) -> Point:
        log_target, grad_target = _evaluate(target, x, needs_grad)
        if temperature == 1.0 or proposal is None:
            return Point(x, log_target, grad_target, log_target, log_target)
        log_proposal, grad_proposal = _evaluate(proposal, x, needs_grad)
        grad = {
            name: (1.0 - temperature) * grad_proposal[name] + temperature * slope
            for name, slope in grad_target.items()
        }
        log_path = clean((1.0 - temperature) * log_proposal + temperature * log_target)
        return Point(x, log_path, grad, log_target, log_proposal)

    return evaluate


def _evaluate(density: Density, x: Tensors, needs_grad: bool) -> tuple[torch.Tensor, Tensors]:
    return density.log_prob_and_grad(x) if needs_grad else (density.log_prob(x), {})
