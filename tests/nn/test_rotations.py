"""Random rotations against the representations of e3nn, and what must not change under them."""

import pytest
import torch
from e3nn import o3

from gensci.nn.internal import InternalFlow
from gensci.nn.rotations import uniform_rotations
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide

torch.set_num_threads(1)


def draws(n):
    return uniform_rotations(n, torch.Generator().manual_seed(0), torch.zeros(1).double())


def test_they_are_proper_rotations():
    r = draws(100)
    torch.testing.assert_close(r @ r.transpose(1, 2), torch.eye(3).double().expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(100).double())


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_they_follow_the_haar_measure(degree):
    """Its entries of a Wigner matrix have mean 0 and mean square 1 / (2 l + 1) (Peter-Weyl)."""
    n = 20_000
    wigner = o3.Irrep(degree, (-1) ** degree).D_from_matrix(draws(n))
    size = 2 * degree + 1
    assert wigner.shape == (n, size, size)
    assert wigner.mean(0).abs().max() < 4.5 / (n * size) ** 0.5
    square = wigner.square()
    assert ((square.mean(0) - 1 / size).abs() < 4.5 * square.std(0) / n**0.5).all()


def test_energies_and_the_density_of_the_flow_do_not_change_under_rotations_of_e3nn():
    peptide = build_peptide("AG")
    torch.manual_seed(0)
    flow = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4).double()
    cond = flow.encode(peptide)
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    x = torch.from_numpy(peptide.positions).expand(6, -1, -1)
    turned = torch.einsum("nij,naj->nai", o3.rand_matrix(6, dtype=torch.float64), x)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(turned, cond), flow.log_prob(x, cond))
    field = ForceField.from_openmm(peptide.system)
    torch.testing.assert_close(field.energy(turned), field.energy(x), rtol=0, atol=1e-8)
