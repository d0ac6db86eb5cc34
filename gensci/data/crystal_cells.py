"""Cells of crystals: the primitive one, Niggli-reduced, so that equal crystals look alike."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import torch

from gensci.core.lattice import lattice_matrix, lattice_parameters, lattice_volume

Array = np.ndarray
TRANSLATION_TOLERANCE = 0.02  # Angstrom; far below the distortions that make real superstructures
_NIGGLI_EPSILON = 1e-5
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.float64)


def cell_parameters(lattice: Array) -> Array:
    """(6,) a, b, c (Angstrom), alpha, beta, gamma (degrees) of lattice rows (3, 3)."""
    return lattice_parameters(torch.from_numpy(np.array(lattice, np.float64))).numpy()


def cell_rows(parameters: Array) -> Array:
    """(3, 3) lattice rows (Angstrom) of (6,) parameters.

    Raises:
        ValueError: no cell has these parameters.
    """
    values = torch.from_numpy(np.array(parameters, np.float64))
    possible = (values > 0).all() and (values[3:] < 180).all() and lattice_volume(values) > 0
    if not possible:
        raise ValueError(f"no cell has the parameters {', '.join(f'{v:g}' for v in parameters)}")
    return lattice_matrix(values).numpy()


def image_distances(lattice: Array, fractional: Array) -> Array:
    """(n, n, 27) distances (Angstrom) to the neighbouring images; the cell should be reduced."""
    difference = fractional[None, :] - fractional[:, None]
    difference -= np.round(difference)
    shifted = (difference[:, :, None, :] + _IMAGES) @ lattice
    return np.sqrt((shifted**2).sum(-1))


def nearest_distances(lattice: Array, fractional: Array) -> Array:
    """(n, n) distances to the nearest image, of an atom to its own nearest other image."""
    distances = image_distances(lattice, fractional)
    n = len(fractional)
    distances[np.arange(n), np.arange(n), len(_IMAGES) // 2] = np.inf
    return distances.min(-1)


def niggli_cell(lattice: Array, fractional: Array) -> tuple[Array, Array]:
    """The same crystal in its Niggli cell, a <= b <= c.

    Křivý and Gruber 1976 (doi:10.1107/S0567739476000636), as spglib does it.

    Returns:
        lattice (3, 3) rows, right-handed, and fractional (n, 3) in [0, 1).

    Raises:
        ValueError: the lattice cannot be reduced.
    """
    import spglib

    if np.linalg.det(lattice) < 0:  # the same points by other vectors; parameters alone lose this
        lattice, fractional = -lattice, -fractional
    with warnings.catch_warnings():
        # spglib warns that failures will raise some day; both ways are met here
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            reduced = spglib.niggli_reduce(lattice, eps=_NIGGLI_EPSILON)
        except spglib.error.SpglibError as error:
            raise ValueError(f"the lattice cannot be reduced ({error})") from error
    if reduced is None:
        raise ValueError("the lattice cannot be reduced")
    change = np.round(reduced @ np.linalg.inv(lattice))
    if abs(abs(np.linalg.det(change)) - 1) > 1e-6:
        raise ValueError("the lattice cannot be reduced")
    if np.linalg.det(change) < 0:
        change = -change
    return change @ lattice, wrapped(fractional @ np.linalg.inv(change))


def wrapped(fractional: Array) -> Array:
    """Fractional coordinates in [0, 1), also after rounding to float32."""
    fractional = fractional - np.floor(fractional)
    fractional[fractional.astype(np.float32) >= 1.0] = 0.0
    return fractional


def primitive_cell(
    lattice: Array, fractional: Array, numbers: Array, tolerance: float = TRANSLATION_TOLERANCE
) -> tuple[Array, Array, Array]:
    """The smallest cell that repeats to the crystal; the crystal itself where there is none.

    Args:
        lattice: (3, 3) rows, Angstrom; Niggli-reduced, so that nearest images are found.
        fractional: (n, 3).
        numbers: (n,) atomic numbers.
        tolerance: how far, in Angstrom, an atom may lie from where a translation puts another.
    """
    counts = np.unique(numbers, return_counts=True)[1]
    if math.gcd(*(int(count) for count in counts)) == 1:
        return lattice, fractional, numbers
    images = _translations(lattice, fractional, numbers, tolerance)
    if len(images) == 1:
        return lattice, fractional, numbers
    moves = np.round(np.stack(list(images.values())) * len(images)) / len(images)
    basis = _smallest_basis(lattice, moves)
    if basis is None:  # the translations do not close; tolerance let one in that is none
        return lattice, fractional, numbers
    orbits = np.stack(list(images))
    keep = [i for i in range(len(numbers)) if i == orbits[:, i].min()]
    if len(keep) * len(images) != len(numbers):
        return lattice, fractional, numbers
    return basis @ lattice, wrapped(fractional[keep] @ np.linalg.inv(basis)), numbers[keep]


def _translations(
    lattice: Array, fractional: Array, numbers: Array, tolerance: float
) -> dict[tuple[int, ...], Array]:
    """Translations of the crystal into itself by the permutation of atoms that each makes."""
    elements, counts = np.unique(numbers, return_counts=True)
    rare = np.flatnonzero(numbers == elements[np.argmin(counts)])
    other = numbers[:, None] != numbers[None, :]
    found = {}
    for atom in rare:
        move = fractional[atom] - fractional[rare[0]]
        difference = (fractional + move)[:, None] - fractional[None, :]
        difference -= np.round(difference)
        distance = np.linalg.norm(difference @ lattice, axis=-1) + other * 1e6
        target = distance.argmin(1)
        fits = distance[np.arange(len(numbers)), target] < tolerance
        if fits.all() and len(set(target.tolist())) == len(numbers):
            found[tuple(target.tolist())] = move
    return found


def _smallest_basis(lattice: Array, moves: Array) -> Array | None:
    """(3, 3) rows in units of the lattice that span its points and the translations (k, 3)."""
    moves = moves - np.round(moves)
    shifts = (moves[:, None, :] + _IMAGES).reshape(-1, 3)
    points = np.concatenate([shifts[np.abs(shifts).max(1) > 1e-6], np.eye(3)])
    points = points[np.argsort(np.linalg.norm(points @ lattice, axis=1), kind="stable")]
    for third in range(2, min(len(points), 60)):
        for first, second in itertools.combinations(range(third), 2):
            basis = points[[first, second, third]]
            volume = float(np.linalg.det(basis))
            if abs(abs(volume) * len(moves) - 1) < 1e-3:
                return basis if volume > 0 else -basis
    return None
