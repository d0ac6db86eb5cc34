"""The mean of data as a polynomial of parameters, in closed form and robustly.

Rows far from the bulk, which a polynomial does not reach, are weighed down by what is left of them
(iteratively reweighted least squares with Cauchy weights; Holland & Welsch 1977).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensci.nn.parameter_features import Polynomial, farness, monomials

RIDGES = (1e-9, 1e-3, 3e-2)
REWEIGHTINGS = 4
ROWS_PER_TERM = 3
LEVERAGE = 8.0
"""Power by which rows outside the bulk lose weight, whatever is left of them."""
MOST_GROWTH = 6.0


@dataclass(frozen=True)
class PolynomialFit:
    """A polynomial mean.

    Attributes:
        degree: Chosen on held-out rows.
        weights: (terms, dim) float64.
        residual: (n, dim) float64, what it leaves of all rows.
        scale: (dim,) median-based standard deviation of what it leaves.
        growth: (dim,) power of the distance by which what it leaves grows outside the bulk.
    """

    degree: int
    weights: Tensor
    residual: Tensor
    scale: Tensor
    growth: Tensor


def fit_polynomial(
    features: Tensor, y: Tensor, held: Tensor, most: int, floor: float = 0.0
) -> PolynomialFit:
    """Fit polynomials of degrees up to `most`; keep the one that predicts held-out rows best.

    Args:
        features: (n, k) of the parameters.
        y: (n, dim) data or signals.
        held: (n,) bool, rows that choose and do not fit.
        most: Highest degree tried; fewer where there are not three rows per term.
        floor: Smallest scale of what is left, below which it does not matter (noise).
    """
    features, y = features.double(), y.double()
    degrees = [d for d in range(most + 1) if _terms(features, d) * ROWS_PER_TERM <= (~held).sum()]
    near = (-LEVERAGE * farness(features)).exp()
    fits = []
    for degree in degrees or [0]:
        design = Polynomial(features.shape[1], degree).to(features.device)(features)
        for ridge in RIDGES if degree else RIDGES[:1]:
            weights = _reweighted(design[~held], y[~held], near[~held], ridge, floor)
            residual = y - design @ weights
            scale = _scale(residual[held & (near[:, 0] > 0.5)], 1e-3 * floor)
            growth = _growth(farness(features), residual, scale)
            fits.append(PolynomialFit(degree, weights, residual, scale, growth))
    # all are compared in the units of the smallest that any leaves of a column
    unit = torch.stack([fit.scale for fit in fits]).min(0).values.clamp_min(max(floor, 1e-12))

    def missed(fit: PolynomialFit) -> float:
        return float((near * (fit.residual / unit).square().log1p())[held].mean())

    return min(fits, key=missed)


def held_out(num_rows: int, share: float, generator: torch.Generator) -> Tensor:
    """(n,) bool, about `share` of the rows, at least one; more rows leave earlier ones as is."""
    numbers = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    held = numbers < share
    if not held.any() or held.all():
        held = numbers == numbers.min()
    return held


def _terms(features: Tensor, degree: int) -> int:
    return len(monomials(features.shape[1], degree))


def _reweighted(design: Tensor, y: Tensor, near: Tensor, ridge: float, floor: float) -> Tensor:
    """(terms, dim) weights of the robust fit."""
    row = near
    penalty = torch.eye(design.shape[1], dtype=y.dtype, device=y.device)
    penalty[0, 0] = 1e-9  # the constant is not shrunk
    for _ in range(REWEIGHTINGS):
        heavy = design * row
        gram = heavy.T @ design + ridge * row.sum() * penalty
        weights = torch.linalg.lstsq(gram, heavy.T @ y, driver="gelsd").solution
        residual = y - design @ weights
        scaled = residual / _scale(residual, floor)
        row = near / (1 + scaled.square().mean(1, keepdim=True))
    return weights


def _growth(far: Tensor, residual: Tensor, scale: Tensor) -> Tensor:
    """(dim,) slope of ln |what is left| against the farness of rows outside the bulk."""
    outside = far[:, 0] > 0.2
    if int(outside.sum()) < 10:
        return torch.zeros_like(scale)
    ratio = (residual[outside].abs() / scale).clamp_min(1e-12).log() / far[outside]
    return ratio.median(0).values.clamp(0.0, MOST_GROWTH)


def _scale(residual: Tensor, floor: float) -> Tensor:
    """(dim,) robust standard deviations, not below the floor."""
    if not len(residual):
        return torch.ones_like(residual.sum(0)).clamp_min(floor)
    scale = 1.4826 * residual.abs().median(0).values
    return scale.clamp_min(max(floor, 1e-12))
