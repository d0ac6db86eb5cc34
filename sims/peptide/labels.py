"""Equal atoms with different names: planar groups, and atoms with four neighbours.

Half a turn about one of the stiff planar bonds of ASN, GLN and ARG gives the same structure with
two names exchanged. So does the inversion of CH2, CH3, NH3+ and of the forks of VAL and LEU, which
have two or three neighbours alike. No average of a physical observable changes when only one of the
two namings is counted. Half turns are so rare in dynamics that simulations and models know the
other naming hardly at all, and nothing inverts. A model that draws the other naming once in a
thousand times gives it a density far too low, and a weight that outdoes all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..molecule.handedness import neighbours
from .chirality import is_natural

# Torsions that tell one naming from the other, and the names that half a turn exchanges. The
# guanidinium goes first as a whole, for its turn exchanges the amino groups too.
_GUANIDINIUM = (("NH1", "NH2"), ("HH11", "HH21"), ("HH12", "HH22"))
_PLANAR = {
    "ASN": ((("CB", "CG", "ND2", "HD21"), (("HD21", "HD22"),)),),
    "GLN": ((("CG", "CD", "NE2", "HE21"), (("HE21", "HE22"),)),),
    "ARG": (
        (("CD", "NE", "CZ", "NH1"), _GUANIDINIUM),
        (("NE", "CZ", "NH1", "HH11"), (("HH11", "HH12"),)),
        (("NE", "CZ", "NH2", "HH21"), (("HH21", "HH22"),)),
    ),
}


class PlanarGroup(NamedTuple):
    """A group that half a turn maps onto itself.

    Attributes:
        torsion: its four atoms.
        swaps: pairs of atoms whose names the half turn exchanges.
    """

    torsion: tuple[int, ...]
    swaps: tuple[tuple[int, int], ...]


def planar_groups(
    residue_index: tuple[int, ...], residue_names: tuple[str, ...], atom_names: tuple[str, ...]
) -> tuple[PlanarGroup, ...]:
    """All such groups of a peptide, in the order in which they are to be put right."""
    where = {key: i for i, key in enumerate(zip(residue_index, atom_names, strict=True))}
    kinds = dict(zip(residue_index, residue_names, strict=True))
    return tuple(
        PlanarGroup(
            tuple(where[index, name] for name in torsion),
            tuple((where[index, a], where[index, b]) for a, b in swaps),
        )
        for index, kind in kinds.items()
        for torsion, swaps in _PLANAR.get(kind, ())
    )


def planar_labels(
    residue_index: tuple[int, ...], residue_names: tuple[str, ...], atom_names: tuple[str, ...]
) -> Tensor:
    """Atoms of the torsions that tell one naming from the other: (k, 4) int64."""
    groups = planar_groups(residue_index, residue_names, atom_names)
    return torch.tensor([g.torsion for g in groups], dtype=torch.int64).reshape(-1, 4)


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


def canonical(x: Tensor, reference: Tensor, groups: tuple[PlanarGroup, ...]) -> Tensor:
    """The same structures with equal atoms named as in the reference: (n, atoms, 3).

    Nothing moves; where a group is on the other side, rows of the pairs are exchanged. A group bent
    far out of its plane, which no thermal structure has, may stay on the other side.
    """
    x = x.clone()
    for group in groups:
        row = torch.tensor([group.torsion], device=x.device)
        side = torsion_cosines(reference[None].to(x), row).sign()
        _exchange(x, torsion_cosines(x, row)[:, 0] * side[0, 0] < 0, group.swaps)
    return x


def _exchange(x: Tensor, rows: Tensor, swaps: tuple[tuple[int, int], ...]) -> None:
    """Exchange atoms of pairs in some of the rows (n,) of x, in place."""
    for a, b in swaps:
        x[rows, a], x[rows, b] = x[rows, b], x[rows, a]


class Fork(NamedTuple):
    """An atom with four neighbours, two or three of them alike.

    Attributes:
        centre: the atom and three of its neighbours, whose triple product is positive in the
            reference.
        swaps: pairs of atoms whose names the inversion exchanges.
    """

    centre: tuple[int, ...]
    swaps: tuple[tuple[int, int], ...]


def forks(
    elements: Sequence[str],
    bonds: Sequence[tuple[int, int]],
    reference: Tensor,
    chiral: Tensor,
) -> tuple[Fork, ...]:
    """All of a peptide, those of methyls before the methyls themselves.

    Args:
        elements: symbol of every atom.
        bonds: pairs of atoms.
        reference: (atoms, 3) the built geometry.
        chiral: (k, 4) the stereocentres, whose neighbours all differ; see ``chirality``.
    """
    bound = neighbours(len(elements), bonds)
    handed = set(chiral[:, 0].tolist())
    found = []
    for hub, around in enumerate(bound):
        if len(around) != 4 or hub in handed:
            continue
        centre = (hub, *around[:3])
        if not is_natural(reference[None], torch.tensor([centre])):
            centre = (hub, centre[2], centre[1], centre[3])
        found.append(Fork(centre, _alike(hub, elements, bound)))
    return tuple(sorted(found, key=lambda fork: -len(fork.swaps)))


def _alike(
    hub: int, elements: Sequence[str], bound: list[list[int]]
) -> tuple[tuple[int, int], ...]:
    """Two equal neighbours with what hangs on them: hydrogens, or else methyls."""

    def hydrogens(atom: int) -> list[int]:
        return [other for other in bound[atom] if elements[other] == "H"]

    own = hydrogens(hub)
    if len(own) >= 2:
        return ((own[-2], own[-1]),)
    methyls = [atom for atom in bound[hub] if elements[atom] == "C" and len(hydrogens(atom)) == 3]
    if len(methyls) != 2:
        raise ValueError(f"the neighbours of atom {hub} all differ, and it is no stereocentre")
    one, two = methyls
    return ((one, two), *zip(hydrogens(one), hydrogens(two), strict=True))


def uninverted(x: Tensor, groups: tuple[Fork, ...]) -> Tensor:
    """The same structures (n, atoms, 3) with the equal neighbours of forks named as usual."""
    x = x.clone()
    for group in groups:
        _exchange(x, ~is_natural(x, torch.tensor([group.centre])), group.swaps)
    return x


def exchanged_names(
    x: Tensor,
    reference: Tensor,
    tetrahedral: tuple[Fork, ...],
    planar: tuple[PlanarGroup, ...],
) -> tuple[tuple[int, int], ...]:
    """Pairs of atoms to be exchanged, in turn, for most of x (n, atoms, 3) to be named as usual."""
    x, pairs = x.clone(), []

    def decide(usual: Tensor, swaps: tuple[tuple[int, int], ...]) -> None:
        if 2 * int(usual.sum()) >= len(usual):
            return
        _exchange(x, torch.ones_like(usual), swaps)
        pairs.extend(swaps)

    for fork in tetrahedral:
        decide(is_natural(x, torch.tensor([fork.centre])), fork.swaps)
    for group in planar:
        decide(is_canonical(x, reference, torch.tensor([group.torsion])), group.swaps)
    return tuple(pairs)
