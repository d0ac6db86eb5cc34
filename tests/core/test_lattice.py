"""Lattice vectors and numbers against the crystallographic formulae and pymatgen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.core.lattice import lattice_matrix, lattice_parameters, lattice_volume, wrapped

lengths = st.floats(2.0, 20.0)
angles = st.floats(50.0, 115.0)


@settings(deadline=None, max_examples=60)
@given(st.tuples(lengths, lengths, lengths, angles, angles, angles))
def test_round_trip_and_volume(numbers):
    cell = torch.tensor(numbers, dtype=torch.float64)
    volume = lattice_volume(cell)
    if not volume > 1.0:  # these angles close to no cell
        return
    matrix = lattice_matrix(cell)
    torch.testing.assert_close(lattice_parameters(matrix), cell)
    torch.testing.assert_close(torch.linalg.det(matrix), volume)


def test_orientation_is_that_of_pymatgen():
    lattice = pytest.importorskip("pymatgen.core.lattice")
    cell = (3.1, 4.2, 5.3, 77.0, 95.0, 108.0)
    ours = lattice_matrix(torch.tensor(cell, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(ours, lattice.Lattice.from_parameters(*cell).matrix, atol=1e-12)


def test_wrapped_differences_are_the_shortest():
    x = torch.tensor([0.9, -0.9, 0.2, 2.4])
    torch.testing.assert_close(wrapped(x), torch.tensor([-0.1, 0.1, 0.2, 0.4]))
