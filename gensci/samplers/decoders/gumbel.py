"""Gumbel noise: draws without replacement as the largest of perturbed log-probabilities.

Reference: Kool, van Hoof and Welling (2019), arXiv:1903.06059.
"""

from __future__ import annotations

import math

import torch


def gumbel_like(log_probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return standard Gumbel noise of the shape of ``log_probs``."""
    exponential = torch.empty_like(log_probs).exponential_(generator=generator)
    # An exponential may round to zero, whose logarithm would beat every other perturbation.
    return -exponential.clamp(min=torch.finfo(log_probs.dtype).tiny).log()


def perturb(log_probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return ``log_probs`` with Gumbel noise added; the k largest are k draws in their order."""
    return log_probs + gumbel_like(log_probs, generator)


def perturb_below(
    log_probs: torch.Tensor, largest: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return perturbed values (n, V), conditioned on the largest of each row.

    Args:
        log_probs: (n, V) log-probabilities of rows with everything before them.
        largest: (n,) the perturbed value of each row, which its best child inherits.
        generator: the source of randomness.
    """
    free = perturb(log_probs, generator)
    top = free.amax(1, keepdim=True)
    # The stable form of -log(exp(-largest) - exp(-top) + exp(-free)), appendix B.3 of the paper.
    v = largest[:, None] - free + log1mexp(free - top)
    below = largest[:, None] - v.clamp(min=0.0) - torch.log1p(torch.exp(-v.abs()))
    below = torch.where(free == top, largest[:, None], below)
    return torch.where(torch.isfinite(free), below, -math.inf)


def log_inclusion(log_probs: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return the log-probability that a perturbed log-probability exceeds a threshold."""
    gap = log_probs - threshold
    # Far below, the probability equals exp(gap), which would underflow.
    return torch.where(gap < -30.0, gap, log1mexp(-torch.exp(gap)))


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Return ``log(1 - exp(x))`` for x <= 0, precise at both ends (Maechler 2012)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
