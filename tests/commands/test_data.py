"""`gensci data prepare` on a user's own tables."""

import csv
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from structure_files import binaries, cif, cif_table, random_crystal

from gensci.__main__ import main
from gensci.commands.data import fractions
from gensci.core.errors import UsageError
from gensci.data import structure_building
from gensci.data.structure_table import StructureTable

SPLITS = ("train", "val", "test")
CRYSTALS = binaries(12)


@pytest.fixture
def table(tmp_path):
    """Twelve crystals, of which one stands twice, and two broken rows."""
    rows = [(f"c{k}", cif(crystal), 0.5 * k) for k, crystal in enumerate(CRYSTALS)]
    rows[4] = ("bad", rows[4][1].replace("_cell_length_a", "_cell_width"), 1.0)
    rows[7] = ("worse", "", 1.0)
    rows.append(("again", rows[0][1], 0.0))
    return cif_table(tmp_path / "mine.csv", rows, ("gap",))


def prepare(*arguments):
    return main(["data", "prepare", *map(str, arguments)])


def load(folder):
    return {split: StructureTable.load(folder / split) for split in SPLITS}


def contents(folder):
    return {
        split: [(folder / split / name).read_bytes() for name in ("index.json",
                                                                  "structures.safetensors")]
        for split in SPLITS
    }  # fmt: skip


def test_a_table_is_prepared_and_its_broken_rows_listed(tmp_path, table, capsys):
    assert prepare(table, "--out", tmp_path / "out", "--split", "0.6,0.2,0.2") == 3
    sets = load(tmp_path / "out")
    assert [len(sets[split]) for split in SPLITS] == [6, 2, 2]
    ids = {name for part in sets.values() for name in part.ids}
    assert ids == {f"c{k}" for k in range(12)} - {"c4", "c7"}
    assert set(sets["train"].source) == {"mine"}
    expected = [0.5 * int(name[1:]) for name in sets["train"].ids]
    np.testing.assert_allclose(sets["train"].properties["gap"], expected)
    with (tmp_path / "out" / "rejected.csv").open() as file:
        rejected = {row["id"]: row for row in csv.DictReader(file)}
    assert rejected["bad"]["where"] == "mine.csv row 5" and rejected["bad"]["kind"] == "broken"
    assert rejected["again"]["reason"] == "a copy of mine.csv row 1"
    assert set(rejected) == {"bad", "worse", "again"}
    account = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert account["rejected"] == {"broken": 2, "duplicate": 1}
    assert "2 broken rows" in capsys.readouterr().out


def test_sound_tables_end_with_status_zero_and_hopeless_ones_with_one(tmp_path, capsys):
    good = cif_table(tmp_path / "good.csv", [("a", cif(CRYSTALS[0]))])
    assert prepare(good, "--out", tmp_path / "g", "--name", "other") == 0
    assert load(tmp_path / "g")["train"].source == ("other",)
    bad = cif_table(tmp_path / "bad.csv", [("a", "nothing")])
    assert prepare(bad, "--out", tmp_path / "b") == 1
    assert "rejected.csv" in capsys.readouterr().err
    assert (tmp_path / "b" / "rejected.csv").is_file()


def test_rows_that_are_judged_elsewhere_stay_out_of_training(tmp_path, table):
    copy = CRYSTALS[2].copy()
    copy.translate_sites([0, 1], [0.1, 0.2, 0.3])
    StructureTable.from_structures([]).save(tmp_path / "judged" / "empty")
    apart = cif_table(tmp_path / "test.csv", [("t", cif(copy))])
    assert prepare(apart, "--out", tmp_path / "judged", "--split", "0,0,1") == 0
    folders = f"{tmp_path}/judged/test,{tmp_path}/judged/empty"
    prepare(table, "--out", tmp_path / "o", "--split", "1,0,0", "--keep-out", folders)
    assert "c2" not in load(tmp_path / "o")["train"].ids
    assert len(load(tmp_path / "o")["train"]) == 9


def test_supercells_are_reduced_unless_kept(tmp_path):
    rows = [("a", cif(random_crystal(1) * (2, 1, 1)))]
    source = cif_table(tmp_path / "x.csv", rows)
    prepare(source, "--out", tmp_path / "p")
    prepare(source, "--out", tmp_path / "k", "--keep-cells")
    atoms = [load(tmp_path / name)["train"].num_atoms.tolist() for name in "pk"]
    assert atoms == [[3], [6]]


def test_splits_of_the_source_are_kept(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for k, split in enumerate(SPLITS):
        cif_table(folder / f"{split}.csv", [(split, cif(CRYSTALS[k]))])
    assert prepare(folder, "--out", tmp_path / "o") == 0
    assert {split: rows.ids for split, rows in load(tmp_path / "o").items()} == {
        split: (split,) for split in SPLITS
    }


def test_smiles_of_one_molecule_stay_in_one_split(tmp_path):
    names = ["CCO", "OCC", "CC", "CO", "CN", "C=O", "CF"]
    (tmp_path / "m.smi").write_text("\n".join([*names, "C(C", "nonsense"]))
    assert prepare(tmp_path / "m.smi", "--out", tmp_path / "o", "--split", "0.5,0.25,0.25") == 3
    sets = load(tmp_path / "o")
    smiles = [name for part in sets.values() for name in part.smiles]
    assert sorted(smiles) == sorted(["CCO", "CC", "CO", "CN", "C=O", "CF"])


@pytest.mark.parametrize("kill_at", [2, 5, 9])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, table, monkeypatch, kill_at, capsys):
    monkeypatch.setattr(structure_building, "CHUNK", 3)
    prepare(table, "--out", tmp_path / "whole")
    build, calls = structure_building.build, []

    def counted(record, rules):
        calls.append(record.id)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        return build(record, rules)

    monkeypatch.setattr(structure_building, "build", counted)
    assert prepare(table, "--out", tmp_path / "cut") == 1
    assert "the same command again continues" in capsys.readouterr().err
    assert prepare(table, "--out", tmp_path / "cut") == 3
    assert len(calls) == kill_at + 13 - (kill_at - 1) // 3 * 3
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_killed_at_random_instants_ends_with_the_same_bits(tmp_path):
    rows = [(f"c{k}", cif(c), 0.5 * k) for k, c in enumerate(binaries(1600))]
    source = cif_table(tmp_path / "mine.csv", rows, ("gap",))
    command = [sys.executable, "-m", "gensci", "data", "prepare", str(source), "--out"]
    assert main([*command[3:], str(tmp_path / "whole")]) == 0
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen([*command, str(tmp_path / "cut")])
        while not (tmp_path / "cut").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 6.0))
        process.kill()
        process.wait()
    assert main([*command[3:], str(tmp_path / "cut")]) == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert not [*(tmp_path / "cut").glob(".*.old"), *(tmp_path / "cut").glob(".*.partial")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perov5x"], "did you mean 'perov-5'"),
        (["absent.csv"], "neither a file nor a named set"),
        (["mine.csv", "--from", "elsewhere"], "--from is for named sets"),
        (["mine.csv", "--split", "0.5,0.5"], "three parts"),
        (["mine.csv", "--split", "nan,0.5,0.5"], "three parts"),
        (["mine.csv", "--out", "mine.csv"], "--out mine.csv is not a folder"),
        (["mine.csv", "--out", "photos"], "holds other files (such as 'train')"),
        (["splits.csv", "--out", "o"], "splits.csv row 1: unknown split 'holdout'"),
        (["columns.csv", "--out", "o"], "no column 'cif' or 'smiles'"),
        (["mine.csv", "--jobs", "0"], "--jobs is 0"),
        (["mine.csv", "--limit", "0"], "--limit is 0"),
        (["perov-5", "--name", "x", "--from", "."], "--name is not for the named set perov-5"),
        (["perov-5", "--keep-cells", "--from", "."], "--keep-cells is not for the named set"),
        (["perov-5", "--split", "1,0,0", "--from", "."], "--split is not for the named set"),
        (["perov-5", "--from", "."], "has no file perov5_heat_ref.json.zip"),
        (["mine.csv", "--keep-out", "absent"], "no prepared structures in absent"),
        ([], "SOURCE is required"),
    ],
)
def test_wrong_arguments_are_usage_errors(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    cif_table(tmp_path / "mine.csv", [("a", cif(CRYSTALS[0]))])
    cif_table(tmp_path / "splits.csv", [("a", cif(CRYSTALS[0]), "holdout")], ("split",))
    (tmp_path / "columns.csv").write_text("id,structure\n1,x\n")
    (tmp_path / "photos" / "train").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert prepare(*arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seed", "1"], "seed 0 (now 1)"),
        (["--split", "0.8,0.1,0.1"], "split [0.9, 0.05, 0.05] (now [0.8, 0.1, 0.1])"),
        (["--keep-cells"], "keep_cells False (now True)"),
        (["--max-atoms", "2"], "max_atoms None (now 2)"),
        (["--limit", "5"], "limit None (now 5)"),
        (["--name", "other"], "set 'mine' (now 'other')"),
        (["--keep-out", "judged/test"], "keep_out [] (now ['"),
    ],
)
def test_a_set_of_another_recipe_is_not_replaced(
    tmp_path, table, monkeypatch, options, told, capsys
):
    monkeypatch.chdir(tmp_path)
    for split in SPLITS:
        StructureTable.from_structures([]).save(tmp_path / "judged" / split)
    assert prepare(table, "--out", "o") == 3
    before = contents(tmp_path / "o")
    assert prepare("mine.csv", "--out", tmp_path / "o") == 3  # the same in other words
    assert contents(tmp_path / "o") == before
    capsys.readouterr()
    assert prepare(table, "--out", "o", *options) == 2
    line = capsys.readouterr().err
    assert told in line and line.rstrip().endswith("or remove that folder first")
    assert contents(tmp_path / "o") == before


def test_a_file_of_the_same_name_elsewhere_does_not_replace_a_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for place, crystal in zip("ab", CRYSTALS, strict=False):
        (tmp_path / place).mkdir()
        cif_table(tmp_path / place / "mine.csv", [(place, cif(crystal))])
    assert prepare("a/mine.csv") == 0
    assert prepare("b/mine.csv") == 2
    assert "a/mine.csv' (now '" in capsys.readouterr().err
    assert load(tmp_path / "data" / "structures" / "mine")["train"].ids == ("a",)


def test_mended_rows_are_taken_up_and_a_hopeless_source_spoils_no_set(tmp_path, table):
    assert prepare(table, "--out", tmp_path / "o") == 3
    rows = [(f"c{k}", cif(crystal), 0.0) for k, crystal in enumerate(CRYSTALS)]
    cif_table(table, rows, ("gap",))
    assert prepare(table, "--out", tmp_path / "o") == 0
    assert sum(len(part) for part in load(tmp_path / "o").values()) == 12
    before = contents(tmp_path / "o")
    cif_table(table, [("a", "nothing")])
    assert prepare(table, "--out", tmp_path / "o") == 1
    assert contents(tmp_path / "o") == before
    assert (tmp_path / "o" / "prepared.json").is_file()


def test_sets_of_earlier_versions_are_judged_by_what_they_tell(tmp_path, table, capsys):
    assert prepare(table, "--out", tmp_path / "o") == 3
    path = tmp_path / "o" / "prepared.json"
    account = json.loads(path.read_text())
    assert account.pop("recipe")["source"] == str(table)
    path.write_text(json.dumps(account))
    assert prepare(table, "--out", tmp_path / "o", "--seed", "1") == 2
    assert "seed 0 (now 1)" in capsys.readouterr().err
    assert prepare(table, "--out", tmp_path / "o") == 3
    assert json.loads(path.read_text())["recipe"]["keep_cells"] is False


def test_a_source_without_structures_is_refused_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "none.csv").write_text("id,cif\n")
    assert prepare(tmp_path / "none.csv", "--out", tmp_path / "o") == 1
    assert "the source holds no structures" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_data_alone_names_what_may_follow(capsys):
    assert main(["data"]) == 2
    assert "pair, prepare" in capsys.readouterr().err
    assert main(["data", "--help"]) == 0
    assert "data prepare" in capsys.readouterr().out


def test_parts_sum_to_one():
    assert fractions("0.8, 0.1,0.1") == (0.8, 0.1, 0.1)
    for text in ("", "a,b,c", "1,1,1", "1.5,-0.25,-0.25", "0.5,nan,0.5"):
        with pytest.raises(UsageError):
            fractions(text)
