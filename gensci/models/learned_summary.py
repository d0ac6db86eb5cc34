"""A learned embedding of signals in noise: a network's posterior mean of the parameters.

It starts as the best linear estimate, which is known in closed form, and learns what bends. Noise
is redrawn in every batch, so that it cannot be learned by heart and costs no simulator calls.

Reference: Fearnhead and Prangle (2012), arXiv:1004.1112 (posterior means as summaries).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.summaries import Summary
from gensci.models.mean_fitting import held_out

_NOISE_DRAWS = 8_192
_RIDGE = 1e-9


@dataclass(frozen=True)
class EmbeddingSettings:
    """Size of the network and length of its training.

    Args:
        hidden: Units of each of the two layers.
        validation: Share of the signals held out.
        steps: Most optimiser steps.
        batch: Signals per step.
        learning_rate: Highest.
        weight_decay: Of AdamW.
        patience: Checks without a better validation before training ends.
    """

    hidden: int = 128
    validation: float = 0.1
    steps: int = 3_000
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 15


class EmbeddingNetwork(nn.Module):
    """From (n, columns) data to (n, dim) predictions: an affine map and a network beside it.

    Args:
        columns: Of the data.
        dim: Of the predictions.
        hidden: Units of each layer.
    """

    def __init__(self, columns: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.settings = {"columns": columns, "dim": dim, "hidden": hidden}
        double = torch.float64
        self.register_buffer("centre", torch.zeros(columns, dtype=double))
        self.register_buffer("scale", torch.ones(columns, dtype=double))
        self.register_buffer("weights", torch.zeros(columns, dim, dtype=double))
        self.register_buffer("factor", torch.eye(dim, dtype=double))
        self.bent = nn.Sequential(
            nn.Linear(columns + dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, dim),
        )  # fmt: skip
        nn.init.zeros_(self.bent[-1].weight)
        nn.init.zeros_(self.bent[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) float64 predictions of (n, columns) data; differentiable."""
        gap = x.double() - self.centre
        straight = gap @ self.weights
        seen = torch.cat([torch.asinh(gap / self.scale), straight], 1).float()
        return straight + self.bent(seen).double() @ self.factor.T


class LearnedSummary:
    """A `NonlinearSummary`: predictions of parameters and their squares from other summaries.

    Args:
        raw: The summaries that the network reads, signal plus noise.
        network: The trained network.

    Attributes:
        dim: Two numbers for each parameter.
        raw_dim: Numbers that the network reads.
        bins: The summaries that the network reads.
    """

    def __init__(self, raw: Summary, network: EmbeddingNetwork) -> None:
        if network.settings["columns"] != raw.dim:
            raise UsageError(
                f"the network reads {network.settings['columns']} numbers, the summary has "
                f"{raw.dim}",
                "give the summary that it was trained on",
            )
        self.bins, self.network = raw, network.eval().requires_grad_(False)
        self.dim, self.raw_dim = network.settings["dim"], raw.dim

    @property
    def calls(self) -> int:
        """Simulator calls spent so far."""
        return self.bins.calls

    def signal(self, theta: Tensor) -> Tensor:
        """The (n, raw_dim) noise-free raw summaries of (n, d) points; n simulator calls."""
        return self.bins.signal(theta)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """Draw (n, raw_dim) raw summaries of the noise alone."""
        return self.bins.noise(n, generator)

    def compress(self, raw: Tensor) -> Tensor:
        """The (n, dim) summaries of (n, raw_dim) raw ones."""
        return self.network(raw)

    def data(self) -> Tensor:
        """The (dim,) summary of the observation."""
        return self.network(self.bins.data()[None])[0]


def learn_summary(
    raw: Summary,
    theta: Tensor,
    signals: Tensor,
    *,
    periods: Sequence[float | None] | None = None,
    settings: EmbeddingSettings | None = None,
    seed: int = 0,
) -> LearnedSummary:
    """Train an embedding on cached signals.

    The likelihood of the summary is to be learned from other signals than these.

    Args:
        raw: The summaries whose noise meets the signals.
        theta: (n, d) parameters; where symmetries make several of them alike, one copy of each.
        signals: (n, raw.dim) noise-free raw summaries of them.
        periods: Of the parameters, None where not periodic; predicted as cosine and sine.
        settings: Sizes and lengths.
        seed: Of weights, order, noise and held-out signals.

    Raises:
        UsageError: The shapes do not fit.
    """
    from gensci.models.flow_training import Schedule, train  # imports Lightning

    if len(theta) != len(signals) or signals.shape[1] != raw.dim:
        raise UsageError(
            f"signals of shape {tuple(signals.shape)} for {len(theta)} points and summaries of "
            f"{raw.dim} numbers",
            f"give ({len(theta)}, {raw.dim})",
        )
    s = settings or EmbeddingSettings()
    targets = _targets(theta, periods)
    held = held_out(len(theta), s.validation, stream(seed, "held out"))
    network = _linear_start(raw, signals[~held], targets[~held], s.hidden, seed)
    noisy = signals[held] + raw.noise(int(held.sum()), stream(seed, "held noise"))
    train_x, train_y, held_y = signals[~held], targets[~held], targets[held]

    def error(x: Tensor, y: Tensor) -> Tensor:
        missed = torch.linalg.solve_triangular(network.factor, (network(x) - y).T, upper=False)
        return missed.square().mean()

    def loss(rows: Tensor, generator: Generator) -> Tensor:
        return error(train_x[rows] + raw.noise(len(rows), generator), train_y[rows])

    def validate() -> Tensor:
        return error(noisy, held_y)

    schedule = Schedule(
        epochs=math.ceil(s.steps * s.batch / len(train_x)), steps=s.steps, batch=s.batch,
        learning_rate=s.learning_rate, weight_decay=s.weight_decay, patience=s.patience,
    )  # fmt: skip
    train(list(network.bent.parameters()), loss, validate, schedule, len(train_x), seed)
    return LearnedSummary(raw, network)


def _targets(theta: Tensor, periods: Sequence[float | None] | None) -> Tensor:
    """(n, 2 d): scaled parameters and their squares, or cosine and sine; unit spread, mean zero."""
    columns = []
    for x, period in zip(theta.unbind(1), periods or [None] * theta.shape[1], strict=True):
        u = (x - x.mean()) / x.std().clamp_min(1e-300)
        turn = x * (2 * math.pi / (period or 1.0))
        columns += [u, u.square()] if period is None else [turn.cos(), turn.sin()]
    both = torch.stack(columns, 1)
    both = both - both.mean(0)
    return both / both.std(0).clamp_min(1e-12)


def _linear_start(
    raw: Summary, signals: Tensor, targets: Tensor, hidden: int, seed: int
) -> EmbeddingNetwork:
    """The linear estimate of least squared error given the spread of signals and of noise."""
    noise = raw.noise(_NOISE_DRAWS, stream(seed, "covariance"))
    centre = signals.mean(0)
    gap = signals - centre
    covariance = gap.T @ gap / len(gap) + noise.T @ noise / len(noise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = EmbeddingNetwork(signals.shape[1], targets.shape[1], hidden)
    scale = covariance.diagonal().sqrt()
    unit = covariance / (scale[:, None] * scale)
    unit = unit + _RIDGE * torch.eye(len(unit), dtype=unit.dtype)
    moments = (gap / scale).T @ targets / len(gap)
    weights = torch.linalg.solve(unit, moments) / scale[:, None]
    missed = targets - (gap + noise[torch.arange(len(gap)) % len(noise)]) @ weights
    network.centre.copy_(centre)
    network.scale.copy_(scale)
    network.weights.copy_(weights)
    # Errors count in units of what the linear estimate misses, combinations of parameters that the
    # data fix well as much as those that they do not.
    left = torch.cov(missed.T)
    network.factor.copy_(torch.linalg.cholesky(left + _RIDGE * left.diagonal().diag()))
    return network
