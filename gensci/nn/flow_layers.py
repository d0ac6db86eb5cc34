"""Layers of normalising flows: those of normflows, turned so that a density is one pass.

`inverse` goes from data to noise and is what a density needs: one pass of the network. `forward`
goes from noise to data, coordinate by coordinate, and is needed only for draws. All layers start
as the identity. Import this module where a flow is built, since it imports normflows.
"""

from __future__ import annotations

import torch
from normflows.distributions import DiagGaussian
from normflows.flows import AutoregressiveRationalQuadraticSpline, MaskedAffineAutoregressive
from torch import Tensor, nn

LARGEST_LOG_SCALE = 4.0


class MaskedAffine(MaskedAffineAutoregressive):
    """Shift and scale of each coordinate by those before it (Papamakarios et al. 2017, 1705.07057).

    normflows bounds the scale by one, and its fast direction is that of draws; here the scale is
    an exponential, so that a density may be narrower than its base, and the directions are swapped.
    """

    def __init__(self, dim: int, hidden: int, context: int | None, blocks: int) -> None:
        super().__init__(dim, hidden, context, num_blocks=blocks, activation=nn.functional.silu)
        nn.init.zeros_(self.autoregressive_net.final_layer.weight)
        nn.init.zeros_(self.autoregressive_net.final_layer.bias)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise in one pass; also the log-determinants (n,)."""
        return MaskedAffineAutoregressive.forward(self, inputs, context)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data, one pass per coordinate; also the log-determinants (n,)."""
        return MaskedAffineAutoregressive.inverse(self, inputs, context)

    def _log_scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = parameters.view(len(parameters), -1, 2).unbind(-1)
        return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE), shift

    def _elementwise_forward(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return inputs * log_scale.exp() + shift, log_scale.sum(1)

    def _elementwise_inverse(self, inputs: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(parameters)
        return (inputs - shift) * (-log_scale).exp(), -log_scale.sum(1)


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


def spline(
    dim: int, hidden: int, context: int | None, blocks: int, bins: int, tail_bound: float
) -> nn.Module:
    """A rational-quadratic spline per coordinate (Durkan et al. 2019, 1906.04032), of normflows.

    Outside `tail_bound` it is the identity.
    """
    return AutoregressiveRationalQuadraticSpline(
        dim, blocks, hidden, context, num_bins=bins, tail_bound=tail_bound, activation=nn.SiLU
    )


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
        kind: `maf` (affine layers) or `nsf` (each followed by splines).
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
        if (
            kind == "nsf"
            or (kind == "mixed" and index == 0)
            or (kind == "mixed2" and index == number - 1)
        ):
            found.append(spline(dim, hidden, context, blocks, bins, tail_bound))
        found.append(MaskedAffine(dim, hidden, context, blocks))
    return found


def standard_normal(dim: int) -> nn.Module:
    """The base of all flows."""
    return DiagGaussian(dim, trainable=False)
