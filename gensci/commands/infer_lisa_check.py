"""Does the residual of a LISA observation look like noise? A posterior predictive check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.io.atomic import write_json
from gensci.io.posterior_plots import predictive_plot
from gensci.metrics.predictive import PredictivePvalue, discrepancy_check
from gensci.systems.lisa_noise import Gap, NoiseKind
from gensci.systems.lisa_observation import Observation
from gensci.systems.lisa_problem import Problem

BANDS = 30
"""Bands of each channel, of equal width in the logarithm of the frequency."""


@dataclass(frozen=True)
class ResidualCheck:
    """Power of what the posterior's signals leave of the data, among draws of the noise.

    Attributes:
        whole: Power over all frequencies.
        channels: Of the data, in order.
        observed: (c BANDS,) mean power of each band over the draws, in units of the noise's.
        noise: (n, c BANDS) of draws of the noise.
        waveforms: Computed.
    """

    whole: PredictivePvalue
    channels: str
    observed: np.ndarray
    noise: np.ndarray
    waveforms: int

    def facts(self) -> dict[str, Any]:
        """For `run.json` and `predictive.json`."""
        return {"predictive": {"residual_power": asdict(self.whole), "waveforms": self.waveforms}}

    def line(self) -> str:
        """What to tell the user."""
        p = self.whole.two_sided
        if p < 0.02:
            return f"the residual is unlike noise (p = {p:.2g}): see diagnostics/predictive.png"
        return f"the residual looks like noise (p = {p:.2f})"

    def write(self, folder: Path) -> None:
        """Write `predictive.png` and `predictive.json`."""
        bands = {"observed": self.observed.tolist(), "noise_mean": self.noise.mean(0).tolist()}
        write_json(folder / "predictive.json", {**self.facts()["predictive"], **bands})
        title = f"Residual power in {BANDS} bands of each channel ({', '.join(self.channels)})"
        predictive_plot(
            folder / "predictive.png", self.observed, self.noise, title=title, data="band"
        )


def check_residuals(
    problem: Problem, observation: Observation, posterior: SampleSet, number: int, seed: int
) -> ResidualCheck | None:
    """Compare residuals of posterior draws with draws of the noise.

    Args:
        problem: The kind of noise.
        observation: The data.
        posterior: Of the binary.
        number: Draws; a waveform on the whole grid each.
        seed: Of draws and noise.

    Returns:
        None where there is no noise, or where a gap mixes it with the signal.
    """
    if type(problem.noise) is NoiseKind or isinstance(problem.noise, Gap):
        return None
    generator = stream(seed, "lisa", "predictive")
    theta = posterior.resample("systematic", generator, number).x["theta"].double()
    setting = observation.setting
    silence = torch.zeros_like(observation.data)
    own, other = [], []
    for row in theta:
        signal = setting.strain(row[None], observation.frequencies)[0]
        own.append(_powers(observation, observation.data - signal))
        other.append(_powers(observation, problem.noise.apply(silence, setting, generator)))
    residual, noise = torch.stack(own), torch.stack(other)
    counts = _counts(observation)
    total = [(powers * counts).sum(1).numpy() for powers in (residual, noise)]
    whole = discrepancy_check(*total)
    return ResidualCheck(
        whole, setting.channels, residual.mean(0).numpy(), noise.numpy(), len(theta)
    )


def _bands(observation: Observation) -> Tensor:
    """(M,) the band of each frequency."""
    logs = observation.frequencies.log()
    share = (logs - logs[0]) / (logs[-1] - logs[0])
    return (share * BANDS).long().clamp(max=BANDS - 1)


def _counts(observation: Observation) -> Tensor:
    """(c BANDS,) frequencies in each band."""
    each = torch.bincount(_bands(observation), minlength=BANDS)
    return each.repeat(len(observation.setting.channels)).clamp(min=1).double()


def _powers(observation: Observation, data: Tensor) -> Tensor:
    """(c BANDS,) mean of the squared modulus over that of noise, in each band."""
    power = 0.5 * (observation.whitening * data).abs().square()
    sums = torch.zeros(len(power), BANDS, dtype=torch.float64)
    sums.index_add_(1, _bands(observation), power)
    return sums.flatten() / _counts(observation)
