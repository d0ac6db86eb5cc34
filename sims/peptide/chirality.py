"""Handedness of the stereocentres of natural peptides."""

from __future__ import annotations

import torch
from torch import Tensor

# Neighbours in the order that makes det(a - c, b - c, d - c) positive in the natural form:
# CA is L (S, but R by rank for CYS), CB of ILE is S and CB of THR is R.
_ALPHA = ("N", "C", "CB")
_BETA = {"ILE": ("CA", "CG1", "CG2"), "THR": ("CA", "OG1", "CG2")}


def chiral_centres(
    residue_index: tuple[int, ...], residue_names: tuple[str, ...], atom_names: tuple[str, ...]
) -> Tensor:
    """Stereocentres with the neighbours that define their sign.

    Args:
        residue_index: 0-based residue of every atom.
        residue_names: Three-letter residue name of every atom.
        atom_names: Name of every atom.

    Returns:
        (centres, 4) int64: centre and three neighbours, ordered so that the triple product of the
        bond vectors is positive in the natural form.
    """
    where = {key: i for i, key in enumerate(zip(residue_index, atom_names, strict=True))}
    rows = []
    for atom, (index, residue) in enumerate(zip(residue_index, residue_names, strict=True)):
        around = _neighbours(atom_names[atom], residue)
        if around and (index, "CB") in where:
            rows.append([atom, *(where[index, name] for name in around)])
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def _neighbours(atom: str, residue: str) -> tuple[str, ...] | None:
    if atom == "CA":
        return _ALPHA
    return _BETA.get(residue) if atom == "CB" else None


def is_natural(x: Tensor, centres: Tensor) -> Tensor:
    """Whether every stereocentre has its natural handedness.

    Args:
        x: (n, atoms, 3) positions, any unit.
        centres: (k, 4) from ``chiral_centres``.

    Returns:
        (n,) bool; True for peptides without stereocentres (glycine). Not finite counts as False.
    """
    centres = centres.to(x.device)
    if not len(centres):
        return torch.isfinite(x).all(dim=-1).all(dim=-1)
    origin = x[:, centres[:, 0]]
    a, b, d = (x[:, centres[:, k]] - origin for k in (1, 2, 3))
    volume = (torch.linalg.cross(a, b) * d).sum(-1)
    return (volume > 0).all(dim=-1)
