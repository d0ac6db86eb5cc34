"""What an atom would feel at each torsion it could take: features for the torsions of rotors.

The candidate positions lie on a grid of torsions at the equilibrium distance and angle; at each,
the Lennard-Jones and Coulomb energy with the atoms that are already placed is summed, over the atom
and those that follow it rigidly (the other methyl group of leucine, the oxygen of a peptide plane).
A network that adds these to its logits need not learn what a clash is (the idea of
configurational-bias Monte Carlo: Siepmann and Frenkel 1992, doi:10.1080/00268979200100061).
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
ROTORS = 4  # taken together by ``steric_of_placed``
ONE_FOUR_LJ, ONE_FOUR_COULOMB = 0.5, 1 / 1.2


def torsion_grid(like: Tensor) -> Tensor:
    """Centres of the grid in (-pi, pi): (GRID,) radians."""
    steps = torch.arange(GRID, device=like.device, dtype=like.dtype)
    return (steps + 0.5) * (2 * math.pi / GRID) - math.pi


def _candidates(between: Tensor, cond: Tensors, rows: Tensor, members: Tensor) -> Tensor:
    """Where the members of each row's group would be, in the row's frame.

    Args:
        between: (batch, R) nm, from p to g.
        cond: of the molecule; ``rows`` (R,) rotors; ``members`` (R, M) atoms.

    Returns:
        (batch, R, M, GRID, 3) nm.
    """
    phi = (
        torsion_grid(between) + (cond["torsion0"][members] * (members != rows[:, None]))[..., None]
    )
    distance = cond["length0"][members].expand(len(between), *members.shape)
    closed = closing_cosine(distance, cond["bend0"][members], between[..., None])
    cosine = torch.where(cond["closing"][members], closed, torch.cos(cond["bend0"][members]))
    cosine = cosine.clamp(-0.99, 0.99)
    across = (distance * torch.sqrt(1 - cosine.square()))[..., None]
    along = (distance * cosine)[..., None].expand(*distance.shape, GRID)
    return torch.stack((along, across * torch.cos(phi), across * torch.sin(phi)), dim=-1)


def _squared_distances(candidate: Tensor, local: Tensor) -> Tensor:
    """Between (b, R, M, GRID, 3) and (b, R, K, 3): (b, R, M, GRID, K) nm^2."""
    inner = candidate.flatten(2, 3) @ local.transpose(-1, -2)
    inner = inner.unflatten(2, candidate.shape[2:4])
    own, other = candidate.square().sum(-1)[..., None], local.square().sum(-1)[:, :, None, None]
    return (own + other - 2 * inner).clamp_min(1e-4)


def steric_features(
    x: Tensor, frame: Frames, grand: Tensor, cond: Tensors, rows: Tensor, placed: Tensor
) -> Tensor:
    """Energies of some rotors and of what turns with them, on the torsion grid, minus sign.

    Args:
        x: (batch, K, 3) nm, placed atoms in placing order.
        frame: frames (batch, R) of the rotors; ``grand`` (batch, R, 3) their g.
        cond: of the molecule.
        rows: (R,) the rotors, in placing order.
        placed: (R, K) True where a rotor may see that placed atom.

    Returns:
        (batch, R, GRID, FEATURES), bounded: Lennard-Jones, the same with wider atoms, Coulomb / 10.
    """
    count = x.shape[1]
    members = cond["group"][rows]
    there, members = members >= 0, members.clamp_min(0)
    local = torch.einsum("brkc,brac->brka", x[:, None] - frame.origin[:, :, None], frame.axes)
    between = (grand - frame.origin).norm(dim=-1).clamp_min(0.05)
    squared = _squared_distances(_candidates(between, cond, rows, members), local)
    hops = cond["hops"][members][..., :count]
    seen = (placed[:, None] & there[..., None] & (hops > 2)).to(x.dtype)[..., None, :]
    fourth = (hops == 3)[..., None, :]
    sigma = 0.5 * (cond["sigma"][members][..., None] + cond["sigma"][:count])[..., None, :]
    depth = torch.sqrt(cond["epsilon"][members][..., None] * cond["epsilon"][:count])[..., None, :]
    depth = 4 * depth / KT * torch.where(fourth, ONE_FOUR_LJ, 1.0) * seen
    ratio = (sigma.square() / squared).clamp_max(4.0) ** 3
    features = [_bounded((depth * (ratio.square() - ratio)).sum((2, 4)))]
    ratio = ratio.clamp_max(8.0) * UNITED**6
    features.append(_bounded((depth * (ratio.square() - ratio)).sum((2, 4))))
    charge = cond["charge"][members][..., None, None] * cond["charge"][:count] * seen
    charge = charge * torch.where(fourth, ONE_FOUR_COULOMB, 1.0) * (COULOMB / KT / 10)
    features.append(_bounded((charge / squared.sqrt()).sum((2, 4))))
    return -torch.stack(features, dim=-1)


def steric_of_placed(
    x: Tensor, frame: Frames, grand: Tensor, cond: Tensors, rows: Tensor
) -> Tensor:
    """``steric_features`` of all rotors of molecules that are placed, each seeing what came before.

    Rotors with as many followers go together, few at a time: no energy is formed that would not
    count, and what is formed stays in a core's cache.

    Args:
        x: (batch, K, 3) nm; ``frame`` (batch, R); ``grand`` (batch, R, 3).
        cond: of the molecule; ``rows`` (R,) the rotors, in placing order.
    """
    size = (cond["group"][rows] >= 0).sum(1)
    parts, order = [], []
    for members in size.unique().tolist():
        few = {**cond, "group": cond["group"][:, :members]}
        for own in (size == members).nonzero()[:, 0].split(ROTORS):
            last = int(rows[own[-1]])
            placed = rows[own][:, None] > torch.arange(last, device=x.device)
            there = Frames(frame.origin[:, own], frame.axes[:, own])
            parts.append(steric_features(x[:, :last], there, grand[:, own], few, rows[own], placed))
            order.append(own)
    return torch.cat(parts, dim=1)[:, torch.cat(order).argsort()]


def _bounded(energy: Tensor) -> Tensor:
    """Saturates smoothly at LARGEST: how deep a clash is does not matter."""
    return LARGEST * torch.tanh(energy / LARGEST)
