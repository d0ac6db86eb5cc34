"""Which atoms of a molecule keep a handedness, found from its bonds and a reference geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

_FLAT = 0.1  # of the triple product of unit vectors, which is 0.77 for a tetrahedron


def neighbours(num_atoms: int, bonds: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Atoms that each atom is bound to, in rising order."""
    bound: list[list[int]] = [[] for _ in range(num_atoms)]
    for a, b in bonds:
        bound[a].append(b)
        bound[b].append(a)
    return [sorted(row) for row in bound]


def handed_centres(
    elements: Sequence[str], bonds: Sequence[tuple[int, int]], positions: np.ndarray
) -> torch.Tensor:
    """Carbons with four neighbours, of which at most one is hydrogen, that are not flat.

    Dynamics cannot invert them without breaking a bond, so conformations of the other handedness
    belong to another molecule. Where two neighbours are alike (the methyls of isopropyl) it is only
    another naming of equal atoms: leaving it out changes no average of an observable that treats
    equal atoms equally.

    Args:
        elements: Symbol of every atom.
        bonds: Pairs of atom indices.
        positions: (atoms, 3) of the reference, any unit.

    Returns:
        (centres, 4) int64: centre and three neighbours, ordered so that the triple product of the
        bond vectors is positive in the reference; see ``sims.peptide.chirality.is_natural``.
    """
    rows = []
    for atom, bound in enumerate(neighbours(len(elements), bonds)):
        hydrogens = sum(elements[other] == "H" for other in bound)
        if elements[atom] != "C" or len(bound) != 4 or hydrogens > 1:
            continue
        a, b, c = bound[:3]
        volume = _triple_product(positions[[a, b, c]] - positions[atom])
        if abs(volume) > _FLAT:
            rows.append([atom, a, b, c] if volume > 0 else [atom, b, a, c])
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def _triple_product(vectors: np.ndarray) -> float:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.linalg.det(vectors / np.maximum(length, 1e-12)))
