"""What a run has to say about its own weights: counts, numbers and a line of advice."""

from __future__ import annotations

import math
from typing import Any

import torch

from gensci.core.errors import GensciError
from gensci.core.results import SampleSet, finite_rows, log_or_none

KHAT_LIMIT = 0.7
"""However many the draws, weights of a heavier tail cannot be trusted (arXiv:1507.02646)."""


def drop_rejected(samples: SampleSet, keep: torch.Tensor) -> tuple[SampleSet, dict[str, int]]:
    """Return the rows to keep, and why the others were left out.

    Args:
        samples: all rows that were asked for.
        keep: (n,) booleans.

    Returns:
        The kept rows and the number of rows by reason; reasons without rows are absent.
    """
    rejected = ~keep
    reasons: dict[str, int] = {}
    tests = {"sample is not finite": ~finite_rows(samples.x)}
    if samples.log_target is not None:
        tests["zero target density"] = ~torch.isfinite(samples.log_target)
    if samples.log_proposal is not None:
        tests["zero proposal density"] = ~torch.isfinite(samples.log_proposal)
    tests["zero weight"] = torch.ones_like(rejected)
    for reason, test in tests.items():
        count = int((rejected & test).sum())
        rejected = rejected & ~test
        if count:
            reasons[reason] = count
    return samples.select(keep), reasons


def require_weight(samples: SampleSet, sampler: str) -> None:
    """Raise a GensciError with the reasons and a remedy if no row has any weight."""
    alive = torch.isfinite(samples.log_weight)
    if alive.any():
        return
    _, reasons = drop_rejected(samples, alive)
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    raise GensciError(
        f"sampler {sampler!r} found no sample with any weight among {len(samples)}: {told}",
        "draw more samples, or use a proposal that is trained for this system",
    )


def verdict(
    *,
    ess: float,
    ess_fraction: float,
    advice: str,
    khat: float | None = None,
    log_z: float | None = None,
    log_z_error: float | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Return the verdict with the keys that every sampler reports; numbers are JSON-safe."""
    numbers = {"khat": khat, "log_z": log_z, "log_z_error": log_z_error, **extra}
    safe = {k: log_or_none(v) if isinstance(v, float) else v for k, v in numbers.items()}
    return {"ess": ess, "ess_fraction": ess_fraction, **safe, "advice": advice}


def khat_limit(n: int) -> float:
    """Return the k-hat above which the weights of ``n`` draws cannot be trusted.

    Few draws bear only a light tail: the limit is ``1 - 1 / log10(n)``, and at most 0.7.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), arXiv:1507.02646v9.
    """
    return min(KHAT_LIMIT, 1.0 - 1.0 / math.log10(n)) if n > 1 else -math.inf


def importance_advice(ess: float, khat: float, n: int) -> str:
    """Return what to do with the importance weights of ``n`` draws.

    More draws come first: on peptides they gave more effective samples for an energy than moves of
    ``smc`` did, by ``benchmarks/bench_smc.py``. They do not help where k-hat is above one, when the
    weights of the draws have no mean.

    Args:
        ess: their effective sample size.
        khat: the shape of their tail; not finite where it is unknown or there is none.
        n: how many were drawn, those of zero weight included.
    """
    limit = khat_limit(n)
    if math.isfinite(khat) and khat > limit:
        remedy = (
            "more draws would not help: finetune the model on this system, or use the smc sampler"
            if khat > 1.0
            else "draw more samples or finetune the model on this system; the smc sampler takes "
            "far more evaluations"
        )
        return (
            f"the weights cannot be trusted (k-hat {khat:.2f} is above {limit:.2f}, the limit for "
            f"{n} draws): {remedy}"
        )
    if ess < 50:
        return (
            f"too few effective samples ({ess:.0f}): draw more, or finetune the model on this "
            "system"
        )
    return "the weights can be trusted"
