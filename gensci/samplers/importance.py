"""Self-normalised importance sampling, with Pareto smoothing and resampling on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from gensci.core.registry import SAMPLERS
from gensci.core.resampling import RESAMPLERS
from gensci.core.results import SampleSet, log_or_none
from gensci.core.weights import clean, kish_ess, log_z, mean_one, psis, truncate
from gensci.samplers.direct import Drawn, OneShot
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.settings import check_flag, check_share
from gensci.samplers.verdict import drop_rejected, importance_advice, require_weight, verdict


@SAMPLERS.register("importance")
@dataclass(frozen=True)
class Importance(OneShot):
    """Draws of the proposal, weighted by target over proposal.

    Attributes:
        psis: smooth the largest weights by the Pareto distribution fitted to them.
        truncate: share of the rows whose weights are lowered to the largest of the rest; biased, so
            0 unless asked for, and recorded in ``meta["truncation"]``.
        resample: multinomial, residual, stratified or systematic for equally weighted rows; None
            keeps the weights.

    Reference: Owen (2013), Monte Carlo theory, methods and examples, chapter 9.
    """

    psis: bool = False
    truncate: float = 0.0
    resample: str | None = None

    name: ClassVar[str] = "importance"
    requires: ClassVar[frozenset[str]] = frozenset(
        {"target.log_prob", "proposal.sample_and_log_prob"}
    )

    def __post_init__(self) -> None:
        check_flag("psis", self.psis)
        check_share("truncate", self.truncate, zero=True)
        if self.resample is not None:
            RESAMPLERS.get(str(self.resample))

    def finish(self, state: Drawn, target: Density, proposal: Draws) -> SampleSet:
        """Return the draws with log-weights ``log p - log q``."""
        log_weight = clean(state.log_target - state.log_proposal)
        return SampleSet(state.x, log_weight, state.log_target, state.log_proposal)

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the rows of non-zero weight; smoothing and truncation see all shards at once."""
        joined = SampleSet.concatenate(shards)
        require_weight(joined, self.name)
        n, raw = len(joined), joined.log_weight
        smoothed = psis(raw)
        used = smoothed.log_weight if self.psis else raw
        record: dict[str, Any] = {}
        if self.truncate:
            used, cut = truncate(used, self.truncate)
            record["truncation"] = {k: _safe(v) for k, v in asdict(cut).items()}
        kept, rejected = drop_rejected(replace(joined, log_weight=used), torch.isfinite(used))
        ess, constant = kish_ess(used, n), log_z(raw, n)
        report = verdict(
            ess=ess.count,
            ess_fraction=ess.fraction,
            khat=smoothed.khat,
            log_z=constant.value,
            log_z_error=constant.error,
            ess_raw=kish_ess(raw, n).count,
            advice=importance_advice(ess.count, smoothed.khat, n),
        )
        kept = replace(kept, log_weight=mean_one(kept.log_weight))
        if self.resample is not None:
            kept = kept.resample(self.resample, generator)
        return kept.with_meta(rejected=rejected, verdict=report, **record)


def _safe(value: float) -> float | None:
    return log_or_none(value) if not math.isfinite(value) else value
