"""What a neural likelihood asks of the numbers an observation is reduced to."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Summary(Protocol):
    """A reduction of the data to `dim` numbers, written as signal plus noise.

    The simulated summary of a point is `signal(theta) + noise`. Only `signal` costs simulator
    calls, so cached signals meet fresh noise in every batch for free.

    Attributes:
        dim: Number of summaries.
        calls: Simulator calls spent by `signal` so far.
    """

    dim: int
    calls: int

    def signal(self, theta: torch.Tensor) -> torch.Tensor:
        """The (n, dim) noise-free summaries of (n, d) points; n simulator calls."""
        ...

    def noise(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw (n, dim) summaries of the noise alone."""
        ...

    def data(self) -> torch.Tensor:
        """The (dim,) summary of the observation."""
        ...


@runtime_checkable
class NonlinearSummary(Summary, Protocol):
    """A summary that acts on signal and noise together: `compress(signal + noise)`.

    Here `signal` and `noise` give the raw summaries, of `raw_dim` numbers, and `data` the
    compressed ones of the observation.
    """

    raw_dim: int

    def compress(self, raw: torch.Tensor) -> torch.Tensor:
        """The (n, dim) summaries of (n, raw_dim) raw ones."""
        ...


def draw_summaries(
    summary: Summary, signal: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Summaries (n, dim) of cached signals (n, ...) under fresh noise; no simulator calls."""
    raw = signal + summary.noise(len(signal), generator).to(signal)
    return summary.compress(raw) if isinstance(summary, NonlinearSummary) else raw


class WhiteLikelihood:
    """The exact log-likelihood of a summary whose noise is independent unit normals.

    Args:
        summary: one whose `noise` is white, so that no density has to be learned.
    """

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self._data = summary.data()

    @property
    def calls(self) -> int:
        """Simulator calls spent so far."""
        return self.summary.calls

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        """The (n,) log-likelihoods in nats, normalised over the data; n simulator calls."""
        residual = self._data - self.summary.signal(theta)
        constant = 0.5 * self.summary.dim * math.log(2 * math.pi)
        return -0.5 * residual.square().sum(1) - constant
