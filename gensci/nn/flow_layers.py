"""Layers of normalising flows on the masked networks of normflows; a density is one pass.

`inverse` goes from data to noise and is what a density needs: one pass of the network. `forward`
goes from noise to data, coordinate by coordinate, and is needed only for draws. All layers start
as the identity. Import this module where a flow is built, since it imports normflows.
"""

from __future__ import annotations

import torch
from normflows.distributions import DiagGaussian
from normflows.nets.made import MADE
from torch import Generator, Tensor, nn

from gensci.nn.masked_mixture import MaskedMixture
from gensci.nn.splines import num_raw, spline

LARGEST_LOG_SCALE = 4.0


class Masked(nn.Module):
    """Each coordinate shifted and scaled by those before it, then bent by a spline.

    One network tells shift, scale and spline. It sees a constant before the first coordinate:
    units of a masked network that see no coordinate at all do not exist otherwise, and the first
    coordinate would not depend on the context.

    Args:
        dim: Number of coordinates.
        hidden: Units of the network.
        context: Number of features that the density depends on, None for none.
        blocks: Residual blocks of the network.
        bins: Of each spline; 0 for no splines.
        tail_bound: Beyond which splines are the identity.

    Reference: Papamakarios, Pavlakou and Murray (2017), arXiv:1705.07057 (shift and scale);
        Durkan et al. (2019), arXiv:1906.04032 (splines).
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        context: int | None,
        blocks: int,
        bins: int = 0,
        tail_bound: float = 4.0,
    ) -> None:
        super().__init__()
        self.dim, self.bins, self.tail_bound = dim, bins, tail_bound
        self.numbers = 2 + (num_raw(bins) if bins else 0)
        self.network = MADE(
            dim + 1, hidden, context, num_blocks=blocks, output_multiplier=self.numbers,
            activation=nn.functional.silu,
        )  # fmt: skip
        nn.init.zeros_(self.network.final_layer.weight)
        nn.init.zeros_(self.network.final_layer.bias)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise in one pass; also the log-determinants (n,)."""
        shift, log_scale, raw = self._numbers(x, context, slice(0, self.dim))
        z = (x - shift) * (-log_scale).exp()
        log_det = -log_scale
        if self.bins:
            z, log_slope = spline(z, raw, self.tail_bound)
            log_det = log_det + log_slope
        return z, log_det.sum(1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data, one pass per coordinate; also the log-determinants (n,)."""
        x, total = torch.zeros_like(z), z.new_zeros(len(z))
        for i in range(self.dim):
            column = slice(i, i + 1)
            shift, log_scale, raw = self._numbers(x, context, column)
            y = z[:, column]
            if self.bins:
                y, log_slope = spline(y, raw, self.tail_bound, inverse=True)
                total = total + log_slope[:, 0]
            y = y * log_scale.exp() + shift
            total = total + log_scale[:, 0]
            x = torch.cat((x[:, :i], y, x[:, i + 1 :]), 1)
        return x, total

    def _numbers(
        self, x: Tensor, context: Tensor | None, columns: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(n, k) shifts and logarithms of scales, (numbers, n, k) of the splines, of k columns."""
        told = self.network(torch.cat((torch.zeros_like(x[:, :1]), x), 1), context)
        told = told.view(len(x), self.dim + 1, -1)[:, 1:][:, columns].permute(2, 0, 1).contiguous()
        log_scale = LARGEST_LOG_SCALE * torch.tanh(told[1] / LARGEST_LOG_SCALE)
        return told[0], log_scale, told[2:]


class Reordering(nn.Module):
    """Coordinates in another order, so that the next layer conditions on others.

    Args:
        dim: Number of coordinates.
        swap: Turn the order round; a random order, kept with the weights, otherwise.
    """

    def __init__(self, dim: int, swap: bool) -> None:
        super().__init__()
        order = torch.arange(dim).flip(0) if swap else torch.randperm(dim)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise."""
        return x[:, self.order], x.new_zeros(len(x))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data."""
        return z[:, self.back], z.new_zeros(len(z))


def layers(
    kind: str,
    dim: int,
    context: int | None,
    *,
    number: int,
    hidden: int,
    blocks: int,
    bins: int,
    tail_bound: float,
) -> list[nn.Module]:
    """The layers of a flow, from noise to data.

    Args:
        kind: `maf` (shift and scale) or `nsf` (splines too).
        dim: Number of coordinates.
        context: Number of features that the density depends on, None for none.
        number: Of layers.
        hidden: Units of each masked network.
        blocks: Residual blocks of each masked network.
        bins: Of each spline.
        tail_bound: Beyond which splines are the identity.
    """
    found: list[nn.Module] = []
    for index in range(number):
        if index and dim > 1:
            found.append(Reordering(dim, swap=index % 2 == 1))
        splines = bins if kind == "nsf" else 0
        found.append(Masked(dim, hidden, context, blocks, splines, tail_bound))
    return found


class StandardNormal(DiagGaussian):
    """What layers turn into data."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, trainable=False)
        self.dim = dim

    def draw(self, n: int, generator: Generator, context: Tensor | None = None) -> Tensor:
        """Draw (n, dim) noise."""
        z = torch.randn(n, self.dim, generator=generator, device=generator.device)
        return z.to(self.loc.device)


def base(
    kind: str, dim: int, hidden: int, context: int | None, blocks: int, components: int
) -> nn.Module:
    """What the layers start from: standard normals, or the whole density of a `mixture`."""
    if kind == "mixture":
        return MaskedMixture(dim, hidden, context, blocks, components)
    return StandardNormal(dim)


def standard_normal(dim: int) -> nn.Module:
    """The base of the flows of `ProposalNetwork`."""
    return StandardNormal(dim)
