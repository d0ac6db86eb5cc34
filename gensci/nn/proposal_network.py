"""An unconditional spline flow over bounded and periodic parameters, exact in both directions.

`theta -> chart -> whiten -> spline layers -> z`, where z is normal with a share of a broader one,
so that the tails of the density are heavier than those of what it was fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from gensci.core.bijections import Bijection
from gensci.core.registry import MODELS

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@MODELS.register("proposal-network")
class ProposalNetwork(nn.Module):
    """A density over (n, d) parameters.

    Args:
        bounds: (d, 2) lowest and highest values, None where there is none. A periodic parameter
            has one period, cut where the density is low.
        periods: Of the parameters, None where not periodic.
        layers: Spline layers.
        hidden: Units of each masked network.
        blocks: Residual blocks of each.
        bins: Of each spline.
        tail_bound: Beyond which splines are the identity.
        broad_share: Of the draws that come from the broader normal.
        broad_scale: Its standard deviation.
        seed: Of the weights.
    """

    def __init__(
        self,
        bounds: Sequence[Sequence[float | None]],
        periods: Sequence[float | None],
        *,
        layers: int = 4,
        hidden: int = 64,
        blocks: int = 1,
        bins: int = 8,
        tail_bound: float = 5.0,
        broad_share: float = 0.1,
        broad_scale: float = 1.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        import normflows

        from gensci.nn import flow_layers

        self.settings = {
            "bounds": [list(pair) for pair in bounds], "periods": list(periods), "layers": layers,
            "hidden": hidden, "blocks": blocks, "bins": bins, "tail_bound": tail_bound,
            "broad_share": broad_share, "broad_scale": broad_scale, "seed": seed,
        }  # fmt: skip
        self.dim = len(bounds)
        self.periods = tuple(periods)
        ends = [[-math.inf if a is None else a, math.inf if b is None else b] for a, b in bounds]
        # inside one period a periodic parameter is a bounded one
        self.chart = Bijection(torch.tensor(ends, dtype=torch.float64), bounded="probit")
        self.broad_share, self.broad_scale = broad_share, broad_scale
        double = torch.float64
        self.register_buffer("location", torch.zeros(self.dim, dtype=double))
        self.register_buffer("matrix", torch.eye(self.dim, dtype=double))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chain = flow_layers.layers(
                "nsf", self.dim, None, number=layers, hidden=hidden, blocks=blocks, bins=bins,
                tail_bound=tail_bound,
            )  # fmt: skip
        self.flow = normflows.ConditionalNormalizingFlow(flow_layers.standard_normal(1), chain)

    def whiten(self, location: Tensor, matrix: Tensor) -> None:
        """Take on `y = (u - location) @ matrix` for charted coordinates u."""
        self.location.copy_(location)
        self.matrix.copy_(matrix)

    def charted(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates without bounds, and log|du/dtheta| (n,)."""
        columns = [
            x if period is None else low + torch.remainder(x - low, period)
            for x, period, low in zip(
                theta.double().unbind(1), self.periods, self.chart.bounds[:, 0], strict=True
            )
        ]
        return self.chart.forward(torch.stack(columns, 1))

    def whitened(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened coordinates (n, d) and the log-determinants (n,)."""
        u, log_det = self.charted(theta)
        return (u - self.location) @ self.matrix, log_det + torch.linalg.slogdet(self.matrix)[1]

    def log_prob(self, theta: Tensor) -> Tensor:
        """(n,) float64 log-densities; -inf outside the bounds."""
        y, log_det = self.whitened(theta)
        low, high = self.chart.bounds.unbind(1)
        free = torch.tensor([period is not None for period in self.periods])
        inside = (((theta >= low) & (theta <= high)) | free).all(1)
        return torch.where(inside, self.whitened_log_prob(y) + log_det, -torch.inf)

    def whitened_log_prob(self, y: Tensor) -> Tensor:
        """(n,) log-densities of whitened coordinates, in the type of the weights."""
        total = y.new_zeros(len(y))
        for layer in reversed(self.flow.flows):
            y, log_det = layer.inverse(y)
            total = total + log_det
        return total + self.base_log_prob(y)

    def base_log_prob(self, z: Tensor) -> Tensor:
        """(n,) log-densities of the normal with its broad share."""
        square = 0.5 * z.square().sum(1)
        narrow = math.log1p(-self.broad_share) - square
        scale = self.broad_scale
        broad = math.log(max(self.broad_share, 1e-300)) - square / scale**2
        both = torch.logaddexp(narrow, broad - self.dim * math.log(scale))
        return both - self.dim * HALF_LOG_2PI

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Tensor:
        """(n, d) float64 draws within the bounds."""
        device = generator.device
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device=device)
        pick = torch.rand(n, 1, generator=generator, dtype=torch.float64, device=device)
        z = torch.where(pick < self.broad_share, self.broad_scale * z, z)
        y = z.to(next(self.parameters()).dtype)
        for layer in self.flow.flows:
            y, _ = layer(y)
        u = torch.linalg.solve(self.matrix.T, y.double().T).T + self.location
        return self.chart.inverse(u)[0]
