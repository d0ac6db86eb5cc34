"""Spikes of a neuron: a Bernoulli generalised linear model with ten parameters.

Lueckmann et al. 2017, arXiv:1711.01861; Lueckmann et al. 2021, arXiv:2101.04653, appendix T. The
sufficient statistics (number of spikes, spikes correlated with the stimulus) or all 100 bins.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .definition import InferenceTask

BINS, LAGS, STIMULUS_SEED = 100, 9, 42


@cache
def design_matrix() -> torch.Tensor:
    """Return (100, 10): a column of ones, then the frozen stimulus delayed by 0 to 8 bins."""
    # single precision as frozen by the benchmark
    stimulus = np.random.RandomState(STIMULUS_SEED).randn(BINS).astype(np.float32)
    matrix = torch.zeros(BINS, 1 + LAGS, dtype=torch.float64)
    matrix[:, 0] = 1.0
    for lag in range(LAGS):
        matrix[lag:, 1 + lag] = torch.from_numpy(stimulus[: BINS - lag]).double()
    return matrix


def prior_covariance() -> torch.Tensor:
    """Return (10, 10): the offset has variance 2, the filter is smooth by second differences."""
    difference = torch.eye(LAGS, dtype=torch.float64)
    difference[1:, :-1] -= torch.eye(LAGS - 1, dtype=torch.float64)
    growing = torch.arange(LAGS, dtype=torch.float64).div(LAGS).sqrt()
    smooth = difference @ difference + torch.diag(growing)
    precision = torch.zeros(1 + LAGS, 1 + LAGS, dtype=torch.float64)
    precision[0, 0] = 0.5
    precision[1:, 1:] = smooth.T @ smooth
    covariance = torch.linalg.inv(precision)
    return 0.5 * (covariance + covariance.T)


def simulate_spikes(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw (n, 100) zeros and ones."""
    probability = torch.sigmoid(theta @ design_matrix().T)
    uniforms = torch.rand(probability.shape, generator=generator, dtype=theta.dtype)
    return (uniforms < probability).to(theta.dtype)


def simulate_statistics(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw (n, 10) sufficient statistics of spikes."""
    return simulate_spikes(theta, generator) @ design_matrix()


def statistics_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of sufficient statistics, up to the number of spike trains that share them."""
    rates = theta @ design_matrix().T
    return theta @ x - torch.nn.functional.softplus(rates).sum(-1)


def spikes_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of a spike train."""
    return statistics_log_likelihood(theta, x @ design_matrix())


_PRIOR = {
    "kind": "normal",
    "mean": [0.0] * (1 + LAGS),
    "covariance": prior_covariance().tolist(),
}
_PARAMETERS = ("offset", *(f"filter_{lag}" for lag in range(LAGS)))
BERNOULLI_GLM = InferenceTask(
    name="bernoulli_glm",
    parameters=_PARAMETERS,
    dim_x=1 + LAGS,
    prior=_PRIOR,
    simulator=simulate_statistics,
    likelihood=statistics_log_likelihood,
    folder="bernoulli_glm",
    discrete=True,
)
BERNOULLI_GLM_RAW = InferenceTask(
    name="bernoulli_glm_raw",
    parameters=_PARAMETERS,
    dim_x=BINS,
    prior=_PRIOR,
    simulator=simulate_spikes,
    likelihood=spikes_log_likelihood,
    folder="bernoulli_glm",
    observation_file="observation_raw.csv",
    discrete=True,
)
