"""The graph of a molecule, all hydrogens explicit, and the atoms that place each next atom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gensci.core.errors import UsageError

if TYPE_CHECKING:
    from rdkit import Chem

Array = np.ndarray
_FAR = 255


@dataclass(frozen=True, eq=False)
class MoleculeGraph:
    """Atoms in the order in which they are placed: heavy atoms as the SMILES has them, then H.

    Attributes:
        smiles: As given.
        numbers: (N,) int64 atomic numbers.
        charges: (N,) int64 formal charges.
        bonds: (m, 2) int64, the earlier atom first, sorted.
        orders: (m,) float32: 1, 2, 3, and 1.5 for aromatic bonds.
        distance: (N, N) uint8, bonds between two atoms; 255 between fragments and beyond.
        references: (N, 3) int64, atoms a, b, c, placed before atom i, whose frame (``nn.frames``)
            places it. a is bonded to i, b to a; c is another neighbour of a, else a neighbour of
            b, else the nearest atom that is not in line with a and b. -1 where there is none: three
            for the first atom, then two, one. The first atoms of a further fragment refer to
            earlier ones that they are not bonded to.
        ring_partner: (N,) int64, the earlier atom, besides a, that atom i is bonded to: i closes a
            ring there. -1 for most.
        handedness: (N,) int8, where a is a stereocentre whose neighbours are i, b, c (and one
            more): the sign of (b - a) x (c - a) . (i - a), from @ and @@; else 0.
        side: (N,) int8, where a=b is a double bond of given stereo and c hangs on b: 1 if i lies on
            the side of c (cis), -1 if across; else 0.
    """

    smiles: str
    numbers: Array
    charges: Array
    bonds: Array
    orders: Array
    distance: Array
    references: Array
    ring_partner: Array
    handedness: Array
    side: Array

    def __len__(self) -> int:
        return len(self.numbers)


def graph_of(smiles: str) -> MoleculeGraph:
    """Read a SMILES into its graph; atoms as RDKit's ``AddHs(MolFromSmiles(smiles))`` has them.

    Raises:
        UsageError: RDKit cannot read it, or it holds a dummy atom.
    """
    molecule = explicit_molecule(smiles)
    bonds, orders = _bonds(molecule)
    distance = _distances(molecule)
    neighbours: list[list[int]] = [[] for _ in range(molecule.GetNumAtoms())]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    linear = [str(atom.GetHybridization()) == "SP" for atom in molecule.GetAtoms()]
    references = _references(neighbours, linear, distance)
    return MoleculeGraph(
        smiles=smiles,
        numbers=np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()]),
        charges=np.array([atom.GetFormalCharge() for atom in molecule.GetAtoms()]),
        bonds=bonds,
        orders=orders,
        distance=distance,
        references=references,
        ring_partner=_ring_partners(neighbours, references),
        handedness=_handedness(molecule, references),
        side=_sides(molecule, references),
    )


def explicit_molecule(smiles: str) -> Chem.Mol:
    """RDKit's ``AddHs(MolFromSmiles(smiles))``.

    Raises:
        UsageError: RDKit cannot read it, or it holds a dummy atom.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    remedy = "write the molecule as SMILES, for example CCO or c1ccccc1[N+](=O)[O-]"
    if molecule is None or not molecule.GetNumAtoms():
        raise UsageError(f"RDKit finds no molecule in the SMILES {smiles!r}", remedy)
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise UsageError(f"the SMILES {smiles!r} holds an atom of no element", remedy)
    return Chem.AddHs(molecule)


def _bonds(molecule: Chem.Mol) -> tuple[Array, Array]:
    rows = sorted(
        (*sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())), bond.GetBondTypeAsDouble())
        for bond in molecule.GetBonds()
    )
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return table[:, :2].astype(np.int64), table[:, 2].astype(np.float32)


def _distances(molecule: Chem.Mol) -> Array:
    from rdkit import Chem

    # RDKit writes 1e8 between fragments
    return np.minimum(Chem.GetDistanceMatrix(molecule), _FAR).astype(np.uint8)


def _references(neighbours: list[list[int]], linear: list[bool], distance: Array) -> Array:
    references = np.full((len(neighbours), 3), -1, dtype=np.int64)
    for i in range(1, len(neighbours)):
        a = _parent(i, neighbours, distance)
        references[i, 0] = a
        if i == 1:
            continue
        b = _grandparent(i, a, references, neighbours, distance)
        references[i, 1] = b
        if i > 2:
            references[i, 2] = _third(i, a, b, neighbours, linear, distance)
    return references


def _parent(i: int, neighbours: list[list[int]], distance: Array) -> int:
    """The latest bonded atom, which the SMILES wrote before it; in a new fragment the one before.

    Of two earlier neighbours one closes a ring, and the later one is next to it in the text.
    """
    bonded = [j for j in neighbours[i] if j < i]
    return max(bonded, default=i - 1)


def _grandparent(
    i: int, a: int, references: Array, neighbours: list[list[int]], distance: Array
) -> int:
    """The parent of a, else a neighbour of a, else the nearest atom."""
    parent = int(references[a, 0])
    if parent >= 0 and distance[parent, a] == 1:
        return parent
    bonded = [j for j in neighbours[a] if j < i]
    return min(bonded) if bonded else _nearest(i, a, {a}, distance)


def _nearest(i: int, a: int, but: set[int], distance: Array) -> int:
    """The placed atom nearest to a in bonds, the latest of equals."""
    return min((j for j in range(i) if j not in but), key=lambda j: (distance[a, j], -j))


def _third(
    i: int,
    a: int,
    b: int,
    neighbours: list[list[int]],
    linear: list[bool],
    distance: Array,
) -> int:
    """Another neighbour of a, else one of b, else the nearest atom off the line of a and b."""
    straight = _in_line(a, b, neighbours, linear)
    for centre in (a, b):
        placed = [j for j in neighbours[centre] if j < i and j not in (a, b) and j not in straight]
        if placed:
            return min(placed)
    rest = set(range(i)) - straight - {a, b}
    return _nearest(i, a, {a, b} | (straight if rest else set()), distance)


def _in_line(a: int, b: int, neighbours: list[list[int]], linear: list[bool]) -> set[int]:
    """Atoms that lie on the line through a and b, on account of sp atoms between."""
    if b not in neighbours[a]:
        return set()
    found: set[int] = set()
    todo = [atom for atom in (a, b) if linear[atom]]
    while todo:
        for j in neighbours[todo.pop()]:
            if j not in found and j not in (a, b):
                found.add(j)
                todo += [j] if linear[j] else []
    return found


def _ring_partners(neighbours: list[list[int]], references: Array) -> Array:
    partners = np.full(len(neighbours), -1, dtype=np.int64)
    for i, bonded in enumerate(neighbours):
        partners[i] = min((j for j in bonded if j < i and j != references[i, 0]), default=-1)
    return partners


def _handedness(molecule: Chem.Mol, references: Array) -> Array:
    """Signs at stereocentres of four neighbours."""
    signs = np.zeros(len(references), dtype=np.int8)
    turns = {"CHI_TETRAHEDRAL_CCW": -1, "CHI_TETRAHEDRAL_CW": 1}
    centres = {
        atom.GetIdx(): (turns[str(atom.GetChiralTag())], _bonded(atom))
        for atom in molecule.GetAtoms()
        if str(atom.GetChiralTag()) in turns and atom.GetDegree() == 4
    }
    for i, (a, b, c) in enumerate(references.tolist()):
        turn, bonded = centres.get(a, (0, ()))
        if turn and {i, b, c} < set(bonded):
            # Seen from the fourth neighbour, @ counts b, c, i anticlockwise if the order is even.
            (fourth,) = set(bonded) - {i, b, c}
            signs[i] = turn * _parity([bonded.index(atom) for atom in (fourth, b, c, i)])
    return signs


def _bonded(atom: Chem.Atom) -> tuple[int, ...]:
    return tuple(bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds())


def _parity(order: list[int]) -> int:
    swaps = sum(x > y for k, x in enumerate(order) for y in order[k + 1 :])
    return 1 - 2 * (swaps % 2)


def _sides(molecule: Chem.Mol, references: Array) -> Array:
    """Cis or trans about double bonds of given stereo."""
    sides = np.zeros(len(references), dtype=np.int8)
    known = {"STEREOZ": 1, "STEREOCIS": 1, "STEREOE": -1, "STEREOTRANS": -1}
    double = {}
    for bond in molecule.GetBonds():
        sign = known.get(str(bond.GetStereo()))
        if sign:
            ends, atoms = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()), bond.GetStereoAtoms()
            double[ends] = (sign, *atoms)
            double[ends[::-1]] = (sign, *list(atoms)[::-1])
    for i, (a, b, c) in enumerate(references.tolist()):
        sign, at_a, at_b = double.get((a, b), (0, -1, -1))
        if sign and c >= 0 and molecule.GetBondBetweenAtoms(b, c) is not None:
            # each end that is not the atom named by the stereo turns the sign once
            sides[i] = sign * (1 if i == at_a else -1) * (1 if c == at_b else -1)
    return sides
