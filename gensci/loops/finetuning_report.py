"""What finetuning brought: effective sizes with errors, what they cost, which flow to keep."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gensci.core.results import SampleSet, log_or_none
from gensci.core.weights import kish_ess, log_z, normalise, psis

PRETRAINED, FINETUNED = "pretrained", "finetuned"
SIGNIFICANT = 2.0  # joint standard errors by which a finetuned flow must be better
LOST = 3.0  # joint standard errors of log Z by which a flow that lost a region is told


@dataclass(frozen=True)
class Quality:
    """How well independent draws of a flow fit the target; nothing is truncated.

    Attributes:
        draws: How many there were, those of zero weight included.
        ess: Kish's effective size as a share of the draws, with its standard error ``ess_error``.
        khat: Shape of the tail of the weights.
        log_z: Of the target, with its standard error ``log_z_error``.
        smoothed: The share with Pareto-smoothed weights: less at the mercy of the largest one, so
            that rounds can be told apart by few draws.
    """

    draws: int
    ess: float
    ess_error: float
    khat: float
    log_z: float
    log_z_error: float
    smoothed: float

    @classmethod
    def of(cls, samples: SampleSet | None, draws: int) -> Quality:
        """Of the rows that have weight, of so many draws; None where no row has any."""
        if samples is None:
            return cls(draws, 0.0, 0.0, math.nan, -math.inf, math.inf, 0.0)
        raw = samples.log_target - samples.log_proposal
        constant = log_z(raw, draws)
        ess, error = ess_with_error(raw, draws)
        tail = psis(raw)
        smoothed = kish_ess(tail.log_weight, draws).fraction
        return cls(draws, ess, error, tail.khat, constant.value, constant.error, smoothed)


@dataclass(frozen=True)
class RoundRecord:
    """One round: what the flow learned from, and how independent draws of it judge it after.

    Attributes:
        number: 0 is the flow as it came.
        quality: Of draws that it had not seen.
        learned_from: Effective rows of the buffer that it learned from.
        power: What the weights of these were taken to, 1 where enough of them counted.
        evaluations: Energies so far, all rounds together, with the draws that judge this round.
    """

    number: int
    quality: Quality
    learned_from: float
    power: float
    evaluations: int


@dataclass(frozen=True)
class Judgement:
    """Which flow is kept, and why.

    Attributes:
        kept: ``finetuned`` or ``pretrained``.
        reason: One line.
        gain: Difference of the effective sizes, as a share of the draws.
        gain_error: Its standard error.
        log_z_shift: Difference of log Z over its joint error; both estimate the same number.
    """

    kept: str
    reason: str
    gain: float
    gain_error: float
    log_z_shift: float


def ess_with_error(log_weight: Tensor, n: int) -> tuple[float, float]:
    """Kish's effective size as a share of n draws, and its standard error by the delta method.

    Args:
        log_weight: (m,) of the draws with weight.
        n: all draws.

    The share is ``(mean w)^2 / mean w^2``; an error bar of it rests on fourth moments, so with
    heavy tails (k-hat above a quarter) it says too little.
    """
    share = kish_ess(log_weight, n).fraction
    if share == 0.0 or n < 2:
        return share, math.inf
    weight = normalise(log_weight) * n  # mean one over all draws
    influence = 2 * weight - share * weight.square() - 1  # of a draw, over the share
    total = influence.square().sum() + (n - len(weight)) * 1.0
    return share, share * math.sqrt(float(total) / (n - 1) / n)


def judge(before: Quality, after: Quality | None) -> Judgement:
    """Keep the finetuned flow only where independent draws show that it is better.

    Args:
        before: Of the pretrained flow.
        after: Of the best round, by draws that did not choose it; None where no round was better.
    """
    if after is None:
        return Judgement(PRETRAINED, "no round was better than the flow it began with", 0, 0, 0)
    gain, error = after.ess - before.ess, math.hypot(after.ess_error, before.ess_error)
    shift = (after.log_z - before.log_z) / max(
        math.hypot(after.log_z_error, before.log_z_error), 1e-12
    )
    kept, reason = FINETUNED, "better on independent draws"
    if not gain > SIGNIFICANT * error:
        kept, reason = PRETRAINED, "not better than the pretrained flow beyond the errors"
    elif shift < -LOST:
        kept = PRETRAINED
        reason = f"log Z fell by {-shift:.1f} errors: the finetuned flow lost a region"
    return Judgement(kept, reason, gain, error, shift)


def cost(before: Quality, after: Quality | None, spent: int) -> dict[str, float | None]:
    """Effective samples per energy evaluation, and when finetuning has paid for itself.

    Args:
        before: Of the pretrained flow.
        after: Of the finetuned flow, or None.
        spent: Energies that finetuning took, all of them.

    Returns:
        ``per_evaluation_before`` and ``_after``; ``_after_100k`` and ``_after_1m`` with what was
        spent counted, for so many further draws; ``break_even``, the further draws from which on
        finetuning has brought more effective samples than the same energies without it.
    """
    late = before.ess if after is None else after.ess
    gain = late - before.ess
    return {
        "per_evaluation_before": before.ess,
        "per_evaluation_after": late,
        "per_evaluation_after_100k": late * 1e5 / (1e5 + spent),
        "per_evaluation_after_1m": late * 1e6 / (1e6 + spent),
        "break_even": before.ess * spent / gain if gain > 0 else None,
    }


def plain(record: Quality | RoundRecord | Judgement) -> dict[str, Any]:
    """As JSON holds it: numbers that are not finite are null."""

    def safe(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: safe(item) for key, item in value.items()}
        return log_or_none(value) if isinstance(value, float) else value

    return safe(asdict(record))
