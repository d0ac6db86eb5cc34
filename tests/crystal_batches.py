"""Crystals that everybody knows, as batches of tensors."""

import math

import torch

FCC = torch.tensor([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
KNOWN = {
    "rutile": (
        [22, 22, 8, 8, 8, 8],
        [
            [0, 0, 0],
            [0.5, 0.5, 0.5],
            [0.305, 0.305, 0],
            [0.695, 0.695, 0],
            [0.805, 0.195, 0.5],
            [0.195, 0.805, 0.5],
        ],
        torch.diag(torch.tensor([4.594, 4.594, 2.959], dtype=torch.float64)),
    ),
    "salt": ([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 5.64 * FCC),
    "diamond": ([6, 6], [[0, 0, 0], [0.25, 0.25, 0.25]], 3.567 * FCC),
    "silver": ([47], [[0, 0, 0]], 4.09 * FCC),
}


def batch(*crystals):
    """Crystals by name, or (numbers, fractional, lattice), padded with zeros."""
    rows = [KNOWN[name] if isinstance(name, str) else name for name in crystals]
    most = max(len(numbers) for numbers, _, _ in rows)
    numbers = torch.zeros(len(rows), most, dtype=torch.int64)
    fractional = torch.zeros(len(rows), most, 3, dtype=torch.float64)
    for row, (symbols, places, _) in enumerate(rows):
        numbers[row, : len(symbols)] = torch.tensor(symbols)
        fractional[row, : len(symbols)] = torch.as_tensor(places, dtype=torch.float64)
    lattice = torch.stack([torch.as_tensor(cell, dtype=torch.float64) for _, _, cell in rows])
    return {"numbers": numbers, "fractional": fractional, "lattice": lattice}


def pair(distance, edge=10.0, numbers=(8, 8)):
    """Two atoms at a distance in Angstrom in a large cube."""
    places = [[0.99, 0, 0], [0.99 + distance / edge, 0, 0]]
    return list(numbers), places, edge * torch.eye(3, dtype=torch.float64)


def flat(volume):
    """One atom in a cell of unit edges and a given volume."""
    lattice = torch.eye(3, dtype=torch.float64)
    lattice[2] = torch.tensor([0.0, math.sqrt(1 - volume**2), volume])
    return [8], [[0, 0, 0]], lattice
