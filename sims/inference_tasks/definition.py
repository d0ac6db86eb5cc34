"""What an inference task is: a prior as plain data, a simulator, and its likelihood where known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Simulator = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
LogLikelihood = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TaskError(ValueError):
    """A task is not known, or was given tensors of another shape."""


@dataclass(frozen=True)
class InferenceTask:
    """One benchmark problem of simulation-based inference.

    Attributes:
        name: the name that the benchmark uses.
        parameters: names of the d parameters.
        dim_x: number of data.
        prior: plain data that JSON can hold: ``{"kind": "box", "low", "high"}``, ``{"kind":
            "normal", "mean", "covariance"}`` or ``{"kind": "lognormal", "loc", "scale"}``, with
            lists of d numbers (d lists of d for the covariance).
        simulator: ``(theta (n, d) float64, generator) -> x (n, dim_x)`` float64.
        likelihood: ``(theta (n, d), x (dim_x,)) -> (n,)``, the log-likelihood up to a number that
            does not depend on theta. No learning method may use it; it judges them.
        folder: folder of the task in the benchmark's wheel.
        observation_file: file of the observation in ``files/num_observation_<k>``.
        discrete: whether every number of x is an integer or a sum of few frozen numbers.
    """

    name: str
    parameters: tuple[str, ...]
    dim_x: int
    prior: dict
    simulator: Simulator
    likelihood: LogLikelihood
    folder: str
    observation_file: str = "observation.csv"
    discrete: bool = False

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return len(self.parameters)

    def simulate(self, theta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw data for each row of parameters.

        Args:
            theta: (n, d) parameters.
            generator: where the random numbers come from.

        Returns:
            (n, dim_x) float64.

        Raises:
            TaskError: theta has another number of columns.
        """
        return self.simulator(self._checked(theta), generator)

    def log_likelihood(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return (n,) log-likelihoods of one observation, up to a number free of theta.

        Args:
            theta: (n, d) parameters inside the prior's support.
            x: (dim_x,) or (1, dim_x) observation.

        Raises:
            TaskError: theta or x has another number of columns.
        """
        x = torch.as_tensor(x, dtype=torch.float64).reshape(-1)
        if x.shape[0] != self.dim_x:
            raise TaskError(f"{self.name}: an observation has {self.dim_x} numbers, not {len(x)}")
        return self.likelihood(self._checked(theta), x)

    def _checked(self, theta: torch.Tensor) -> torch.Tensor:
        theta = torch.as_tensor(theta, dtype=torch.float64)
        if theta.ndim != 2 or theta.shape[1] != self.dim:
            raise TaskError(
                f"{self.name}: theta must be (n, {self.dim}), not {tuple(theta.shape)}: "
                f"columns are {', '.join(self.parameters)}"
            )
        return theta


def numbered(dim: int) -> tuple[str, ...]:
    """Names of parameters that have none of their own: parameter_1 and so on."""
    return tuple(f"parameter_{i + 1}" for i in range(dim))


def uniform_prior(bound: float, dim: int) -> dict:
    """A uniform prior on ``[-bound, bound]`` in every direction, as plain data."""
    return {"kind": "box", "low": [-bound] * dim, "high": [bound] * dim}
