"""Periodic distances against pymatgen and brute force, in cells of any shape."""

import itertools

import numpy as np
import pytest
import torch

from gensci.core.periodic import distances_to, minimum_distances, reduced_basis

pytest.importorskip("pymatgen")


def random_lattices(n, skew, seed=0):
    """Lattices made unwieldy by whole shears, and the random ones they come from."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=(n, 3, 3)) * 2 + np.eye(3) * 4
    shears = np.stack([np.eye(3)] * n)
    for i, j in ((0, 1), (1, 2), (2, 0), (1, 0)):
        step = np.stack([np.eye(3)] * n)
        step[:, i, j] = rng.integers(-skew, skew + 1, n)
        shears = step @ shears
    return torch.from_numpy(shears @ plain), torch.from_numpy(plain)


@pytest.mark.parametrize("skew", [0, 1, 5, 40])
def test_the_reduced_cell_is_that_of_the_lattice_and_its_vectors_are_the_shortest(skew):
    lattice, _ = random_lattices(40, skew)
    basis = reduced_basis(lattice)
    torch.testing.assert_close(basis, basis.round())
    torch.testing.assert_close(torch.linalg.det(basis).abs(), torch.ones(40, dtype=torch.float64))
    short = (basis @ lattice).norm(dim=-1)
    assert bool((short.diff(dim=-1) > -1e-9).all())
    for row, cell in enumerate((basis @ lattice).numpy()):
        steps = np.array(list(itertools.product(range(-3, 4), repeat=3)))
        vectors = steps @ cell
        lengths = np.linalg.norm(vectors, axis=-1)
        chosen: list[np.ndarray] = []
        found = []
        for k in np.argsort(lengths)[1:]:  # the successive minima of the lattice
            if np.linalg.matrix_rank(np.array([*chosen, vectors[k]]), 1e-6) > len(chosen):
                chosen.append(vectors[k])
                found.append(lengths[k])
            if len(found) == 3:
                break
        np.testing.assert_allclose(short[row].numpy(), found, rtol=1e-9)


@pytest.mark.parametrize("skew", [0, 2, 12])
def test_distances_are_those_of_pymatgen(skew):
    from pymatgen.core import Lattice

    lattice, _ = random_lattices(15, skew, seed=1)
    generator = torch.Generator().manual_seed(2)
    fractional = 3 * torch.randn(15, 6, 3, generator=generator, dtype=torch.float64)
    got = minimum_distances(fractional, lattice)
    different = ~np.eye(6, dtype=bool)
    for row in range(15):
        inside = fractional[row].numpy()
        truth = Lattice(lattice[row].numpy()).get_all_distances(inside, inside)
        np.testing.assert_allclose(got[row].numpy()[different], truth[different], atol=1e-9)


def test_distances_are_those_of_all_images_near_and_far():
    lattice, _ = random_lattices(10, 1, seed=3)
    generator = torch.Generator().manual_seed(4)
    fractional = torch.rand(10, 4, 3, generator=generator, dtype=torch.float64)
    got = minimum_distances(fractional, lattice)
    shifts = torch.cartesian_prod(*[torch.arange(-12, 13).double()] * 3)
    for row in range(10):
        difference = fractional[row][:, None] - fractional[row][None]
        vectors = (difference[:, :, None] + shifts) @ lattice[row]
        lengths = vectors.norm(dim=-1)
        lengths[lengths < 1e-9] = torch.inf  # an atom itself
        torch.testing.assert_close(got[row], lengths.amin(-1))


def test_distances_do_not_change_with_cell_choice_translation_or_rotation():
    lattice, _ = random_lattices(8, 3, seed=5)
    generator = torch.Generator().manual_seed(6)
    fractional = torch.rand(8, 5, 3, generator=generator, dtype=torch.float64)
    truth = minimum_distances(fractional, lattice)
    shift = torch.randn(8, 1, 3, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    shear = torch.tensor([[1.0, 2, 0], [0, 1, -3], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(minimum_distances(fractional + shift, lattice @ turn), truth)
    other = fractional @ torch.linalg.inv(shear)
    torch.testing.assert_close(minimum_distances(other, shear @ lattice), truth)


def test_gradients_are_those_of_finite_differences():
    lattice, _ = random_lattices(2, 2, seed=7)
    generator = torch.Generator().manual_seed(8)
    fractional = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        minimum_distances, (fractional.requires_grad_(), lattice.requires_grad_())
    )


def test_many_crystals_are_done_in_parts(monkeypatch):
    lattice, _ = random_lattices(9, 1)
    fractional = torch.rand(9, 4, 3, dtype=torch.float64, generator=torch.Generator())
    whole = minimum_distances(fractional, lattice)
    monkeypatch.setattr("gensci.core.periodic._AT_ONCE", 1000)
    torch.testing.assert_close(minimum_distances(fractional, lattice), whole)
    assert minimum_distances(fractional[:0], lattice[:0]).shape == (0, 4, 4)


@pytest.mark.parametrize("skew", [0, 3, 12])
def test_distances_to_one_point_are_those_between_all(skew):
    lattice, _ = random_lattices(12, skew, seed=4)
    generator = torch.Generator().manual_seed(5)
    fractional = 2 * torch.randn(12, 5, 3, generator=generator, dtype=torch.float64)
    every = minimum_distances(fractional, lattice)
    for atom in range(5):
        others = [k for k in range(5) if k != atom]
        got = distances_to(fractional[:, atom], fractional[:, others], lattice)
        torch.testing.assert_close(got, every[:, atom, others])
