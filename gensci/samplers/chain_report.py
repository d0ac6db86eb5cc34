"""From the rows of Markov chains to their table, their numbers and a line of advice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from gensci.core.chains import bulk_ess, rank_rhat, split_rhat
from gensci.core.results import SampleSet

NONE = -1e300
"""No number, in tensors that are compared: NaN would differ from itself."""


def join_chains(shards: Sequence[SampleSet]) -> SampleSet:
    """Return the rows of all shards, their chains numbered through."""
    numbered, start = [], 0
    for shard in shards:
        numbered.append(replace(shard, chain=shard.chain + start))
        start += int(shard.chain.max()) + 1
    return SampleSet.concatenate(numbered)


def chain_table(values: torch.Tensor, chain: torch.Tensor) -> torch.Tensor:
    """Return (draws, chains) values, cut to the draws that every chain has."""
    order = torch.argsort(chain, stable=True)
    counts = torch.bincount(chain)
    columns = torch.split(values[order], counts.tolist())
    return torch.stack([column[: int(counts.min())] for column in columns], dim=1)


def worst_ranks(quantities: torch.Tensor) -> tuple[float, float]:
    """Return the largest R-hat and the smallest bulk ESS over the quantities, by their ranks.

    Args:
        quantities: (draws, chains, quantities); those that never vary do not count.

    Returns:
        NaN and NaN where there are too few draws to tell.
    """
    numbers = [(rank_rhat(column), bulk_ess(column)) for column in quantities.unbind(-1)]
    known = [pair for pair in numbers if all(map(math.isfinite, pair))]
    if not known:
        return math.nan, math.nan
    return max(rhat for rhat, _ in known), min(size for _, size in known)


def joint_rhat(joined: SampleSet, rhats: torch.Tensor) -> float:
    """Return the largest R-hat: of each shard, and of the log-density over all their chains.

    Args:
        joined: the rows of all shards.
        rhats: one for each shard, ``NONE`` where it could not be told.
    """
    if not (rhats > 0).all():
        return math.nan
    over_all = split_rhat(chain_table(joined.log_target, joined.chain))
    return max([rhats.max().item()] + ([over_all] if math.isfinite(over_all) else []))


def number_or_none(value: float) -> float:
    """Return the value, or ``NONE`` where it is not finite."""
    return value if math.isfinite(value) else NONE


def chains_advice(rhat: float, ess: float, divergences: int, moves: int) -> str:
    """Return what to do with chains.

    Args:
        rhat: the largest one; NaN where it cannot be told.
        ess: the smallest effective size.
        divergences: trajectories that went astray.
        moves: of how many.
    """
    if math.isnan(rhat):
        return "too few draws in each chain to judge: raise num_samples or lower num_chains"
    if rhat > 1.05:
        return (
            f"the chains disagree (R-hat {rhat:.2f}): raise warmup or thinning, or use the "
            "tempering sampler where there may be several modes"
        )
    if divergences > 0.001 * moves:
        return (
            f"{divergences} of {moves} trajectories diverged, so narrow places may be missed: "
            "raise target_acceptance"
        )
    if ess < 50:
        return f"too few effective samples ({ess:.0f}): raise num_samples or thinning"
    return "the chains agree; modes that none of them found cannot be seen"
