"""Bonds, charges and stereo of a molecule from nothing but the positions of its atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gensci.core.elements import symbol_of
from gensci.systems.molecule_graph import explicit_molecule

if TYPE_CHECKING:
    from rdkit import Chem

Array = np.ndarray
# The search for bond orders is exponential at worst; small molecules need far fewer trials.
_MAX_SEARCH = 20_000
# Charges on atoms, and how far bonds reach in sums of covalent radii (None: RDKit's own rule).
_TRIALS = ((False, None), (True, None), (True, 1.15))


def perceive(numbers: Array, positions: Array) -> tuple[str, Array]:
    """The SMILES of a neutral molecule from its coordinates.

    Bonds by distance, bond orders by RDKit's search (Kim & Kim 2015, doi:10.1002/bkcs.10334);
    stereo from the geometry. Without formal charges on atoms where that leaves no electron
    unpaired, else with them, else with shorter bonds, which small cages ask for.

    Args:
        numbers: (N,) atomic numbers, hydrogens among them.
        positions: (N, 3) Angstrom.

    Returns:
        Canonical isomeric SMILES, and (N,) int64 ``order`` so that ``positions[order]`` follows
        the atoms of RDKit's ``AddHs(MolFromSmiles(smiles))``.

    Raises:
        ValueError: why no molecule was found.
    """
    reason = "no atoms"
    for charged, reach in _TRIALS if len(numbers) else ():
        try:
            return isomeric(_with_bonds(numbers, positions, charged, reach))
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    raise ValueError(f"no molecule of charge 0 fits the positions: {reason}")


def isomeric(molecule: Chem.Mol) -> tuple[str, Array]:
    """Canonical SMILES with the stereo of the first conformer, and the order of its atoms.

    Args:
        molecule: sanitised, all hydrogens explicit, one conformer.

    Returns:
        SMILES and order, as in ``perceive``.

    Raises:
        ValueError: the SMILES does not lead back to the molecule.
    """
    from rdkit import Chem

    molecule = Chem.Mol(molecule)
    Chem.AssignStereochemistryFrom3D(molecule)
    # An imine's hydrogen would be written out, first of all atoms, for the sake of the side it is
    # on; heavy atoms come first here, so that side stays open.
    rules = Chem.RemoveHsParameters()
    rules.removeDefiningBondStereo = True
    smiles = Chem.MolToSmiles(Chem.RemoveHs(molecule, rules))
    order = _order(molecule, smiles)
    if order is None:
        raise ValueError(f"the SMILES {smiles} found does not describe the positions")
    return smiles, order


def with_stereo(smiles: str, positions: Array) -> tuple[str, Array]:
    """The SMILES that also says which stereoisomer the positions are, and the order of its atoms.

    Args:
        smiles: of the molecule; its stereo may be open.
        positions: (N, 3) Angstrom in the order of RDKit's ``AddHs(MolFromSmiles(smiles))``.

    Returns:
        SMILES and order, as in ``perceive``.

    Raises:
        UsageError: RDKit cannot read the SMILES.
        ValueError: the SMILES found does not lead back to the molecule.
    """
    from rdkit import Chem

    molecule = explicit_molecule(smiles)
    shape = Chem.Conformer(molecule.GetNumAtoms())
    shape.SetPositions(np.ascontiguousarray(positions, np.float64))
    molecule.AddConformer(shape)
    return isomeric(molecule)


def flat(smiles: str) -> str:
    """Canonical SMILES without stereo: the same for all that one graph can be.

    Raises:
        ValueError: RDKit cannot read it.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"RDKit cannot read the SMILES {smiles}")
    Chem.RemoveStereochemistry(molecule)
    # Hydrogens that were written out for the sake of stereo go too.
    return Chem.MolToSmiles(Chem.RemoveHs(molecule))


def _with_bonds(numbers: Array, positions: Array, charged: bool, reach: float | None) -> Chem.Mol:
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds

    with rdBase.BlockLogs():
        molecule = Chem.MolFromXYZBlock(_xyz(numbers, positions))
        rdDetermineBonds.DetermineConnectivity(
            molecule, useVdw=reach is not None, covFactor=reach or 1.3
        )
        rdDetermineBonds.DetermineBondOrders(
            molecule, charge=0, allowChargedFragments=charged, maxIterations=_MAX_SEARCH
        )
        _write_sulfoxides(molecule)
        Chem.SanitizeMol(molecule)
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise ValueError("bonds of integer order leave electrons unpaired")
    return molecule


def _write_sulfoxides(molecule: Chem.Mol) -> None:
    """S=O instead of [S+][O-], as chemists and QM9 write it, in place."""
    from rdkit import Chem

    for bond in molecule.GetBonds():
        sulphur, oxygen = bond.GetBeginAtom(), bond.GetEndAtom()
        if sulphur.GetAtomicNum() == 8:
            sulphur, oxygen = oxygen, sulphur
        charges = sulphur.GetFormalCharge(), oxygen.GetFormalCharge()
        if (sulphur.GetAtomicNum(), oxygen.GetAtomicNum()) == (16, 8) and charges == (1, -1):
            bond.SetBondType(Chem.BondType.DOUBLE)
            sulphur.SetFormalCharge(0)
            oxygen.SetFormalCharge(0)


def _xyz(numbers: Array, positions: Array) -> str:
    rows = [
        f"{symbol_of(int(z))} {x:.6f} {y:.6f} {w:.6f}"
        for z, (x, y, w) in zip(numbers, np.asarray(positions, np.float64), strict=True)
    ]
    return "\n".join([str(len(rows)), "", *rows, ""])


def _order(molecule: Chem.Mol, smiles: str) -> Array | None:
    """(N,) atoms of the molecule in the order of the SMILES; None where the two differ."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        target = Chem.MolFromSmiles(smiles)
    if target is None:
        return None
    target = Chem.AddHs(target)
    match = molecule.GetSubstructMatch(target, useChirality=True)
    complete = len(match) == molecule.GetNumAtoms()
    return np.array(match, dtype=np.int64) if complete else None
