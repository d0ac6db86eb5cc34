"""Plain draws of the proposal, not corrected by the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.protocols import Tensors
from gensci.core.registry import SAMPLERS
from gensci.core.results import SampleSet, finite_rows
from gensci.core.weights import kish_ess
from gensci.samplers.base import Info, Sampler
from gensci.samplers.evaluate import Density, Draws, num_rows
from gensci.samplers.verdict import drop_rejected, require_weight, verdict


@dataclass(frozen=True)
class Drawn:
    """The draws of a shard and their log-densities (n,), where they are known."""

    x: Tensors
    log_target: torch.Tensor | None = None
    log_proposal: torch.Tensor | None = None


class OneShot(Sampler):
    """A sampler whose shard is complete as soon as it is drawn."""

    state_type: ClassVar[type] = Drawn

    def init(self, target: Density, proposal: Draws, n: int, generator: torch.Generator) -> Drawn:
        """Return ``n`` draws with every log-density that can be had."""
        log_proposal = None
        if callable(getattr(proposal.subject, "sample_and_log_prob", None)):
            x, log_proposal = proposal.sample_and_log_prob(n, generator)
        else:
            x = proposal.sample(n, generator)
        log_target = None if target.subject is None else target.log_prob(x)
        if log_proposal is not None and getattr(target.subject, "relative", False):
            log_target = log_target + log_proposal  # a factor on the law of the model
        return Drawn(x, log_target, log_proposal)

    def step(
        self, state: Drawn, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Drawn, Info]:
        """Return the state as it is: there is no second step."""
        return state, {}

    def done(self, state: Drawn) -> bool:
        """Return True."""
        return True


@SAMPLERS.register("direct")
@dataclass(frozen=True)
class Direct(OneShot):
    """Equally weighted draws of the model, as it is; the target only comments on them."""

    name: ClassVar[str] = "direct"
    requires: ClassVar[frozenset[str]] = frozenset({"proposal.sample"})

    def finish(self, state: Drawn, target: Density, proposal: Draws) -> SampleSet:
        """Return the draws with zero log-weights; -inf where a draw is not finite."""
        fit = finite_rows(state.x)
        log_weight = torch.zeros(num_rows(state.x), dtype=torch.float64, device=fit.device)
        log_weight[~fit] = -torch.inf
        return SampleSet(state.x, log_weight, state.log_target, state.log_proposal)

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return the finite draws, equally weighted."""
        joined = SampleSet.concatenate(shards)
        require_weight(joined, self.name)
        kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_weight))
        unknown = kept.log_proposal is None
        remedy = "another sampler that fits" if unknown else "the importance sampler"
        advice = f"these are draws of the model alone: use {remedy} to correct them"
        if kept.log_target is None:
            advice = "these are draws of the model alone, and there is no target to correct them by"
        report = verdict(ess=float(len(kept)), ess_fraction=len(kept) / len(joined), advice=advice)
        if kept.log_target is not None:
            report["zero_target_density"] = int((~torch.isfinite(kept.log_target)).sum())
        if kept.log_target is not None and kept.log_proposal is not None:
            weighed = kish_ess(kept.log_target - kept.log_proposal, len(joined))
            report["ess_if_weighted"] = weighed.count
            report["advice"] += f" (they would count for {weighed.count:.0f})"
        return kept.with_meta(rejected=rejected, verdict=report)
