"""Spin-weighted spherical harmonics of weight -2 (Goldberg et al. 1967, doi 10.1063/1.1705135)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def harmonic(degree: int, order: int, cos_inclination: Tensor, phase: Tensor) -> Tensor:
    """Y_lm of spin weight -2 at (inclination, phase), complex, in the shape of its arguments.

    Sum over the rotation matrix element d^l_{m,2}; the sign is the one of LALSimulation, where
    Y_22 is positive at zero inclination and phase.

    Args:
        degree: l, at least 2.
        order: m, |m| <= l.
        cos_inclination: cosine of the polar angle.
        phase: azimuth, rad.
    """
    # Half-angle functions from the cosine; the floor keeps derivatives finite face-on.
    cosine = torch.sqrt(torch.clamp(0.5 * (1.0 + cos_inclination), min=1e-30))
    sine = torch.sqrt(torch.clamp(0.5 * (1.0 - cos_inclination), min=1e-30))
    total = torch.zeros_like(cosine)
    for k in range(max(0, order - 2), min(degree + order, degree - 2) + 1):
        size = (-1) ** k / (
            math.factorial(k)
            * math.factorial(k - order + 2)
            * math.factorial(degree + order - k)
            * math.factorial(degree - k - 2)
        )
        total = total + size * cosine ** (2 * degree + order - 2 - 2 * k) * sine ** (
            2 * k - order + 2
        )
    squares = [degree + order, degree - order, degree + 2, degree - 2]
    norm = math.sqrt(math.prod(math.factorial(k) for k in squares))
    norm *= math.sqrt((2 * degree + 1) / (4.0 * math.pi))
    return torch.polar(torch.ones_like(phase), order * phase) * (norm * total)


def pair(degree: int, order: int, cos_inclination: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Y_lm and (-1)^l conj(Y_l,-m): how a mode and its mirror image reach the observer."""
    right = harmonic(degree, order, cos_inclination, phase)
    left = harmonic(degree, -order, cos_inclination, phase).conj()
    return right, (-1) ** degree * left
