"""Niggli and primitive cells against pymatgen and against what must not change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from structure_files import random_crystal

from gensci.data.crystal_cells import (
    cell_parameters,
    cell_rows,
    nearest_distances,
    niggli_cell,
    primitive_cell,
    wrapped,
)

SHEARS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-2, 2)), min_size=1, max_size=4
)


def unimodular(shears):
    change = np.eye(3)
    for i, j, k in shears:
        if i != j:
            change[i] += k * change[j]
    return change


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def arrays(crystal):
    return crystal.lattice.matrix, crystal.frac_coords, np.array(crystal.atomic_numbers)


@settings(max_examples=30)
@given(st.integers(0, 10**6), SHEARS)
def test_niggli_cells_do_not_depend_on_the_cell_that_was_given(seed, shears):
    lattice, points, _ = arrays(random_crystal(seed))
    first, start = niggli_cell(lattice, points)
    change = unimodular(shears)
    turned = change @ lattice @ rotation(seed)
    other, moved = niggli_cell(turned, points @ np.linalg.inv(change) + 0.3)
    np.testing.assert_allclose(cell_parameters(first), cell_parameters(other), atol=1e-4)
    expected = Lattice(lattice).get_niggli_reduced_lattice()
    np.testing.assert_allclose(cell_parameters(first), expected.parameters, atol=1e-4)
    a, b, c = cell_parameters(first)[:3]
    assert a <= b + 1e-5 and b <= c + 1e-5
    distances = [nearest_distances(*cell) for cell in ((first, start), (other, moved))]
    np.testing.assert_allclose(*distances, atol=1e-5)
    assert np.linalg.det(other) == pytest.approx(abs(np.linalg.det(lattice)))


@given(st.integers(0, 10**6), st.booleans())
def test_the_reduced_cell_holds_the_same_points_and_is_right_handed(seed, left):
    """So that a chiral crystal does not become its mirror image when only lengths are kept."""
    lattice, points, _ = arrays(random_crystal(seed))
    if left:
        lattice, points = lattice[[1, 0, 2]], points[:, [1, 0, 2]]
    reduced, moved = niggli_cell(lattice, points)
    assert np.linalg.det(reduced) > 0
    apart = (moved @ reduced - points @ lattice) @ np.linalg.inv(lattice)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-6)


@given(st.integers(0, 10**6))
def test_parameters_are_those_of_pymatgen(seed):
    lattice = random_crystal(seed).lattice
    np.testing.assert_allclose(cell_parameters(lattice.matrix), lattice.parameters, atol=1e-9)
    rows = cell_rows(np.array(lattice.parameters))
    np.testing.assert_allclose(rows, Lattice.from_parameters(*lattice.parameters).matrix, atol=1e-9)


@pytest.mark.parametrize("parameters", [(1, 1, 1, 90, 90, 190), (1, 1, 1, 30, 30, 90), (0,) * 6])
def test_cells_that_cannot_be_are_refused(parameters):
    with pytest.raises(ValueError, match="no cell has the parameters"):
        cell_rows(np.array(parameters, dtype=float))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(2, 1, 1), (1, 2, 2), (1, 1, 3), (2, 2, 1)]))
def test_supercells_go_back_to_the_cell_that_repeats(seed, times):
    crystal = random_crystal(seed, ("Na", "Cl", "Cl"))
    large = crystal * times
    lattice, points = niggli_cell(*arrays(large)[:2])
    lattice, points, numbers = primitive_cell(lattice, points, arrays(large)[2])
    assert len(numbers) == len(crystal)
    assert sorted(numbers) == sorted(crystal.atomic_numbers)
    assert np.linalg.det(lattice) == pytest.approx(crystal.volume)
    found = Structure(Lattice(lattice), numbers, points)
    matcher = StructureMatcher(0.01, 0.01, 0.5, primitive_cell=False, scale=False)
    assert matcher.fit(found, crystal)


def test_a_distorted_supercell_stays():
    large = random_crystal(3) * (2, 1, 1)
    large.translate_sites([0], [0.2, 0, 0], frac_coords=False)
    lattice, points = niggli_cell(*arrays(large)[:2])
    assert len(primitive_cell(lattice, points, arrays(large)[2])[2]) == len(large)


def test_nearest_distances_are_those_of_pymatgen():
    crystal = random_crystal(5, ("Na", "Cl", "O", "O"))
    lattice, points = niggli_cell(*arrays(crystal)[:2])
    found = nearest_distances(lattice, points)
    expected = Lattice(lattice).get_all_distances(points, points)
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(found[off], expected[off], atol=1e-9)
    np.testing.assert_allclose(np.diag(found), min(Lattice(lattice).abc), atol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_wrapped_coordinates_are_below_one_also_in_single_precision(values):
    found = wrapped(np.array([values])).astype(np.float32)
    assert (found >= 0).all() and (found < 1).all()
    assert np.abs((found - values) - np.round(found - values)).max() < 1e-5
