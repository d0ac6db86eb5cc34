"""Batches: deterministic, within the budget, each row as often as it should."""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from gensci.core.errors import UsageError
from gensci.data import structure_module
from gensci.data.structure_module import StructureData, batches_of, repetitions, sequence_lengths
from gensci.data.structure_table import Structure, StructureTable


class Network:
    """Collates to the ids, the extras and a number of the generator."""

    max_atoms = 8

    def collate(self, structures, generator, extras):
        ids = [structure.id for structure in structures]
        return {"ids": ids, "extras": extras, "draw": torch.rand((), generator=generator)}


def crystal(name, atoms, source="a"):
    rng = np.random.default_rng(atoms)
    return Structure("crystal", name, source, np.full(atoms, 6, np.uint8),
                     rng.random((atoms, 3), np.float32), np.ones(6, np.float32))  # fmt: skip


def write(root, count, source="a", kind=crystal):
    rows = [kind(f"{source}{k}", 1 + k % 9, source) for k in range(count)]
    for split, part in (("train", rows), ("val", rows[: count // 2])):
        StructureTable.from_structures(part).save(root / split)
    return str(root)


def module(*roots, **settings):
    data = StructureData(list(roots), **({"tokens_per_batch": 64} | settings))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=Network()))
    data.setup("fit")
    return data


def ids(dataset):
    return [name for k in range(len(dataset)) for name in dataset[k]["ids"]]


def test_an_epoch_has_every_row_that_fits_once(tmp_path):
    data = module(write(tmp_path / "a", 30), write(tmp_path / "b", 5, "b"))
    fits = {f"a{k}" for k in range(30) if 1 + k % 9 <= 8} | {f"b{k}" for k in range(5)}
    assert Counter(ids(data.train_set)) == Counter(fits)
    data.train_set.epoch = 1
    assert Counter(ids(data.train_set)) == Counter(fits)
    assert data.names == ["a", "b"]


def test_batches_depend_on_seed_epoch_and_index_alone(tmp_path):
    root = write(tmp_path / "a", 40)
    first, second = module(root, seed=3), module(root, seed=3)
    first.train_set.epoch, second.train_set.epoch = 2, 1
    for k in (3, 0, 2):
        second.train_set[k]
    second.train_set.epoch = 2
    for k in (4, 1):
        left, right = first.train_set[k], second.train_set[k]
        assert left["ids"] == right["ids"] and left["draw"] == right["draw"]
    assert ids(module(root, seed=4).train_set) != ids(module(root, seed=3).train_set)
    first.train_set.epoch = 3
    assert ids(first.train_set) != ids(second.train_set)


def test_validation_is_the_same_in_every_epoch_and_thinned(tmp_path):
    data = module(write(tmp_path / "a", 60), validation_rows=5)
    first = list(data.validation_set)
    data.train_set.epoch = 7
    assert first == list(data.validation_set)
    assert len(ids(data.validation_set)) == 5


def test_weights_repeat_the_rows_of_a_set(tmp_path):
    roots = write(tmp_path / "a", 8), write(tmp_path / "b", 8, "b")
    counts = Counter(ids(module(*roots, set_weights={"b": 3.0, "a": 0.0}).train_set))
    assert counts == {f"b{k}": 3 for k in range(8)}


@given(st.lists(st.floats(0, 3), max_size=30), st.integers(0, 9))
def test_repetitions_are_the_neighbouring_whole_numbers(weights, seed):
    rows = repetitions(np.array(weights), np.random.default_rng(seed))
    counts = np.bincount(rows, minlength=len(weights))
    assert (np.floor(weights) <= counts).all() and (counts <= np.ceil(weights)).all()


def test_repetitions_have_the_right_mean():
    rows = repetitions(np.full(20_000, 0.3), np.random.default_rng(0))
    assert len(rows) == pytest.approx(6000, abs=5 * np.sqrt(20_000 * 0.3 * 0.7))


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_keep_the_order_and_the_budget(lengths, tokens):
    lengths = np.array(lengths, dtype=np.int64)
    batches = batches_of(np.arange(len(lengths)), lengths, tokens)
    assert [row for batch in batches for row in batch] == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * lengths[batch].max()
        assert len(batch) and (padded <= tokens or len(batch) == 1)
    for batch, following in itertools.pairwise(batches):
        more = np.append(batch, following[0])
        assert len(more) * lengths[more].max() > tokens


def molecule(name, atoms, source):
    smiles = "C" * atoms
    numbers = np.array([6] * atoms + [1] * (2 * atoms + 2), np.uint8)
    return Structure("molecule", name, source, numbers,
                     np.zeros((len(numbers), 3), np.float32), smiles=smiles)  # fmt: skip


def test_molecules_come_with_their_graphs(tmp_path):
    data = module(write(tmp_path / "m", 4, "m", molecule), max_atoms=20)
    batch = data.train_set[0]
    table = StructureTable.load(tmp_path / "m" / "train")
    for name, graph in zip(batch["ids"], batch["extras"], strict=True):
        row = table.row(table.ids.index(name))
        assert graph.smiles == row.smiles and graph.numbers.tolist() == row.numbers.tolist()
    assert sequence_lengths(table, False).tolist() == [1 + 5 + 4, 2 + 8 + 4, 3 + 11 + 4, 4 + 14 + 4]


def write_pairs(folder, counts):
    """Pairs whose distance tells the row and which of its pairs it is."""
    table = StructureTable.load(folder)
    atoms = np.repeat(table.num_atoms, counts)
    which = [10 * row + k for row, count in enumerate(counts) for k in range(count)]
    pairs, total = len(which), int(atoms.sum())
    save_file(
        {
            "counts": np.array(counts, np.uint8),
            "length": atoms.astype(np.uint16),
            "ids": np.frombuffer(b"t\n" * pairs, np.uint8),
            **{name: np.zeros(total, np.uint8) for name in ("numbers", "source_numbers")},
            **{name: np.zeros((total, 3), np.float32) for name in ("template_fractional",
                                                                   "fractional")},
            **{name: np.zeros((pairs, 6), np.float32) for name in ("template_lattice", "lattice")},
            "distance": np.array(which, np.float32),
            **{name: np.zeros(pairs, np.uint8) for name in ("same", "matched")},
            "residual": np.zeros(pairs, np.float32),
        },
        folder / "pairs.safetensors",
    )  # fmt: skip


def test_templates_are_those_of_the_row_whatever_was_left_out(tmp_path):
    roots = write(tmp_path / "a", 12), write(tmp_path / "b", 3, "b")
    write_pairs(tmp_path / "a" / "train", [2] * 12)
    write_pairs(tmp_path / "b" / "train", [1, 0, 3])
    data = module(*roots, templates=True)
    seen = set()
    for epoch in range(12):
        data.train_set.epoch = epoch
        for batch in data.train_set:
            for name, pair in zip(batch["ids"], batch["extras"], strict=True):
                row = int(name[1:])
                assert (pair is None) == (name == "b1")
                if pair is not None:
                    assert int(pair.distance) // 10 == row
                    seen.add((name, int(pair.distance) % 10))
    assert {("a0", 0), ("a0", 1), ("b2", 0), ("b2", 1), ("b2", 2)} <= seen
    assert data.validation_set[0]["extras"][0] is None


def test_unfit_settings_are_named(tmp_path):
    root = write(tmp_path / "a", 4)
    with pytest.raises(UsageError, match="no template pairs"):
        module(root, templates=True)
    with pytest.raises(UsageError, match=r"set_weights has 'bb'.*choose from: a"):
        module(root, set_weights={"bb": 1.0})
    with pytest.raises(UsageError, match="no prepared structures"):
        module(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match="no training rows"):
        StructureTable.from_structures([crystal("x", 9)]).save(tmp_path / "c" / "train")
        module(str(tmp_path / "c"))
    write_pairs(tmp_path / "a" / "train", [1] * 4)
    StructureTable.from_structures([crystal("x", 1)]).save(tmp_path / "b" / "train")
    (tmp_path / "a" / "train" / "pairs.safetensors").rename(
        tmp_path / "b" / "train" / "pairs.safetensors"
    )
    with pytest.raises(UsageError, match="of 4 rows, not of 1"):
        module(str(tmp_path / "b"), templates=True)


def test_a_plan_is_made_once_an_epoch(tmp_path, monkeypatch):
    data, calls = module(write(tmp_path / "a", 30)), []
    cut = structure_module.batches_of
    monkeypatch.setattr(structure_module, "batches_of", lambda *a: calls.append(1) or cut(*a))
    loader = data.train_dataloader()
    for epoch in range(3):
        list(loader)
        assert data.train_set.epoch == epoch
    assert len(calls) == 2  # the first was made to know how long an epoch is


def test_a_loader_goes_on_behind_the_batch_it_had(tmp_path):
    root = write(tmp_path / "a", 60)
    whole = module(root).train_dataloader()
    epochs = [[batch["draw"] for batch in whole] for _ in range(3)]
    stopped, continued = (module(root).train_dataloader() for _ in range(2))
    list(stopped)
    batches = iter(stopped)
    begun = [next(batches)["draw"] for _ in range(2)]
    continued.load_state_dict(stopped.state_dict())
    assert begun + [batch["draw"] for batch in continued] == epochs[1]
    assert [batch["draw"] for batch in continued] == epochs[2]
    continued = module(root).train_dataloader()
    list(batches)
    continued.load_state_dict(stopped.state_dict())
    assert [batch["draw"] for batch in continued] == epochs[2]
