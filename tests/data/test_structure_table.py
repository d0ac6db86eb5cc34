"""Tables of structures against lists of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gensci.core.errors import UsageError
from gensci.data.structure_table import INDEX, Structure, StructureTable

FLOATS = st.floats(0, 0.875, width=32)


@st.composite
def structures(draw, kind):
    n = draw(st.integers(1, 5))
    crystal = kind == "crystal"
    return Structure(
        kind=kind,
        id=draw(st.text(max_size=8)),
        source=draw(st.sampled_from(["perov-5", "mine"])),
        numbers=draw(hnp.arrays(np.uint8, n, elements=st.integers(1, 118))),
        coordinates=draw(hnp.arrays(np.float32, (n, 3), elements=FLOATS)),
        lattice=draw(hnp.arrays(np.float32, 6, elements=FLOATS)) if crystal else None,
        properties=draw(st.dictionaries(st.sampled_from("ab"), FLOATS)),
        smiles=None if crystal else draw(st.text(max_size=8)),
    )


tables = st.sampled_from(["crystal", "molecule"]).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(structures(kind), max_size=6))
)


def same(left, right):
    """Whether two structures agree; a property may be absent on one side and NaN on the other."""
    assert (left.kind, left.id, left.source) == (right.kind, right.id, right.source)
    assert left.smiles == right.smiles
    np.testing.assert_array_equal(left.numbers, right.numbers)
    np.testing.assert_array_equal(left.coordinates, right.coordinates)
    if left.kind == "crystal":
        np.testing.assert_array_equal(left.lattice, right.lattice)
    for name in {*left.properties, *right.properties}:
        found = [s.properties.get(name, np.nan) for s in (left, right)]
        np.testing.assert_array_equal(*found)
    return True


@settings(deadline=None, max_examples=40)
@given(tables)
def test_round_trip_through_a_folder(tmp_path_factory, rows):
    kind, rows = rows
    table = StructureTable.from_structures(rows, kind)
    folder = tmp_path_factory.mktemp("t") / "train"
    table.save(folder)
    loaded = StructureTable.load(folder)
    assert len(loaded) == len(rows)
    assert all(same(loaded.row(i), row) for i, row in enumerate(rows))
    assert [file.name for file in folder.parent.iterdir()] == ["train"]
    for name in ("numbers", "offsets", "coordinates", "lattice"):
        assert getattr(loaded, name).dtype == getattr(table, name).dtype


@settings(deadline=None, max_examples=40)
@given(tables, st.data())
def test_selection_and_concatenation_are_those_of_lists(rows, data):
    kind, rows = rows
    table = StructureTable.from_structures(rows, kind)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    part = table.select(chosen)
    assert all(same(part.row(k), rows[i]) for k, i in enumerate(chosen))
    both = StructureTable.concatenate([table, part])
    expected = [*rows, *(rows[i] for i in chosen)]
    assert len(both) == len(expected)
    assert all(same(both.row(i), row) for i, row in enumerate(expected))


def crystal(n=2, **changes):
    settings = {
        "kind": "crystal",
        "id": "x",
        "source": "mine",
        "numbers": np.full(n, 6, np.uint8),
        "coordinates": np.zeros((n, 3), np.float32),
        "lattice": np.array([3, 3, 3, 90, 90, 90], np.float32),
    }
    return Structure(**(settings | changes))


def test_a_mask_selects_and_rows_count_from_the_end():
    table = StructureTable.from_structures([crystal(1, id="a"), crystal(2, id="b")])
    assert table.select(np.array([False, True])).ids == ("b",)
    assert table.row(-1).id == "b"
    assert table.num_atoms.tolist() == [1, 2]
    with pytest.raises(IndexError):
        table.row(2)


def test_saving_again_replaces(tmp_path):
    StructureTable.from_structures([crystal(id="a")]).save(tmp_path / "train")
    StructureTable.from_structures([crystal(id="b")]).save(tmp_path / "train")
    assert StructureTable.load(tmp_path / "train").ids == ("b",)


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no prepared structures in .*absent"):
        StructureTable.load(tmp_path / "absent")
    StructureTable.from_structures([crystal()]).save(tmp_path / "train")
    index = tmp_path / "train" / INDEX
    index.write_text(index.read_text().replace('"ids": ["x"]', '"ids": ["x", "y"]'))
    with pytest.raises(UsageError, match="train is damaged"):
        StructureTable.load(tmp_path / "train")


def test_kinds_do_not_mix():
    molecule = crystal(kind="molecule", lattice=None, smiles="C")
    with pytest.raises(UsageError, match="cannot share"):
        StructureTable.from_structures([crystal(), molecule])
    one, other = (StructureTable.from_structures([row]) for row in (crystal(), molecule))
    with pytest.raises(UsageError, match="cannot share"):
        StructureTable.concatenate([one, other])
