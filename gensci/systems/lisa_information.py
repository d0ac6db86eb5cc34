"""How much a summary knows of the parameters, beside what the data knew (Fisher information).

The information of a linear summary in white noise is that of its derivatives. A network that acts
on signal and noise together is judged by its mean and covariance, a lower bound of what it holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gensci.core.priors import Prior
from gensci.core.random import stream
from gensci.core.summaries import NonlinearSummary
from gensci.systems.lisa_heterodyne import slopes
from gensci.systems.lisa_observation import Observation

_DRAWS = 4096


class InformationLost(NamedTuple):
    """What a summary lost.

    Attributes:
        sigma_ratio: (d,) standard deviations over those without the summary.
        nats: half the difference of the log-determinants; infinite where a direction is lost.
    """

    sigma_ratio: Tensor
    nats: float


def jacobian(summary: Any, theta: Tensor) -> Tensor:
    """Derivatives (dim, 11) of the signal of bins or a projection at (11,); 11 waveforms."""
    heterodyne = summary.bins.heterodyne
    before = heterodyne.calls
    derivative = slopes(summary.signal, theta)
    heterodyne.calls = before + len(theta)
    return derivative


def information(summary: Any, theta: Tensor) -> Tensor:
    """Fisher information (11, 11) of a summary in Gaussian noise at (11,) parameters."""
    if isinstance(summary, NonlinearSummary):
        return _information_of_network(summary, theta)
    derivatives = jacobian(summary, theta)
    return derivatives.T @ derivatives


def grid_information(observation: Observation, theta: Tensor) -> Tensor:
    """Fisher information (11, 11) of the whole grid in stationary noise; 11 waveforms."""
    setting, whitening = observation.setting, observation.whitening
    frequencies = observation.frequencies
    total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for part, factors in zip(frequencies.split(4096), whitening.split(4096, 1), strict=True):

        def whitened(x: Tensor, part: Tensor = part, factors: Tensor = factors) -> Tensor:
            return torch.view_as_real(factors * setting.strain(x, part)).flatten(1)

        derivatives = slopes(whitened, theta)
        total += derivatives.T @ derivatives
    return total


def information_lost(
    summary: Any, theta: Tensor, *, whole: Tensor | None = None, prior: Prior | None = None
) -> InformationLost:
    """Compare the Fisher information of a summary with that of the data.

    Args:
        summary: bins, a projection of them, or a network on them.
        theta: (11,) the point.
        whole: (11, 11) information without the summary; that of its bins where absent.
        prior: of finite bounds, whose variances bound what a lost direction can cost.
    """
    fishers = [information(summary.bins, theta) if whole is None else whole]
    fishers.append(information(summary, theta))
    if prior is not None:
        known = 12.0 / (prior.bounds[:, 1] - prior.bounds[:, 0]).square()
        fishers = [fisher + known.diag() for fisher in fishers]
    # Units of the data's own precision, in which rounding is the same for all parameters.
    scale = fishers[0].diagonal().sqrt()
    unit = [fisher / (scale[:, None] * scale) for fisher in fishers]
    if torch.linalg.eigvalsh(unit[1])[0] <= 0:
        return InformationLost(torch.full_like(scale, torch.inf), torch.inf)
    sigma = [torch.linalg.inv(fisher).diagonal().sqrt() for fisher in unit]
    nats = 0.5 * (unit[0].logdet() - unit[1].logdet())
    return InformationLost(sigma[1] / sigma[0], float(nats))


def _information_of_network(summary: Any, theta: Tensor) -> Tensor:
    """Of the mean of the summary given its covariance, both over draws of the noise."""
    noise = summary.noise(_DRAWS, stream(0, "information"))
    compressed = summary.compress(summary.signal(theta[None]) + noise)
    covariance = torch.cov(compressed.T)
    derivatives = slopes(
        lambda x: summary.compress(summary.signal(x) + noise).mean(0, keepdim=True), theta
    )
    return derivatives.T @ torch.linalg.pinv(covariance, hermitian=True) @ derivatives
