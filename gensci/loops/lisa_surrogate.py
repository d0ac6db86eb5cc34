"""A learned likelihood of one LISA observation: trained on whitened signals of simulated binaries.

All of it lives in the simple coordinates of `systems.lisa_coordinates`, in which a polynomial of
low degree holds the signal to a small part of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.posterior import THETA, PosteriorTarget
from gensci.core.priors import Prior
from gensci.core.protocols import DensityProposal, Tensors
from gensci.loops.rounds import TrainingData
from gensci.loops.simulation_store import DONE, Report, read_text, text_tensor
from gensci.models.checkpoint import find_checkpoint
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood
from gensci.models.proposal_flow import ProposalFlow
from gensci.nn.conditional_flow import FlowEnsemble
from gensci.systems.lisa_chart import SmoothChart
from gensci.systems.lisa_coordinates import (
    COPIES,
    SIMPLE,
    Images,
    SimplePrior,
    from_simple,
    log_abs_det_jacobian,
    to_simple,
)
from gensci.systems.lisa_likelihood import images as sky_and_phase_images
from gensci.systems.lisa_likelihood import phase_images
from gensci.systems.lisa_setting import Setting
from gensci.systems.lisa_summaries import HeterodynedBins, Projection

PERIODS = (None,) * 10 + (2 * math.pi,)
"""Of the simple coordinates."""


class LisaSurrogate:
    """A learned likelihood over simple coordinates.

    Args:
        likelihood: of the summary; it has its observation.
        setting: of the data.
    """

    def __init__(self, likelihood: NeuralLikelihood, setting: Setting) -> None:
        self.likelihood, self.setting = likelihood, setting

    @property
    def report(self) -> dict[str, Any]:
        """What the training told."""
        return self.likelihood.report

    @torch.no_grad()
    def log_likelihood(self, simple: Tensor) -> Tensor:
        """The (n,) log-likelihoods of (n, 11) points, in nats up to a constant."""
        return self.likelihood.log_likelihood(simple)


class LisaEstimator:
    """Trains surrogates for the sequential loop.

    The mean is learned anew in each round. The noise does not depend on the binary: its density is
    learned in the first round and kept.

    Args:
        setting: of the data.
        settings: of the network.
    """

    def __init__(self, setting: Setting, settings: LikelihoodSettings) -> None:
        self.setting, self.settings = setting, settings

    def fit(self, data: TrainingData, previous: Any, seed: int) -> LisaSurrogate:
        """Train on the signals of all rounds."""
        start = None if previous is None else previous.likelihood
        fitted = NeuralLikelihood.fit(
            data.theta, data.x, noise=data.noise, periods=PERIODS,
            settings=self.settings, start=start, seed=seed,
        )  # fmt: skip
        return LisaSurrogate(fitted.observe(data.observation), self.setting)

    def pack(self, surrogate: LisaSurrogate) -> Tensors:
        """Weights, observation and report as tensors."""
        network = surrogate.likelihood.network
        note = {"settings": network.settings, "report": surrogate.report}
        weights = {f"network/{name}": value for name, value in network.state_dict().items()}
        observation = surrogate.likelihood.observation
        return {**weights, "observation": observation, "note": text_tensor(note)}

    def unpack(self, tensors: Tensors) -> LisaSurrogate:
        """The surrogate of these tensors."""
        note = read_text(tensors["note"])
        network = FlowEnsemble(**note["settings"])
        start = "network/"
        network.load_state_dict(
            {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        )
        likelihood = NeuralLikelihood(network, tensors["observation"], note["report"])
        return LisaSurrogate(likelihood, self.setting)


class SignalSimulator:
    """Noise-free summaries of simple coordinates as a simulator of the sequential loop.

    Args:
        summary: of the observation.
        offset: (dim,) taken from every signal.
        setting: of the data.
    """

    def __init__(
        self, summary: HeterodynedBins | Projection, offset: Tensor, setting: Setting
    ) -> None:
        self.summary, self.offset, self.setting = summary, offset, setting
        self.dim, self.calls = summary.dim, 0

    def run(self, theta: Tensor, seeds: Tensor, report: Report) -> None:
        """Simulate (n, 11) points; one waveform each."""
        self.calls += len(theta)
        x = self.summary.signal(from_simple(theta, self.setting)) - self.offset
        report(range(len(theta)), x, [DONE] * len(theta), "")


class UnfoldedProposal:
    """A density over simple coordinates as one over binaries, their equal copies alike.

    Args:
        proposal: over simple coordinates.
        setting: of the data.
    """

    def __init__(self, proposal: DensityProposal, setting: Setting) -> None:
        self.proposal, self.setting = proposal, setting

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """`n` binaries, {"theta": (n, 11)}."""
        simple = self.proposal.sample(n, generator)[THETA]
        return {THETA: unfolded(simple, self.setting, generator)}

    def sample_and_log_prob(self, n: int, generator: torch.Generator) -> tuple[Tensors, Tensor]:
        """Draws and their (n,) log-densities."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensors) -> Tensor:
        """The (n,) log-densities in nats."""
        theta = x[THETA]
        density = self.proposal.log_prob({THETA: to_simple(theta, self.setting)})
        return density + log_abs_det_jacobian(theta, self.setting) - math.log(COPIES)


def unfolded(simple: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
    """(n, 11) binaries of simple coordinates, each one of its equal copies at random."""
    copies = torch.randint(COPIES, (len(simple),), generator=generator)
    return from_simple(simple, setting, copies)


@dataclass(frozen=True)
class ShippedSurrogate:
    """What a checkpoint of an inference holds.

    Attributes:
        surrogate: over simple coordinates.
        flow: the proposal, over simple coordinates.
        prior: over `gensci.sims.lisa.PARAMETERS`.
        setting: of the data it was trained for; check observations against it.
        meta: problem, seed, counts and metrics.
    """

    surrogate: LisaSurrogate
    flow: ProposalFlow
    prior: Prior
    setting: Setting
    meta: dict[str, Any]

    @property
    def target(self) -> PosteriorTarget:
        """Prior times learned likelihood over binaries."""
        jumps = sky_and_phase_images if self.setting.frame == "lisa" else phase_images

        def log_likelihood(theta: Tensor) -> Tensor:
            return self.surrogate.log_likelihood(to_simple(theta, self.setting))

        return PosteriorTarget(self.prior, log_likelihood, jumps)

    @property
    def proposal(self) -> UnfoldedProposal:
        """Draws near the posterior with their exact density, over binaries."""
        return UnfoldedProposal(self.flow, self.setting)


def save_surrogate(
    folder: str | Path,
    surrogate: LisaSurrogate,
    flow: ProposalFlow,
    prior: Prior,
    skies: Tensor,
    meta: dict[str, Any],
) -> Path:
    """Write a checkpoint: the surrogate in the folder, its proposal in `proposal` within.

    Args:
        folder: of the checkpoint.
        surrogate: of one observation.
        flow: its proposal.
        prior: over binaries.
        skies: which images the proposal was folded by, as of `lisa_coordinates.Images`.
        meta: problem, seed, counts and metrics, as JSON can hold them.
    """
    about = {"prior": prior.to_json(), "setting": surrogate.setting.to_json()}
    about["coordinates"] = list(SIMPLE)
    path = surrogate.likelihood.save(folder, {**meta, **about, "skies": skies.tolist()})
    flow.save(Path(folder) / "proposal")
    return path


def load_surrogate(source: str | Path = "lisa-loud") -> ShippedSurrogate:
    """Read a checkpoint by folder or shipped name.

    Raises:
        CheckpointError: it is not there or not whole.
        UsageError: it holds no surrogate of a LISA observation.
    """
    from gensci.models.checkpoint import load_checkpoint

    folder = find_checkpoint(source)
    likelihood = NeuralLikelihood.load(folder)
    meta = load_checkpoint(folder)[2]
    if "setting" not in meta or "skies" not in meta:
        raise UsageError(f"{source} holds no surrogate of a LISA observation", "give lisa-loud")
    if meta.get("coordinates") != list(SIMPLE):
        raise UsageError(
            f"{source} was made over other coordinates by another version of gensci",
            "make it again: gensci infer --system lisa:mbhb",
        )
    setting, prior = Setting(**meta["setting"]), Prior.from_json(meta["prior"])
    simple = SimplePrior(prior, setting)
    images = Images(torch.tensor(meta["skies"]))
    flow = ProposalFlow.load(folder / "proposal", images, simple, SmoothChart.of(simple))
    surrogate = LisaSurrogate(likelihood, setting)
    return ShippedSurrogate(surrogate, flow, prior, setting, meta)
