"""Stereochemistry that a SMILES names, checked on coordinates in batches."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdkit import Chem

_MOST_PATTERNS = 256  # 8 centres; beyond, only the mirror image is tried for equality


@dataclass(frozen=True, eq=False)
class Stereochemistry:
    """The handedness of atoms and the sides of double bonds that are asked for.

    Attributes:
        centres: (k, 4) int64: the neighbours of an atom, or the atom and its three neighbours; the
            volume that the last three span from the first has a sign.
        bonds: (m, 4) int64: a substituent, the two atoms of a double bond, a substituent, which lie
            on one side (1) or across (-1).
        accepted: (p, k + m) int8, the signs of centres, then bonds, that make this molecule. There
            are several where exchanging equal parts undoes a change, as in meso compounds.
    """

    centres: Tensor
    bonds: Tensor
    accepted: Tensor

    def agrees(self, positions: Tensor) -> Tensor:
        """(n,) bool: positions (n, atoms, 3) have all of it; flat centres and twisted bonds not."""
        signs = torch.cat((self._handedness(positions), self._sides(positions)), -1).sign()
        accepted = self.accepted.to(positions)
        return (signs[:, None] == accepted).all(-1).any(-1)

    def _handedness(self, positions: Tensor) -> Tensor:
        hub, *arms = (positions[:, atoms] for atoms in self.centres.to(positions.device).T)
        a, b, c = (arm - hub for arm in arms)
        return (a * torch.linalg.cross(b, c, dim=-1)).sum(-1)

    def _sides(self, positions: Tensor) -> Tensor:
        bonds = self.bonds.to(positions.device)
        first, begin, end, last = (positions[:, atoms] for atoms in bonds.T)
        axis = end - begin
        left = torch.linalg.cross(first - begin, axis, dim=-1)
        right = torch.linalg.cross(last - end, axis, dim=-1)
        return (left * right).sum(-1)


def stereochemistry(mol: Chem.Mol) -> Stereochemistry:
    """What a molecule with explicit hydrogens specifies; unspecified centres may be anything."""
    found = [(atom.GetIdx(), _centre(atom)) for atom in mol.GetAtoms()]
    places = [index for index, centre in found if centre is not None]
    centres = [centre for _, centre in found if centre is not None]
    bonds = [marked for bond in mol.GetBonds() if (marked := _bond(bond)) is not None]
    signs = torch.tensor([sign for _, sign in centres + bonds], dtype=torch.int8)
    double = [(atoms[1], atoms[2]) for atoms, _ in bonds]
    return Stereochemistry(
        torch.tensor([atoms for atoms, _ in centres], dtype=torch.int64).reshape(-1, 4),
        torch.tensor([atoms for atoms, _ in bonds], dtype=torch.int64).reshape(-1, 4),
        torch.tensor(_equal_changes(mol, places, double), dtype=torch.int8) * signs,
    )


def _centre(atom: Chem.Atom) -> tuple[list[int], int] | None:
    """A tetrahedral centre. Seen from its first neighbour the others turn as the tag says.

    With the first neighbour above, three that turn against the clock span a negative volume from
    it. Where one is a lone pair, the volume is that from the atom, and the first neighbour takes
    the place of the one that is missing.
    """
    from rdkit.Chem import ChiralType

    turns = {ChiralType.CHI_TETRAHEDRAL_CCW: 1, ChiralType.CHI_TETRAHEDRAL_CW: -1}
    turn = turns.get(atom.GetChiralTag())
    around = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
    if turn is None or len(around) not in (3, 4):
        return None
    if len(around) == 4:
        return around, -turn
    return [atom.GetIdx(), *around], turn


def _bond(bond: Chem.Bond) -> tuple[list[int], int] | None:
    from rdkit.Chem import BondStereo

    sides = {
        BondStereo.STEREOZ: 1,
        BondStereo.STEREOCIS: 1,
        BondStereo.STEREOE: -1,
        BondStereo.STEREOTRANS: -1,
    }
    side, marks = sides.get(bond.GetStereo()), list(bond.GetStereoAtoms())
    if side is None or len(marks) != 2:
        return None
    return [marks[0], bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), marks[1]], side


def _equal_changes(
    mol: Chem.Mol, centres: list[int], bonds: list[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """Changes of sign (1 kept, -1 turned), for centres and then bonds, that make no other molecule.

    They are found by trying: two molecules are equal when their canonical SMILES are.
    """
    same = _canonical(mol)
    return [
        change
        for change in _changes(len(centres) + len(bonds))
        if min(change, default=1) == 1 or _canonical(_changed(mol, centres, bonds, change)) == same
    ]


def _changes(count: int) -> Iterator[tuple[int, ...]]:
    if 2**count <= _MOST_PATTERNS:
        return itertools.product((1, -1), repeat=count)
    return iter(((1,) * count, (-1,) * count))


def _changed(
    mol: Chem.Mol, centres: list[int], bonds: list[tuple[int, int]], change: tuple[int, ...]
) -> Chem.Mol:
    from rdkit import Chem

    across = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
    changed = Chem.Mol(mol)
    for atom, sign in zip(centres, change, strict=False):
        if sign < 0:
            changed.GetAtomWithIdx(atom).InvertChirality()
    for (begin, end), sign in zip(bonds, change[len(centres) :], strict=True):
        bond = changed.GetBondBetweenAtoms(begin, end)
        trans = (bond.GetStereo() in across) == (sign > 0)
        bond.SetStereo(Chem.BondStereo.STEREOTRANS if trans else Chem.BondStereo.STEREOCIS)
    for bond in changed.GetBonds():  # the marks of the text would win over what was set
        bond.SetBondDir(Chem.BondDir.NONE)
    Chem.SetDoubleBondNeighborDirections(changed)
    return changed


def _canonical(mol: Chem.Mol) -> str:
    """Canonical SMILES, read again so that marks without a meaning are gone."""
    from rdkit import Chem

    return Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(mol)))
