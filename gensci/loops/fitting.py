"""The usual parts of the sequential loop: neural likelihoods, and draws of their posteriors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gensci.core.posterior import Jumps, PosteriorTarget, PriorProposal
from gensci.core.priors import Prior
from gensci.core.protocols import DensityProposal, Tensors
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.loops.rounds import TrainingData
from gensci.loops.simulation_store import read_text, text_tensor
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood
from gensci.models.regression_summary import (
    ColumnChoice,
    RegressionSummary,
    SummarySettings,
    fit_summary,
    telling_columns,
)
from gensci.nn.conditional_flow import FlowEnsemble
from gensci.samplers.tempering import Tempering

FITTING = LikelihoodSettings(
    layers=1, epochs=60, steps=1200, batch=200, learning_rate=4e-3, patience=10
)
"""One layer and few steps: seconds per round on one core."""
# Two thousand walkers make few, large calls of the surrogate; after the descent from the prior,
# which finds the modes, they stay at the posterior itself.
WALKING = Tempering(num_walkers=2000, num_temperatures=1, warmup=40, thinning=10)
WIDEST = 40
LARGEST_CALL = 20_000
SUMMARIES = {"columns": ColumnChoice, "regression": RegressionSummary}
Network = TypeVar("Network", bound=nn.Module)


class SummarisedLikelihood(NeuralLikelihood):
    """The likelihood of a summary of data.

    Args:
        network: Trained on summaries.
        summary: From data to summaries.
        observation: The summaries of what was observed.
        report: As of `NeuralLikelihood`.
    """

    def __init__(
        self,
        network: FlowEnsemble,
        summary: ColumnChoice | RegressionSummary,
        observation: Tensor,
        report: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(network, observation, report)
        self.summary = summary


class FlowEstimator:
    """Trains a neural likelihood on the simulations of all rounds.

    Of data of many columns those are taken that depend on the parameters. Where these are many too,
    a learned summary replaces them; half the rows train it and the other half the likelihood.

    Args:
        settings: Of the networks and their training.
        periods: Of the parameters, None where not periodic.
        widest: Data of more columns are summarised; not where noise is added to them, since the
            noise of a summary is not known.
        warm: Go on from the likelihood of the round before instead of from scratch.
        summary: Of the network that summarises.
    """

    def __init__(
        self,
        settings: LikelihoodSettings = FITTING,
        *,
        periods: Sequence[float | None] | None = None,
        widest: int = WIDEST,
        warm: bool = False,
        summary: SummarySettings | None = None,
    ) -> None:
        self.settings, self.periods = settings, periods
        self.widest, self.warm, self.summary = widest, warm, summary

    def fit(self, data: TrainingData, previous: Any, seed: int) -> NeuralLikelihood:
        """Train on all rows of all rounds."""
        if data.x.shape[1] > self.widest and data.noise is None:
            return self._fit_summarised(data, seed)
        fitted = NeuralLikelihood.fit(
            data.theta, data.x, noise=data.noise, periods=self.periods, settings=self.settings,
            start=previous if self.warm else None, seed=seed,
        )  # fmt: skip
        return fitted.observe(data.observation)

    def _fit_summarised(self, data: TrainingData, seed: int) -> SummarisedLikelihood:
        kept = telling_columns(data.theta, data.x)
        if 0 < len(kept) <= self.widest:
            summary, rows = ColumnChoice(data.x.shape[1], kept), torch.arange(len(data.x))
        else:
            order = torch.randperm(len(data.x), generator=stream(seed, "halves"))
            first, rows = order.chunk(2)
            summary = fit_summary(data.theta[first], data.x[first], seed, self.summary)
        fitted = NeuralLikelihood.fit(
            data.theta[rows], summary.summarise(data.x[rows]), periods=self.periods,
            settings=self.settings, seed=seed,
        )  # fmt: skip
        observation = summary.summarise(data.observation[None])[0]
        return SummarisedLikelihood(fitted.network, summary, observation, fitted.report)

    def pack(self, surrogate: NeuralLikelihood) -> Tensors:
        """Weights, settings, observation, report and summary."""
        note = {"settings": surrogate.network.settings, "report": surrogate.report}
        tensors = _named("network", surrogate.network)
        if isinstance(surrogate, SummarisedLikelihood):
            kind = next(k for k, v in SUMMARIES.items() if isinstance(surrogate.summary, v))
            note["summary"] = {"kind": kind, "settings": surrogate.summary.settings}
            tensors |= _named("summary", surrogate.summary)
        return {**tensors, "observation": surrogate.observation, "note": text_tensor(note)}

    def unpack(self, tensors: Tensors) -> NeuralLikelihood:
        """The surrogate of these tensors."""
        note = read_text(tensors["note"])
        network = _loaded(FlowEnsemble(**note["settings"]), "network", tensors)
        observation = tensors["observation"]
        if "summary" not in note:
            return NeuralLikelihood(network, observation, note["report"])
        summary = SUMMARIES[note["summary"]["kind"]](**note["summary"]["settings"])
        summary = _loaded(summary, "summary", tensors)
        return SummarisedLikelihood(network, summary, observation, note["report"])


class SurrogateSampler:
    """Draws from prior times surrogate with the registry's tempering.

    Args:
        prior: Of the parameters.
        tempering: Settings of the sampler.
        jumps: Symmetries of the posterior, as `PosteriorTarget` takes them.
        wide: Where chains begin; the prior by default.
    """

    def __init__(
        self,
        prior: Prior,
        tempering: Tempering = WALKING,
        jumps: Jumps | None = None,
        wide: DensityProposal | None = None,
    ) -> None:
        self.prior, self.tempering, self.jumps = prior, tempering, jumps
        self.wide = wide or PriorProposal(prior)

    def draw(
        self,
        log_likelihood: Callable[[Tensor], Tensor],
        n: int,
        *,
        temperature: float,
        seed: int,
        candidates: Tensor,
    ) -> SampleSet:
        """Return `n` rows; candidates are not needed, since the descent starts wide."""

        @torch.no_grad()
        def tempered(theta: Tensor) -> Tensor:
            return log_likelihood(theta) / temperature

        target = PosteriorTarget(self.prior, tempered, self.jumps)
        return self.tempering.run(target, self.wide, n, seed=seed, batch_size=LARGEST_CALL)


def _named(name: str, network: nn.Module) -> Tensors:
    """The weights of a network under a name."""
    return {f"{name}/{key}": value for key, value in network.state_dict().items()}


def _loaded(network: Network, name: str, tensors: Tensors) -> Network:
    """The network with the weights of that name."""
    start = f"{name}/"
    weights = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
