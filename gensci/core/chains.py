"""Diagnostics of Markov chains: split R-hat and effective sample size by autocorrelation.

References: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., sections 11.4 and 11.5; Vehtari,
Gelman, Simpson, Carpenter and Buerkner (2021), arXiv:1903.08008, for those of the ranks.
"""

from __future__ import annotations

import math

import torch


def split_rhat(draws: torch.Tensor) -> float:
    """Return the potential scale reduction of chains that are split in halves.

    Args:
        draws: (draws, chains) values of one quantity.

    Returns:
        Near 1 when the chains agree; NaN with fewer than four draws or where nothing varies.
    """
    halves = _split(draws)
    if halves.shape[0] < 2:
        return math.nan
    within, total = _variances(halves)
    return math.sqrt(total / within) if within > 0 else math.nan


def chain_ess(draws: torch.Tensor) -> float:
    """Return the effective number of independent draws over all chains.

    Autocorrelations are summed in pairs until a pair is negative (Geyer's initial sequence).

    Args:
        draws: (draws, chains) values of one quantity.

    Returns:
        At most the number of draws; NaN with fewer than four draws or where nothing varies.
    """
    halves = _split(draws)
    length, chains = halves.shape
    if length < 2:
        return math.nan
    within, total = _variances(halves)
    if not total > 0:
        return math.nan
    rho = 1.0 - (within - _autocovariance(halves).mean(1)) / total
    pairs = (rho[0 : 2 * (length // 2) : 2] + rho[1 : 2 * (length // 2) : 2]).tolist()
    time = -1.0
    smallest = math.inf
    for pair in pairs:
        if pair < 0.0:
            break
        smallest = min(smallest, pair)
        time += 2.0 * smallest
    return length * chains / max(time, 1.0)


def rank_rhat(draws: torch.Tensor) -> float:
    """Return the split R-hat of ranks, which sees chains that differ in place or in width.

    Args:
        draws: (draws, chains) values of one quantity; it need have no moments.
    """
    folded = (draws - draws.median()).abs()
    return max(split_rhat(rank_normal(draws)), split_rhat(rank_normal(folded)))


def bulk_ess(draws: torch.Tensor) -> float:
    """Return the effective number of independent draws for the bulk of one quantity.

    Args:
        draws: (draws, chains) values of one quantity; it need have no moments.
    """
    return chain_ess(rank_normal(draws))


def rank_normal(draws: torch.Tensor) -> torch.Tensor:
    """Return draws of any shape replaced by the normal scores of their ranks; ties share theirs."""
    values, inverse, counts = torch.unique(draws, return_inverse=True, return_counts=True)
    rank = counts.cumsum(0) - 0.5 * (counts - 1)
    score = torch.special.ndtri((rank.double() - 0.375) / (draws.numel() + 0.25))
    # Nothing that varies is told by scores of one value.
    return score[inverse] if len(values) > 1 else torch.zeros_like(draws, dtype=torch.float64)


def _split(draws: torch.Tensor) -> torch.Tensor:
    half = draws.shape[0] // 2
    return torch.cat([draws[:half], draws[draws.shape[0] - half :]], dim=1).double()


def _variances(chains: torch.Tensor) -> tuple[float, float]:
    """Return the mean variance within chains and the pooled estimate of the total variance."""
    length = chains.shape[0]
    within = chains.var(0).mean().item()
    between = chains.mean(0).var().item() if chains.shape[1] > 1 else 0.0
    return within, (length - 1) / length * within + between


def _autocovariance(chains: torch.Tensor) -> torch.Tensor:
    length = chains.shape[0]
    spectrum = torch.fft.rfft(chains - chains.mean(0), n=2 * length, dim=0)
    product = torch.fft.irfft(spectrum.abs().square(), n=2 * length, dim=0)[:length]
    return product / max(length - 1, 1)
