"""A density without layers: each coordinate is a mixture of normals told by those before it.

Bursts make the scale of a datum uncertain by factors of ten and alike in its neighbours. Layers
that bend one normal need many steps to learn that; a mixture of a narrow and of wide components,
weighed by what the coordinates before tell, says it directly.
"""

from __future__ import annotations

import torch
from normflows.nets.made import MADE
from torch import Generator, Tensor, nn

from gensci.nn.mixtures import LOG_2PI, sample_mixture_normal

LARGEST_LOG_SCALE = 7.0
NARROW, WIDE = -0.3, 3.0  # logarithms of the scales of the first and last component at the start


class MaskedMixture(nn.Module):
    """A product of mixtures of normals, each conditional on the coordinates before and on context.

    Stands as the base of a flow: `log_prob` as normflows calls it.

    Args:
        dim: Number of coordinates.
        hidden: Units of the masked network.
        context: Number of features that the density depends on, None for none.
        blocks: Residual blocks of the network.
        components: Of each mixture.

    Reference: Uria, Murray and Larochelle (2013), arXiv:1306.0186, with the masks of Germain et
        al. (2015), arXiv:1502.03509.
    """

    def __init__(
        self, dim: int, hidden: int, context: int | None, blocks: int, components: int
    ) -> None:
        super().__init__()
        self.dim, self.components = dim, components
        # a constant before the first coordinate lets that one depend on the context too
        self.network = MADE(
            dim + 1, hidden, context, num_blocks=blocks, output_multiplier=3 * components,
            activation=nn.functional.silu,
        )  # fmt: skip
        last = self.network.final_layer
        nn.init.zeros_(last.weight)
        start = torch.zeros(dim + 1, 3, components)
        start[:, 0] = torch.linspace(0.0, -2.0, components)
        start[:, 2] = torch.linspace(NARROW, WIDE, components) if components > 1 else 0.0
        with torch.no_grad():
            last.bias.copy_(start.flatten())

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(n,) log-densities in nats of (n, dim) data."""
        logits, mean, log_scale = self._mixtures(x, context, slice(0, self.dim))
        z = (x - mean) * torch.exp(-log_scale)
        component = logits - 0.5 * z.square() - log_scale
        total = torch.logsumexp(component, 0) - torch.logsumexp(logits, 0)
        return total.sum(1) - 0.5 * LOG_2PI * self.dim

    @torch.no_grad()
    def draw(self, n: int, generator: Generator, context: Tensor | None = None) -> Tensor:
        """Draw (n, dim) data, one pass per coordinate."""
        weight = self.network.final_layer.weight
        x = torch.zeros(n, self.dim, dtype=weight.dtype, device=weight.device)
        for i in range(self.dim):
            told = self._mixtures(x, context, slice(i, i + 1))
            x[:, i] = sample_mixture_normal(*(part[:, :, 0].T for part in told), generator)
        return x

    def _mixtures(
        self, x: Tensor, context: Tensor | None, columns: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(components, n, k) logits, means and logarithms of scales of k columns.

        Components come first: sums over the last of few are slow.
        """
        # the network sees the size of a burst as a logarithm
        seen = torch.cat((torch.zeros_like(x[:, :1]), torch.asinh(x)), 1)
        told = self.network(seen, context).view(len(x), self.dim + 1, -1)
        logits, mean, raw = (
            told[:, 1:][:, columns].permute(2, 0, 1).contiguous().split(self.components)
        )
        return logits, mean, LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)
