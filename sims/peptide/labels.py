"""Equal atoms with different names: the amides of ASN and GLN and the guanidinium of ARG.

Half a turn about one of their stiff planar bonds gives the same structure with two names exchanged.
No average of a physical observable changes when only one of the two namings is counted, and half
turns are so rare in dynamics that simulations and models know the other naming hardly at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PLANAR = {
    "ASN": (("CB", "CG", "ND2", "HD21"),),
    "GLN": (("CG", "CD", "NE2", "HE21"),),
    "ARG": (
        ("NE", "CZ", "NH1", "HH11"),
        ("NE", "CZ", "NH2", "HH21"),
        ("CD", "NE", "CZ", "NH1"),
    ),
}


def planar_labels(
    residue_index: tuple[int, ...], residue_names: tuple[str, ...], atom_names: tuple[str, ...]
) -> Tensor:
    """Atoms of the torsions that tell one naming from the other: (k, 4) int64."""
    where = {key: i for i, key in enumerate(zip(residue_index, atom_names, strict=True))}
    kinds = dict(zip(residue_index, residue_names, strict=True))
    rows = [
        [where[index, name] for name in names]
        for index, kind in kinds.items()
        for names in _PLANAR.get(kind, ())
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)


def torsion_cosines(x: Tensor, atoms: Tensor) -> Tensor:
    """Cosines of torsions (k, 4) in x (n, atoms, 3), any unit: (n, k)."""
    a, b, c, d = (x[:, atoms[:, k]] for k in range(4))
    first = torch.linalg.cross(b - a, c - b)
    second = torch.linalg.cross(c - b, d - c)
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


def is_canonical(x: Tensor, reference: Tensor, atoms: Tensor) -> Tensor:
    """Whether every such torsion is on the side on which the reference has it.

    Args:
        x: (n, atoms, 3) positions, any unit.
        reference: (atoms, 3) the built geometry.
        atoms: (k, 4) from ``planar_labels``.

    Returns:
        (n,) bool; True for peptides without such groups. Not finite counts as False.
    """
    atoms = atoms.to(x.device)
    side = torsion_cosines(reference[None].to(x), atoms).sign()
    return (torsion_cosines(x, atoms) * side > 0).all(dim=-1)
