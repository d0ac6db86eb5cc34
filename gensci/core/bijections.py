"""Maps between bounded parameters and the whole line, with exact log-determinants.

Samplers that follow gradients, and flows, work on coordinates without bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gensci.core.errors import UsageError
from gensci.core.priors import Prior

EDGE = 1e-15
"""Shares of an interval nearer to its ends than this are moved to it, so that all is finite."""
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
BOUNDED = ("logit", "probit")


class Bijection:
    """Logit or probit between two bounds, logarithm beyond a single one, the identity without any.

    Args:
        bounds: (d, 2) lowest and highest values, infinite where there is none.
        periods: Columns with a period keep their value, and `inverse` wraps it into one period
            from the lower bound; None where not periodic.
        bounded: `logit`, or `probit`, under which the uniform density becomes a normal.

    Raises:
        UsageError: `bounded` is neither, or a periodic column has no finite lower bound.
    """

    def __init__(
        self,
        bounds: Tensor,
        periods: Sequence[float | None] | None = None,
        bounded: str = "logit",
    ) -> None:
        if bounded not in BOUNDED:
            raise UsageError(f"bounded={bounded!r}", f"choose from: {', '.join(BOUNDED)}")
        self.bounds = bounds.to(torch.float64)
        self.periods = tuple(periods) if periods is not None else (None,) * len(bounds)
        self.bounded = bounded
        self.kinds = tuple(
            _kind(low, high, period, bounded)
            for (low, high), period in zip(self.bounds.tolist(), self.periods, strict=True)
        )

    @classmethod
    def of_prior(cls, prior: Prior, bounded: str = "logit") -> Bijection:
        """The one that frees the parameters of a prior."""
        return cls(prior.bounds, prior.periods, bounded)

    def forward(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """From (n, d) parameters to (n, d) free coordinates and log|du/dtheta| (n,).

        Values outside their bounds are moved to the nearest point inside.
        """
        columns, total = [], theta.new_zeros(len(theta), dtype=torch.float64)
        for i, x in enumerate(theta.double().unbind(1)):
            low, high = self.bounds[i].tolist()
            u, log_det = _free(x, low, high, self.kinds[i])
            columns.append(u)
            total = total + log_det
        return torch.stack(columns, 1), total

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """From (n, d) free coordinates to (n, d) parameters and log|dtheta/du| (n,)."""
        columns, total = [], u.new_zeros(len(u), dtype=torch.float64)
        for i, x in enumerate(u.double().unbind(1)):
            low, high = self.bounds[i].tolist()
            theta, log_det = _bound(x, low, high, self.kinds[i], self.periods[i])
            columns.append(theta)
            total = total + log_det
        return torch.stack(columns, 1), total


def _kind(low: float, high: float, period: float | None, bounded: str) -> str:
    """How a column with these bounds is freed."""
    if period is not None:
        if math.isinf(low):
            raise UsageError("a periodic parameter has no lower bound", "give one, such as 0")
        return "periodic"
    if math.isinf(low) and math.isinf(high):
        return "identity"
    if math.isinf(high):
        return "above"
    return "below" if math.isinf(low) else bounded


def _free(x: Tensor, low: float, high: float, kind: str) -> tuple[Tensor, Tensor]:
    """One column without its bounds, and the logarithm of the slope."""
    if kind in ("identity", "periodic"):
        return x, torch.zeros_like(x)
    if kind in ("above", "below"):
        distance = (x - low if kind == "above" else high - x).clamp_min(EDGE)
        return distance.log(), -distance.log()
    share = ((x - low) / (high - low)).clamp(EDGE, 1 - EDGE)
    if kind == "logit":
        log_slope = -(share.log() + torch.log1p(-share))
        return torch.logit(share), log_slope - math.log(high - low)
    u = torch.special.ndtri(share)
    return u, HALF_LOG_2PI + 0.5 * u.square() - math.log(high - low)


def _bound(
    u: Tensor, low: float, high: float, kind: str, period: float | None
) -> tuple[Tensor, Tensor]:
    """One column within its bounds, and the logarithm of the slope."""
    if kind == "identity":
        return u, torch.zeros_like(u)
    if kind == "periodic":
        return low + torch.remainder(u - low, period), torch.zeros_like(u)
    if kind in ("above", "below"):
        distance = u.exp()
        return (low + distance if kind == "above" else high - distance), u
    width = math.log(high - low)
    if kind == "logit":
        log_slope = -softplus(u) - softplus(-u)
        return low + (high - low) * torch.sigmoid(u), log_slope + width
    return low + (high - low) * torch.special.ndtr(u), width - HALF_LOG_2PI - 0.5 * u.square()
