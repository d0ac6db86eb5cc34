import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensci.core.errors import UsageError
from gensci.data.molecule_conformers import conformer
from gensci.data.molecule_perception import flat, perceive
from gensci.data.molecule_sets import Sizes, prepare_qm7, prepare_qm9, splits
from gensci.data.structure_table import StructureTable
from gensci.systems.molecule_graph import graph_of

pytest.importorskip("rdkit.Chem")
SMILES = ("C", "CC", "CCO", "CC(F)O", "OC(C)F", "C1CC1", "C=O", "CX", "c1ccccc1", "C1=CC=CC=C1")


def _load(folder):
    return {name: StructureTable.load(folder / name) for name in ("train", "val", "test")}


def test_qm9_rows_are_distinct_molecules_with_conformers_of_their_own(tmp_path):
    source = tmp_path / "smiles.csv"
    source.write_text("idx,smiles\n" + "".join(f"{k},{s}\n" for k, s in enumerate(SMILES)))
    account = prepare_qm9(source, tmp_path / "qm9", 1, Sizes(train=3, val=1, test=None))
    assert account.rows == {"train": 3, "val": 1, "test": 3}
    assert account.rejected == {"broken": 1, "duplicate": 2}
    tables = _load(tmp_path / "qm9")
    found = [flat(smiles) for table in tables.values() for smiles in table.smiles]
    assert sorted(found) == sorted({flat(s) for s in SMILES if s != "CX"})
    for table in tables.values():
        for index in range(len(table)):
            row = table.row(index)
            np.testing.assert_array_equal(graph_of(row.smiles).numbers, row.numbers)
            assert perceive(row.numbers, row.coordinates)[0] == row.smiles
    assert any("@" in smiles for table in tables.values() for smiles in table.smiles)
    assert json.loads((tmp_path / "qm9" / "prepared.json").read_text())["seed"] == 1


def test_qm7_rows_are_perceived_and_keep_their_properties(tmp_path):
    rng, text = np.random.default_rng(2), []
    for k, smiles in enumerate(("CCO", "CN", "C", "CCO")):
        numbers, positions = conformer(smiles, k)
        lines = [
            f"{'HxxxxCNO'[z - 1]} {x:.6f} {y:.6f} {w:.6f}"
            for z, (x, y, w) in zip(numbers, positions, strict=True)
        ]
        rng.shuffle(lines)
        comment = f"name={k} energy={k}.5 Properties=species:S:1:pos:R:3"
        text.append("\n".join([str(len(lines)), comment, *lines, ""]))
    source = tmp_path / "qm7.xyz"
    source.write_text("".join(text))
    account = prepare_qm7(source, tmp_path / "qm7", 0, Sizes(train=1, val=1, test=None))
    assert account.rows == {"train": 1, "val": 1, "test": 1}
    assert account.rejected == {"duplicate": 1}
    energies = {}
    for table in _load(tmp_path / "qm7").values():
        energies |= dict(zip(table.smiles, table.properties["energy"].tolist(), strict=True))
    assert energies == {"CCO": 0.5, "CN": 1.5, "C": 2.5}


@given(n=st.integers(0, 60), train=st.integers(0, 20), val=st.integers(0, 20))
def test_splits_have_the_sizes_asked_for(n, train, val):
    molecules = [f"C{k}" for k in range(n)]
    sizes = Sizes(train=train, val=val, test=None)
    if train + val > n:
        with pytest.raises(UsageError, match="sizes"):
            splits(molecules, sizes, 0)
        return
    found = Counter(splits(molecules, sizes, 0))
    assert found == +Counter(train=train, val=val, test=n - train - val)


def test_equal_molecules_share_a_split():
    molecules = [f"C{k % 10}" for k in range(40)]
    found = splits(molecules, Sizes(train=20, val=8, test=None), 3)
    assert len(set(zip(molecules, found, strict=True))) == 10


def test_order_of_rows_does_not_matter_and_seeds_do():
    molecules = [f"C{k}" for k in range(100)]
    sizes = Sizes(train=50, val=10, test=20)
    found = dict(zip(molecules, splits(molecules, sizes, 0), strict=True))
    backwards = dict(zip(molecules[::-1], splits(molecules[::-1], sizes, 0), strict=True))
    assert found == backwards
    assert found != dict(zip(molecules, splits(molecules, sizes, 1), strict=True))


def test_a_subset_and_its_superset_do_not_leak():
    """QM7's molecules are the small ones of QM9: sizes in proportion to the real ones."""
    large = [f"C{k}" for k in range(13_000)]
    small = large[::18]
    inside = splits(small, Sizes(train=600, val=50, test=None), 0)
    outside = splits(large, Sizes(train=2500, val=50, test=200), 0)
    inside, outside = dict(zip(small, inside, strict=True)), dict(zip(large, outside, strict=True))
    pairs = Counter((inside[molecule], outside[molecule]) for molecule in small)
    for test in ("test", "val"):
        assert pairs["train", test] == pairs[test, "train"] == 0
    assert pairs["train", "train"] > 50
