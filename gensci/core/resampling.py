"""Four ways to draw row numbers in proportion to weights.

Reference: Douc, Cappe and Moulines (2005), arXiv:cs/0507025.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gensci.core.errors import GensciError
from gensci.core.random import uniform
from gensci.core.registry import Registry
from gensci.core.weights import normalise

Resampler = Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]
RESAMPLERS: Registry[Resampler] = Registry("resampling scheme")


def resample(
    scheme: str, log_weight: torch.Tensor, n: int, generator: torch.Generator
) -> torch.Tensor:
    """Return (n,) row numbers whose expected counts are ``n`` times the normalised weights.

    Args:
        scheme: multinomial, residual, stratified or systematic.
        log_weight: (m,) log-weights.
        n: how many rows to draw.
        generator: the source of randomness.

    Raises:
        UsageError: the scheme is unknown.
        GensciError: every weight is zero.
    """
    draw = RESAMPLERS.get(scheme)
    weight = normalise(log_weight)
    if weight.sum() == 0:
        raise GensciError("every weight is zero, so nothing can be resampled", "check the proposal")
    return draw(weight.to(generator.device), n, generator).to(log_weight.device)


@RESAMPLERS.register("multinomial")
def multinomial(weight: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return independent draws, in ascending order. ``weight`` (m,) sums to one."""
    return _invert(weight, uniform(n, generator).sort().values)


@RESAMPLERS.register("residual")
def residual(weight: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return the whole part of ``n * weight`` copies, and the rest by multinomial draws."""
    expected = n * weight
    copies = expected.floor().to(torch.int64)
    rows = torch.arange(weight.numel(), device=weight.device).repeat_interleave(copies)
    missing = n - rows.numel()
    if missing <= 0:
        return rows[:n]
    rest = (expected - copies).clamp(min=0.0)
    return torch.cat([rows, multinomial(rest / rest.sum(), missing, generator)]).sort().values


@RESAMPLERS.register("stratified")
def stratified(weight: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return one draw from each of ``n`` equal strata."""
    strata = torch.arange(n, dtype=torch.float64, device=weight.device)
    return _invert(weight, (strata + uniform(n, generator)) / n)


@RESAMPLERS.register("systematic")
def systematic(weight: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return a comb of ``n`` equally spaced draws with one random offset."""
    strata = torch.arange(n, dtype=torch.float64, device=weight.device)
    return _invert(weight, (strata + uniform(1, generator)) / n)


def _invert(weight: torch.Tensor, quantile: torch.Tensor) -> torch.Tensor:
    """Return the row in which each quantile of the cumulative weight falls; never a zero row."""
    cumulative = weight.cumsum(0)
    # Rounding may leave the sum just below or above one; quantiles are scaled to what it is.
    quantile = (quantile * cumulative[-1]).contiguous()
    last = int(weight.nonzero().max())
    return torch.searchsorted(cumulative, quantile, right=True).clamp(max=last)
