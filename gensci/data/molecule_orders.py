"""The same molecule written in another order of atoms, as augmentation."""

from __future__ import annotations

import numpy as np

from gensci.core.errors import UsageError
from gensci.systems.molecule_graph import explicit_molecule

Array = np.ndarray


def rewritten(smiles: str, seed: int) -> tuple[str, Array]:
    """A SMILES that starts at another atom and takes branches in another order.

    Ref: Bjerrum 2017, arXiv:1703.07076 (SMILES enumeration).

    Args:
        smiles: of the molecule.
        seed: decides which; any integer.

    Returns:
        SMILES, and (N,) int64 ``order``: ``positions[order]`` follows the atoms of the new SMILES
        where ``positions`` follows those of the old one (RDKit's ``AddHs(MolFromSmiles)``). The
        old SMILES and its own order where the new one does not lead back to the molecule.

    Raises:
        UsageError: RDKit cannot read the SMILES.
    """
    from rdkit import Chem

    old = explicit_molecule(smiles)
    (text,) = Chem.MolToRandomSmilesVect(Chem.RemoveHs(old), 1, randomSeed=seed % (2**31 - 1) + 1)
    same = smiles, np.arange(old.GetNumAtoms(), dtype=np.int64)
    try:
        new = explicit_molecule(text)
    except UsageError:
        return same
    match = old.GetSubstructMatch(new, useChirality=True)
    if len(match) != old.GetNumAtoms():
        return same
    return text, np.array(match, dtype=np.int64)
