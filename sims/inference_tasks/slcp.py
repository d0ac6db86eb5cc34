"""Simple likelihood, complex posterior: four draws of a planar Gaussian, bare or among distractors.

Papamakarios et al. 2019, arXiv:1805.07226; distractors as in Lueckmann et al. 2021,
arXiv:2101.04653, appendix T.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch

from .definition import InferenceTask, numbered, uniform_prior

DRAWS = 4  # points of the plane in one observation
DISTRACTORS, COMPONENTS, SEED = 92, 20, 42
JITTER = 1e-6  # added to both variances, as in the benchmark
DEGREES = 2  # of freedom of the distractors' Student distributions


def _moments(theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Mean (n, 2), both variances and the covariance (n,) of the Gaussian of each row."""
    s1, s2, rho = theta[:, 2].square(), theta[:, 3].square(), theta[:, 4].tanh()
    return theta[:, :2], s1.square() + JITTER, s2.square() + JITTER, rho * s1 * s2


def simulate_slcp(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw four points of the plane for each row: (n, 8)."""
    mean, var1, var2, cov = _moments(theta)
    z = torch.randn(theta.shape[0], DRAWS, 2, generator=generator, dtype=theta.dtype)
    first = var1.sqrt()[:, None] * z[..., 0]
    along = cov / var1.sqrt()
    across = (var2 - along.square()).clamp_min(0.0).sqrt()
    second = along[:, None] * z[..., 0] + across[:, None] * z[..., 1]
    return (mean[:, None] + torch.stack([first, second], -1)).flatten(1)


def slcp_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of four points."""
    mean, var1, var2, cov = _moments(theta)
    determinant = var1 * var2 - cov.square()
    d1, d2 = (x.reshape(DRAWS, 2) - mean[:, None]).unbind(-1)
    mahalanobis = (
        var2[:, None] * d1.square() - 2 * cov[:, None] * d1 * d2 + var1[:, None] * d2.square()
    ) / determinant[:, None]
    normaliser = 0.5 * determinant.log() + math.log(2 * math.pi)
    return -0.5 * mahalanobis.sum(-1) - DRAWS * normaliser


@cache
def distractors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The frozen mixture of the benchmark and the order of columns, drawn again from its seed.

    The wheel ships them pickled; numpy's legacy generator repeats the same numbers without
    running anybody's pickle.

    Returns:
        (20, 92) centres, (20, 92, 92) lower-triangular scales, (100,) order of the columns.
    """
    rng = np.random.RandomState(SEED)
    centres = np.stack([15 * rng.normal(size=DISTRACTORS) for _ in range(COMPONENTS)])
    scales = []
    for _ in range(COMPONENTS):
        lower = np.tril(rng.normal(size=(DISTRACTORS, DISTRACTORS)))
        scales.append(3 * (lower + np.diag(np.exp(rng.normal(size=DISTRACTORS)))))
    order = rng.permutation(DISTRACTORS + 2 * DRAWS)
    return torch.from_numpy(centres), torch.from_numpy(np.stack(scales)), torch.from_numpy(order)


def draw_distractors(n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw (n, 92) numbers of the mixture of Student distributions: they tell nothing of theta."""
    centres, scales, _ = distractors()
    component = torch.randint(COMPONENTS, (n,), generator=generator)
    z = torch.randn(n, DISTRACTORS, generator=generator, dtype=torch.float64)
    # a chi-squared number with two degrees of freedom is minus twice the log of a uniform one
    chi2 = -2 * torch.log1p(-torch.rand(n, generator=generator, dtype=torch.float64))
    z = z / (chi2 / DEGREES).clamp_min(1e-300).sqrt()[:, None]
    x = torch.empty_like(z)
    # one product per component: gathering a scale for every row would take 64 kB a row
    for k in range(COMPONENTS):
        rows = component == k
        x[rows] = centres[k] + z[rows] @ scales[k].T
    return x


def simulate_with_distractors(theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw eight informative numbers and 92 others in the frozen order: (n, 100)."""
    informative = simulate_slcp(theta, generator)
    noise = draw_distractors(theta.shape[0], generator)
    return torch.cat([informative, noise], 1)[:, distractors()[2]]


def informative(x: torch.Tensor) -> torch.Tensor:
    """Return (..., 8): the informative numbers among the 100 of ``x``."""
    return x[..., torch.argsort(distractors()[2])[: 2 * DRAWS]]


def distracted_log_likelihood(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of the informative numbers; the others do not depend on theta."""
    return slcp_log_likelihood(theta, informative(x))


SLCP = InferenceTask(
    name="slcp",
    parameters=numbered(5),
    dim_x=2 * DRAWS,
    prior=uniform_prior(3.0, 5),
    simulator=simulate_slcp,
    likelihood=slcp_log_likelihood,
    folder="slcp",
)
SLCP_DISTRACTORS = InferenceTask(
    name="slcp_distractors",
    parameters=numbered(5),
    dim_x=2 * DRAWS + DISTRACTORS,
    prior=uniform_prior(3.0, 5),
    simulator=simulate_with_distractors,
    likelihood=distracted_log_likelihood,
    folder="slcp",
    observation_file="observation_distractors.csv",
)
