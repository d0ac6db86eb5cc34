"""What an atom would feel at each torsion it could take: features for the torsions of rotors.

The candidate positions lie on a grid of torsions at the equilibrium distance and angle; at each,
the Lennard-Jones and Coulomb energy with the atoms that are already placed is summed. A network
that adds these to its logits need not learn what a clash is (the idea of configurational-bias Monte
Carlo: Siepmann and Frenkel 1992, doi:10.1080/00268979200100061).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .zmatrix import Frames, closing_cosine

Tensors = dict[str, Tensor]

GRID = 36  # torsions, every ten degrees
FEATURES = 3
COULOMB = 138.935457  # kJ/mol nm / e^2
KT = 2.5775  # kJ/mol at 310 K, the scale of the features
LARGEST = 25.0  # kT; more is a clash all the same
UNITED = 1.15  # sigma of a heavy atom whose hydrogens are still to come, roughly
ONE_FOUR_LJ, ONE_FOUR_COULOMB = 0.5, 1 / 1.2


def torsion_grid(like: Tensor) -> Tensor:
    """Centres of the grid in (-pi, pi): (GRID,) radians."""
    steps = torch.arange(GRID, device=like.device, dtype=like.dtype)
    return (steps + 0.5) * (2 * math.pi / GRID) - math.pi


def _squared_distances(local: Tensor, distance: Tensor, cosine: Tensor) -> Tensor:
    """From candidates to placed atoms: local (b, R, K, 3), (b, R) -> (b, R, GRID, K)."""
    phi = torsion_grid(local)
    across = distance * torch.sqrt((1 - cosine.square()).clamp_min(0.0))
    along = (distance * cosine)[..., None].expand(*across.shape, GRID)
    candidate = torch.stack(
        (along, across[..., None] * torch.cos(phi), across[..., None] * torch.sin(phi)), dim=-1
    )
    squared = local.square().sum(-1)[..., None, :] + distance.square()[..., None, None]
    return (squared - 2 * candidate @ local.transpose(-1, -2)).clamp_min(1e-4)


def steric_features(
    x: Tensor, frame: Frames, grand: Tensor, cond: Tensors, rows: Tensor, placed: Tensor
) -> Tensor:
    """Energies of the torsion grid of some atoms, minus sign and bounded, of order one.

    Args:
        x: (batch, K, 3) nm, placed atoms in placing order.
        frame: frames (batch, R) of the atoms in question; ``grand`` (batch, R, 3) their g.
        cond: of the molecule.
        rows: (R,) the atoms in question, in placing order.
        placed: (R, K) True where the atom of a row may see that placed atom.

    Returns:
        (batch, R, GRID, FEATURES): Lennard-Jones, the same with wider atoms, Coulomb / 10.
    """
    count = x.shape[1]
    local = torch.einsum("brkc,brac->brka", x[:, None] - frame.origin[:, :, None], frame.axes)
    distance = cond["length0"][rows].expand(x.shape[0], -1)
    between = (grand - frame.origin).norm(dim=-1).clamp_min(0.05)
    closed = closing_cosine(distance, cond["bend0"][rows], between).clamp(-0.99, 0.99)
    cosine = torch.where(cond["closing"][rows], closed, torch.cos(cond["bend0"][rows]))
    squared = _squared_distances(local, distance, cosine)
    hops = cond["hops"][rows][:, :count]
    seen = (placed & (hops > 2)).to(x.dtype)[:, None]
    fourth = (hops == 3)[:, None]
    sigma = 0.5 * (cond["sigma"][rows][:, None] + cond["sigma"][:count])[:, None]
    depth = torch.sqrt(cond["epsilon"][rows][:, None] * cond["epsilon"][:count])[:, None]
    depth = 4 * depth / KT * torch.where(fourth, ONE_FOUR_LJ, 1.0) * seen
    ratio = (sigma.square() / squared).clamp_max(4.0) ** 3
    features = [_bounded((depth * (ratio.square() - ratio)).sum(-1))]
    ratio = ratio.clamp_max(8.0) * UNITED**6
    features.append(_bounded((depth * (ratio.square() - ratio)).sum(-1)))
    charge = cond["charge"][rows][:, None, None] * cond["charge"][:count] * seen
    charge = charge * torch.where(fourth, ONE_FOUR_COULOMB, 1.0) * (COULOMB / KT / 10)
    features.append(_bounded((charge / squared.sqrt()).sum(-1)))
    return -torch.stack(features, dim=-1)


def _bounded(energy: Tensor) -> Tensor:
    """Saturates at LARGEST, with a slope everywhere so that deeper clashes stay ordered."""
    return LARGEST * torch.tanh(energy / LARGEST)
