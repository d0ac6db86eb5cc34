"""Summaries of wide data: the columns that tell of the parameters, or a network's prediction.

Where few columns depend on the parameters, those are all that is wanted. Where many do, a network
predicts the parameters and their squares. The likelihood of such a prediction is to be learned from
simulations that the network never saw, since on its own rows it predicts better than on others.

Reference: Fan and Lv (2008), doi:10.1111/j.1467-9868.2008.00674.x (screening of single columns);
    Fearnhead and Prangle (2012), arXiv:1004.1112 (regression of parameters as a summary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.models.mean_fitting import held_out

SIGNIFICANT = 6.0
"""Standard deviations of chance beyond which a column is taken to depend on the parameters."""


@dataclass(frozen=True)
class SummarySettings:
    """Size of the network and length of its training.

    Args:
        hidden: Units of each of the two layers.
        validation: Share of the rows held out.
        epochs: Most passes over the rows.
        batch: Rows per step.
        learning_rate: Highest.
        weight_decay: Of AdamW.
        patience: Checks without a better validation before training ends.
    """

    hidden: int = 128
    validation: float = 0.125
    epochs: int = 150
    batch: int = 200
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 12


class ColumnChoice(nn.Module):
    """Some of the columns of data, as they are.

    Args:
        columns: Of the data.
        kept: Numbers of those that are kept.
    """

    def __init__(self, columns: int, kept: Sequence[int]) -> None:
        super().__init__()
        self.settings = {"columns": columns, "kept": list(kept)}

    def summarise(self, x: Tensor) -> Tensor:
        """(n, kept) of (n, columns) data.

        Raises:
            UsageError: The data have another number of columns.
        """
        return _checked(x, self.settings["columns"])[:, self.settings["kept"]]


class RegressionSummary(nn.Module):
    """From (n, columns) data to (n, 2 d) predictions of parameters and their squares.

    Args:
        columns: Of the data.
        num_parameters: The d parameters that are predicted.
        hidden: Units of each layer.
    """

    def __init__(self, columns: int, num_parameters: int, hidden: int = 128) -> None:
        super().__init__()
        self.settings = {"columns": columns, "num_parameters": num_parameters, "hidden": hidden}
        self.register_buffer("centre", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))
        self.network = nn.Sequential(
            nn.Linear(columns, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2 * num_parameters),
        )  # fmt: skip

    @classmethod
    def scaled_to(cls, x: Tensor, num_parameters: int, hidden: int, seed: int) -> RegressionSummary:
        """An untrained network for the median and the central 68 per cent of (n, columns) data."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            summary = cls(x.shape[1], num_parameters, hidden)
        marks = torch.tensor([0.16, 0.5, 0.84], dtype=x.dtype)
        low, middle, high = torch.quantile(x, marks, dim=0)
        width = 0.5 * (high - low)
        summary.centre.copy_(middle)
        summary.scale.copy_(torch.where(width > 0, width, x.std(0).clamp_min(1e-6)))
        return summary

    def scaled(self, x: Tensor) -> Tensor:
        """(n, columns) float32 data of about unit spread; heavy tails are bent to logarithms."""
        return torch.asinh((x.double() - self.centre) / self.scale).float()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2 d) float32 summaries of (n, columns) data."""
        return self.network(self.scaled(x))

    @torch.no_grad()
    def summarise(self, x: Tensor) -> Tensor:
        """(n, 2 d) float64 summaries of (n, columns) data.

        Raises:
            UsageError: The data have another number of columns.
        """
        return self(_checked(x, self.settings["columns"])).double()


def telling_columns(theta: Tensor, x: Tensor) -> list[int]:
    """Numbers of the columns that depend on the parameters, as far as the rows can show.

    Each column, bent where it has heavy tails, and its square are regressed on the parameters and
    their squares; a column tells where that explains more than chance would.

    Args:
        theta: (n, d) parameters.
        x: (n, columns) data.
    """
    u = _standardised(theta)
    design = torch.cat([torch.ones_like(u[:, :1]), u, _standardised(u.square())], 1)
    basis, _ = torch.linalg.qr(design)
    bent = _standardised(torch.asinh(_standardised(x - x.median(0).values)))
    terms = design.shape[1] - 1
    found = torch.zeros(x.shape[1], dtype=torch.bool)
    for response in (bent, _standardised(bent.square())):
        # of a column without meaning, so many terms explain the share terms / n, give or take
        explained = (basis.T @ response).square().sum(0)
        found |= explained > terms + SIGNIFICANT * (2 * terms) ** 0.5
    return found.nonzero()[:, 0].tolist()


def fit_summary(
    theta: Tensor, x: Tensor, seed: int, settings: SummarySettings | None = None
) -> RegressionSummary:
    """Train by squared error; the averaged weights of the best held-out error are kept.

    Args:
        theta: (n, d) parameters.
        x: (n, columns) data.
        seed: Of weights, order and held-out rows.
        settings: Sizes and lengths.

    Raises:
        GensciError: The held-out error was never finite.
    """
    from gensci.models.flow_training import Schedule, train  # imports Lightning

    s = settings or SummarySettings()
    summary = RegressionSummary.scaled_to(x, theta.shape[1], s.hidden, seed)
    held = held_out(len(x), s.validation, stream(seed, "held out"))
    data, targets = summary.scaled(x), _targets(theta)
    train_x, train_y, held_x, held_y = data[~held], targets[~held], data[held], targets[held]

    def loss(rows: Tensor, generator: Generator) -> Tensor:
        return (summary.network(train_x[rows]) - train_y[rows]).square().mean()

    def validate() -> Tensor:
        return (summary.network(held_x) - held_y).square().mean()

    schedule = Schedule(
        epochs=s.epochs, batch=s.batch, learning_rate=s.learning_rate, patience=s.patience,
        weight_decay=s.weight_decay,
    )  # fmt: skip
    train(list(summary.network.parameters()), loss, validate, schedule, len(train_x), seed)
    return summary.eval().requires_grad_(False)


def _targets(theta: Tensor) -> Tensor:
    """(n, 2 d) float32 parameters and their squares, both of mean zero and unit spread."""
    u = _standardised(theta)
    return torch.cat([u, _standardised(u.square())], 1).float()


def _standardised(x: Tensor) -> Tensor:
    """Columns of mean zero and unit spread; constants become zeros."""
    x = x - x.mean(0)
    return x / x.std(0).clamp_min(1e-12)


def _checked(x: Tensor, columns: int) -> Tensor:
    """Data of this many columns.

    Raises:
        UsageError: They have another number.
    """
    if x.ndim != 2 or x.shape[1] != columns:
        raise UsageError(
            f"data of shape {tuple(x.shape)}, the summary was trained on {columns} columns",
            f"give (n, {columns})",
        )
    return x
