"""Match rates against pymatgen called directly, and against counts by hand."""

import dataclasses
import math

import numpy as np
import pytest
from crystal_cases import (
    NO_CELL,
    caesium_chloride,
    disguises,
    disturbed,
    perovskite,
    random_structure,
    rock_salt,
)
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher

from gensci.core.errors import UsageError
from gensci.core.worker_pool import Outcome
from gensci.metrics import matching
from gensci.metrics.crystal_arrays import (
    Crystal,
    cell_parameters,
    cell_vectors,
    cell_volume,
    composition_key,
    from_pymatgen,
    reduce_crystal,
    to_pymatgen,
)
from gensci.metrics.match_protocol import STRICT, Protocol
from gensci.metrics.matching import STATUSES, match_everyone, match_predictions
from gensci.metrics.structure_match import Tolerances, rms_distance

LOOSE, TIGHT = Tolerances(), Tolerances(0.3, 0.2, 5.0)


def distance(first, second, tolerances=LOOSE):
    return rms_distance(*(reduce_crystal(from_pymatgen(s)) for s in (first, second)), tolerances)


def by_pymatgen(first, second, tolerances=LOOSE):
    found = StructureMatcher(**dataclasses.asdict(tolerances)).get_rms_dist(first, second)
    return None if found is None else found[0]


@pytest.mark.parametrize("tolerances", [LOOSE, TIGHT], ids=["published", "strict"])
def test_distances_are_those_of_pymatgen(tolerances):
    rng = np.random.default_rng(1)
    matched = 0
    for _ in range(40):
        reference = random_structure(rng)
        prediction = disturbed(reference, rng, rng.uniform(0, 1.2), rng.uniform(0, 0.08))
        expected = by_pymatgen(prediction, reference, tolerances)
        found = distance(prediction, reference, tolerances)
        assert (found is None) == (expected is None)
        if expected is not None:
            matched += 1
            assert found == pytest.approx(expected, abs=1e-6)
    assert 5 < matched < 40


def test_unrelated_structures_of_one_composition_are_judged_alike():
    rng = np.random.default_rng(2)
    for _ in range(25):
        reference = random_structure(rng)
        other = Structure(reference.lattice, reference.species, rng.random((len(reference), 3)))
        expected = by_pymatgen(other, reference)
        found = distance(other, reference)
        assert (found is None) == (expected is None)
        assert found is None or found == pytest.approx(expected, abs=1e-6)


def test_supercells_with_noise_become_primitive_as_in_pymatgen():
    rng = np.random.default_rng(3)
    for _ in range(5):
        reference = random_structure(rng)
        double = reference.copy()
        double.make_supercell([2, 1, 1])
        double = disturbed(double, rng, 0.02, 0.001)
        assert distance(double, reference) == pytest.approx(
            by_pymatgen(double, reference), abs=1e-6
        )


def test_the_same_crystal_in_any_guise_has_distance_zero():
    rng = np.random.default_rng(4)
    structure = random_structure(rng)
    for name, disguise in disguises(structure, rng).items():
        assert distance(disguise, structure) == pytest.approx(0, abs=1e-5), name
        assert distance(structure, disguise) == pytest.approx(0, abs=1e-5), name


def test_guises_of_the_prediction_do_not_change_the_distance():
    rng = np.random.default_rng(5)
    reference = random_structure(rng)
    prediction = disturbed(reference, rng, 0.3, 0.03)
    plain = distance(prediction, reference)
    assert plain is not None
    for name, disguise in disguises(prediction, rng).items():
        assert distance(disguise, reference) == pytest.approx(plain, abs=1e-5), name


def test_volume_does_not_matter_and_polymorphs_do():
    small, large = to_pymatgen(rock_salt(4.0)), to_pymatgen(rock_salt(8.0))
    assert distance(small, large) == pytest.approx(0, abs=1e-9)
    assert distance(small, to_pymatgen(caesium_chloride())) is None
    assert distance(small, to_pymatgen(rock_salt(cation="K"))) is None


def test_cells_come_back_from_their_vectors():
    rng = np.random.default_rng(6)
    parameters = np.concatenate([rng.uniform(2, 9, (20, 3)), rng.uniform(65, 115, (20, 3))], 1)
    vectors = cell_vectors(parameters)
    np.testing.assert_allclose(cell_parameters(vectors), parameters, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(vectors), cell_volume(parameters))
    assert np.isnan(cell_volume(np.array([3.0, 3, 3, 120, 120, 150])))


def test_compositions_are_compared_without_common_factor():
    assert composition_key(np.array([8, 22, 8])) == ((8, 2), (22, 1))
    assert composition_key(np.array([8, 8, 22, 22, 8, 8])) == ((8, 2), (22, 1))


def near(crystal, amount, seed=0):
    return from_pymatgen(disturbed(to_pymatgen(crystal), np.random.default_rng(seed), amount, 0.0))


def test_scores_by_hand():
    rock, cubic = rock_salt(), perovskite()
    predictions = [
        [caesium_chloride(), near(rock, 0.3, 1), near(rock, 0.1, 2)],
        [rock_salt(), NO_CELL],
        [near(cubic, 0.2)],
        [],
    ]
    references = [rock, cubic, cubic, rock]
    found = match_predictions(predictions, references, Protocol(samples=3), jobs=1)
    status = [[STATUSES[value] for value in row] for row in found.status]
    assert status == [
        ["no match", "match", "match"],
        ["other atoms", "unusable", "missing"],
        ["match", "missing", "missing"],
        ["missing", "missing", "missing"],
    ]
    first = by_pymatgen(*(to_pymatgen(c) for c in (predictions[0][1], rock)))
    second = by_pymatgen(*(to_pymatgen(c) for c in (predictions[0][2], rock)))
    third = by_pymatgen(*(to_pymatgen(c) for c in (predictions[2][0], cubic)))
    one, all_three = found.score(1), found.score()
    assert (one.rate, one.matched, one.samples) == (0.25, 1, 1)
    assert one.rmse == pytest.approx(third, abs=1e-6)
    assert (all_three.rate, all_three.matched, all_three.references) == (0.5, 2, 4)
    best = min(first, second)
    assert all_three.rmse == pytest.approx((best + third) / 2, abs=1e-6)
    assert all_three.crmse == pytest.approx((best + third + 2 * 0.5) / 4, abs=1e-6)
    assert all_three.rate_error == pytest.approx(math.sqrt(0.5 * 0.5 / 4))
    assert all_three.lost == {"other atoms": 1, "unusable": 1, "missing": 6}
    assert found.score(rows=np.array([2])).rate == 1.0
    assert math.isnan(found.score(rows=np.array([3])).rmse)
    assert found.score(rows=np.array([3])).record()["rmse"] is None


def test_the_number_of_workers_and_the_matcher_change_nothing():
    rng = np.random.default_rng(7)
    structures = [random_structure(rng) for _ in range(8)]
    references = [from_pymatgen(structure) for structure in structures]
    predictions = [
        [from_pymatgen(disturbed(s, rng, rng.uniform(0, 1))) for _ in range(2)] for s in structures
    ]
    one, two = (
        match_predictions(predictions, references, Protocol(samples=2), jobs=jobs)
        for jobs in (1, 2)
    )
    np.testing.assert_array_equal(one.distance, two.distance)
    np.testing.assert_array_equal(one.status, two.status)
    slow = Protocol(samples=2, matcher="pymatgen")
    other = match_predictions(predictions, references, slow, jobs=1)
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_allclose(one.distance, other.distance, atol=1e-6)


def test_validity_filters_leave_out_what_they_say():
    invalid = rock_salt()
    invalid = Crystal(invalid.numbers, np.array([[0, 0, 0], [0.01, 0, 0]]), invalid.lattice)
    references = [rock_salt(), rock_salt(), invalid]
    predictions = [[rock_salt()], [invalid], [rock_salt()]]
    expected = {
        "none": ["match", "match", "match"],  # two atoms at one place: still within stol
        "prediction": ["match", "invalid", "match"],
        "both": ["match", "invalid", "invalid"],
    }
    for validity, wanted in expected.items():
        found = match_predictions(predictions, references, Protocol(validity=validity), jobs=1)
        assert [STATUSES[value] for value in found.status[:, 0]] == wanted
        assert found.score().protocol.validity == validity


def test_everyone_may_match_everyone_of_the_composition():
    rock, cubic = rock_salt(), caesium_chloride()
    predictions = [near(cubic, 0.1), near(rock, 0.1)]
    in_order = match_predictions([[p] for p in predictions], [rock, cubic], jobs=1)
    assert in_order.score().rate == 0
    everyone = match_everyone(predictions, [rock, cubic, perovskite()], jobs=1)
    assert everyone.score().rate == pytest.approx(2 / 3)
    straight = match_predictions([[predictions[1]], [predictions[0]]], [rock, cubic], jobs=1)
    total = straight.distance[:, 0].sum() + 0.5
    assert everyone.score().crmse == pytest.approx(total / 3)


def test_late_and_failed_pairs_are_no_matches_and_are_counted(monkeypatch):
    def slow(function, items, **settings):
        return [Outcome(0.1), Outcome(status="timed out"), Outcome(status="failed", error="odd")]

    monkeypatch.setattr(matching, "timed_map", slow)
    found = match_predictions([[rock_salt()]] * 3, [rock_salt()] * 3)
    score = found.score()
    assert score.rate == pytest.approx(1 / 3)
    assert score.lost == {"timed out": 1, "failed": 1}
    assert "1 timed out" in str(score)


def test_protocols_are_told_with_every_number():
    protocol = Protocol(samples=20, validity="both", time_limit=5)
    assert "stol 0.5, ltol 0.3, angle 10; prediction and reference valid" in protocol.text
    assert protocol.record()["samples"] == 20
    assert STRICT.tolerances == TIGHT
    with pytest.raises(UsageError, match="stol=0"):
        Protocol(stol=0)
    with pytest.raises(UsageError, match=r"validity='maybe'.*none, prediction, both"):
        Protocol(validity="maybe")
    with pytest.raises(UsageError, match="predictions for 1 references, but 2"):
        match_predictions([[]], [rock_salt()] * 2)
