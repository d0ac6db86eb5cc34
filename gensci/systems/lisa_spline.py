"""Cubic splines as linear maps: from node values to a fine grid, and inner products the other way.

A smooth function known at K nodes is `L @ values` on M grid points. The matrix L is never formed:
each grid point touches two values and two second derivatives, so all products cost O(M).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.core.errors import UsageError

MIN_NODES = 4


class SplineBasis:
    """Cubic splines with not-a-knot ends on equidistant nodes in the logarithm of the frequency.

    Args:
        frequencies: (M,) increasing grid, Hz; the outermost nodes are its ends.
        num_nodes: K, at least 4.

    Attributes:
        nodes: (K,) frequencies of the nodes, Hz.

    Raises:
        UsageError: fewer than four nodes.
    """

    def __init__(self, frequencies: Tensor, num_nodes: int) -> None:
        if num_nodes < MIN_NODES:
            raise UsageError(f"{num_nodes} nodes", f"give at least {MIN_NODES}")
        x = frequencies.log()
        self.step = float(x[-1] - x[0]) / (num_nodes - 1)
        places = x[0] + self.step * torch.arange(num_nodes, dtype=torch.float64)
        self.nodes = places.exp().clamp(frequencies[0], frequencies[-1])
        self.size = num_nodes
        self._interval = ((x - x[0]) / self.step).long().clamp(0, num_nodes - 2)
        right = ((x - places[self._interval]) / self.step).clamp(0.0, 1.0)
        left = 1.0 - right
        sixth = self.step**2 / 6.0
        # Columns: value left, value right, second derivative left, second derivative right.
        self._local = torch.stack(
            [left, right, (left**3 - left) * sixth, (right**3 - right) * sixth], 1
        )
        self._curvature = _second_derivatives(num_nodes, self.step)

    def interpolate(self, values: Tensor) -> Tensor:
        """The (..., M) spline through (..., K) node values."""
        bent = values @ self._curvature.T.to(values.dtype)
        i, local = self._interval, self._local
        return (
            values[..., i] * local[:, 0]
            + values[..., i + 1] * local[:, 1]
            + bent[..., i] * local[:, 2]
            + bent[..., i + 1] * local[:, 3]
        )

    def gather(self, values: Tensor) -> Tensor:
        """The transpose of `interpolate`: (..., M) grid values to (..., K) sums."""
        straight, bent = (
            torch.zeros(*values.shape[:-1], self.size, dtype=values.dtype) for _ in range(2)
        )
        for column, (sums, offset) in enumerate(
            ((straight, 0), (straight, 1), (bent, 0), (bent, 1))
        ):
            sums.index_add_(-1, self._interval + offset, values * self._local[:, column])
        return straight + bent @ self._curvature.to(values.dtype)

    def gram(self, weights: Tensor) -> Tensor:
        """The (..., K, K) matrices L^T diag(weights) L of (..., M) real weights."""
        size = 2 * self.size
        sums = torch.zeros(*weights.shape[:-1], size * size, dtype=weights.dtype)
        rows = [self._interval, self._interval + 1]
        rows += [row + self.size for row in rows]  # second derivatives follow the values
        for a in range(4):
            for b in range(4):
                product = weights * (self._local[:, a] * self._local[:, b])
                sums.index_add_(-1, rows[a] * size + rows[b], product)
        joint = sums.reshape(*weights.shape[:-1], size, size)
        lift = torch.cat([torch.eye(self.size, dtype=torch.float64), self._curvature])
        return lift.T @ joint @ lift


def _second_derivatives(num_nodes: int, step: float) -> Tensor:
    """The (K, K) matrix from node values to second derivatives at the nodes."""
    left = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    right = torch.zeros_like(left)
    inner = torch.arange(1, num_nodes - 1)
    for offset, bent, value in ((-1, 1.0, 6.0), (0, 4.0, -12.0), (1, 1.0, 6.0)):
        left[inner, inner + offset] = bent
        right[inner, inner + offset] = value / step**2
    # Not-a-knot: the third derivative does not jump at the first and last inner node.
    for row, columns in ((0, (0, 1, 2)), (num_nodes - 1, (-1, -2, -3))):
        for column, factor in zip(columns, (1.0, -2.0, 1.0), strict=True):
            left[row, column] = factor
    return torch.linalg.solve(left, right)
