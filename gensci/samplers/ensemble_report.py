"""From kept walkers to a result: rows, evidence, and what may be said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.samplers.chain_report import join_chains, number_or_none
from gensci.samplers.ensemble import Ensemble
from gensci.samplers.flat import Layout, Space, worst_chain
from gensci.samplers.ladder import evidence
from gensci.samplers.verdict import drop_rejected, require_weight, verdict

SHARD_NUMBERS = ("log_z", "log_z_error", "rhat", "chain_ess", "temperatures", "exchange")
"""What a shard says of itself, one number each."""
SAMPLING = 2.0
"""The phase in which rows are kept."""


def chain_quality(state: Ensemble, space: Space) -> tuple[float, float]:
    """Return R-hat and the effective size of the kept rows, of their slowest quantity."""
    log_target = state.kept_base + state.kept_ratio[:, 0]
    return worst_chain(torch.cat((space.unrolled(state.kept), log_target[..., None]), -1))


def ensemble_result(
    state: Ensemble, layout: Layout, space: Space, from_proposal: bool
) -> SampleSet:
    """Return the rows that were asked for, spread evenly over the kept ones.

    Args:
        state: the last state.
        layout: how rows lie in the matrix.
        space: the geometry.
        from_proposal: whether the base is the proposal, whose density is then told.
    """
    n, (draws, walkers, dim) = state.num_rows, state.kept.shape
    need = -(-n // walkers)
    picked = (torch.arange(need) + 1) * draws // need - 1
    log_base = state.kept_base[picked].flatten()[:n]
    log_ratio = state.kept_ratio[picked, 0].flatten()[:n]
    rhat, ess = chain_quality(state, space)
    constant = _constant(state)
    numbers = (
        constant.value,
        constant.error,
        rhat,
        ess,
        float(len(state.beta)),
        state.swap_rate.min().item() if len(state.beta) > 1 else math.nan,
    )
    info = {
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in zip(SHARD_NUMBERS, (number_or_none(v) for v in numbers), strict=True)
    }
    return SampleSet(
        layout.rows(state.kept[picked].reshape(-1, dim)[:n]),
        torch.zeros_like(log_base),
        log_base + log_ratio,
        log_base if from_proposal else None,
        chain=torch.arange(n) % walkers,
        info=info,
    )


def _constant(state: Ensemble) -> LogZ:
    if len(state.beta) == 1 or state.beta[-1] > 0.0:
        return LogZ(math.nan, math.nan)
    return evidence(state.kept_ratio, state.beta)


def join_ensembles(shards: Sequence[SampleSet], sampler: str) -> SampleSet:
    """Return the rows of independent ensembles with the verdict on all of them."""
    joined = join_chains(shards)
    numbers = {name: joined.info.pop(name) for name in SHARD_NUMBERS}
    require_weight(joined, sampler)
    kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_target))
    sizes = torch.tensor([len(shard) for shard in shards], dtype=torch.float64)
    known = numbers["chain_ess"] > 0
    # A shard too short to tell has at least as many independent rows as walkers, or they are few.
    chains = torch.tensor([float(len(shard.chain.unique())) for shard in shards])
    ess = torch.minimum(torch.where(known, numbers["chain_ess"], chains), sizes).sum().item()
    rhat = numbers["rhat"].max().item() if (numbers["rhat"] > 0).all() else math.nan
    constant = combined(numbers["log_z"], numbers["log_z_error"])
    exchange = numbers["exchange"].min().item()
    report = verdict(
        ess=ess,
        ess_fraction=ess / len(joined),
        log_z=constant.value,
        log_z_error=constant.error,
        rhat=rhat,
        acceptance=_acceptance(joined),
        temperatures=int(numbers["temperatures"].max()),
        exchange=exchange if exchange >= 0 else None,
        advice=_advice(rhat, ess, exchange),
    )
    return kept.with_meta(rejected=rejected, verdict=report)


def combined(log_z: torch.Tensor, error: torch.Tensor) -> LogZ:
    """Return the mean of independent estimates of log Z and its standard error.

    From four on, the error is at least what their scatter tells.
    """
    if (log_z < -1e299).any():
        return LogZ(math.nan, math.nan)
    count = len(log_z)
    spread = error.square().mean().item()
    if count >= 4:
        spread = max(spread, log_z.var().item())
    return LogZ(log_z.mean().item(), math.sqrt(spread / count))


def _acceptance(samples: SampleSet) -> float:
    taken = samples.info["acceptance"][samples.info["phase"] == SAMPLING]
    return taken.double().mean().item()


def _advice(rhat: float, ess: float, exchange: float) -> str:
    if rhat > 1.05:
        return (
            f"the walkers disagree (R-hat {rhat:.2f}): raise warmup, num_walkers or max_steps, or "
            "set thinning to none"
        )
    if 0 <= exchange < 0.05:
        return (
            f"neighbouring temperatures hardly exchange ({exchange:.2f}), so modes may be missed: "
            "raise num_temperatures"
        )
    if ess < 50:
        return f"too few effective samples ({ess:.0f}): draw more, or raise max_steps"
    if math.isnan(rhat):
        return "too few draws in each chain to judge: draw more, or lower num_walkers"
    return "the walkers agree"
