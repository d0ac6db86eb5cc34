"""Local frames made of atoms that are already placed.

The next atom is described in a frame that moves along with its neighbours, so that bond lengths,
angles and torsions look the same wherever the molecule lies (the internal coordinates of NeRF,
Parsons et al. 2005, doi:10.1002/jcc.20237, with all three numbers kept Cartesian). Moving into a
frame is a rigid motion: volumes, and so log-densities, are unchanged. Frames are right-handed, so
mirror images stay different.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Three points within this angle of a line leave the frame free to turn about the line.
COLLINEAR = math.sin(math.radians(5.0))
_TINY = 1e-12


def frame(points: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Frames at reference points a, b, c.

    The origin is a. The first axis runs from a to b, the second lies in the plane of c on its side,
    the third completes a right-handed set. Without c, or with a, b, c within 5 degrees of a line
    (the angle at a or b, whichever is nearer to c), the second axis is chosen by the direction of
    the first alone (Duff et al. 2017, JCGT 6(1): smooth but for a jump where the first axis crosses
    the xy plane). Without b, or with b on a, the axes are those of space; without a, the origin is
    that of space too.

    Args:
        points: (..., 3, 3), reference points as rows; missing ones may hold any number.
        count: (...) int, how many of a, b, c there are.

    Returns:
        origin (..., 3) and axes (..., 3, 3), whose rows are the unit axes.
    """
    has_a, has_b, has_c = (count[..., None] >= k for k in (1, 2, 3))
    zero = torch.zeros_like(points[..., 0, :])
    origin = torch.where(has_a, points[..., 0, :], zero)
    # Missing points are replaced before any division, so that their gradients are zero, not NaN.
    ab = torch.where(has_b, points[..., 1, :] - origin, zero)
    ac = torch.where(has_c, points[..., 2, :] - origin, zero)
    length = _length(ab)
    has_line = length > _TINY
    e1 = torch.where(has_line, ab / torch.where(has_line, length, 1.0), _unit(points, 0))
    beside = ac - (ac * e1).sum(-1, keepdim=True) * e1
    reach, lever = _length(beside), _shorter(ac, ac - ab)
    has_plane = has_line & (lever > _TINY) & (reach > COLLINEAR * lever)
    in_plane = torch.where(has_plane, beside / torch.where(has_plane, reach, 1.0), _unit(points, 1))
    free = torch.where(has_line, _perpendicular(e1), _unit(points, 1))
    e2 = torch.where(has_plane, in_plane, free)
    return origin, torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -2)


def to_local(points: Tensor, origin: Tensor, axes: Tensor) -> Tensor:
    """Coordinates (..., 3) in the frame of points (..., 3) of space."""
    return ((points - origin)[..., None, :] * axes).sum(-1)


def to_global(local: Tensor, origin: Tensor, axes: Tensor) -> Tensor:
    """Points (..., 3) of space from their coordinates (..., 3) in the frame."""
    return origin + (local[..., :, None] * axes).sum(-2)


def _unit(like: Tensor, axis: int) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)[axis]


def _length(vector: Tensor) -> Tensor:
    """(..., 1) norm, with gradient zero at zero."""
    square = (vector * vector).sum(-1, keepdim=True)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _shorter(first: Tensor, second: Tensor) -> Tensor:
    # The shorter lever is the bond of c, to a or to b, and its angle is the one that counts.
    return torch.minimum(_length(first), _length(second))


def _perpendicular(e1: Tensor) -> Tensor:
    """(..., 3) a unit vector at right angles to unit vectors."""
    x, y, z = e1.unbind(-1)
    sign = torch.where(z >= 0, 1.0, -1.0).to(e1)
    a = -1 / (sign + z)
    return torch.stack([1 + sign * x * x * a, sign * x * y * a, -sign * x], -1)
