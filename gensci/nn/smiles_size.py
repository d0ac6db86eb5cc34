"""How many atoms a SMILES may still write, and which pieces leave it able to end in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gensci.nn.smiles_grammar import GrammarState


class Affordable(NamedTuple):
    """What rows (n,) have atoms left for, each (n,) booleans.

    Attributes:
        atom: one more atom, or what must be followed by one: a bond, a branch, a dot.
        closing: the end of a branch, after which open ring bonds need another atom.
        ring: to open a ring bond.
    """

    atom: Tensor
    closing: Tensor
    ring: Tensor


def affordable(state: GrammarState, max_atoms: int) -> Affordable:
    """What rows of at most ``max_atoms`` atoms can write and still close their ring bonds.

    The ring bonds of one atom must be closed by atoms of their own, of which the first may not be
    its neighbour. Pieces are allowed while the atoms left suffice for a plain chain that closes all
    of them, so a row never gets stuck; a few sound endings (a ring closed from behind a branch with
    the very last atom) are not found.

    Args:
        state: where the rows stand.
        max_atoms: hydrogens that are written as atoms count.
    """
    left = max_atoms - state.atoms
    partner = state.ring_atom
    is_open = partner >= 0
    same = (partner.unsqueeze(2) == partner.unsqueeze(1)) & is_open.unsqueeze(1)
    count = same.sum(2) * is_open  # ring bonds that its partner has open

    def needed(neighbour: Tensor) -> Tensor:
        """(n,) atoms for all ring bonds, after one that is bonded to ``neighbour`` (n,)."""
        return (count - (partner != neighbour.unsqueeze(1)).long() * is_open).amax(1)

    rows = torch.arange(len(left))
    below = state.stack[rows, (state.depth - 1).clamp(min=0)]
    own = ((partner == state.atom.unsqueeze(1)) & is_open).sum(1)
    return Affordable(
        atom=left >= 1 + needed(state.atom),
        closing=~is_open.any(1) | (left >= 1 + needed(below)),
        ring=left >= own + 2,
    )
