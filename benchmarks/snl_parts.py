"""The parts that bench_snl gives to the sequential loop: one set of settings for all tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from snl_summary import fit_summary

from gensci.core.posterior import PosteriorTarget, PriorProposal
from gensci.core.priors import Prior
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.loops.rounds import TrainingData
from gensci.loops.simulation_store import read_text, text_tensor
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood
from gensci.nn.conditional_flow import FlowEnsemble
from gensci.samplers.tempering import Tempering

FITTING = LikelihoodSettings(batch=1000, steps=800, learning_rate=4e-3)
# Two thousand walkers make few, large calls of the surrogate; after the descent from the prior,
# which finds the modes, they stay at the posterior itself.
WALKERS, WARMUP, THINNING = 2000, 40, 10
WIDEST = 40  # data of more columns are summarised


class FlowEstimator:
    """Trains neural likelihoods, each from scratch or from the one of the round before.

    Data of more than forty columns are replaced by a learned summary of them; half the rows train
    the summary and the other half the likelihood.
    """

    def __init__(self, settings: LikelihoodSettings = FITTING, warm: bool = False) -> None:
        self.settings, self.warm = settings, warm

    def fit(self, data: TrainingData, previous: Any, seed: int) -> NeuralLikelihood:
        """Train on all rows of all rounds."""
        theta, x, observation = data.theta, data.x, data.observation
        wide = x.shape[1] > WIDEST
        if wide:
            order = torch.randperm(len(x), generator=stream(seed, "halves"))
            first, second = order.chunk(2)
            summary = fit_summary(theta[first], x[first], seed)
            theta, x = theta[second], summary.summarise(x[second])
            observation = summary.summarise(observation[None])[0]
        start = previous if self.warm and not wide else None
        fitted = NeuralLikelihood.fit(
            theta, x, noise=data.noise, settings=self.settings, start=start, seed=seed
        )
        return fitted.observe(observation)

    def pack(self, surrogate: NeuralLikelihood) -> dict[str, torch.Tensor]:
        """Weights, settings, observation and report."""
        note = {"settings": surrogate.network.settings, "report": surrogate.report}
        return {
            **{f"network/{k}": v for k, v in surrogate.network.state_dict().items()},
            "observation": surrogate.observation,
            "note": text_tensor(note),
        }

    def unpack(self, tensors: dict[str, torch.Tensor]) -> NeuralLikelihood:
        """The surrogate of these tensors."""
        note = read_text(tensors["note"])
        network = FlowEnsemble(**note["settings"])
        weights = {k.removeprefix("network/"): v for k, v in tensors.items() if "network/" in k}
        network.load_state_dict(weights)
        return NeuralLikelihood(network, tensors["observation"], note["report"])


class SurrogateSampler:
    """Draws from prior times surrogate with the registry's tempering."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def draw(
        self, log_likelihood: Callable[[torch.Tensor], torch.Tensor], n: int, *,
        temperature: float, seed: int, candidates: torch.Tensor,
    ) -> SampleSet:  # fmt: skip
        """Return ``n`` rows; candidates are not needed, since the descent starts at the prior."""

        @torch.no_grad()
        def tempered(theta: torch.Tensor) -> torch.Tensor:
            return log_likelihood(theta) / temperature

        sampler = Tempering(
            num_walkers=WALKERS, num_temperatures=1, warmup=WARMUP, thinning=THINNING
        )
        target = PosteriorTarget(self.prior, tempered)
        return sampler.run(target, PriorProposal(self.prior), n, seed=seed, batch_size=20_000)
