"""Samples as rows of one float64 matrix, for samplers that mix coordinates, and their geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gensci.core.chains import chain_ess, split_rhat
from gensci.core.errors import IncompatibleSampler, UsageError
from gensci.core.protocols import Tensors
from gensci.samplers.evaluate import take

TWO_PI = 2.0 * math.pi


@dataclass(frozen=True)
class Layout:
    """How a row of named tensors lies in a row of a matrix.

    Args:
        template: one row of samples; it tells names, shapes, types and the device.
    """

    template: Tensors

    @classmethod
    def of(cls, x: Tensors, sampler: str) -> Layout:
        """Return the layout of samples.

        Raises:
            IncompatibleSampler: they hold whole numbers, which such a sampler cannot move.
        """
        fixed = [name for name, value in x.items() if not value.is_floating_point()]
        if fixed:
            raise IncompatibleSampler(
                f"sampler {sampler!r} moves all coordinates, but {fixed[0]!r} holds whole numbers",
                "use one of: mcmc, smc, importance",
            )
        return cls({name: value[:1].clone() for name, value in x.items()})

    @property
    def dim(self) -> int:
        """How many numbers make up one sample."""
        return sum(value.numel() for value in self.template.values())

    def matrix(self, x: Tensors) -> torch.Tensor:
        """Return (n, d) float64 on the CPU."""
        columns = [
            x[name].detach().unsqueeze(-1).flatten(1).cpu().double() for name in self.template
        ]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)

    def rows(self, theta: torch.Tensor) -> Tensors:
        """Return the (n, d) matrix as named tensors of their own type and device."""
        sizes = [value.numel() for value in self.template.values()]
        parts = zip(self.template.items(), theta.split(sizes, dim=1), strict=True)
        return {
            name: part.to(value).reshape(len(theta), *value.shape[1:])
            for (name, value), part in parts
        }

    def round(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the nearest (..., d) points that the types of the samples can hold."""
        if all(value.dtype == torch.float64 for value in self.template.values()):
            return theta
        return self.matrix(self.rows(theta.reshape(-1, self.dim))).reshape(theta.shape)


@dataclass(frozen=True)
class Space:
    """Coordinates of which some are angles.

    Attributes:
        columns: numbers of the periodic columns.
        low: the lowest value of each of them.
        period: the period of each of them.
    """

    columns: torch.Tensor
    low: torch.Tensor
    period: torch.Tensor

    @classmethod
    def of(cls, target: Any, dim: int) -> Space:
        """Return the geometry that a target tells by ``periods`` and ``bounds``.

        Raises:
            UsageError: the target has another number of periods than samples have columns.
        """
        periods = getattr(target, "periods", None)
        periods = (None,) * dim if periods is None else tuple(periods)
        if len(periods) != dim:
            raise UsageError(
                f"the target has {len(periods)} periods, but its samples have {dim} coordinates",
                "give one period, or None, for each coordinate",
            )
        columns = [column for column, period in enumerate(periods) if period is not None]
        bounds = getattr(target, "bounds", None)
        low = [0.0 if bounds is None else float(bounds[column][0]) for column in columns]
        return cls(
            torch.tensor(columns, dtype=torch.int64),
            torch.tensor([value if math.isfinite(value) else 0.0 for value in low]).double(),
            torch.tensor([float(periods[column]) for column in columns], dtype=torch.float64),
        )

    def wrap(self, theta: torch.Tensor) -> torch.Tensor:
        """Return (..., d) points with every angle within one period from its lowest value."""
        if not self.columns.numel():
            return theta
        angle = self.low + torch.remainder(theta[..., self.columns] - self.low, self.period)
        return theta.index_copy(-1, self.columns, angle)

    def shortest(self, step: torch.Tensor) -> torch.Tensor:
        """Return (..., d) differences the short way round."""
        if not self.columns.numel():
            return step
        half = 0.5 * self.period
        around = torch.remainder(step[..., self.columns] + half, self.period) - half
        return step.index_copy(-1, self.columns, around)

    def is_short(self, step: torch.Tensor) -> torch.Tensor:
        """Return (...) whether no angle of (..., d) differences goes half round or more.

        A move that scales differences can be undone only then.
        """
        around = step[..., self.columns].abs() < 0.5 * self.period
        return around.all(-1)

    def centre(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the mean over the rows of (..., n, d), of angles that of their directions."""
        mean = theta.mean(-2)
        if not self.columns.numel():
            return mean
        turn = (theta[..., self.columns] - self.low) * (TWO_PI / self.period)
        angle = torch.atan2(turn.sin().mean(-2), turn.cos().mean(-2)) * (self.period / TWO_PI)
        return self.wrap(mean.index_copy(-1, self.columns, self.low + angle))

    def unrolled(self, theta: torch.Tensor) -> torch.Tensor:
        """Return (..., d + angles) numbers without jumps: cosine and sine of every angle."""
        turn = theta[..., self.columns] * (TWO_PI / self.period)
        kept = torch.ones(theta.shape[-1], dtype=torch.bool)
        kept[self.columns] = False
        return torch.cat((theta[..., kept], turn.cos(), turn.sin()), -1)


def take_first(x: Tensors, count: int) -> Tensors:
    """Return ``count`` rows, repeated from the start where there are fewer."""
    rows = next(iter(x.values())).shape[0]
    return take(x, torch.arange(count) % rows)


def worst_chain(quantities: torch.Tensor) -> tuple[float, float]:
    """Return the largest split R-hat and the smallest effective size over the quantities.

    Args:
        quantities: (draws, chains, quantities); those that never vary do not count.

    Returns:
        NaN and NaN where there are too few draws to tell.
    """
    rhats, sizes = [], []
    for column in quantities.double().unbind(-1):
        rhat, size = split_rhat(column), chain_ess(column)
        if math.isfinite(size):
            sizes.append(size)
        if math.isfinite(rhat):
            rhats.append(rhat)
    return max(rhats, default=math.nan), min(sizes, default=math.nan)
