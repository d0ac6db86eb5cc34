import numpy as np
import pytest

from gensci.core.errors import UsageError
from gensci.data import template_pairs
from gensci.data.structure_table import Structure
from gensci.data.template_alignment import align, matches
from gensci.data.template_pairs import TemplatePairs, choose, make_pairs
from gensci.data.templates import Template, TemplatePool
from tests.data.crystals_by_hand import caesium_chloride, crystal, perovskite, rocksalt, table

CELL = np.array([4.2, 5.1, 6.3, 78.0, 95.0, 101.0])
CHANGES = {
    "as it is": np.eye(3),
    "sheared": np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]]),
    "axes turned": np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "mirrored": -np.eye(3),
}


def template_of(structure, name="t"):
    numbers = structure.numbers.astype(np.int64)
    places, cell = (np.asarray(a, np.float64) for a in (structure.coordinates, structure.lattice))
    return Template(name, numbers, numbers, places, cell, 0.0)


def disordered(seed):
    """Atoms of three elements in general places, none near another."""
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    places = places + 0.05 * rng.normal(size=(5, 3))
    return crystal("x", [56, 22, 8, 8, 8], places, CELL)


def rewritten(structure, change, rng, noise=0.0):
    """The same crystal in another cell, shifted, its atoms shuffled."""
    from pymatgen.core import Lattice

    matrix = change @ Lattice.from_parameters(*map(float, structure.lattice)).matrix
    places = structure.coordinates.astype(float) @ np.linalg.inv(change) + rng.random(3)
    places = places + noise * rng.normal(size=places.shape)
    order = rng.permutation(len(places))
    lattice = Lattice(matrix).parameters
    return crystal("copy", structure.numbers[order], places[order], lattice)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_copy_comes_back_onto_its_template(change, seed):
    known = disordered(seed)
    copy = rewritten(known, change, np.random.default_rng(seed))
    found = align(copy, template_of(known))
    assert found.same and found.residual < 1e-4
    away = found.fractional - known.coordinates
    assert np.abs(away - away.round()).max() < 1e-4
    assert found.lattice == pytest.approx(CELL, rel=1e-4)


@pytest.mark.parametrize("change", list(CHANGES.values())[:3], ids=list(CHANGES)[:3])
def test_a_distorted_copy_stays_the_crystal_it_was(change):
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    known = disordered(4)
    copy = rewritten(known, change, np.random.default_rng(4), noise=0.02)
    copy = crystal("copy", copy.numbers, copy.coordinates, copy.lattice * [1.04, 1, 0.97, 1, 1, 1])
    found = align(copy, template_of(known))
    away = found.fractional - known.coordinates
    away -= away.round()
    assert found.same and 0.005 < found.residual < 0.06
    assert np.abs(away.mean(0)).max() < 1e-6  # no drift
    first, second = (
        Crystal(Lattice.from_parameters(*map(float, cell)), numbers.astype(int), places)
        for cell, numbers, places in (
            (copy.lattice, copy.numbers, copy.coordinates),
            (found.lattice, known.numbers, found.fractional),
        )
    )
    assert StructureMatcher().get_rms_dist(first, second)[0] < 1e-4


def test_another_prototype_is_left_as_it_was():
    target = caesium_chloride("CsCl", 17, 55, 4.1)
    target = Structure("crystal", "t", "", target.numbers[::-1], target.coordinates, target.lattice)
    found = align(target, template_of(rocksalt("known", 17, 55, 7.0)))
    assert not found.same and np.isnan(found.residual)
    assert found.fractional.tolist() == [[0.5] * 3, [0] * 3]  # elements in the template's order
    assert found.lattice == pytest.approx(target.lattice)
    assert not matches(target, template_of(rocksalt("known", 17, 55, 7.0)))


def rows():
    salts = [(11, 17), (19, 35), (3, 9), (12, 8), (20, 16), (37, 53)]
    cubes = [(38, 22), (56, 40), (20, 50), (57, 26)]
    return table(
        *(rocksalt(f"r{a}", a, x, 5 + 0.02 * a) for a, x in salts),
        *(perovskite(f"p{a}", a, b, 8, 3.8 + 0.01 * a, off=0.01) for a, b in cubes),
        rocksalt("copy", 11, 17, 5.2201),
        crystal("alone", [26] * 3, [[0, 0, 0], [0.3, 0.3, 0.3], [0.6, 0.6, 0.6]], CELL),
    )


@pytest.fixture
def folder(tmp_path):
    rows().save(tmp_path / "train")
    return tmp_path / "train"


@pytest.fixture(scope="module")
def pool():
    return TemplatePool.from_table(rows())


def test_pairs_leave_a_row_and_its_copies_out(folder, pool):
    summary = make_pairs(folder, pool, num_pairs=2, seed=3)
    pairs = TemplatePairs.load(folder)
    assert len(pairs) == len(rows()) and summary["rows_without_template"] == 1
    for i in range(len(pairs)):
        own = rows().row(i)
        found = [pairs.row(i, choice) for choice in range(pairs.count(i))]
        copies = {"r11", "copy"} if own.id in ("r11", "copy") else {own.id}
        assert not copies & {pair.template_id for pair in found}
        for pair in found:
            assert sorted(pair.numbers) == sorted(own.numbers)
            assert pair.fractional.shape == pair.template_fractional.shape
    assert pairs.row(len(pairs) - 1) is None
    assert pairs.count(0) == 2 and pairs.row(0, 2).template_id == pairs.row(0).template_id


def test_pairs_of_one_prototype_lie_on_each_other(folder, pool):
    make_pairs(folder, pool)
    pairs = TemplatePairs.load(folder)
    pair = pairs.row(0)
    assert pair.same and pair.residual < 1e-4
    away = pair.fractional - pair.template_fractional
    assert np.abs(away - away.round()).max() < 1e-4
    assert pair.lattice == pytest.approx(rows().lattice[0], rel=1e-5)
    assert ((pair.fractional >= 0) & (pair.fractional < 1)).all()


def test_choices_are_different_templates(pool):
    import torch

    rng = torch.Generator().manual_seed(0)
    row = rows().row(1)
    for _ in range(20):
        found = choose(pool, row, {row.id}, 3, rng)
        assert len({(t.id, t.numbers.tobytes()) for t in found}) == 3


def test_a_stopped_run_goes_on_and_ends_the_same(folder, pool, monkeypatch):
    monkeypatch.setattr(template_pairs, "CHUNK", 4)
    make_pairs(folder, pool)
    whole = (folder / template_pairs.ARRAYS).read_bytes()
    (folder / template_pairs.ARRAYS).unlink()

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pairs(folder, pool, progress=stop)
    assert not (folder / template_pairs.ARRAYS).exists()
    computed = []
    original = template_pairs._chunk
    monkeypatch.setattr(template_pairs, "_chunk", lambda *a: computed.append(a[1]) or original(*a))
    make_pairs(folder, pool)
    assert [chunk.start for chunk in computed] == [8]
    assert (folder / template_pairs.ARRAYS).read_bytes() == whole
    assert not list(folder.glob(".pairs-*"))


def test_absent_pairs_are_named(tmp_path):
    with pytest.raises(UsageError, match="gensci data pair"):
        TemplatePairs.load(tmp_path)
