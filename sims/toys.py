"""Toy densities whose moments, mixture weights and normalising constants are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Truth:
    """What is known of a density.

    Attributes:
        log_z: log of the integral of ``exp(log_prob)``.
        mean: (d,) mean.
        std: (d,) standard deviation.
        weights: (k,) probability of each mode, as told by :meth:`Toy.mode`; (1,) for one mode.
    """

    log_z: float
    mean: torch.Tensor
    std: torch.Tensor
    weights: torch.Tensor


class Gaussian:
    """A Gaussian with independent coordinates, times ``exp(shift)``, not normalised.

    Args:
        mean: d numbers.
        std: d positive numbers.
        shift: added to the log-density.
    """

    def __init__(self, mean: list[float], std: list[float], shift: float = 0.0) -> None:
        self.centre = torch.tensor(mean, dtype=torch.float64)
        self.spread = torch.tensor(std, dtype=torch.float64)
        self.shift = shift

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n,) log-densities of ``x`` (n, d)."""
        z = (x - self.centre.to(x)) / self.spread.to(x)
        return self.shift - 0.5 * z.square().sum(-1)

    def mode(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n,) zeros: there is one mode."""
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)

    @property
    def truth(self) -> Truth:
        """What is known."""
        log_z = self.shift + (self.spread.log() + 0.5 * math.log(2 * math.pi)).sum().item()
        return Truth(log_z, self.centre, self.spread, torch.ones(1, dtype=torch.float64))


class DoubleWell:
    """``-x1^4 + 3 x1^2 + x1 / 4`` in the first coordinate, standard normal in the others.

    The wells stand near -1.2 and +1.2 with a barrier of about 2.3 between them.

    Args:
        dimension: number of coordinates.
    """

    def __init__(self, dimension: int = 2) -> None:
        self.dimension = dimension

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n,) log-densities of ``x`` (n, d)."""
        first = x[..., 0]
        well = -first.pow(4) + 3.0 * first.square() + 0.25 * first
        return well - 0.5 * x[..., 1:].square().sum(-1)

    def mode(self, x: torch.Tensor) -> torch.Tensor:
        """Return 0 for the left well and 1 for the right one."""
        return (x[..., 0] > 0).long()

    @property
    def truth(self) -> Truth:
        """What is known; the first coordinate by quadrature on a fine grid."""
        grid = np.linspace(-6.0, 6.0, 200_001)
        value = np.exp(-(grid**4) + 3.0 * grid**2 + 0.25 * grid)
        step = grid[1] - grid[0]
        z = value.sum() * step
        mean = (grid * value).sum() * step / z
        std = math.sqrt((grid**2 * value).sum() * step / z - mean**2)
        right = (value[grid > 0].sum() + 0.5 * value[grid == 0].sum()) * step / z
        rest = self.dimension - 1
        return Truth(
            math.log(z) + 0.5 * rest * math.log(2 * math.pi),
            torch.tensor([mean] + [0.0] * rest, dtype=torch.float64),
            torch.tensor([std] + [1.0] * rest, dtype=torch.float64),
            torch.tensor([1.0 - right, right], dtype=torch.float64),
        )


class Mixture:
    """A mixture of isotropic Gaussians, times ``exp(shift)``.

    Args:
        centres: k centres of d numbers.
        std: k positive numbers.
        weights: k numbers that sum to one.
        shift: log of the integral.
    """

    def __init__(
        self,
        centres: list[list[float]],
        std: list[float],
        weights: list[float],
        shift: float = 0.0,
    ) -> None:
        self.centres = torch.tensor(centres, dtype=torch.float64)
        self.spread = torch.tensor(std, dtype=torch.float64)
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.shift = shift

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n,) log-densities of ``x`` (n, d)."""
        return self.shift + torch.logsumexp(self._terms(x), dim=-1)

    def mode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the most probable component of each row."""
        return self._terms(x).argmax(-1)

    def _terms(self, x: torch.Tensor) -> torch.Tensor:
        spread = self.spread.to(x)
        square = (x[..., None, :] - self.centres.to(x)).square().sum(-1) / spread.square()
        norm = self.centres.shape[1] * (spread.log() + 0.5 * math.log(2 * math.pi))
        return self.weights.to(x).log() - 0.5 * square - norm

    @property
    def truth(self) -> Truth:
        """What is known; weights by mode hold for components that hardly overlap."""
        mean = self.weights @ self.centres
        second = self.weights @ (self.centres.square() + self.spread.square()[:, None])
        return Truth(self.shift, mean, (second - mean.square()).sqrt(), self.weights)


Toy = Gaussian | DoubleWell | Mixture

TOYS: dict[str, Toy] = {
    "gaussian": Gaussian([1.0, -2.0, 0.5], [1.0, 0.5, 2.0], shift=2.0),
    "stiff": Gaussian([0.0] * 6, [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
    "double-well": DoubleWell(2),
    "mixture": Mixture(
        [[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]], [0.7, 0.5, 0.6], [0.5, 0.3, 0.2], shift=1.5
    ),
}
"""The toys by name."""
