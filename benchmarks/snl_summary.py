"""A learned summary for data of many columns, used by bench_snl where there are more than forty.

A network predicts the scaled parameters and their squares from the data; its outputs replace the
data. The likelihood of the summary is then learned from simulations that the network never saw,
since on its own training rows it predicts better than on the observation.

Reference: regression of parameters as a summary, Fearnhead & Prangle 2012, arXiv:1004.1112.
"""

from __future__ import annotations

import torch
from torch import nn

from gensci.core.random import stream

HIDDEN, EPOCHS, BATCH, PATIENCE = 128, 150, 200, 12
RATE, DECAY = 1e-3, 1e-2


class RegressionSummary(nn.Module):
    """From (n, columns) data to (n, 2 d) predictions of parameters and their squares.

    Args:
        columns: of the data.
        dim: number of parameters.
    """

    def __init__(self, columns: int, dim: int) -> None:
        super().__init__()
        self.columns, self.dim = columns, dim
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.network = nn.Sequential(
            nn.Linear(columns, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, 2 * dim),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The summaries; heavy tails of the data are bent to logarithms."""
        return self.network(torch.asinh((x.float() - self.centre) / self.scale))

    @torch.no_grad()
    def summarise(self, x: torch.Tensor) -> torch.Tensor:
        """The (n, 2 d) float64 summaries of (n, columns) data."""
        return self(x).double()


def fit_summary(theta: torch.Tensor, x: torch.Tensor, seed: int) -> RegressionSummary:
    """Train on rows by squared error; the weights of the best held-out error are kept.

    Args:
        theta: (n, d) parameters.
        x: (n, columns) data.
        seed: of weights and order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**32)
        summary = RegressionSummary(x.shape[1], theta.shape[1])
    low, middle, high = torch.quantile(x, torch.tensor([0.16, 0.5, 0.84]).to(x), dim=0)
    width = 0.5 * (high - low)
    summary.centre.copy_(middle)
    summary.scale.copy_(torch.where(width > 0, width, x.std(0).clamp_min(1e-6)))
    u = (theta - theta.mean(0)) / theta.std(0)
    targets = torch.cat([u, (u.square() - 1) / u.square().std(0)], 1).float()
    count = len(x) // 8
    held, rows = torch.arange(count), torch.arange(count, len(x))
    optimizer = torch.optim.AdamW(summary.parameters(), lr=RATE, weight_decay=DECAY)
    best, kept, waited = float("inf"), summary.state_dict(), 0
    for epoch in range(EPOCHS):
        order = rows[torch.randperm(len(rows), generator=stream(seed, "order", epoch))]
        for batch in order.split(BATCH):
            loss = (summary(x[batch]) - targets[batch]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = float((summary(x[held]) - targets[held]).square().mean())
        if error < best:
            best, waited = error, 0
            kept = {name: value.clone() for name, value in summary.state_dict().items()}
        else:
            waited += 1
        if waited >= PATIENCE:
            break
    summary.load_state_dict(kept)
    return summary.eval().requires_grad_(False)
