"""MMFF94 in batches against RDKit, finite differences and symmetry."""

import math

import numpy as np
import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.protocols import Target
from gensci.systems.molecule_targets import MmffTarget, has_parameters

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

SMILES = ["CCO", "c1ccccc1O", "C[N+](C)(C)CC(=O)[O-]", "N[C@@H](C)C(=O)O", "FC(Cl)Br", "C/C=C/C#N"]


def embedded(smiles, n=4, seed=1):
    """A molecule with conformers, and their positions in nm."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ids = list(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed))
    positions = np.stack([mol.GetConformer(i).GetPositions() for i in ids]) / 10
    return mol, torch.from_numpy(positions)


@pytest.mark.parametrize("smiles", SMILES)
def test_energies_are_those_of_rdkit(smiles):
    mol, x = embedded(smiles)
    target = MmffTarget(Chem.AddHs(Chem.MolFromSmiles(smiles)), 300.0)
    assert isinstance(target, Target)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    fields = [
        rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=k)
        for k in range(len(x))
    ]
    truth = torch.tensor([4.184 * field.CalcEnergy() for field in fields])
    torch.testing.assert_close(target.energy({"positions": x}), truth.double())
    kt = 8.31446261815324e-3 * 300
    torch.testing.assert_close(target.log_prob({"positions": x}), -truth.double() / kt)
    assert target.log_prob({"positions": x.float()}).dtype == torch.float32


@pytest.mark.parametrize("scale", [None, 0.3])
def test_gradients_are_those_of_finite_differences(scale):
    mol, x = embedded("C[NH2+]CC=O", 2)
    target = MmffTarget(mol, 400.0, centroid_scale=scale)
    x = x + 0.05
    value, gradient = target.log_prob_and_grad({"positions": x})
    torch.testing.assert_close(value, target.log_prob({"positions": x}))
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        step = 1e-6 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        ends = (target.log_prob({"positions": x + sign * step}) for sign in (1, -1))
        slope = next(ends) - next(ends)
        expected = 2 * (gradient["positions"] * step).sum((1, 2))
        torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)


def test_place_and_turn_do_not_matter_but_the_centroid_may():
    mol, x = embedded("CC(O)C=O", 3)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator()))[0]
    moved = x @ turn + torch.tensor([0.3, -0.1, 0.2])
    free, held = MmffTarget(mol, 300.0), MmffTarget(mol, 300.0, centroid_scale=0.35)
    energy = free.log_prob({"positions": x})
    torch.testing.assert_close(free.log_prob({"positions": moved}), energy)
    count = mol.GetNumAtoms()
    law = torch.distributions.Normal(0.0, torch.tensor(0.35 / math.sqrt(count)).double())
    centroid = law.log_prob(moved.mean(1)).sum(-1)
    got = held.log_prob({"positions": moved}) - energy
    torch.testing.assert_close(got, centroid, rtol=1e-6, atol=1e-6)


def test_what_is_not_finite_or_not_natural_has_zero_density_and_no_gradient():
    mol, x = embedded("CCO", 4)
    x[1, 0, 0] = torch.nan
    x[2] = 0.0
    target = MmffTarget(mol, 300.0, natural=lambda p: torch.tensor([True, True, True, False]))
    value, gradient = target.log_prob_and_grad({"positions": x})
    assert value.isfinite().tolist() == [True, False, False, False]
    assert value[1:].tolist() == [-math.inf] * 3
    assert gradient["positions"][1:].abs().sum() == 0
    assert gradient["positions"][0].abs().sum() > 0


def test_molecules_without_parameters_are_refused():
    boron = Chem.AddHs(Chem.MolFromSmiles("CB(O)O"))
    assert not has_parameters(boron)
    with pytest.raises(UsageError, match=r"no parameters for CB\(O\)O"):
        MmffTarget(boron, 300.0)
    with pytest.raises(UsageError, match="temperature"):
        MmffTarget(Chem.AddHs(Chem.MolFromSmiles("C")), 0.0)
