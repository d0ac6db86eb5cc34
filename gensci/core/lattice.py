"""Lattice vectors and the six numbers of a cell, and the shortest way on the torus."""

from __future__ import annotations

import torch
from torch import Tensor


def lattice_matrix(parameters: Tensor) -> Tensor:
    """Lattice vectors of cells.

    Args:
        parameters: (..., 6): lengths a, b, c in Angstrom, angles alpha, beta, gamma in degrees.

    Returns:
        (..., 3, 3) rows a, b, c in Angstrom: a in the xz plane, c along z, as pymatgen has it.
    """
    a, b, c = parameters[..., :3].unbind(-1)
    cos_alpha, cos_beta, cos_gamma = torch.deg2rad(parameters[..., 3:]).cos().unbind(-1)
    sin_alpha = (1 - cos_alpha.square()).clamp_min(0).sqrt()
    sin_beta = (1 - cos_beta.square()).clamp_min(0).sqrt()
    # Rounding may carry the cosine of a flat cell out of its range.
    cosine = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    cosine = cosine.clamp(-1, 1)
    sine = (1 - cosine.square()).sqrt()
    zero = torch.zeros_like(a)
    return torch.stack(
        (
            torch.stack((a * sin_beta, zero, a * cos_beta), -1),
            torch.stack((-b * sin_alpha * cosine, b * sin_alpha * sine, b * cos_alpha), -1),
            torch.stack((zero, zero, c), -1),
        ),
        -2,
    )


def lattice_parameters(matrix: Tensor) -> Tensor:
    """Lengths (Angstrom) and angles (degrees) (..., 6) of lattice vectors (..., 3, 3)."""
    lengths = matrix.norm(dim=-1)
    unit = matrix / lengths.unsqueeze(-1)
    a, b, c = unit.unbind(-2)
    cosines = torch.stack(((b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)), -1)
    return torch.cat((lengths, torch.rad2deg(cosines.clamp(-1, 1).acos())), -1)


def lattice_volume(parameters: Tensor) -> Tensor:
    """Volumes (...) in cubic Angstrom of cells (..., 6); NaN where no such cell exists."""
    a, b, c = parameters[..., :3].unbind(-1)
    x, y, z = torch.deg2rad(parameters[..., 3:]).cos().unbind(-1)
    return a * b * c * (1 - x * x - y * y - z * z + 2 * x * y * z).sqrt()


def wrapped(difference: Tensor) -> Tensor:
    """Fractional differences brought to [-1/2, 1/2]."""
    return difference - difference.round()
