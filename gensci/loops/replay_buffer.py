"""Weighted samples of past rounds, put together so that all of them speak for one target.

Draws of several proposals are weighed against the mixture of all of them in proportion to what each
drew (deterministic-mixture weights): the mean weight stays unbiased for the normalising constant,
and no weight exceeds what the proposal that covers its place best would give it. Populations whose
density is not known, such as those of sequential Monte Carlo, join in proportion to their effective
sizes.

References: Veach and Guibas (1995), doi:10.1145/218380.218498 (balance heuristic); Elvira, Martino,
Luengo and Bugallo (2019), doi:10.1214/18-STS668; Cornuet, Marin, Mira and Robert (2012),
arXiv:0907.1254 (adaptive multiple importance sampling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gensci.core.results import SampleSet
from gensci.core.schedules import next_temperature
from gensci.core.weights import LogZ, clean, kish_ess, log_z, psis


@dataclass(frozen=True)
class Draws:
    """Draws of one proposal; those of zero weight are left out.

    Attributes:
        x: (n, atoms, 3) nm.
        log_target: (n,) float64 nats.
        count: How many were drawn, those left out included.
    """

    x: Tensor
    log_target: Tensor
    count: int


@dataclass(frozen=True)
class Population:
    """A weighted sample of the target from elsewhere.

    Attributes:
        x: (n, atoms, 3) nm.
        log_target: (n,) float64 nats.
        log_weight: (n,) float64.
        effective: Its effective number of independent rows.
    """

    x: Tensor
    log_target: Tensor
    log_weight: Tensor
    effective: float

    @classmethod
    def of(cls, samples: SampleSet) -> Population:
        """The rows of a sampler, worth no more than their distinct ancestors."""
        verdict = samples.meta["verdict"]
        effective = min(verdict["ess"], verdict.get("effective_ancestors", verdict["ess"]))
        return cls(samples.x["positions"], samples.log_target, samples.log_weight, effective)


@dataclass(frozen=True)
class Buffer:
    """All rows with one weight each.

    Attributes:
        x: (n, atoms, 3) nm: the draws of every round in order, then the populations.
        log_target: (n,) float64 nats.
        log_weight: (n,) float64, smoothed and joined: what a round learns from.
        num_draws: Rows that are draws of proposals.
        constant: Of the target, from the unsmoothed weights of the draws.
        effective: Kish's size of those weights.
        khat: The shape of their tail.
        power: What the weights were taken to, 1 where enough of them count.
    """

    x: Tensor
    log_target: Tensor
    log_weight: Tensor
    num_draws: int
    constant: LogZ
    effective: float
    khat: float
    power: float


def mixture_log_weight(log_target: Tensor, log_density: Tensor, counts: Sequence[int]) -> Tensor:
    """Log-weights (n,) of rows against the mixture of all proposals.

    Args:
        log_target: (n,) nats.
        log_density: (n, k) of each row under each proposal; -inf where it cannot draw it.
        counts: how many draws each of the k proposals made, those of zero weight included; the sum
            of the weights over all counts is unbiased for the normalising constant.
    """
    share = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    density = clean(log_density) + share.log()
    return clean(log_target - torch.logsumexp(density, 1))


def tempered(log_weight: Tensor, least: float) -> tuple[Tensor, float]:
    """The weights to the largest power, at most 1, that leaves an effective size of ``least``.

    A round that learns from a handful of rows would only learn them by heart; flatter weights are
    wrong by a little and teach of more rows, and the next round's are better.

    Args:
        log_weight: (n,) of n > ``least`` rows.
        least: effective rows.

    Reference: Koblents and Miguez (2015), arXiv:1208.5600.
    """
    if kish_ess(log_weight).count >= least:
        return log_weight, 1.0
    live = torch.isfinite(log_weight)
    aim = min(least / int(live.sum()), 0.9)
    power = next_temperature(torch.zeros_like(log_weight[live]), log_weight[live], 0.0, aim)
    return power * log_weight, power


def joined(parts: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Log-weights of several weighted samples of one target, each worth its effective size.

    Args:
        parts: log-weights (n_i,) and effective sizes; one of size zero adds nothing.
    """
    total = sum(effective for _, effective in parts)
    columns = []
    for log_weight, effective in parts:
        share = math.log(effective / total) if effective > 0 else -math.inf
        columns.append(share + log_weight - torch.logsumexp(log_weight, 0))
    return torch.cat(columns)


def fill(
    draws: Sequence[Draws], log_density: Tensor, populations: Sequence[Population], least: float
) -> Buffer:
    """Put together what all rounds have drawn.

    Args:
        draws: of the rounds.
        log_density: (rows, rounds) of all their rows, in order, under the proposal of each round.
        populations: rows from elsewhere.
        least: effective rows below which weights are flattened.
    """
    log_target = torch.cat([part.log_target for part in draws])
    counts = [part.count for part in draws]
    raw = mixture_log_weight(log_target, log_density, counts)
    smoothed = psis(raw)
    effective = kish_ess(raw, sum(counts)).count
    used = [(smoothed.log_weight, kish_ess(smoothed.log_weight).count)]
    used += [(part.log_weight, part.effective) for part in populations]
    weights, power = tempered(joined(used), least)
    rows = [*draws, *populations]
    return Buffer(
        x=torch.cat([part.x for part in rows]),
        log_target=torch.cat([part.log_target for part in rows]),
        log_weight=weights,
        num_draws=len(log_target),
        constant=log_z(raw, sum(counts)),
        effective=effective,
        khat=smoothed.khat,
        power=power,
    )
