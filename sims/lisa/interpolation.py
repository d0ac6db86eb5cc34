"""Local cubic interpolation from few nodes to a long grid, linear in the values and batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 4
"""Nodes that carry each point."""


@dataclass(frozen=True)
class Stencil:
    """Lagrange cubics through the four nodes nearest to each point.

    Attributes:
        first: index of the first of the four nodes, (M,).
        weights: (4, M).
    """

    first: Tensor
    weights: Tensor

    @classmethod
    def at(cls, points: Tensor, nodes: Tensor) -> Stencil:
        """Prepares interpolation from equally spaced ``nodes`` (k,), k >= 4, to ``points`` (M,)."""
        place = (points - nodes[0]) / (nodes[1] - nodes[0])
        first = torch.clamp(place.floor().long() - 1, 0, len(nodes) - POINTS)
        x = place - first
        weights = torch.stack(
            [
                -(x - 1.0) * (x - 2.0) * (x - 3.0) / 6.0,
                x * (x - 2.0) * (x - 3.0) / 2.0,
                -x * (x - 1.0) * (x - 3.0) / 2.0,
                x * (x - 1.0) * (x - 2.0) / 6.0,
            ]
        )
        return cls(first, weights)

    def carry(self, values: Tensor) -> Tensor:
        """Carries ``values`` (..., k) at the nodes, real or complex, to the points, (..., M)."""
        return sum(
            weight * values.index_select(-1, self.first + k)
            for k, weight in enumerate(self.weights)
        )
