"""Molecules on disk, read back by RDKit: bonds, charges, stereo and weights."""

import numpy as np
import pytest
import torch

from gensci.core.results import SampleSet
from gensci.io.sdf import read_molecules, write_molecules

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

SMILES = [
    "CCO",
    "c1cc[nH]c1",
    "C[N+](C)(C)CC(=O)[O-]",
    "N[C@@H](C)C(=O)O",
    "F/C=C\\F",
    "C[N+](=O)[O-]",
    "BrC#CCl",
]


def conformers(smiles, n=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=4)
    numbers = torch.tensor([[atom.GetAtomicNum() for atom in mol.GetAtoms()]] * n)
    positions = np.stack([conformer.GetPositions() for conformer in mol.GetConformers()]) / 10
    return numbers, torch.from_numpy(positions)


def padded(parts):
    """Molecules of different sizes as one set."""
    most = max(numbers.shape[1] for numbers, _ in parts)
    numbers = torch.cat([torch.nn.functional.pad(z, (0, most - z.shape[1])) for z, _ in parts])
    positions = torch.cat(
        [torch.nn.functional.pad(x, (0, 0, 0, most - x.shape[1])) for _, x in parts]
    )
    weight = torch.linspace(-1, 1, len(numbers)).double()
    return SampleSet({"numbers": numbers, "positions": positions}, weight)


def test_every_molecule_comes_back_with_bonds_charges_stereo_and_weight(tmp_path):
    samples = padded([conformers(text) for text in SMILES])
    assert write_molecules(tmp_path, samples, SMILES).tolist() == list(range(len(SMILES)))
    molecules, weight = read_molecules(tmp_path / "samples.sdf")
    torch.testing.assert_close(weight, samples.weight)
    for row, (molecule, smiles) in enumerate(zip(molecules, SMILES, strict=True)):
        wanted = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == Chem.CanonSmiles(smiles)
        assert molecule.GetProp("_Name") == smiles
        assert molecule.GetIntProp("sample") == row
        charges = [[atom.GetFormalCharge() for atom in m.GetAtoms()] for m in (molecule, wanted)]
        assert charges[0] == charges[1]
        present = samples.x["numbers"][row] > 0
        numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        assert numbers == samples.x["numbers"][row][present].tolist()
        positions = molecule.GetConformer().GetPositions() / 10
        np.testing.assert_allclose(positions, samples.x["positions"][row][present], atol=6e-6)


def test_one_text_serves_all_conformers_and_bad_rows_are_left_out(tmp_path):
    numbers, positions = conformers("CCO", 5)
    positions[1, 0, 0] = torch.nan
    weight = torch.tensor([0.0, 0.0, -torch.inf, 0.0, 0.0]).double()
    samples = SampleSet({"numbers": numbers, "positions": positions}, weight)
    assert write_molecules(tmp_path, samples, ["CCO"]).tolist() == [0, 3, 4]
    molecules, _ = read_molecules(tmp_path / "samples.sdf")
    assert [molecule.GetIntProp("sample") for molecule in molecules] == [0, 3, 4]


def test_a_text_of_other_atoms_is_not_written(tmp_path):
    samples = padded([conformers("CCO"), conformers("CCN"), conformers("CC")])
    assert write_molecules(tmp_path, samples, ["CCO", "CCO", "C("]).tolist() == [0]


def test_the_stereo_in_the_file_is_that_of_the_coordinates(tmp_path):
    numbers, positions = conformers("N[C@@H](C)C(=O)O")
    samples = SampleSet({"numbers": numbers, "positions": -positions}, torch.zeros(1).double())
    write_molecules(tmp_path, samples, ["N[C@@H](C)C(=O)O"])
    (molecule,), _ = read_molecules(tmp_path / "samples.sdf")
    assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == Chem.CanonSmiles("N[C@H](C)C(=O)O")


def test_molecules_of_other_programs_weigh_the_same(tmp_path):
    with Chem.SDWriter(str(tmp_path / "other.sdf")) as writer:
        for text in ("C", "CC"):
            mol = Chem.AddHs(Chem.MolFromSmiles(text))
            rdDistGeom.EmbedMolecule(mol, randomSeed=1)
            writer.write(mol)
    with (tmp_path / "other.sdf").open("a") as handle:
        handle.write("not a record\n$$$$\n")
    molecules, weight = read_molecules(tmp_path / "other.sdf")
    assert [molecule.GetNumAtoms() for molecule in molecules] == [5, 8]
    assert weight.tolist() == [0.5, 0.5]
