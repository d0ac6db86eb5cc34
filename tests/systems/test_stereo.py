"""Stereochemistry of conformers against RDKit's own perception."""

import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gensci.systems.stereo import stereochemistry

CENTRES = [
    "N[C@@H](C)C(=O)O",
    "N[C@H](C)C(=O)O",
    "[C@](F)(Cl)(Br)I",
    "C[S@](=O)CC",
    "C[P@](=O)(O)N",
    "CC[N@+](C)(CCC)C=C",
    "C[C@@H]1CN1",
    "C[C@H](F)[C@@H](F)C",  # one of them is a meso compound
    "C[C@H](F)[C@H](F)C",
    "C[C@H]1CC[C@@H](F)CC1",
    "C[C@H]1CC[C@H](C)CC1",
    "C1[C@@H]2CC[C@H]1CC2",  # marks without a meaning
]
BONDS = [
    "F/C=C/F",
    "F/C=C\\F",
    "C/C=C/C=C\\C(=O)O",
    "[H]/N=C(/C)F",
    "C/C=C/C(O)/C=C/C",
    "F/C=C/[C@H](Cl)/C=C\\F",  # the bonds make the centre
    "C[C@H](F)C[C@@H](F)C/C=C/C",
]


def conformers(mol, n=12):
    """Positions of conformers of any stereochemistry, and the SMILES that RDKit sees in each."""
    free = Chem.Mol(mol)
    Chem.RemoveStereochemistry(free)
    found = []
    for k in rdDistGeom.EmbedMultipleConfs(free, n, randomSeed=3):
        seen = Chem.Mol(free, confId=k)
        Chem.AssignStereochemistryFrom3D(seen, k)
        found.append((free.GetConformer(k).GetPositions(), Chem.MolToSmiles(Chem.RemoveHs(seen))))
    return torch.from_numpy(np.stack([x for x, _ in found])), [text for _, text in found]


@pytest.mark.parametrize("smiles", CENTRES + BONDS)
def test_a_conformer_agrees_when_rdkit_reads_the_same_molecule_from_it(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    positions, seen = conformers(mol)
    wanted = Chem.MolToSmiles(Chem.RemoveHs(mol))
    expected = [text == wanted for text in seen]
    assert any(expected)
    stereo = stereochemistry(mol)
    assert stereo.agrees(positions).tolist() == expected
    assert stereo.agrees(positions.float()).tolist() == expected
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator()))[0]
    turn = turn * torch.linalg.det(turn).sign()
    assert stereo.agrees(positions @ turn + 5).tolist() == expected


@pytest.mark.parametrize("smiles", ["N[C@@H](C)C(=O)O", "C[S@](=O)CC", "OC[C@@H](O)C=O"])
def test_a_mirror_image_is_another_molecule(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=5)
    positions = torch.from_numpy(mol.GetConformer().GetPositions())[None]
    stereo = stereochemistry(mol)
    assert stereo.agrees(positions).item()
    assert not stereo.agrees(-positions).item()
    assert not stereo.agrees(positions * torch.tensor([1.0, 1.0, 0.0])).item()  # flat is neither


def test_what_is_not_specified_may_be_anything():
    stereo = stereochemistry(Chem.AddHs(Chem.MolFromSmiles("CC(F)C=CC")))
    assert stereo.agrees(torch.randn(7, 15, 3)).all()


def test_a_molecule_of_many_centres_is_still_told_from_its_neighbours():
    sugar = "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O[C@H]1CO[C@@H](C)[C@H](O)[C@@H]1O"
    mol = Chem.AddHs(Chem.MolFromSmiles(sugar))
    rdDistGeom.EmbedMolecule(mol, randomSeed=5)
    positions = torch.from_numpy(mol.GetConformer().GetPositions())[None]
    stereo = stereochemistry(mol)
    assert len(stereo.centres) == 9
    assert stereo.agrees(positions).item()
    other = Chem.AddHs(Chem.MolFromSmiles(sugar.replace("O[C@@H](O)", "O[C@H](O)", 1)))
    assert not stereochemistry(other).agrees(positions).item()
