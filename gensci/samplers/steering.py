"""Twisted sequential Monte Carlo: steer a model that places one slot at a time, weights kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch

from gensci.core.errors import UsageError
from gensci.core.protocols import Tensors
from gensci.core.registry import SAMPLERS
from gensci.core.resampling import RESAMPLERS, resample
from gensci.core.results import SampleSet
from gensci.core.weights import clean, kish_ess, log_z, mean_one
from gensci.samplers.base import Info, Sampler
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.islands import combine_islands, effective_families, total_variance
from gensci.samplers.settings import check_share
from gensci.samplers.verdict import drop_rejected, require_weight, verdict

FEW = 50  # samples, whose weights say little of the law even where they are equal


class StepwiseProposal(Protocol):
    """A model that draws samples slot by slot.

    A partial population is opaque to the sampler and may hold caches of a network. Rows that are
    complete before the last step are left as they are by ``extend``.
    """

    num_steps: int

    def begin(self, n: int, generator: torch.Generator) -> Any:
        """Return ``n`` rows of which nothing is placed."""
        ...

    def extend(self, partial: Any, step: int, generator: torch.Generator) -> Any:
        """Return the rows with slot ``step``, counted from 0, drawn from the model."""
        ...

    def view(self, partial: Any, step: int) -> Tensors:
        """Return what is placed once slot ``step`` is, with ``placed`` (n,) counts of slots."""
        ...

    def select(self, partial: Any, rows: torch.Tensor) -> Any:
        """Return the rows of the given (n,) int64 numbers, on the CPU; they may repeat."""
        ...

    def finish(self, partial: Any) -> Tensors:
        """Return the samples once every slot is placed."""
        ...


class TwistedTarget(Protocol):
    """A target that can foretell its value from what is placed so far."""

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) nats of complete samples; not finite for zero."""
        ...

    def log_twist(self, x: Tensors, step: int) -> torch.Tensor:
        """Return (n,) nats that guess :meth:`log_prob` from a view taken after slot ``step``.

        Any guess leaves the sampled law as it is. The best is the log of what ``exp(strength *
        log_prob)`` will be on average over the model's completions, divided by the strength; -inf
        gives a row up.
        """
        ...


@dataclass(frozen=True)
class Swarm:
    """A population between two slots.

    ``twist`` is what the weights hold of the foretold value; the other numbers are as for ``smc``.
    """

    partial: Any
    log_weight: torch.Tensor
    twist: torch.Tensor
    ancestor: torch.Tensor
    log_z: float = 0.0
    variance: float = 0.0
    num_resampled: int = 0


@dataclass(frozen=True)
class Steered:
    """The complete samples of a shard, and the course of their weights, one entry for each slot."""

    x: Tensors
    log_target: torch.Tensor
    log_weight: torch.Tensor
    ancestor: torch.Tensor
    course: Tensors = field(default_factory=dict)
    log_z: float = 0.0
    variance: float = 0.0
    num_resampled: int = 0


@SAMPLERS.register("twisted-smc")
@dataclass(frozen=True)
class TwistedSmc(Sampler):
    """Draws slot by slot, resampled by what the target foretells: the model tilted by the target.

    The law is ``proposal(x) * exp(strength * log_prob(x))``; log Z is that of its integral. Where
    the target has a ``log_twist``, rows compete after each slot; without it, they are weighed at
    the end. A shard is one population, which is not saved half-way, because caches of a network are
    not; a killed run makes it anew to the same bits.

    Attributes:
        strength: what the target's nats are multiplied by.
        resample_threshold: resample when the ESS fraction falls below it; 1 for always.
        resampling: multinomial, residual, stratified or systematic.

    Reference: Naesseth, Lindsten and Schon (2019), arXiv:1903.04797; Wu, Trippe, Naesseth, Blei and
    Cunningham (2023), arXiv:2306.17775; Singhal et al. (2025), arXiv:2501.06848.
    """

    strength: float = 1.0
    resample_threshold: float = 0.5
    resampling: str = "systematic"

    name: ClassVar[str] = "twisted-smc"
    requires: ClassVar[frozenset[str]] = frozenset({"target.log_prob", "proposal.begin"})
    state_type: ClassVar[type] = Steered
    shard_rows: ClassVar[int | None] = 256

    def __post_init__(self) -> None:
        number = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        if not number or not math.isfinite(self.strength):
            raise UsageError(f"strength={self.strength!r} is not usable", "give a finite number")
        check_share("resample_threshold", self.resample_threshold, zero=True, one=True)
        RESAMPLERS.get(str(self.resampling))

    def init(self, target: Density, proposal: Draws, n: int, generator: torch.Generator) -> Steered:
        """Return a complete population of ``n`` rows."""
        model: StepwiseProposal = proposal.subject
        course: list[Info] = []
        with torch.no_grad():
            nothing = torch.zeros(n, dtype=torch.float64)
            swarm = Swarm(model.begin(n, generator), nothing, nothing, torch.arange(n))
            for step in range(model.num_steps):
                swarm = replace(swarm, partial=model.extend(swarm.partial, step, generator))
                if step + 1 < model.num_steps:
                    swarm = self._reweight(swarm, self._foretell(target, model, swarm, step))
                    course.append(_record(swarm))
                    swarm = self._resample(swarm, model, generator)
            x = model.finish(swarm.partial)
        log_target = target.log_prob(x)
        swarm = self._reweight(swarm, self.strength * log_target)
        course.append(_record(swarm))
        return _complete(swarm, x, log_target, course)

    def step(
        self, state: Steered, target: Density, proposal: Draws, generator: torch.Generator
    ) -> tuple[Steered, Info]:
        """Return the state as it is: there is no second step."""
        return state, {}

    def done(self, state: Steered) -> bool:
        """Return True."""
        return True

    def finish(self, state: Steered, target: Density, proposal: Draws) -> SampleSet:
        """Return the population; the mean of its weights estimates Z."""
        variance = torch.tensor([total_variance(state, self.resampling)], dtype=torch.float64)
        return SampleSet(
            state.x,
            clean(state.log_weight + state.log_z),
            state.log_target,
            ancestor=state.ancestor,
            info={**state.course, "variance": variance},
        )

    def finalize(self, shards: Sequence[SampleSet], generator: torch.Generator) -> SampleSet:
        """Return all populations; each counts in proportion to its own estimate of Z."""
        constant = combine_islands(shards)
        smallest = min(shard.info["ess"].min().item() for shard in shards)
        starts = torch.tensor([0, *(len(shard) for shard in shards)]).cumsum(0)
        joined = SampleSet.concatenate(
            [
                replace(shard, ancestor=shard.ancestor + start)
                for shard, start in zip(shards, starts[:-1], strict=True)
            ]
        )
        joined.info.pop("variance")
        require_weight(joined, self.name)
        kept, rejected = drop_rejected(joined, torch.isfinite(joined.log_weight))
        ess, families = kish_ess(kept.log_weight, len(joined)), effective_families(kept)
        report = verdict(
            ess=ess.count,
            ess_fraction=ess.fraction,
            log_z=constant.value,
            log_z_error=constant.error,
            effective_ancestors=families,
            smallest_ess_fraction=smallest,
            advice=_advice(len(joined), ess.count, families, constant.error),
        )
        kept = replace(kept, log_weight=mean_one(kept.log_weight))
        return kept.with_meta(rejected=rejected, verdict=report)

    def _foretell(
        self, target: Density, model: StepwiseProposal, swarm: Swarm, step: int
    ) -> torch.Tensor:
        twist = getattr(target.subject, "log_twist", None)
        if twist is None:
            return swarm.twist
        value = twist(model.view(swarm.partial, step), step)
        return self.strength * clean(value.cpu())

    def _reweight(self, swarm: Swarm, twist: torch.Tensor) -> Swarm:
        """Return the swarm with what is foretold now in the place of what was before."""
        # Zero density stays zero at any strength: clean() turns its NaN and +inf into -inf.
        twist = clean(twist)
        log_weight = clean(swarm.log_weight + (twist - swarm.twist))
        return replace(swarm, log_weight=log_weight, twist=twist)

    def _resample(self, swarm: Swarm, model: StepwiseProposal, generator: torch.Generator) -> Swarm:
        fraction = kish_ess(swarm.log_weight).fraction
        if not 0.0 < fraction < self.resample_threshold:
            return swarm
        n = swarm.log_weight.numel()
        rows = resample(self.resampling, swarm.log_weight, n, generator)
        mean = log_z(swarm.log_weight)
        return Swarm(
            model.select(swarm.partial, rows),
            torch.zeros_like(swarm.log_weight),
            swarm.twist[rows],
            swarm.ancestor[rows],
            log_z=swarm.log_z + mean.value,
            variance=swarm.variance + mean.error**2,
            num_resampled=swarm.num_resampled + 1,
        )


def _record(swarm: Swarm) -> Info:
    """Return the course's entry for a slot, taken before resampling."""
    constant = swarm.log_z + log_z(swarm.log_weight).value
    return {"ess": kish_ess(swarm.log_weight).fraction, "log_z": constant}


def _complete(swarm: Swarm, x: Tensors, log_target: torch.Tensor, course: list[Info]) -> Steered:
    columns = {
        name: torch.tensor([entry[name] for entry in course], dtype=torch.float64)
        for name in course[0]
    }
    columns["slot"] = torch.arange(len(course))
    return Steered(
        x,
        log_target,
        swarm.log_weight,
        swarm.ancestor,
        columns,
        swarm.log_z,
        swarm.variance,
        swarm.num_resampled,
    )


def _advice(n: int, ess: float, families: float, error: float) -> str:
    if n < FEW:
        return (
            f"too few samples to judge their weights ({n}, which descend from {families:.1f} "
            "effective ancestors): draw more"
        )
    if families < 10:
        return (
            f"the {n} samples descend from {families:.1f} effective ancestors: use more samples "
            "per shard or a lower strength"
        )
    if not error <= 1.0:
        known = f"to {error:.1f} nats only" if math.isfinite(error) else "to no finite error"
        return f"log Z is known {known}: use more samples per shard or a lower strength"
    if ess < 50:
        return f"too few effective samples ({ess:.0f}): draw more, or use a lower strength"
    return "the weights can be trusted"
