"""Records to tables: broken ones apart, killed runs continued."""

import sys

import numpy as np
import pytest
from structure_files import binaries, cif, random_crystal

from gensci.core.errors import UsageError
from gensci.data import structure_building
from gensci.data.structure_building import Rules, build_table
from gensci.data.structure_readers import Record
from gensci.data.structure_table import StructureTable

RULES = Rules("mine")


def record(text, name="x", **changes):
    settings = {"where": f"f row {name}", "id": name, "format": "cif", "text": text}
    return Record(**(settings | changes))


def good(count):
    return [record(cif(c), f"c{k}") for k, c in enumerate(binaries(count))]


def assert_same(left: StructureTable, right: StructureTable):
    assert (left.ids, left.source, left.smiles) == (right.ids, right.source, right.smiles)
    for name in ("numbers", "offsets", "coordinates", "lattice"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_broken_rows_are_reported_and_the_rest_goes_on(tmp_path):
    rows = good(4)
    rows[1] = record("", "bad")
    rows[2] = record("O", "water", format="smiles")
    table, origins, rejected = build_table(rows, RULES, tmp_path)
    assert table.ids == ("c0", "c3") and table.source == ("mine", "mine")
    assert [origin.where for origin in origins] == ["f row c0", "f row c3"]
    assert [(r.id, r.kind) for r in rejected] == [("bad", "broken"), ("water", "broken")]
    assert rejected[1].reason.startswith("a molecule among crystals")


def test_a_fault_of_a_reader_is_named_with_its_kind(tmp_path):
    """pymatgen divides by the number of columns of an empty loop."""
    rows = [record("data_x\n_cell_length_a 4\nloop_\n", "x"), *good(1)]
    _, _, rejected = build_table(rows, RULES, tmp_path)
    assert [row.kind for row in rejected] == ["broken"]
    assert rejected[0].reason.startswith("the cif cannot be read (ZeroDivisionError: ")


def test_large_structures_are_left_out_whether_reduced_or_not(tmp_path):
    large = record(cif(random_crystal(1) * (2, 1, 1)), "large")
    kept = Rules("mine", primitive=False, max_atoms=4)
    table, _, rejected = build_table([large], kept, tmp_path)
    assert not len(table) and rejected[0].kind == "large"
    table, _, rejected = build_table([large], Rules("mine", max_atoms=4), tmp_path)
    assert table.num_atoms.tolist() == [3] and not rejected


@pytest.mark.parametrize("kill_at", [1, 3, 6])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, monkeypatch, kill_at):
    monkeypatch.setattr(structure_building, "CHUNK", 2)
    rows = good(7)
    rows[4] = record("nonsense", "bad")
    whole, _, bad = build_table(rows, RULES, tmp_path / "whole")
    build, calls = structure_building.build, []

    def counted(one, rules):
        calls.append(one.id)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        return build(one, rules)

    monkeypatch.setattr(structure_building, "build", counted)
    with pytest.raises(KeyboardInterrupt):
        build_table(rows, RULES, tmp_path / "cut")
    done = len(calls) - 1
    table, origins, rejected = build_table(rows, RULES, tmp_path / "cut")
    assert_same(table, whole)
    assert rejected == bad and len(origins) == len(whole)
    assert len(calls) == kill_at + len(rows) - done // 2 * 2  # finished chunks of 2 are kept
    calls.clear()
    assert_same(build_table(rows, RULES, tmp_path / "cut")[0], whole)
    assert calls == []


def test_other_rules_or_rows_are_built_anew(tmp_path):
    build_table(good(2), RULES, tmp_path)
    chunks = set(tmp_path.iterdir())
    build_table(good(2), Rules("mine", primitive=False), tmp_path)
    changed = [good(2)[0], record(cif(random_crystal(77)), "c1")]
    table, *_ = build_table(changed, RULES, tmp_path)
    assert len(set(tmp_path.iterdir())) == 3 * len(chunks)
    assert table.row(1).numbers.tolist() == [8, 11, 17]


@pytest.mark.slow
def test_several_processes_give_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_building, "CHUNK", 2)
    rows = good(5)
    one, *_ = build_table(rows, RULES, tmp_path / "one")
    two, *_ = build_table(rows, RULES, tmp_path / "two", jobs=2)
    assert_same(one, two)


def test_a_missing_package_is_no_broken_row(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spglib", None)
    with pytest.raises(UsageError, match=r"needs spglib; pip install 'gensci\[materials\]'"):
        build_table(good(1), RULES, tmp_path)


def test_an_empty_source_is_an_empty_table(tmp_path):
    table, origins, rejected = build_table([], RULES, tmp_path)
    assert (len(table), origins, rejected) == (0, [], [])


@pytest.mark.parametrize("smiles", ["OCC", "C(O)C"])
def test_spellings_of_a_molecule_give_one_conformer(tmp_path, smiles):
    row = record(smiles, "a", format="smiles")
    table, *_ = build_table([row, record("CCO", "b", format="smiles")], RULES, tmp_path)
    first, second = table.row(0), table.row(1)
    assert first.smiles == second.smiles == "CCO"
    np.testing.assert_array_equal(first.coordinates, second.coordinates)
    assert first.numbers.tolist() == [6, 6, 8, *([1] * 6)]


def test_molecules_with_coordinates_keep_them(tmp_path):
    methane = "5\nname=a\nH 0.63 0.63 0.63\nC 0 0 0\nH -0.63 -0.63 0.63\n"
    methane += "H -0.63 0.63 -0.63\nH 0.63 -0.63 -0.63\n"
    table, _, rejected = build_table([record(methane, format="extxyz")], RULES, tmp_path)
    assert not rejected
    row = table.row(0)
    assert row.smiles == "C" and row.numbers.tolist() == [6, 1, 1, 1, 1]
    np.testing.assert_allclose(row.coordinates[0], 0)
    np.testing.assert_allclose(np.abs(row.coordinates[1:]), 0.63, atol=1e-6)
