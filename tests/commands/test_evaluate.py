"""`gensci evaluate` from files, run folders and batches to its table and its JSON."""

import json

import numpy as np
import pytest
import torch
from crystal_cases import caesium_chloride, disturbed, perovskite, rock_salt

from gensci.__main__ import main
from gensci.commands import evaluation_crystals
from gensci.commands.evaluate import chosen_measures, make_protocol
from gensci.commands.evaluation_crystals import assign, copied, formula
from gensci.commands.evaluation_inputs import Group, read_results, read_table
from gensci.core.errors import GensciError, UsageError
from gensci.core.lattice import lattice_matrix
from gensci.core.results import SampleSet
from gensci.data.structure_table import Structure, StructureTable
from gensci.io.atomic import write_json
from gensci.io.crystals import write_crystals
from gensci.io.trajectories import write_arrays
from gensci.metrics.crystal_arrays import Crystal, from_pymatgen, to_pymatgen
from gensci.metrics.match_protocol import STRICT, Protocol
from gensci.metrics.matching import match_predictions

FLUORIDE = rock_salt(4.0, "Li", "F")


def near(crystal, amount, seed=0):
    return from_pymatgen(disturbed(to_pymatgen(crystal), np.random.default_rng(seed), amount, 0.0))


def stacked(crystals):
    """Crystals of one number of atoms as the `x` of samples."""
    return {
        "numbers": torch.tensor(np.stack([c.numbers for c in crystals])),
        "fractional": torch.tensor(np.stack([c.coordinates for c in crystals])),
        "lattice": lattice_matrix(torch.tensor(np.stack([c.lattice for c in crystals]))),
    }


def table(crystals, ids=None, source="mine"):
    rows = [
        Structure("crystal", name, source, c.numbers, c.coordinates, c.lattice)
        for name, c in zip(ids or [f"m-{i}" for i in range(len(crystals))], crystals, strict=True)
    ]
    return StructureTable.from_structures(rows)


def run_folder(path, system, x, **rows):
    """What `gensci sample` leaves of a complete run."""
    path.mkdir(parents=True)
    n = len(next(iter(x.values())))
    samples = SampleSet(x=x, log_weight=torch.zeros(n, dtype=torch.float64), **rows)
    write_json(path / "run.json", {"settings": {"system": system}, "outcome": "complete"})
    write_arrays(path / "samples.npz", samples)
    if "fractional" in x:
        write_crystals(path, samples)


def evaluate(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    seen = capsys.readouterr()
    return status, seen.out, seen.err


def test_a_batch_of_runs_against_its_references(tmp_path, capsys):
    salt = [caesium_chloride(), near(rock_salt(), 0.2, 1), near(rock_salt(), 0.1, 2)]
    fluoride = [near(FLUORIDE, 0.1, 3)] * 3
    batch = tmp_path / "batch"
    run_folder(batch / "NaCl", "crystal:NaCl", stacked(salt))
    run_folder(batch / "LiF", "crystal:LiF", stacked(fluoride))
    systems = {
        "NaCl": {"system": "crystal:NaCl", "outcome": "complete"},
        "LiF": {"system": "crystal:LiF", "outcome": "complete"},
        "KBr": {"system": "crystal:KBr", "outcome": "failed"},
    }
    write_json(batch / "batch.json", {"format": 1, "command": "sample", "systems": systems})
    references = [FLUORIDE, perovskite(), rock_salt()]
    table(references).save(tmp_path / "truth")
    out = tmp_path / "metrics.json"
    status, text, _ = evaluate(
        capsys, batch, "--reference", tmp_path / "truth", "--jobs", 1, "--out", out
    )
    assert status == 0
    assert "StructureMatcher stol 0.5, ltol 0.3, angle 10; no validity filter" in text
    assert "2 of 3 references have predictions" in text
    assert "crystal:KBr: failed" in text
    found = json.loads(out.read_text())
    assert found["task"] == "match" and found["protocol"]["samples"] == 3
    one, best = found["metrics"]["model_n1"], found["metrics"]["model_n3"]
    assert (one["rate"], one["references"]) == (0.5, 2)
    assert best["rate"] == 1.0
    direct = match_predictions([fluoride, salt], [FLUORIDE, rock_salt()], Protocol(samples=3))
    assert best["rmse"] == pytest.approx(direct.score().rmse, abs=1e-6)
    assert found["metrics"]["references_without_prediction"] == 1
    by_name = {row["reference"]: row for row in found["per_sample"]}
    assert by_name["m-2"]["formula"] == "ClNa"
    assert by_name["m-2"]["status"] == ["no match", "match", "match"]
    assert found["units"]["model_n1"].startswith("rate")


def test_the_likeliest_sample_comes_first_on_request(tmp_path, capsys):
    salt = [caesium_chloride(), near(rock_salt(), 0.1)]
    likely = torch.tensor([1.0, 2.0], dtype=torch.float64)
    run_folder(tmp_path / "NaCl", "crystal:NaCl", stacked(salt), log_proposal=likely)
    table([rock_salt()]).save(tmp_path / "truth")
    rates = {}
    for order in ("given", "likelihood"):
        out = tmp_path / f"{order}.json"
        rest = ("--order", order, "--out", out, "--jobs", 1)
        evaluate(capsys, tmp_path / "NaCl", "--reference", tmp_path / "truth", *rest)
        rates[order] = json.loads(out.read_text())["metrics"]["model_n1"]["rate"]
    assert rates == {"given": 0.0, "likelihood": 1.0}


def test_new_crystals_of_a_file_against_a_file(tmp_path, capsys):
    crystals = [rock_salt(), rock_salt(5.7), caesium_chloride(), rock_salt(4.0, "Li", "F")]
    run_folder(tmp_path / "new", "crystal:*", stacked(crystals))
    table([rock_salt()]).save(tmp_path / "known" / "train")
    out = tmp_path / "metrics.json"
    samples = tmp_path / "new" / "samples.extxyz"
    status, text, _ = evaluate(
        capsys, samples, "--reference", samples, "--train", tmp_path / "known", "--out", out
    )
    assert status == 0 and "4 samples" in text
    found = json.loads(out.read_text())["metrics"]
    assert found["validity"] == 1.0
    assert found["uniqueness"] == pytest.approx(3 / 4)
    assert found["novelty"] == pytest.approx(2 / 4)
    assert found["valid_unique_novel"] == pytest.approx(2 / 4)
    assert found["w1_density"] == pytest.approx(0, abs=1e-6)
    by_run, *_ = read_results(tmp_path / "new").groups
    by_file, *_ = read_results(samples).groups
    for one, other in zip(by_run.crystals, by_file.crystals, strict=True):
        np.testing.assert_allclose(one.lattice, other.lattice, atol=1e-6)


def test_broken_frames_are_named_and_the_rest_goes_on(tmp_path, capsys):
    run_folder(tmp_path / "new", "crystal:*", stacked([rock_salt(), caesium_chloride()]))
    folder = tmp_path / "new" / "cif"
    (folder / "000002.cif").write_text("data_broken\n_cell_length_a 3\n")
    status, text, _ = evaluate(capsys, folder, "--measures", "validity", "--jobs", 1)
    assert status == 0
    assert "2 samples" in text and "left out: 000002.cif block 1:" in text
    assert read_results(folder).groups[0].ids == ["000000", "000001"]


def test_molecules_and_conformers(tmp_path, capsys):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles("CCCO"))
    AllChem.EmbedMultipleConfs(molecule, 4, randomSeed=3)
    AllChem.MMFFOptimizeMoleculeConfs(molecule)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    places = np.stack([c.GetPositions() for c in molecule.GetConformers()])
    x = {"numbers": torch.tensor(np.tile(numbers, (4, 1))), "positions": torch.tensor(places / 10)}
    run_folder(tmp_path / "CCCO", "smiles:CCCO", x)
    rows = [
        Structure("molecule", f"c{i}", "mine", numbers, places[i], smiles="CCCO") for i in range(2)
    ]
    StructureTable.from_structures(rows).save(tmp_path / "truth")
    out = tmp_path / "metrics.json"
    arguments = ("--reference", tmp_path / "truth", "--jobs", 1, "--out", out)
    assert evaluate(capsys, tmp_path / "CCCO", *arguments, "--delta", 0.001)[0] == 0
    found = json.loads(out.read_text())
    assert found["task"] == "conformers" and found["protocol"]["delta_nm"] == 0.001
    assert found["metrics"]["coverage_recall_mean"] == 1.0
    assert found["metrics"]["matching_recall_mean"] == pytest.approx(0, abs=1e-5)

    with Chem.SDWriter(str(tmp_path / "all.sdf")) as writer:
        for conformer in range(4):
            writer.write(molecule, confId=conformer)
    arguments = ("--train", tmp_path / "truth", "--jobs", 1, "--out", out)
    assert evaluate(capsys, tmp_path / "all.sdf", *arguments)[0] == 0
    found = json.loads(out.read_text())
    assert found["metrics"]["molecule_stability"] == 1.0
    assert found["metrics"]["validity"] == 1.0
    assert found["metrics"]["validity_x_uniqueness"] == pytest.approx(1 / 4)
    assert found["metrics"]["novelty"] == 0.0
    assert found["per_sample"][0]["stable"] is True


class Pool:
    """A stand-in for a pool of templates: rock salt and, as the nearest, caesium chloride."""

    def candidates(self, numbers, k, exclude, vote, novel=False):
        return self._copies(rock_salt() if vote else caesium_chloride(), numbers)

    def random(self, numbers, generator, exclude):
        return self._copies(rock_salt(), numbers)[0]

    def _copies(self, crystal, numbers):
        from types import SimpleNamespace

        copy = {"fractional": crystal.coordinates, "lattice": crystal.lattice}
        return [SimpleNamespace(numbers=np.sort(numbers), **copy)]


def test_scores_stand_beside_those_of_templates(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation_crystals, "template_pool", lambda train: Pool())
    run_folder(tmp_path / "NaCl", "crystal:NaCl", stacked([near(rock_salt(), 0.1)]))
    table([rock_salt()]).save(tmp_path / "truth")
    out = tmp_path / "metrics.json"
    table([FLUORIDE]).save(tmp_path / "known")
    arguments = ("--reference", tmp_path / "truth", "--train", tmp_path / "known", "--out", out)
    status, text, _ = evaluate(capsys, tmp_path / "NaCl", *arguments, "--jobs", 1)
    assert status == 0 and "where the nearest template fails (1 references)" in text
    found = json.loads(out.read_text())["metrics"]
    assert found["random_template_n1"]["rate"] == 1.0
    assert found["nearest_template_n1"]["rate"] == 0.0
    assert found["voted_template_n1"]["rate"] == 1.0
    assert found["nearest_template_fails/model_n1"]["rate"] == 1.0
    assert len(copied(Pool(), "random", rock_salt(), "m-0", count=3)) == 3


def test_predictions_find_their_references():
    salt, other = rock_salt(), caesium_chloride()
    truth = table([salt, other, perovskite(), FLUORIDE], ["a", "b", "c", "d"])
    runs = [Group("1", ["x"], [salt]), Group("2", ["y"], [other])]
    named = Group("3", ["c", "z"], [perovskite(), rock_salt(4.2, "K", "F")])
    found = assign([*runs, named], truth)
    assert found.rows == [0, 1, 2]  # two runs of one composition for two references, in order
    assert [listed[0] for listed in found.predictions[:2]] == [salt, other]
    assert (found.without, found.unassigned, found.shared) == (1, 1, 0)
    together = assign([Group("file", ["x", "y"], [salt, other])], truth)
    assert together.predictions == [[salt, other]] * 2 and together.shared == 2
    assert formula(perovskite().numbers) == "O3SrTi"


def test_cells_that_are_none_are_kept_as_unusable(tmp_path):
    x = stacked([rock_salt(), rock_salt()])
    x["lattice"][1] = torch.nan
    run_folder(tmp_path / "run", "crystal:NaCl", x)
    (group,) = read_results(tmp_path / "run").groups
    assert [crystal.constructible for crystal in group.crystals] == [True, False]


def test_settings_of_the_protocol_are_checked():
    assert make_protocol({}, "match") == Protocol(samples=20)
    assert make_protocol({"samples": "1"}, "new") == STRICT
    given = {"stol": "0.4", "validity": "both", "time-limit": "5", "samples": 2}
    assert make_protocol(given, "match") == Protocol(0.4, 0.3, 10.0, "both", 2, 5.0)
    with pytest.raises(UsageError, match=r"--protocol.stoll; did you mean 'stol'"):
        make_protocol({"stoll": 1}, "match")
    with pytest.raises(UsageError, match=r"--protocol.stol 'wide' is no number"):
        make_protocol({"stol": "wide"}, "match")
    assert chosen_measures("validity, energy") == ("validity", "energy")
    with pytest.raises(UsageError, match="unknown measure 'beauty'"):
        chosen_measures("beauty")


def test_coverage_without_matminer_is_refused_by_name_and_left_out_of_all(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GensciError, match=r"pip install 'gensci\[evaluation\]'"):
        chosen_measures("coverage")
    measures = tuple(name for name in chosen_measures("all") if name != "energy")
    monkeypatch.setattr(evaluation_crystals, "MEASURES", measures)
    run_folder(tmp_path / "new", "crystal:*", stacked([rock_salt(), caesium_chloride()]))
    samples = tmp_path / "new" / "samples.extxyz"
    arguments = ("--reference", samples, "--measures", "all", "--jobs", 1)
    status, text, _ = evaluate(capsys, samples, *arguments)
    assert status == 0 and "left out: coverage needs matminer" in text and "w1 density" in text


@pytest.fixture
def inputs(tmp_path):
    run_folder(tmp_path / "NaCl", "crystal:NaCl", stacked([rock_salt()]))
    peptide = {"positions": torch.zeros(2, 5, 3)}
    run_folder(tmp_path / "AA", "peptide:AA", peptide)
    table([perovskite()]).save(tmp_path / "perovskites")
    methane = Structure("molecule", "m", "mine", np.array([1]), np.zeros((1, 3)), smiles="[H]")
    StructureTable.from_structures([methane]).save(tmp_path / "molecules")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.extxyz").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "there is no"),
        (["AA"], "peptide:AA, for which `gensci evaluate` has no measures"),
        (["NaCl"], "--task match needs --reference"),
        (["NaCl", "--reference", "nowhere"], "no such file or prepared set"),
        (["NaCl", "--reference", "perovskites"], "no sample has the composition"),
        (["NaCl", "--reference", "molecules"], "holds molecules, the results crystals"),
        (["NaCl", "--task", "conformers"], "--task conformers is not for crystals"),
        (["NaCl", "--task", "mach"], "did you mean 'match'"),
        (["NaCl", "--order", "best"], "choose from: given, likelihood"),
        (["NaCl", "--order", "likelihood", "--task", "new"], "no log-densities"),
        (["NaCl", "--jobs", "0", "--task", "new"], "--jobs=0"),
        (["NaCl", "--delta", "-1", "--task", "new"], "--delta=-1"),
        (["NaCl", "--measures", ",", "--task", "new"], "--measures is empty"),
        (["NaCl", "--task", "new", "--out", "no/where.json"], "name a file in a folder"),
        (["NaCl", "--protocol.validity", "maybe"], "validity='maybe'"),
        (["notes.txt"], "notes.txt is of no known kind"),
        (["empty.extxyz"], "holds no structure"),
        ([], "RESULTS is required"),
    ],
)
def test_bad_input_is_one_clear_line(inputs, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(inputs)
    status, out, err = evaluate(capsys, *arguments)
    assert status in (1, 2)
    assert named in err and len(err.splitlines()) == 1 and err.startswith("gensci: error: ")
    assert "Traceback" not in out + err


def test_tables_are_found_by_folder_split_and_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table([rock_salt()]).save(tmp_path / "data" / "structures" / "salts" / "test")
    table([FLUORIDE, rock_salt()]).save(tmp_path / "data" / "structures" / "salts" / "train")
    assert len(read_table("salts", "train", "--train")[0]) == 2
    assert len(read_table("data/structures/salts", "test", "--reference")[0]) == 1
    assert isinstance(Crystal.of(read_table("salts", "test", "--reference")[0].row(0)), Crystal)
