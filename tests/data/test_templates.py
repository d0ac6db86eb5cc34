import itertools

import numpy as np
import pytest
import torch

from gensci.core.errors import UsageError
from gensci.data.template_elements import LARGEST, ElementSpace, cell_volume, fit_volumes
from gensci.data.template_fingerprint import (
    FARTHEST,
    SAME,
    fingerprint,
    fingerprints,
    mismatch,
    prototypes,
    slot_orders,
    slots,
)
from gensci.data.templates import STEPS, TemplatePool
from tests.data.crystals_by_hand import (
    caesium_chloride,
    crystal,
    perovskite,
    rocksalt,
    salts,
    table,
)


def line_of_elements():
    """Elements on a line by atomic number, all of one size."""
    embedding = np.zeros((LARGEST, 2), np.float32)
    embedding[:, 0] = np.arange(LARGEST)
    return ElementSpace(embedding, np.full(LARGEST, 10.0, np.float32))


@pytest.fixture(scope="module")
def pool():
    return TemplatePool.from_table(salts())


def test_rocksalt_gives_potassium_bromide(pool):
    best = pool.candidates(np.array([35, 19]), vote=False)[0]
    assert best.id == "NaCl"
    assert best.numbers.tolist() == [19, 35]
    assert best.source_numbers.tolist() == [11, 17]
    assert best.fractional.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


def test_perovskite_puts_elements_where_their_likes_are(pool):
    best = pool.candidates(np.array([8, 8, 8, 40, 56]))[0]
    assert best.numbers.tolist() == [56, 40, 8, 8, 8]  # Ba for Sr, Zr for Ti
    between = pool.elements.distances()
    assert best.distance == pytest.approx(between[56, 38] + between[40, 22])


def test_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    source = [3, 12, 26, 50, 8]
    numbers = np.repeat(source, [2, 2, 2, 2, 3])
    known = crystal("x", numbers, rng.random((11, 3)), [9, 9, 9, 80, 85, 95])
    space = ElementSpace(rng.normal(size=(LARGEST, 3)).astype(np.float32), np.ones(LARGEST))
    pool = TemplatePool.from_table(table(known), space)
    wanted = [30, 31, 32, 33]
    (best,) = pool.candidates(np.repeat([*wanted, 16], [2, 2, 2, 2, 3]), vote=False)
    between = space.distances()
    least = min(
        sum(between[a, b] for a, b in zip(order, source[:4], strict=True)) + between[16, 8]
        for order in itertools.permutations(wanted)
    )
    assert best.distance == pytest.approx(least)
    pairs = set(zip(best.numbers.tolist(), best.source_numbers.tolist(), strict=True))
    assert sum(between[a, b] for a, b in pairs) == pytest.approx(least)


def test_order_of_atoms_does_not_matter(pool):
    first, second = (
        pool.candidates(np.array(n))[0] for n in ([56, 8, 22, 8, 8], [8, 8, 8, 22, 56])
    )
    assert first.id == second.id and first.numbers.tolist() == second.numbers.tolist()


def test_volume_follows_the_room_of_the_atoms(pool):
    best = pool.candidates(np.array([19, 35]), vote=False)[0]
    room = pool.elements.volumes
    known = salts().lattice[0]
    expected = cell_volume(known) * (room[19] + room[35]) / (room[11] + room[17])
    assert cell_volume(best.lattice) == pytest.approx(expected, rel=1e-5)
    assert best.lattice[3:] == pytest.approx(known[3:])


def test_fitted_volumes_are_those_that_made_the_cells():
    rng = np.random.default_rng(1)
    truth = np.zeros(LARGEST)
    truth[[3, 8, 22, 56]] = 12.0, 9.0, 20.0, 40.0
    rows = []
    for name in range(400):
        numbers = rng.choice(rng.choice([3, 8, 22, 56], 2), 12)
        edge = truth[numbers].sum() ** (1 / 3)
        rows.append(crystal(str(name), numbers, rng.random((12, 3)), [edge] * 3 + [90] * 3))
    found = fit_volumes(table(*rows), np.full(LARGEST, 1.5))
    assert found[[3, 8, 22, 56]] == pytest.approx([12, 9, 20, 40], rel=0.03)
    assert (found > 0).all()


def test_excluded_rows_are_left_out(pool):
    assert "NaCl" not in {t.id for t in pool.candidates(np.array([11, 17]), exclude={"NaCl"})}
    assert pool.candidates(np.array([8, 8, 8, 40, 56]), exclude={"SrTiO3"}) == []
    rng = torch.Generator().manual_seed(0)
    drawn = {pool.random(np.array([19, 35]), rng, {"LiF", "MgO"}).id for _ in range(60)}
    assert drawn == {"NaCl", "CsCl"}


def test_random_rows_are_equally_likely(pool):
    rng = torch.Generator().manual_seed(1)
    drawn = [pool.random(np.array([19, 35]), rng).id for _ in range(2000)]
    shares = [drawn.count(name) / 2000 for name in ("NaCl", "LiF", "MgO", "CsCl")]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)  # four standard errors


def test_none_where_no_row_has_the_counts(pool):
    rng = torch.Generator().manual_seed(0)
    assert pool.candidates(np.array([22, 8, 8])) == []
    assert pool.random(np.array([22, 8, 8]), rng) is None


def test_votes_beat_a_single_nearer_row():
    odd = caesium_chloride("odd", 20, 34, 4.1)
    crowd = [rocksalt(str(z), 18 + z, 36, 6.0) for z in (0, 1, 3)]
    pool = TemplatePool.from_table(table(odd, *crowd), line_of_elements())
    wanted = np.array([20, 35])  # distances: 1 of the odd row, 3, 2 and 2 of the crowd
    assert pool.candidates(wanted, vote=False)[0].id == "odd"
    pool = TemplatePool.from_table(
        table(odd, *crowd, *(rocksalt(f"b{i}", 20, 35 - 2 * (i % 2), 6.1) for i in range(6))),
        line_of_elements(),
    )
    voted = pool.candidates(np.array([20, 34]), k=3)
    assert [t.id for t in voted[:2]] == ["b0", "odd"]
    assert voted[2].id == "b1"  # then by distance, none twice


def test_novel_puts_the_known_structure_of_a_composition_last():
    known = perovskite("known", 38, 22, 8, 3.9)
    others = [perovskite(str(z), 38 + z, 22, 8, 4.0) for z in (1, 2, 3)]
    pool = TemplatePool.from_table(table(known, *others), line_of_elements())
    wanted = np.array([38, 22, 8, 8, 8])
    usual, novel = (pool.candidates(wanted, novel=value) for value in (False, True))
    assert usual[0].id == "known" and usual[0].numbers[0] == 38
    assert novel[0].numbers[0] == 22 and novel[0].numbers[1] == 38  # A and B change places
    assert "known" in {t.id for t in novel}


def test_novel_changes_nothing_for_one_element_alone():
    def chain(name, gap):
        return crystal(name, [6, 6], [[0, 0, 0], [0, 0, gap]], [3, 3, 4, 90, 90, 90])

    pool = TemplatePool.from_table(
        table(chain("rare", 0.5), *(chain(f"c{i}", 0.3) for i in range(3))), line_of_elements()
    )
    for novel in (False, True):
        ids = [t.id for t in pool.candidates(np.array([6, 6]), exclude={"c0"}, novel=novel)]
        assert ids[0] == "c1"  # of the most frequent prototype


def test_storage_keeps_every_answer(tmp_path, pool):
    pool.save(tmp_path / "pool.safetensors")
    loaded = TemplatePool.load(tmp_path / "pool.safetensors")
    assert loaded.ids == pool.ids and not list(tmp_path.glob(".*"))
    for wanted in ([19, 35], [56, 40, 8, 8, 8]):
        before, after = (p.candidates(np.array(wanted)) for p in (pool, loaded))
        assert [t.id for t in before] == [t.id for t in after]
        for one, other in zip(before, after, strict=True):
            assert (one.fractional == other.fractional).all()
            assert (one.lattice == other.lattice).all()


def test_fixed_point_coordinates_do_not_alter_matches():
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    rng = np.random.default_rng(3)
    row = crystal("r", [22, 22, 8, 8, 8, 8], rng.random((6, 3)), [6, 7, 8, 80, 95, 100])
    pool = TemplatePool.from_table(table(row, *[rocksalt("NaCl", 11, 17, 5.6)]))
    kept = pool.structure(0)
    away = np.abs(kept.coordinates - row.coordinates)
    assert np.minimum(away, 1 - away).max() <= 0.51 / STEPS
    cell = Lattice.from_parameters(*map(float, row.lattice))
    numbers = row.numbers.astype(int)
    distance = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10).get_rms_dist(
        Structure(cell, numbers, row.coordinates.astype(float)),
        Structure(cell, numbers, kept.coordinates.astype(float)),
    )
    assert distance is not None and distance[0] < 1e-4


def test_coordinates_near_one_come_back_as_zero():
    row = crystal("r", [11, 17], [[0.999999, 0, 0], [0.5, 0.5, 0.5]], [4, 4, 4, 90, 90, 90])
    assert TemplatePool.from_table(table(row)).structure(0).coordinates[0, 0] == 0


def test_bad_input_is_named(tmp_path, pool):
    with pytest.raises(UsageError, match="atomic numbers from 1 to 118"):
        pool.candidates(np.array([11, 17, 0]))
    with pytest.raises(UsageError, match="no pool of templates"):
        TemplatePool.load(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="no crystals"):
        TemplatePool.from_table(salts().select([]))


def test_slot_orders_are_all_that_keep_the_counts():
    counts = (4, 2, 2, 1, 1, 1)
    truth = {
        order
        for order in itertools.permutations(range(6))
        if all(counts[i] == counts[k] for k, i in enumerate(order))
    }
    assert set(map(tuple, slot_orders(counts).tolist())) == truth
    elements, found, slot = slots(np.array([8, 22, 8, 56, 8]))
    assert (elements.tolist(), found, slot.tolist()) == ([8, 22, 56], (3, 1, 1), [0, 1, 0, 2, 0])


def test_fingerprint_counts_the_neighbours_of_a_cube():
    density = fingerprint(np.array([84]), np.zeros((1, 3)), [3.35] * 3 + [90] * 3).density
    radius = np.linspace(0.5, FARTHEST, density.shape[-1])
    # 6 at 1, 12 at the square root of 2, 8 at that of 3 and 6 at 2 cell edges
    assert (density[0, 0] * radius**2).sum() == pytest.approx(32, rel=1e-5)


def test_fingerprint_knows_neither_cell_nor_origin_nor_order_nor_scale():
    rng = np.random.default_rng(5)
    from pymatgen.core import Lattice

    numbers, places = np.array([8, 22, 8, 56]), rng.random((4, 3))
    cell = Lattice.from_parameters(4, 5, 6, 80, 95, 100)
    change = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    other = Lattice(change @ cell.matrix * 1.3)
    order = rng.permutation(4)
    moved = ((places + 0.3) @ np.linalg.inv(change))[order]
    first = fingerprint(numbers, places, np.array(cell.parameters))
    second = fingerprint(numbers[order], np.mod(moved, 1), np.array(other.parameters))
    assert mismatch(first.density, second.density) < 1e-3
    assert mismatch(first.density, first.density[::-1, ::-1]) > SAME


def test_prototypes_tell_rocksalt_from_caesium_chloride():
    prints = fingerprints(salts())
    labels, roles = prototypes(prints)
    assert len({*labels[:3]}) == 1 and len({*labels}) == 3
    assert roles[0].tolist() == [0, 0]  # in rocksalt the two may be exchanged
    assert len({*roles[4].tolist()}) == 3


def test_fit_brings_elements_of_one_prototype_together():
    left, right = [3, 11, 19, 37], [13, 31, 49, 81]
    salts = [rocksalt(f"r{a}-{x}", a, x, 5.5) for a in left for x in (9, 17, 35)]
    others = [caesium_chloride(f"c{a}-{x}", a, x, 4) for a in right for x in (9, 17, 35)]
    mixed = table(*salts, *others)
    generator = torch.Generator().manual_seed(0)
    space = ElementSpace.fit(mixed, fingerprints(mixed), generator)
    between = space.distances()
    inside = [between[a, b] for side in (left, right) for a, b in itertools.combinations(side, 2)]
    across = [between[a, b] for a in left for b in right]
    assert np.mean(inside) < 0.7 * np.mean(across)
    assert between == pytest.approx(between.T) and (np.diag(between) == 0).all()
