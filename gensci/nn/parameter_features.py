"""Parameters made fit for a network: periods, robust whitening and polynomials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BULK = 5.0
"""Whitened values beyond this many units grow as a logarithm only."""


def soft_clip(x: Tensor) -> Tensor:
    """The identity up to `BULK` and logarithmic beyond, once differentiable."""
    excess = (x.abs() - BULK).clamp_min(0.0)
    return torch.where(excess > 0, x.sign() * (BULK + excess.log1p()), x)


class ParameterFeatures(nn.Module):
    """Whitened features of parameters: about unit spread over the bulk of what was fitted.

    A periodic parameter becomes its cosine and sine where it was seen all round, and the distance
    from its circular mean where it was seen in a part of the period. Far rows (draws from the
    prior beside those from a posterior) neither set the scale nor run away.

    Args:
        dim: Number of parameters.
        periods: One per parameter, None where not periodic.
        round_trip: Which of the periodic ones become cosine and sine.
    """

    def __init__(
        self,
        dim: int,
        periods: Sequence[float | None] | None = None,
        round_trip: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.periods = tuple(periods) if periods is not None else (None,) * dim
        self.round_trip = tuple(round_trip) if round_trip is not None else (False,) * dim
        self.num_features = dim + sum(self.round_trip)
        k = self.num_features
        double = torch.float64
        self.register_buffer("centre", torch.zeros(dim, dtype=double))
        self.register_buffer("location", torch.zeros(k, dtype=double))
        self.register_buffer("whitener", torch.eye(k, dtype=double))

    @classmethod
    def fitted(
        cls, theta: Tensor, periods: Sequence[float | None] | None = None
    ) -> ParameterFeatures:
        """Features whose scales come from (n, d) rows of parameters."""
        dim = theta.shape[1]
        periods = tuple(periods) if periods is not None else (None,) * dim
        centres, rounds = [], []
        for column, period in zip(theta.double().unbind(1), periods, strict=True):
            centre, everywhere = _circular(column, period)
            centres.append(centre)
            rounds.append(everywhere)
        features = cls(dim, periods, rounds).to(theta.device)
        features.centre.copy_(torch.tensor(centres, dtype=torch.float64))
        location, whitener = robust_whitening(features._unrolled(theta.double()))
        features.location.copy_(location)
        features.whitener.copy_(whitener)
        return features

    def forward(self, theta: Tensor) -> Tensor:
        """(n, k) float32 features of (n, d) parameters."""
        white = (self._unrolled(theta.double()) - self.location) @ self.whitener
        return soft_clip(white).float()

    def _unrolled(self, theta: Tensor) -> Tensor:
        """Periodic columns as distances or as cosines and sines, float64."""
        columns = []
        for i, x in enumerate(theta.unbind(1)):
            period = self.periods[i]
            if period is None:
                columns.append(x)
                continue
            distance = x - self.centre[i]
            if self.round_trip[i]:
                angle = distance * (2 * math.pi / period)
                columns += [angle.cos(), angle.sin()]
            else:
                columns.append(distance - period * torch.round(distance.detach() / period))
        return torch.stack(columns, 1)


def robust_whitening(x: Tensor, rounds: int = 30) -> tuple[Tensor, Tensor]:
    """Location (k,) and matrix (k, k), such that `(x - location) @ matrix` is white in the bulk.

    The bulk is what lies within `BULK` of the median in units of the central 68 per cent, then
    what the covariance found so far holds likely.
    """
    location = x.median(0).values
    low, high = torch.quantile(_thinned(x), torch.tensor([0.16, 0.84], dtype=x.dtype), dim=0)
    scale = (high - low) / 2
    scale = torch.where(scale > 0, scale, x.std(0).nan_to_num(0.0))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    white = (x - location) / scale
    matrix = torch.diag(1 / scale)
    k = x.shape[1]
    inside = (white.abs() < BULK).all(1)
    for _ in range(rounds):
        if int(inside.sum()) < 5 * k:
            return location, matrix
        location = x[inside].mean(0)
        spread = (x[inside] - location) / scale
        covariance = spread.T @ spread / len(spread)
        covariance = covariance + 1e-10 * torch.eye(k, dtype=x.dtype) * covariance.trace() / k
        values, vectors = torch.linalg.eigh(covariance)
        # the smallest spreads are kept above what rounding makes of constants
        values = values.clamp_min(1e-9 * values.max())
        matrix = (vectors * values.rsqrt()) @ vectors.T / scale[:, None]
        distance = ((x - location) @ matrix).square().sum(1)
        before, inside = inside, distance < bulk_radius(k)
        if torch.equal(before, inside):
            break
    return location, matrix


def farness(features: Tensor) -> Tensor:
    """(n, 1): zero in the bulk of whitened features, then the logarithm of the squared distance."""
    k = features.shape[1]
    return (features.square().sum(1, keepdim=True) / bulk_radius(k)).clamp_min(1.0).log()


def bulk_radius(k: int) -> float:
    """Squared distance beyond which almost no row of k normal or uniform features lies."""
    return k + 6 * math.sqrt(2 * k) + 9


def monomials(k: int, degree: int) -> list[tuple[int, ...]]:
    """Which of (1, u_1 .. u_k) are multiplied in each monomial up to a degree."""
    return list(itertools.combinations_with_replacement(range(k + 1), degree))


class Polynomial(nn.Module):
    """All monomials of k features up to a degree, constant first."""

    def __init__(self, k: int, degree: int) -> None:
        super().__init__()
        terms = monomials(k, degree)
        self.num_terms = len(terms)
        index = torch.tensor(terms, dtype=torch.long).reshape(self.num_terms, degree)
        self.register_buffer("index", index, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """(n, terms) products."""
        extended = torch.cat((torch.ones_like(u[:, :1]), u), 1)
        product = torch.ones(len(u), self.num_terms, dtype=u.dtype, device=u.device)
        for column in self.index.unbind(1):
            product = product * extended[:, column]
        return product


def _circular(x: Tensor, period: float | None) -> tuple[float, bool]:
    """Circular mean, and whether the values are found all round."""
    if period is None:
        return 0.0, False
    angle = x * (2 * math.pi / period)
    mean = torch.atan2(angle.sin().mean(), angle.cos().mean())
    apart = torch.remainder(angle - mean + math.pi, 2 * math.pi) - math.pi
    everywhere = bool((apart.abs() < 0.6 * math.pi).double().mean() < 0.98)
    return float(mean) * period / (2 * math.pi), everywhere


def _thinned(x: Tensor, most: int = 20_000) -> Tensor:
    """At most so many rows, evenly spaced; quantiles of more cost more and tell no more."""
    return x[:: max(1, len(x) // most)]
