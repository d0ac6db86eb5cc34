"""Local frames of all atoms of a batch of molecules."""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.nn.frames import frame, to_local


def roles(references: Tensor, count: int) -> Tensor:
    """(..., N, N): 1, 2, 3 where the second atom makes the frame of the first, else 0."""
    role = torch.zeros(*references.shape[:-1], count, dtype=torch.long, device=references.device)
    for k in (2, 1, 0):
        one = references[..., k : k + 1]
        present = torch.where(one >= 0, torch.full_like(one, k + 1), role.gather(-1, one.clamp(0)))
        role = role.scatter(-1, one.clamp(0), present)
    return role


def frames_of(positions: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Origin (B, N, 3) and axes (B, N, 3, 3) of every atom's frame.

    Args:
        positions: (B, N, 3) Angstrom.
        references: (B, N, 3) atoms, -1 where missing.
    """
    rows = torch.arange(len(positions), device=positions.device)[:, None, None]
    points = positions[rows, references.clamp(0)]
    return frame(points, (references >= 0).sum(-1))


def local_coordinates(positions: Tensor, references: Tensor) -> Tensor:
    """Positions (B, N, 3) in the frames of their references."""
    return to_local(positions, *frames_of(positions, references))
