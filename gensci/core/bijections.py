"""Maps between bounded parameters and the whole line, with exact log-determinants.

Samplers that follow gradients, and flows, work on coordinates without bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

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
        kinds = [
            _kind(low, high, period, bounded)
            for (low, high), period in zip(self.bounds.tolist(), self.periods, strict=True)
        ]
        self._groups = [
            self._group(kind, [column for column, other in enumerate(kinds) if other == kind])
            for kind in dict.fromkeys(kinds)
        ]

    @property
    def trivial(self) -> bool:
        """Whether it is the identity."""
        return all(group.kind == "identity" for group in self._groups)

    @classmethod
    def of_prior(cls, prior: Prior, bounded: str = "logit") -> Bijection:
        """The one that frees the parameters of a prior."""
        return cls(prior.bounds, prior.periods, bounded)

    def forward(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """From (n, d) parameters to (n, d) free coordinates and log|du/dtheta| (n,).

        Values outside their bounds are moved to the nearest point inside.
        """
        return self._mapped(theta, _free)

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """From (n, d) free coordinates to (n, d) parameters and log|dtheta/du| (n,)."""
        return self._mapped(u, _bound)

    def _mapped(self, x: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        # Columns of a kind are mapped together: samplers call this once for each gradient.
        x = x.double()
        total = x.new_zeros(len(x))
        mapped = torch.empty_like(x)
        for group in self._groups:
            columns = group.columns.to(x.device)
            value, log_slope = part(x[:, columns], group)
            mapped = mapped.index_copy(1, columns, value)
            total = total if log_slope is None else total + log_slope.sum(1)
        return mapped, total

    def _group(self, kind: str, columns: list[int]) -> _Group:
        low, high = self.bounds[columns].unbind(1)
        periods = [self.periods[column] or 0.0 for column in columns]
        period = torch.tensor(periods, dtype=torch.float64)
        return _Group(kind, torch.tensor(columns), low, high, period)


class _Group(NamedTuple):
    """Columns that are freed alike, with their ends and periods (k,)."""

    kind: str
    columns: Tensor
    low: Tensor
    high: Tensor
    period: Tensor


Part = Callable[[Tensor, _Group], tuple[Tensor, Tensor | None]]
"""From (n, k) values of a group to mapped ones and log-slopes, None where all slopes are one."""


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


def _free(x: Tensor, group: _Group) -> tuple[Tensor, Tensor | None]:
    """Columns without their bounds, and the logarithms of the slopes."""
    kind, (low, high) = group.kind, (end.to(x.device) for end in (group.low, group.high))
    if kind in ("identity", "periodic"):
        return x, None
    if kind in ("above", "below"):
        distance = (x - low if kind == "above" else high - x).clamp_min(EDGE)
        return distance.log(), -distance.log()
    share = ((x - low) / (high - low)).clamp(EDGE, 1 - EDGE)
    width = (high - low).log()
    if kind == "logit":
        return torch.logit(share), -(share.log() + torch.log1p(-share)) - width
    u = torch.special.ndtri(share)
    return u, HALF_LOG_2PI + 0.5 * u.square() - width


def _bound(u: Tensor, group: _Group) -> tuple[Tensor, Tensor | None]:
    """Columns within their bounds, and the logarithms of the slopes."""
    kind, (low, high) = group.kind, (end.to(u.device) for end in (group.low, group.high))
    if kind == "identity":
        return u, None
    if kind == "periodic":
        return low + torch.remainder(u - low, group.period.to(u.device)), None
    if kind in ("above", "below"):
        distance = u.exp()
        return (low + distance if kind == "above" else high - distance), u
    width = (high - low).log()
    if kind == "logit":
        return low + (high - low) * torch.sigmoid(u), width + logsigmoid(u) + logsigmoid(-u)
    return low + (high - low) * torch.special.ndtr(u), width - HALF_LOG_2PI - 0.5 * u.square()
