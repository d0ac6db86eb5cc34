"""Backbone torsions of a topology, and their values in many conformations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from openmm import app

_ALPHA_CARBONS = ("CA", "CH3")  # the methyl of an ACE cap stands for the alpha carbon in omega


@dataclass(frozen=True)
class BackboneTorsion:
    """One torsion of the backbone.

    Attributes:
        kind: ``phi``, ``psi`` or ``omega``.
        residue: number of its residue in the topology from 1, caps counted; ``omega`` belongs to
            the residue behind the peptide bond.
        residue_name: three-letter name of that residue.
        atoms: the four atoms.
    """

    kind: str
    residue: int
    residue_name: str
    atoms: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """For example ``phi2``."""
        return f"{self.kind}{self.residue}"


def find_backbone(topology: app.Topology) -> tuple[BackboneTorsion, ...]:
    """All phi, psi and omega of the chains of a topology, residue by residue.

    Residues are recognised by their atoms N, CA and C and by the bond between C and the next N, so
    that anything else than a peptide has none. The psi at a free end is left out: its two
    oxygens are equal.
    """
    residues = list(topology.residues())
    atoms = [{atom.name: atom.index for atom in residue.atoms()} for residue in residues]
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in topology.bonds()}
    found = []
    for number, (residue, own) in enumerate(zip(residues, atoms, strict=True)):
        before = atoms[number - 1] if number else {}
        after = atoms[number + 1] if number + 1 < len(atoms) else {}
        before = before if frozenset((before.get("C"), own.get("N"))) in bonds else {}
        after = after if frozenset((own.get("C"), after.get("N"))) in bonds else {}
        for kind, row in (
            ("omega", (_alpha(before), before.get("C"), own.get("N"), _alpha(own))),
            ("phi", (before.get("C"), own.get("N"), own.get("CA"), own.get("C"))),
            ("psi", (own.get("N"), own.get("CA"), own.get("C"), after.get("N"))),
        ):
            if None not in row:
                found.append(BackboneTorsion(kind, number + 1, residue.name, row))
    return tuple(found)


def _alpha(atoms: dict[str, int]) -> int | None:
    return next((atoms[name] for name in _ALPHA_CARBONS if name in atoms), None)


def torsion_angles(x: Tensor, atoms: Tensor) -> Tensor:
    """Dihedral angles in (-pi, pi], IUPAC sign.

    Args:
        x: (n, atoms, 3) positions, any unit.
        atoms: (k, 4) int64.

    Returns:
        (n, k) radians.
    """
    a, b, c, d = (x[:, atoms[:, k].to(x.device)] for k in range(4))
    axis = c - b
    u, v = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    sine = (torch.linalg.cross(u, v) * axis).sum(-1) / axis.norm(dim=-1)
    return torch.atan2(sine, (u * v).sum(-1))
