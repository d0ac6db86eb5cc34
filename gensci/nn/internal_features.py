"""What the internal-coordinate flow sees of the atoms that are placed already."""

from __future__ import annotations

import torch
from torch import Tensor

from .internal_encoding import Tensors
from .zmatrix import Frames, InternalCoordinates, ZMatrix

IC_FEATURES = 7
RADII = 16
RIGID_WIDTH = 0.1  # radians, spread of torsions that bonding fixes


def zmatrix_of(cond: Tensors) -> ZMatrix:
    """The placing tree among the conditioning tensors."""
    names = ("order", "parent", "grand", "side", "closing", "rigid", "torsion0")
    return ZMatrix(*(cond[name] for name in names))


def ic_features(ic: InternalCoordinates, cond: Tensors, atoms: slice) -> Tensor:
    """What the network sees of placed ``atoms``: (batch, atoms, 7), all of order one."""
    index = torch.arange(ic.distance.shape[1], device=ic.distance.device) + (atoms.start or 0)
    length = (ic.distance - cond["length0"][atoms]) / cond["length_scale"][atoms]
    bend = (ic.bend - cond["bend0"][atoms]) / cond["bend_scale"][atoms]
    swing = torch.sin(ic.torsion - cond["torsion0"][atoms]) / RIGID_WIDTH
    sine, cosine = torch.sin(ic.torsion), torch.cos(ic.torsion)
    has_torsion = (index > 2).to(length.dtype)
    columns = (
        length.clamp(-8, 8) * (index > 0),
        bend.clamp(-8, 8) * (index > 1),
        swing.clamp(-8, 8) * cond["rigid"][atoms] * has_torsion,
        sine * has_torsion,
        cosine * has_torsion,
        2 * sine * cosine * has_torsion,
        (2 * cosine.square() - 1) * has_torsion,
    )
    return torch.stack(columns, dim=-1)


def pair_features(x: Tensor, frame: Frames) -> Tensor:
    """Placed atoms x (batch, K, 3) seen from frames (batch, Q): (batch, Q, K, 6 + RADII)."""
    local = torch.einsum("bqkc,bqac->bqka", x[:, None] - frame.origin[:, :, None], frame.axes)
    r = local.square().sum(-1, keepdim=True).clamp_min(1e-8).sqrt()
    centres = torch.linspace(0.05, 1.25, RADII, device=x.device, dtype=x.dtype)
    radial = torch.exp(-0.5 * ((r - centres) / 0.08).square())
    return torch.cat((local / r, torch.tanh(local / 0.3), radial), dim=-1)


def full_precision(x: Tensor) -> torch.autocast:
    """Keeps autocast away from geometry: bfloat16 holds a position to three digits only."""
    return torch.autocast(x.device.type, enabled=False)
