"""Islands of particles joined: their common estimate of log Z, and how sure it is.

The error of a population's log Z comes from the population itself: rows that share a cluster, a
chain or a first ancestor, err together, so their shares are added up before they are squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gensci.core.registry import normalise_name
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ, log_z, normalise


def cluster_sums(value: torch.Tensor, cluster: torch.Tensor, size: int) -> torch.Tensor:
    """Return the (size,) sums of the (n,) values over the rows of each cluster."""
    return torch.zeros(size, dtype=value.dtype).index_add_(0, cluster.cpu(), value.cpu())


def spread_variance(log_weight: torch.Tensor, num_clusters: int) -> float:
    """Return the relative variance of a mean weight whose rows come in independent clusters.

    Args:
        log_weight: (n,) log-weights; row r belongs to cluster ``r % num_clusters``.
        num_clusters: n for independent rows; below that the chains of waste-free moves.

    Returns:
        Infinite for one cluster, which says nothing of its spread.

    Reference: Dau and Chopin (2022), arXiv:2011.02328, section 4, for chains as the units.
    """
    n = log_weight.numel()
    if num_clusters < 2:
        return math.inf
    cluster = torch.arange(n) % num_clusters
    share = normalise(log_weight) - 1.0 / n
    square = cluster_sums(share, cluster, num_clusters).square().sum().item()
    return square * num_clusters / (num_clusters - 1)


def cluster_size(values: torch.Tensor, num_clusters: int) -> float:
    """Return how many independent rows the mean of (n,) values is worth, at most n.

    Args:
        values: one quantity; row r belongs to chain ``r % num_clusters``.
        num_clusters: independent chains.
    """
    n = values.numel()
    deviation = values.double() - values.double().mean()
    total = deviation.square().sum().item()
    if num_clusters < 2 or not total > 0:
        return float(num_clusters)
    sums = cluster_sums(deviation, torch.arange(n) % num_clusters, num_clusters)
    between = sums.square().sum().item() * num_clusters / (num_clusters - 1)
    return min(n * total / between, float(n)) if between > 0 else float(n)


def total_variance(state: Any, scheme: str) -> float:
    """Return the relative variance of an island's Z: the larger of two estimates.

    One adds up the spread of the weights at each resampling and at the end, as if the moves in
    between mixed perfectly. The other reads it from how unequally the first particles are
    represented at the end.

    Reference: Lee and Whiteley (2018), arXiv:1509.00394, for the second.
    """
    weight = normalise(state.log_weight)
    n = weight.numel()
    families = torch.zeros_like(weight).index_add_(0, state.ancestor, weight)
    # The factor takes out the noise that multinomial draws add; the other schemes add far less,
    # and with the factor their error bars came out a third too short on a mixture.
    rounds = state.num_resampled if normalise_name(scheme) == "multinomial" else 0
    factor = (n / max(n - 1, 1)) ** (rounds + 1)
    genealogy = 1.0 - factor * (1.0 - families.square().sum().item())
    return max(state.variance + log_z(state.log_weight).error ** 2, genealogy)


def combine_islands(shards: Sequence[SampleSet]) -> LogZ:
    """Return log Z over independent islands, each unbiased for Z, and its standard error."""
    sizes = torch.tensor([len(shard) for shard in shards], dtype=torch.float64)
    values = torch.stack([torch.logsumexp(shard.log_weight.cpu(), 0) for shard in shards])
    variance = torch.stack([shard.info["variance"].cpu()[0] for shard in shards])
    total = torch.logsumexp(values, 0)
    if total == -math.inf:
        return LogZ(-math.inf, math.inf)
    share = (values - total).exp()
    alive = share > 0
    within = (share[alive].square() * variance[alive]).sum()
    # From four islands on, their scatter is a second witness.
    count = len(shards)
    scatter = (share - sizes / sizes.sum()).square().sum() * count / max(count - 1, 1)
    error = torch.maximum(within, scatter) if count >= 4 else within
    return LogZ((total - sizes.sum().log()).item(), error.sqrt().item())


def effective_families(samples: SampleSet) -> float:
    """Return the effective number of first particles that the weights descend from."""
    count = int(samples.ancestor.max()) + 1
    shares = cluster_sums(samples.weight, samples.ancestor, count)
    return 1.0 / shares.square().sum().item()


def number_ancestors(shards: Sequence[SampleSet]) -> list[SampleSet]:
    """Return the shards with ancestors that are row numbers in the joined set."""
    numbered, start = [], 0
    for shard in shards:
        numbered.append(replace(shard, ancestor=shard.ancestor + start))
        start += len(shard)
    return numbered
