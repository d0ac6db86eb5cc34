"""Random rotations."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform_rotations(n: int, generator: Generator | None, like: Tensor) -> Tensor:
    """Rotation matrices (n, 3, 3) of Haar measure, from normalised normal quaternions."""
    q = torch.randn(n, 4, generator=generator, device=like.device, dtype=like.dtype)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
