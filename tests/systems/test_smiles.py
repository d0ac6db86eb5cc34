"""Molecules as systems: aromatic, charged and stereo SMILES, with all their hydrogens."""

import numpy as np
import pytest
import torch

from gensci.core.errors import GensciError
from gensci.core.prompts import StructurePrompt
from gensci.core.registry import SYSTEMS

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gensci.systems.smiles import NewMolecules, SmilesSystem

read = SmilesSystem.from_text


def test_the_families_are_registered_with_their_own_defaults():
    assert SYSTEMS.get("smiles") is SmilesSystem
    assert SYSTEMS.get("molecule") is NewMolecules
    for name in ("smiles", "molecule"):
        facts = SYSTEMS.metadata(name)
        assert (facts["sampler"], facts["checkpoint"]) == ("direct", "molecules")


@pytest.mark.parametrize(
    ("smiles", "formula", "charge"),
    [
        ("CCO", "C2H6O", 0),
        ("c1ccccc1", "C6H6", 0),
        ("C1=CC=CC=C1", "C6H6", 0),
        ("c1cc[nH]c1", "C4H5N", 0),
        ("C[N+](C)(C)CC(=O)[O-]", "C5H11NO2", 0),
        ("[NH4+]", "H4N+", 1),
        ("C[N+](=O)[O-]", "CH3NO2", 0),
        ("F/C=C\\F", "C2H2F2", 0),
        ("N[C@@H](C)C(=O)O", "C3H7NO2", 0),
        ("[2H]C([2H])Cl", "CH3Cl", 0),
        ("[H][H]", "H2", 0),
        ("BrC(Cl)I", "CHBrClI", 0),
    ],
)
def test_all_hydrogens_are_there_behind_the_atoms_of_the_text(smiles, formula, charge):
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    system = read(smiles)
    assert CalcMolFormula(system.mol) == formula
    assert Chem.GetFormalCharge(system.mol) == charge
    prompt = system.prompt()
    assert prompt.numbers == tuple(a.GetAtomicNum() for a in system.mol.GetAtoms())
    again = Chem.AddHs(Chem.MolFromSmiles(prompt.smiles))
    assert tuple(a.GetAtomicNum() for a in again.GetAtoms()) == prompt.numbers
    assert (prompt.kind, prompt.conditions) == ("molecule", {})
    assert len(system.bonds) >= len(prompt.numbers) - 1


def test_hydrogens_that_are_spelled_out_make_no_other_molecule():
    system = read("[H]C([H])([H])O[H]")
    assert system.numbers == read("CO").numbers == (6, 8, 1, 1, 1, 1)
    assert system.prompt().smiles == "CO"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("F/C=C/F", "F/C=C\\F"),
        ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"),
        ("C[C@H]1CC[C@@H](F)CC1", "C[C@H]1CC[C@H](F)CC1"),
    ],
)
def test_conformers_have_the_stereochemistry_of_their_own_text_only(one, other):
    for mine, theirs in ((one, other), (other, one)):
        mol = read(mine).mol
        rdDistGeom.EmbedMultipleConfs(mol, 5, randomSeed=2)
        x = torch.from_numpy(np.stack([c.GetPositions() for c in mol.GetConformers()])) / 10
        assert read(mine).natural(x).all()
        assert not read(theirs).natural(x).any()
        assert read(mine).target().log_prob({"positions": x}).isfinite().all()
        assert read(theirs).target().log_prob({"positions": x}).isinf().all()


def test_targets_are_chosen_by_name():
    assert read("CCO", temperature="400").target().temperature == 400.0
    assert read("CCO", target="none").target() is None
    assert read("CB(O)O").target() is None
    assert "no parameters for CB(O)O" in read("CB(O)O").warnings()[0]
    assert read("CCO").warnings() == ()
    assert read("CCO").record() == {"system.target": "auto", "system.temperature": 300.0}


@pytest.mark.parametrize(
    ("text", "settings", "part"),
    [
        ("", {}, "cannot be read"),
        ("C(C)(C)(C)(C)C", {}, "Explicit valence for atom # 0 C, 5"),
        ("c1cccc1", {}, "Can't kekulize"),
        ("C(", {}, "write it like smiles:CCO"),
        ("[Na+].[Cl-]", {}, "several molecules"),
        ("*C", {}, "wildcard"),
        ("[He]", {}, "is a single atom"),
        ("[Na+]", {}, "is a single atom"),
        ("CB(O)O", {"target": "mmff"}, "use --system.target none"),
        ("CCO", {"target": "mmf"}, "did you mean 'mmff'"),
        ("CCO", {"temperature": -1}, "positive one in K"),
        ("CCO", {"elements": "C"}, "choose from: target, temperature"),
    ],
)
def test_what_is_no_molecule_is_refused_in_one_line(text, settings, part, capfd):
    with pytest.raises(GensciError) as error:
        read(text, **settings)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # RDKit keeps its own lines to itself


def test_new_molecules_are_prompted_by_their_settings():
    system = NewMolecules.from_text(
        "*", elements="C,O", num_heavy_atoms="9", style="qm7", conditions="gap=0.2, mu=-1"
    )
    assert system.prompt() == StructurePrompt(
        kind="molecule",
        conditions={"gap": 0.2, "mu": -1.0},
        style="qm7",
        elements=(1, 6, 8),
        max_heavy_atoms=9,
    )
    assert NewMolecules.from_text("*").prompt() == StructurePrompt(kind="molecule")
    assert system.target() is None
    assert system.record()["system.elements"] == "C,O"


@pytest.mark.parametrize(
    ("text", "settings", "part"),
    [
        ("CCO", {}, "smiles:CCO"),
        ("*", {"elements": "C,x"}, "no element 'x'"),
        ("*", {"num_heavy_atoms": 0}, "give 1 or more"),
        ("*", {"conditions": "gap"}, "give name=number"),
        ("*", {"conditions": "gap=inf"}, "give name=number"),
        ("*", {"temperature": 3}, "no setting"),
    ],
)
def test_what_no_new_molecule_can_be_is_refused(text, settings, part):
    with pytest.raises(GensciError) as error:
        NewMolecules.from_text(text, **settings)
    assert part in str(error.value)
