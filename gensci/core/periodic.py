"""Distances in periodic cells of any shape, in batches."""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.core.lattice import wrapped

_ROUNDS = 100
_AT_ONCE = 4_000_000  # pairs times images


def reduced_basis(lattice: Tensor) -> Tensor:
    """How the shortest lattice vectors are made of the given ones.

    The new vectors are Minkowski-reduced, as those of a Niggli cell are: none becomes shorter by
    adding the others. In such a cell the nearest image lies in one of the 27 cells around.

    Args:
        lattice: (n, 3, 3) rows, finite and of positive volume.

    Returns:
        (n, 3, 3) whole numbers H in the type of ``lattice``; ``H @ lattice`` is reduced, its rows
        in rising length.

    Reference: Nguyen and Stehle (2009), Low-dimensional lattice basis reduction revisited,
    doi:10.1145/1597036.1597050.
    """
    basis = torch.eye(3, dtype=torch.float64, device=lattice.device).expand(len(lattice), 3, 3)
    given = lattice.detach().double()
    total = torch.full((len(lattice),), torch.inf, dtype=torch.float64, device=lattice.device)
    for _ in range(_ROUNDS):
        basis = _round_of_reduction(basis, given)
        now = (basis @ given).square().sum((-2, -1))
        if bool((now >= total * (1 - 1e-12)).all()):
            break
        total = now
    return _sorted(basis, given).to(lattice.dtype)


def minimum_distances(fractional: Tensor, lattice: Tensor) -> Tensor:
    """Distances between the nearest images of every two atoms.

    Args:
        fractional: (n, atoms, 3), in any cell.
        lattice: (n, 3, 3) rows in Angstrom, finite and of positive volume, however skewed.

    Returns:
        (n, atoms, atoms) Angstrom; on the diagonal the distance of an atom to its own nearest
        image. Differentiable in both arguments.
    """
    if 0 in fractional.shape[:2]:
        return fractional.new_zeros(*fractional.shape[:2], fractional.shape[1])
    rows = max(1, _AT_ONCE // (27 * fractional.shape[1] ** 2))
    parts = zip(fractional.split(rows), lattice.split(rows), strict=True)
    found = [_distances(x.double(), cell.double()) for x, cell in parts]
    return torch.cat(found).to(fractional.dtype)


def distances_to(point: Tensor, fractional: Tensor, lattice: Tensor) -> Tensor:
    """Distances from one point to the nearest image of every atom.

    Args:
        point: (n, 3) fractional.
        fractional: (n, atoms, 3), in any cell.
        lattice: (n, 3, 3) rows in Angstrom, finite and of positive volume, however skewed.

    Returns:
        (n, atoms) float64 Angstrom.
    """
    lattice = lattice.double()
    cell = reduced_basis(lattice) @ lattice
    apart = (fractional.double() - point.double().unsqueeze(1)) @ lattice @ torch.linalg.inv(cell)
    return _images(cell, wrapped(apart).unsqueeze(1))[:, 0].clamp_min(0).sqrt()


def _distances(fractional: Tensor, lattice: Tensor) -> Tensor:
    cell = reduced_basis(lattice) @ lattice
    inside = fractional @ lattice @ torch.linalg.inv(cell)
    difference = wrapped(inside[:, :, None] - inside[:, None])
    nearest = _images(cell, difference)
    count = fractional.shape[1]
    own = cell[:, 0].square().sum(-1)[:, None, None].expand_as(nearest)
    same = torch.eye(count, dtype=torch.bool, device=fractional.device)
    return torch.where(same, own, nearest).clamp_min(1e-24).sqrt()


def _images(cell: Tensor, difference: Tensor) -> Tensor:
    """(n, atoms, atoms) least squared length over the 27 cells around."""
    steps = torch.arange(-1, 2, dtype=cell.dtype, device=cell.device)
    shifts = torch.cartesian_prod(steps, steps, steps)
    start = torch.einsum("nijc,ncd->nijd", difference, cell)
    moves = shifts @ cell
    # |s + m|^2 is worked out in parts, so that no tensor holds 27 vectors for every pair.
    cross = torch.einsum("nijd,nkd->nijk", start, moves)
    square = start.square().sum(-1, keepdim=True) + moves.square().sum(-1)[:, None, None]
    return (square + 2 * cross).amin(-1)


def _sorted(basis: Tensor, lattice: Tensor) -> Tensor:
    order = (basis @ lattice).square().sum(-1).argsort(dim=-1, stable=True)
    return basis.gather(1, order[..., None].expand_as(basis))


def _round_of_reduction(basis: Tensor, lattice: Tensor) -> Tensor:
    """Shorten the second vector by the first, and the third by both."""
    basis = _sorted(basis, lattice)
    gram = _gram(basis, lattice)
    share = torch.round(gram[:, 0, 1] / gram[:, 0, 0])
    a = basis[:, 0]
    b = basis[:, 1] - share[:, None] * a
    basis = torch.stack((a, b, basis[:, 2]), 1)
    gram = _gram(basis, lattice)
    shares = torch.linalg.solve(gram[:, :2, :2], gram[:, :2, 2]).round()
    c = basis[:, 2] - (shares[:, None] @ basis[:, :2])[:, 0]
    steps = torch.arange(-1, 2, dtype=basis.dtype, device=basis.device)
    ways = c[:, None] + torch.cartesian_prod(steps, steps) @ basis[:, :2]
    # A tie must not go in circles: the shift by nothing, which is the fifth, wins it.
    lengths = (ways @ lattice).square().sum(-1)
    lengths[:, 4] *= 1 - 1e-12
    best = lengths.argmin(-1)
    c = ways[torch.arange(len(ways), device=ways.device), best]
    return torch.stack((a, b, c), 1)


def _gram(basis: Tensor, lattice: Tensor) -> Tensor:
    vectors = basis @ lattice
    return vectors @ vectors.mT
