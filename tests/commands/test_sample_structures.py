"""`gensci sample` of crystals and molecules, with draws that a model could have made."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crystal_batches import batch
from structure_cases import crystal_network, molecule_network

from gensci.__main__ import main
from gensci.commands.draw import Request
from gensci.commands.sampling import sample_system
from gensci.commands.structure_proposals import load_structure_proposal
from gensci.core.elements import NUMBERS
from gensci.core.errors import UsageError
from gensci.core.prompts import StructurePrompt
from gensci.io.crystals import read_crystals
from gensci.io.sdf import read_molecules
from gensci.io.trajectories import load_run
from gensci.samplers.importance import Importance
from gensci.samplers.steering import TwistedSmc

pytest.importorskip("ase")
pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

TEXTS = ["CCO", "C[NH3+]", "O=C=O"]


def crystals(n, generator):
    """Rutile with some noise; the first row has two atoms on top of each other."""
    x = batch(*["rutile"] * n)
    noise = torch.randn(x["fractional"].shape, generator=generator, dtype=torch.float64)
    x["fractional"] = (x["fractional"] + 0.01 * noise) % 1
    x["fractional"][0, 1] = x["fractional"][0, 0]
    return {k: v.float() if v.is_floating_point() else v for k, v in x.items()}


def conformers(text, n, seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed)
    numbers = torch.tensor([[atom.GetAtomicNum() for atom in mol.GetAtoms()]] * n)
    positions = np.stack([c.GetPositions() for c in mol.GetConformers()]) / 10
    return {"numbers": numbers, "positions": torch.from_numpy(positions).float()}


def molecules(n, generator):
    """Molecules of different sizes with the number of their text as tokens."""
    chosen = torch.arange(n) % len(TEXTS)
    parts = [conformers(TEXTS[k], 1) for k in chosen.tolist()]
    most = max(part["numbers"].shape[1] for part in parts)
    pad = torch.nn.functional.pad
    return {
        "numbers": torch.cat([pad(p["numbers"], (0, most - p["numbers"].shape[1])) for p in parts]),
        "positions": torch.cat(
            [pad(p["positions"], (0, 0, 0, most - p["positions"].shape[1])) for p in parts]
        ),
        "tokens": chosen[:, None],
    }


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the model was asked for; it draws without a network."""
    calls = []

    def load(checkpoint, prompt, device, **settings):
        calls.append((checkpoint, prompt, settings))
        if prompt.kind == "crystal":
            draw = crystals
        elif prompt.smiles:
            draw = lambda n, generator: conformers(prompt.smiles, n)  # noqa: E731
        else:
            draw = molecules
        read = lambda tokens: [TEXTS[k] for k in tokens[:, 0].tolist()]  # noqa: E731
        return SimpleNamespace(sample=draw, smiles=read), "0" * 64

    monkeypatch.setattr("gensci.commands.structure_proposals.load_structure_proposal", load)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def model(monkeypatch, tmp_path):
    """Makes the proposal of a small network for a prompt."""
    meta = {"weights_sha256": "0" * 64, "folder": str(tmp_path)}
    monkeypatch.setattr(
        "gensci.commands.structure_proposals.load_network", lambda name: (crystal_network(), meta)
    )
    cpu = torch.device("cpu")
    return lambda prompt, **settings: load_structure_proposal("any", prompt, cpu, **settings)[0]


def sample(*arguments):
    return main(["sample", "--num-samples", "6", "--seed", "1", *arguments])


def test_crystals_are_drawn_as_they_are_and_written_for_other_tools(asked, tmp_path, capsys):
    assert sample("--system", "crystal:TiO2", "--formula-units", "2") == 0
    folder = tmp_path / "results" / "TiO2"
    run = load_run(folder)
    checkpoint, prompt, _ = asked[0]
    assert (checkpoint, prompt.numbers) == ("crystals", (22, 22, 8, 8, 8, 8))
    assert run.meta["settings"]["sampler"] == "direct"
    assert run.meta["settings"]["system.formula_units"] == 2
    assert run.meta["verdict"]["zero_target_density"] == 1
    x, _ = read_crystals(folder / "samples.extxyz")
    assert torch.equal(x["numbers"], run.x["numbers"])
    torch.testing.assert_close(x["fractional"].float(), run.x["fractional"])
    torch.testing.assert_close(x["lattice"].float(), run.x["lattice"])
    assert len(list((folder / "cif").iterdir())) == 6
    assert "samples.npz samples.extxyz cif" in capsys.readouterr().out


def test_the_same_command_again_continues_and_other_settings_are_refused(asked, tmp_path, capsys):
    assert sample("--system", "TiO2", "--out", "o") == 0
    assert sample("--system", "TiO2", "--out", "o") == 0
    assert sample("--system", "TiO2", "--out", "o", "--system.target", "none") == 1
    assert "system.target" in capsys.readouterr().err


def test_settings_reach_the_model(asked):
    extra = ("--proposal.num_steps", "20", "--checkpoint", "mine", "--system.band_gap", "1.5")
    assert sample("--system", "crystal:*", "--system.elements", "Ti,O", *extra) == 0
    checkpoint, prompt, settings = asked[0]
    assert (checkpoint, settings) == ("mine", {"num_steps": "20"})
    assert (prompt.numbers, prompt.elements) == (None, (8, 22))
    assert prompt.conditions == {"band_gap": 1.5}
    record = json.loads(Path("results/crystal-de-novo/run.json").read_text())
    assert record["settings"]["proposal.num_steps"] == 20
    assert record["settings"]["proposal.exclusion"] == 0.7
    assert record["settings"]["proposal.solver"] == "dpm-solver++"
    assert record["settings"]["checkpoint"] == "mine"


def test_conformers_are_written_with_bonds_and_judged_by_mmff(asked, tmp_path):
    assert sample("--system", "smiles:C[C@H](N)C(=O)O", "--out", "o") == 0
    run = load_run(tmp_path / "o")
    assert run.log_target.isfinite().all()
    found, weight = read_molecules(tmp_path / "o" / "samples.sdf")
    assert {Chem.MolToSmiles(Chem.RemoveHs(m)) for m in found} == {"C[C@H](N)C(=O)O"}
    assert weight.tolist() == pytest.approx([1 / 6] * 6)
    assert asked[0][0] == "molecules"


def test_new_molecules_are_written_by_their_own_texts(asked, tmp_path):
    assert sample("--system", "molecule:*", "--out", "o") == 0
    found, _ = read_molecules(tmp_path / "o" / "samples.sdf")
    seen = [Chem.MolToSmiles(Chem.RemoveHs(molecule)) for molecule in found]
    assert seen == [Chem.CanonSmiles(text) for text in TEXTS * 2]


def test_draws_without_a_density_cannot_be_weighted(asked, capsys):
    assert sample("--system", "TiO2", "--sampler", "importance") == 2
    assert "use one of: direct" in capsys.readouterr().err


def test_a_table_of_formulas_gets_a_folder_each(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("gensci.commands.sampling.find_checkpoint", lambda name: None)
    (tmp_path / "many.csv").write_text("formula\nTiO2\nTi2O4\n")
    assert sample("--system", "many.csv", "--out", "o") == 0
    batch_record = json.loads((tmp_path / "o" / "batch.json").read_text())
    assert list(batch_record["systems"]) == ["TiO2", "Ti2O4"]
    assert (tmp_path / "o" / "Ti2O4" / "cif" / "000005.cif").is_file()


def test_python_gets_the_same_without_files(asked, tmp_path):
    samples = sample_system("crystal:TiO2", 4, system_settings={"target": "none"}, seed=3)
    assert samples.x["fractional"].shape == (4, 6, 3)
    assert samples.log_target is None
    assert "no target" in samples.meta["verdict"]["advice"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompt", "settings", "named"),
    [
        ({"numbers": (22, 8, 8)}, {"decoder": "beam"}, "decoder needs new structures"),
        ({"numbers": (22, 8, 8)}, {"decoder.p": "0.9"}, "decoder.p needs new structures"),
        ({"numbers": (22, 8, 8)}, {"token-temperature": "2"}, "temperature needs new structures"),
        ({"numbers": (22, 8, 8)}, {"guidance": "2"}, "guidance needs a property"),
        ({"numbers": (22, 8, 8)}, {"num_templates": "2"}, "needs --system.templates true"),
        ({"numbers": (22, 8, 8)}, {"novel": "true"}, "needs --system.templates true"),
        ({"numbers": (22, 8, 8), "templates": True}, {"novel": "maybe"}, "give true or false"),
        ({}, {"best_of": "2"}, "best_of needs a composition or a SMILES"),
        ({}, {"decoder": "speculative"}, "needs a draft model, which checkpoints do not bring"),
        ({"conditions": {"band_gap": 1e9}}, {}, "standard deviations from the training data"),
    ],
)
def test_settings_without_an_effect_are_refused(model, prompt, settings, named):
    with pytest.raises(UsageError, match=named):
        model(StructurePrompt("crystal", **prompt), **settings)


def test_atoms_keep_apart_unless_the_density_of_the_draws_matters(asked, model, tmp_path):
    weighed = ("--sampler", "importance", "--system.target", "none")
    for way in ((), ("--sampler", "twisted-smc"), (*weighed, "--proposal.exclusion", "0.5")):
        sample("--system", "crystal:TiO2", "--out", str(tmp_path / "-".join(("o", *way[:2]))), *way)
    given = [settings.get("exclusion") for _, _, settings in asked]
    assert given == [None, 0.0, "0.5"]
    spaced = model(StructurePrompt("crystal", numbers=(22, 8, 8)))
    target = SimpleNamespace(log_prob=lambda x: torch.zeros(len(x["numbers"])))
    assert Importance().lacks(target, spaced) == ["proposal.sample_and_log_prob"]
    assert TwistedSmc().lacks(target, spaced)
    with pytest.raises(UsageError, match="exclusion needs crystals"):
        model(StructurePrompt("molecule", smiles="CCO"), exclusion="0.5")
    with pytest.raises(UsageError, match="exclusion 7"):
        model(StructurePrompt("crystal", numbers=(22, 8, 8)), exclusion="7")


def test_guided_crystals_can_be_steered_but_not_weighted(model):
    prompt = StructurePrompt("crystal", numbers=(22, 8, 8), conditions={"band_gap": 2.0})
    target = SimpleNamespace(log_prob=lambda x: torch.zeros(len(x["numbers"])))
    free, guided = (model(prompt, exclusion="0", guidance=g) for g in ("1", "2"))
    assert not Importance().lacks(target, free)
    assert Importance().lacks(target, guided) == ["proposal.sample_and_log_prob"]
    assert not TwistedSmc().lacks(target, guided)


@pytest.mark.parametrize(
    ("family", "sampler", "checkpoint"),
    [
        ("crystal", "direct", "crystals"),
        ("smiles", "direct", "molecules"),
        ("molecule", "direct", "molecules"),
        ("peptide", "importance", "peptide"),
        ("toy", "importance", ""),
    ],
)
def test_every_family_has_its_own_sampler_and_checkpoint(family, sampler, checkpoint):
    own = Request().for_family(family)
    assert (own.sampler, own.checkpoint) == (sampler, checkpoint)
    named = Request(sampler="smc", checkpoint="mine").for_family(family)
    assert (named.sampler, named.checkpoint) == ("smc", "mine")


def forgetful(network, *symbols):
    """The network as training leaves it that never wrote these elements."""
    vocabulary, rows = network.vocabulary, network.tokens_out.weight.data
    for number in (NUMBERS[symbol] for symbol in symbols):
        rows[vocabulary.spellings(number)] = 1.05 * rows[vocabulary.begin]
    return network


@pytest.fixture
def small_models(monkeypatch, tmp_path):
    """Checkpoints with random weights, of which polonium and titanium were never learned."""

    def load(name):
        make = {"crystals": crystal_network, "molecules": molecule_network}[name]
        return forgetful(make(), "Po", "Ti"), {"weights_sha256": "0", "folder": str(tmp_path)}

    monkeypatch.setattr("gensci.commands.structure_proposals.load_network", load)
    monkeypatch.setattr("gensci.models.checkpoint.find_checkpoint", lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)


NEW_CRYSTALS, NEW_MOLECULES = ("--system", "crystal:*"), ("--system", "molecule:*")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*NEW_MOLECULES, "--system.elements", "Ti"), "not learned to write Ti; choose others"),
        ((*NEW_MOLECULES, "--system.elements", "C,Ti"), "Ti; leave it out (C)"),
        ((*NEW_MOLECULES, "--system.elements", "H"), "H has no heavy atom"),
        ((*NEW_CRYSTALS, "--system.elements", "Po,O"), "Po; leave it out (O)"),
        ((*NEW_CRYSTALS, "--proposal.decoder", "beam", "--proposal.decoder.width", "2"), "width=2"),
        ((*NEW_MOLECULES, "--proposal.decoder", "beam", "--proposal.decoder.width", "2"),
         "width=2 is less than num_samples=6"),
        (("--system", "crystal:Ti9O18"), "this model knows up to 24; give a smaller cell or ch"),
        (("--system", "smiles:CCCCCCCC"), "up to 24; give a smaller molecule or choose a --check"),
        (("--system", "smiles:[He]"), "is a single atom"),
        (("--system", "smiles:C1CC"), "ring bond 1 is not closed"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_the_folder_is_made(
    small_models, tmp_path, capsys, arguments, told
):
    assert sample(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_wishes_that_no_text_of_the_model_meets_are_refused_before_the_folder_is_made(
    small_models, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "gensci.commands.structure_proposals._small", lambda prompt: lambda graph: False
    )
    assert sample(*NEW_MOLECULES, "--system.elements", "C,N") == 2
    assert "none of the last 256 texts that the model wrote" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_elements_that_the_model_has_not_learned_are_told_of(small_models, tmp_path, capsys):
    settings = ("--proposal.num_steps", "2", "--out", "o")
    assert sample("--system", "crystal:PoO2", *settings) == 0
    told = "the checkpoint has not learned Po: what it draws is a guess there"
    assert f"warning: {told}" in capsys.readouterr().out
    assert json.loads((tmp_path / "o" / "run.json").read_text())["warnings"] == [told]


def test_rows_that_a_decoder_does_not_find_are_counted(small_models, tmp_path, capsys):
    """There are two compositions of one atom of two elements."""
    wanted = ("--system.num_atoms", "1", "--system.elements", "O,Na")
    settings = ("--proposal.decoder", "beam", "--proposal.num_steps", "2", "--out", "o")
    assert sample(*NEW_CRYSTALS, *wanted, *settings) == 0
    assert "kept 2 of 6 samples; left out: not found by the proposal (4)" in capsys.readouterr().out
    assert sorted(load_run(tmp_path / "o").x["numbers"].flatten().tolist()) == [8, 11]


def test_few_heavy_atoms_are_drawn_whole(small_models, tmp_path):
    """Where the bound cuts a text short, brackets may count on a neighbour that is missing."""
    settings = ("--proposal.num_steps", "2", "--out", "o", "--system.elements", "C,O")
    assert sample(*NEW_MOLECULES, "--system.num_heavy_atoms", "2", *settings) == 0
    found, _ = read_molecules(tmp_path / "o" / "samples.sdf")
    assert len(found) == 6
    for molecule in found:
        assert Chem.RemoveHs(molecule).GetNumHeavyAtoms() <= 2
        assert not any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
