"""What is done to simulated data before a flow sees them: jitter, logarithm, whitening."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn


class DataTransform(nn.Module):
    """An invertible map of data to about unit spread, with its log-determinant.

    Whole numbers are given a jitter of half a unit either side before training, since a density of
    counts is otherwise a comb. Positive columns whose logarithm is nearer to a normal are replaced
    by it.

    Args:
        dim: Number of data.
        whole: Which columns hold whole numbers.
        logarithmic: Which columns are replaced by their logarithms.
    """

    def __init__(
        self,
        dim: int,
        whole: Sequence[bool] | None = None,
        logarithmic: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.whole = tuple(whole or (False,) * dim)
        self.logarithmic = tuple(logarithmic or (False,) * dim)
        double = torch.float64
        self.register_buffer("location", torch.zeros(dim, dtype=double))
        self.register_buffer("matrix", torch.eye(dim, dtype=double))
        self.register_buffer("log_scale", torch.zeros((), dtype=double))
        self.register_buffer("_log", torch.tensor(self.logarithmic), persistent=False)
        self.register_buffer("_whole", torch.tensor(self.whole), persistent=False)

    @classmethod
    def chosen(cls, x: Tensor) -> DataTransform:
        """Read off (n, d) data which columns are whole numbers and which want a logarithm."""
        x = x.double()
        whole = (x == x.round()).all(0)
        positive = (x > 0).all(0) & ~whole
        skewed = [bool(p) and _is_log_normal(c) for p, c in zip(positive, x.unbind(1), strict=True)]
        return cls(x.shape[1], whole.tolist(), skewed)

    def whiten(self, location: Tensor, matrix: Tensor) -> None:
        """Take on `y = (log or plain x - location) @ matrix`."""
        self.location.copy_(location)
        self.matrix.copy_(matrix)
        self.log_scale.copy_(torch.linalg.slogdet(matrix).logabsdet)

    def jitter(self, x: Tensor, generator: Generator) -> Tensor:
        """Data in which whole numbers are spread over half a unit either side."""
        if not any(self.whole):
            return x
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 0.5
        return torch.where(self._whole, x + noise, x)

    def elementwise(self, x: Tensor) -> Tensor:
        """Float64 data with logarithms where chosen; not above zero gives NaN."""
        x = x.double()
        if not any(self.logarithmic):
            return x
        safe = torch.where(x > 0, x, torch.nan)
        return torch.where(self._log, safe.log(), x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) float64 whitened data and the log-determinants (n,); NaN where undefined."""
        logarithms = self.elementwise(x)
        log_det = self.log_scale.expand(len(x))
        if any(self.logarithmic):
            log_det = log_det - torch.where(self._log, logarithms, 0.0).sum(1)
        return (logarithms - self.location) @ self.matrix, log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Data (n, d) float64 of whitened data; whole numbers are rounded."""
        x = torch.linalg.solve(self.matrix.T, y.double().T).T + self.location
        x = torch.where(self._log, x.exp(), x)
        return torch.where(self._whole, x.round(), x)


def _is_log_normal(x: Tensor) -> bool:
    """Whether the logarithm is much nearer to a symmetric, light-tailed density."""
    return _tails(x.log()) < 0.5 * _tails(x)


def _tails(x: Tensor) -> float:
    """Distance of the extremes from the median, in units of the central half, larger side."""
    ends = torch.quantile(
        x[:: max(1, len(x) // 20_000)],
        torch.tensor([0.005, 0.25, 0.5, 0.75, 0.995], dtype=x.dtype),
    )
    low, left, middle, right, high = ends.tolist()
    half = max(right - left, 1e-300)
    return max(high - middle, middle - low) / half
