"""Arithmetic of log-weights: effective sample size, log Z, Pareto smoothing, truncation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gensci.core.errors import UsageError


class EffectiveSize(NamedTuple):
    """An effective sample size."""

    count: float
    fraction: float


class LogZ(NamedTuple):
    """An estimate of a log normalising constant and its standard error, in nats."""

    value: float
    error: float


class Smoothed(NamedTuple):
    """Pareto-smoothed log-weights (n,) and the shape k-hat of the tail."""

    log_weight: torch.Tensor
    khat: float


@dataclass(frozen=True)
class Truncation:
    """What a truncation did, for the record.

    Attributes:
        fraction: the share of the rows that was asked to be cut.
        count: how many weights were lowered.
        log_limit: the log-weight they were lowered to.
        mass: the share of the total weight that was taken away.
    """

    fraction: float
    count: int
    log_limit: float
    mass: float


def clean(log_weight: torch.Tensor) -> torch.Tensor:
    """Return float64 log-weights in which NaN and +inf count as zero weight."""
    log_weight = log_weight.detach().to(torch.float64)
    unusable = torch.isnan(log_weight) | (log_weight == math.inf)
    return torch.where(unusable, -math.inf, log_weight)


def normalise(log_weight: torch.Tensor) -> torch.Tensor:
    """Return (n,) weights that sum to one; all zero where every log-weight is -inf."""
    log_weight = clean(log_weight)
    if log_weight.numel() == 0 or log_weight.max() == -math.inf:
        return torch.zeros_like(log_weight)
    return torch.softmax(log_weight, dim=0)


def mean_one(log_weight: torch.Tensor) -> torch.Tensor:
    """Return log-weights shifted so that the mean weight is one: zeros when all are equal."""
    log_weight = clean(log_weight)
    if log_weight.numel() == 0 or log_weight.max() == -math.inf:
        return log_weight
    shifted = log_weight - log_weight.max()
    return shifted - torch.logsumexp(shifted, dim=0) + math.log(log_weight.numel())


def kish_ess(log_weight: torch.Tensor, n: int | None = None) -> EffectiveSize:
    """Return Kish's effective sample size, ``(sum w)^2 / sum w^2``.

    Args:
        log_weight: (m,) log-weights; -inf, NaN and +inf count as zero weight.
        n: how many draws the fraction refers to, where zero-weight rows were dropped; default m.

    Reference: Kish (1965), Survey Sampling.
    """
    weight = normalise(log_weight)
    if not weight.numel() or weight.sum() == 0:
        return EffectiveSize(0.0, 0.0)
    count = 1.0 / weight.square().sum().item()
    return EffectiveSize(count, count / (n or weight.numel()))


def log_z(log_weight: torch.Tensor, n: int | None = None) -> LogZ:
    """Return the log of the mean weight and its standard error by the delta method.

    Args:
        log_weight: (m,) log-weights ``log p - log q``.
        n: the number of draws, where rows of zero weight were dropped; default m.

    Returns:
        ``(-inf, inf)`` when every weight is zero. A single draw has the error ``inf``: it says
        nothing of its spread.

    Reference: Owen (2013), Monte Carlo theory, methods and examples, chapter 9.
    """
    log_weight = clean(log_weight)
    n = n or log_weight.numel()
    if not log_weight.numel() or log_weight.max() == -math.inf:
        return LogZ(-math.inf, math.inf)
    value = torch.logsumexp(log_weight, dim=0).item() - math.log(n)
    # With m of n rows kept, the dropped zeros are part of the mean: sum w^2 / (sum w)^2 = 1 / ESS.
    relative_variance = (n / kish_ess(log_weight).count - 1.0) / (n - 1) if n > 1 else math.inf
    return LogZ(value, math.sqrt(max(relative_variance, 0.0)))


def psis(log_weight: torch.Tensor) -> Smoothed:
    """Return Pareto-smoothed log-weights and the k-hat diagnostic.

    The largest ``min(n / 5, 3 sqrt(n))`` weights are replaced by the quantiles of a generalised
    Pareto distribution fitted to them, and none exceeds the largest raw weight. k-hat below
    ``min(0.7, 1 - 1 / log10(n))`` means a reliable estimate. It is NaN where fewer than five
    weights stand out of the rest, and -inf where all are equal.

    Args:
        log_weight: (n,) log-weights; their order is kept.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), arXiv:1507.02646v9.
    """
    raw = clean(log_weight)
    if not raw.numel() or raw.max() == -math.inf:
        return Smoothed(raw, math.nan)
    n, top = raw.numel(), raw.max()
    values, order = torch.sort(raw - top, stable=True)
    if values[0] > -1e-9:
        return Smoothed(raw, -math.inf)
    cut = values[n - 1 - math.ceil(min(n / 5.0, 3.0 * math.sqrt(n)))].exp()
    # Ties with the cut-off hold no information on the tail.
    excess = values.exp() - cut
    excess = excess[excess > 0]
    size = excess.numel()
    if size < 5:
        return Smoothed(raw, math.nan)
    shape, scale = fit_generalised_pareto(excess)
    ranks = (torch.arange(size, dtype=torch.float64, device=raw.device) + 0.5) / size
    tail = (cut + _pareto_quantile(ranks, shape, scale)).log().clamp(max=0.0)
    smoothed = values.clone()
    smoothed[n - size :] = tail
    result = torch.empty_like(raw)
    result[order] = smoothed
    return Smoothed(result + top, shape)


def fit_generalised_pareto(excess: torch.Tensor) -> tuple[float, float]:
    """Return the shape k and scale sigma of a generalised Pareto distribution.

    The profile posterior mean of Zhang and Stephens, with k drawn toward 0.5 by a prior worth ten
    observations.

    Args:
        excess: (m,) positive exceedances in ascending order, float64.

    Reference: Zhang and Stephens (2009), doi:10.1198/tech.2009.08017; prior of arXiv:1507.02646.
    """
    m = excess.numel()
    grid_size = 30 + math.isqrt(m)
    steps = torch.arange(1, grid_size + 1, dtype=torch.float64, device=excess.device) - 0.5
    quartile = excess[max(int(m / 4.0 + 0.5) - 1, 0)]
    theta = 1.0 / excess[-1] + (1.0 - torch.sqrt(grid_size / steps)) / (3.0 * quartile)
    shape = torch.log1p(-theta[:, None] * excess).mean(dim=1)
    profile = m * (torch.log(-theta / shape) - shape - 1.0)
    posterior = torch.softmax(torch.nan_to_num(profile, nan=-math.inf), dim=0)
    best = (posterior * theta).sum()
    k = torch.log1p(-best * excess).mean()
    sigma = (-k / best).item()
    return (k.item() * m + 0.5 * 10.0) / (m + 10.0), sigma


def _pareto_quantile(rank: torch.Tensor, shape: float, scale: float) -> torch.Tensor:
    if abs(shape) < 1e-12:
        return -scale * torch.log1p(-rank)
    return scale * torch.expm1(-shape * torch.log1p(-rank)) / shape


def truncate(log_weight: torch.Tensor, fraction: float) -> tuple[torch.Tensor, Truncation]:
    """Lower the largest weights to the largest of the rest. This biases what is estimated.

    Args:
        log_weight: (n,) log-weights.
        fraction: the share of rows, between 0 and 1, whose weights are lowered.

    Returns:
        The new log-weights and the record of what was done.

    Raises:
        UsageError: ``fraction`` is not between 0 and 1, or so large that only rows of zero weight
            would set the limit.
    """
    if not 0.0 <= fraction < 1.0:
        raise UsageError(f"truncate={fraction} is not a share", "give 0 <= truncate < 1")
    raw = clean(log_weight)
    count = int(fraction * raw.numel())
    if count == 0:
        return raw, Truncation(fraction, 0, math.inf, 0.0)
    limit = torch.sort(raw, descending=True).values[count]
    if limit == -math.inf:
        alive = int((raw > limit).sum())
        problem = f"truncate={fraction} lowers {count} weights, but only {alive} are above zero"
        raise UsageError(problem, "give a smaller share, or draw more samples")
    lowered = torch.minimum(raw, limit)
    kept = (torch.logsumexp(lowered, 0) - torch.logsumexp(raw, 0)).exp().item()
    changed = int((raw > limit).sum())
    return lowered, Truncation(fraction, changed, limit.item(), 1.0 - kept)
