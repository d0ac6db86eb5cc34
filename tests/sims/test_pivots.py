"""Monte Carlo rotations about bonds: geometry, detailed balance, and what they are offered to."""

import math

import pytest
import torch
from scipy import special

from gensci.sims.dynamics import (
    GAS_CONSTANT,
    DynamicsState,
    Langevin,
    ReplicaExchange,
    find_rotors,
    pivot,
    rotated,
)
from gensci.sims.dynamics.pivots import turn
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide
from gensci.sims.peptide.backbone import torsion_angles

CHAIN = [(0, 1), (1, 2), (2, 3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Torsion:
    """U = a cos(phi) of a chain of four atoms."""

    def __init__(self, a):
        self.a = a

    def angle(self, x):
        return torsion_angles(x, torch.tensor([[0, 1, 2, 3]]))[:, 0]

    def energy_and_forces(self, x):
        return self.a * self.angle(x).cos(), torch.zeros_like(x)


def chain(n):
    x = torch.tensor([[0.1, 0.1, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.2, 0.1, 0.05]])
    return x.double().repeat(n, 1, 1)


def masses_of(peptide):
    return ForceField.from_openmm(peptide.system).masses


def names_of(text):
    peptide = build_peptide(text, minimise=False)
    rotors = find_rotors(peptide.bonds, masses_of(peptide))
    label = [f"{peptide.residue_index[k] + 1}{n}" for k, n in enumerate(peptide.atom_names)]
    return {tuple(sorted((label[a], label[b]))) for a, b in rotors.axis.tolist()}, rotors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AA", {("1C", "1CA"), ("1C", "2N"), ("2CA", "2N"), ("2C", "2CA")}),
        ("GP", {("1C", "1CA"), ("1C", "2N"), ("2C", "2CA")}),  # phi of proline is in its ring
        ("Ace-S-Nme", {("1C", "2N"), ("2CA", "2N"), ("2CA", "2CB"), ("2C", "2CA"), ("2C", "3N")}),
        ("GW", {("1C", "1CA"), ("1C", "2N"), ("2CA", "2N"), ("2CA", "2CB"), ("2CB", "2CG"),
                ("2C", "2CA")}),
    ],
)  # fmt: skip
def test_rotors_are_the_bonds_that_move_heavy_atoms(text, expected):
    found, rotors = names_of(text)
    assert found == expected
    assert (rotors.moving.sum(1) <= rotors.moving.shape[1] // 2).all()


def test_a_rotation_turns_one_torsion_and_keeps_all_else():
    peptide = build_peptide("AV", minimise=False)
    x = torch.from_numpy(peptide.positions)[None]
    rotors = find_rotors(peptide.bonds, masses_of(peptide))
    angle = torch.linspace(-2.0, 2.5, len(rotors), dtype=torch.float64)
    y = rotated(x.repeat(len(rotors), 1, 1), rotors, torch.arange(len(rotors)), angle)
    pairs = torch.tensor(peptide.bonds)
    before = (x[:, pairs[:, 0]] - x[:, pairs[:, 1]]).norm(dim=-1)
    assert torch.allclose(
        (y[:, pairs[:, 0]] - y[:, pairs[:, 1]]).norm(dim=-1), before.expand(len(y), -1)
    )
    for k, (a, b) in enumerate(rotors.axis.tolist()):
        moving = rotors.moving[k]
        inside = torch.cat([moving.nonzero().flatten(), torch.tensor([a, b])])
        outside = (~moving).nonzero().flatten()
        for part in (inside, outside):  # each side is rigid, and both hold the axis
            assert torch.allclose(
                torch.cdist(y[k, part], y[k, part]), torch.cdist(x[0, part], x[0, part])
            )
        end = next(q for p in peptide.bonds if b in p for q in p if q != b and moving[q])
        start = next(q for p in peptide.bonds if a in p for q in p if q not in (a, b))
        atoms = torch.tensor([[start, a, b, end]])
        turn = (torsion_angles(y[k][None], atoms) - torsion_angles(x, atoms)).item()
        assert abs(math.remainder(turn, 2 * math.pi)) == pytest.approx(
            abs(angle[k].item()), abs=1e-9
        )


def test_pivots_alone_sample_the_boltzmann_density_of_a_torsion():
    n, kt, strength = 4000, GAS_CONSTANT * 300.0, 6.0
    rotors = find_rotors(CHAIN, torch.full((4,), 12.0))
    assert rotors.axis.tolist() in ([[1, 2]], [[2, 1]])
    potential, x = Torsion(strength), chain(n)
    energy, forces = potential.energy_and_forces(x)
    state = DynamicsState(x, torch.zeros_like(x), energy, forces)
    temperature, g = torch.full((n,), 300.0), generator()
    state, _ = pivot(potential, rotors, state, temperature, 40, g)
    state, accepted = pivot(potential, rotors, state, temperature, 40, g)
    a = strength / kt
    cosines = potential.angle(state.positions).cos()
    expected = -special.i1(a) / special.i0(a)
    assert cosines.mean().item() == pytest.approx(expected, abs=5 * cosines.std().item() / n**0.5)
    sines = potential.angle(state.positions).sin()
    assert abs(sines.mean().item()) < 5 * sines.std().item() / n**0.5
    # in equilibrium: E min(1, exp(-dU/kT)) over both kinds of proposals, by quadrature
    phi = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)[:-1]
    p = torch.softmax(-a * phi.cos(), 0)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    gain = (a * (phi.cos()[:, None] - (phi[:, None] + turn(u)).cos())).clamp_max(0).exp()
    rate = (p[:, None] * gain).sum().item() / len(u)
    assert accepted.double().mean().item() / 40 == pytest.approx(rate, abs=0.01)


def test_proposed_angles_are_as_likely_as_their_opposites():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    angle = turn(u)
    flips = u >= 0.5
    assert (angle[flips] - math.pi).abs().max() <= 0.3
    for power in range(1, 6):
        assert (power * angle).sin().mean().abs() < 1e-4
        assert (power * angle[~flips]).cos().mean().abs() < 1e-4


def test_energies_and_forces_are_those_of_the_new_positions():
    peptide = build_peptide("AS")
    field = ForceField.from_openmm(peptide.system)
    rotors = find_rotors(peptide.bonds, field.masses)
    x = torch.from_numpy(peptide.positions).repeat(30, 1, 1)
    langevin = Langevin(field, field.masses)
    temperature = torch.full((30,), 400.0)
    state = langevin.start(x, temperature, generator())
    end, accepted = pivot(field, rotors, state, temperature, 6, generator(1))
    energy, forces = field.energy_and_forces(end.positions)
    assert 10 < accepted.sum() < 180
    assert torch.allclose(end.energy, energy, atol=1e-9)
    assert torch.allclose(end.forces, forces, atol=1e-6)
    assert torch.equal(end.velocities, state.velocities)
    assert torch.equal(state.positions, x)
    still = accepted == 0
    assert torch.equal(end.positions[still], x[still])
    assert peptide.chirality(end.positions).all()


def test_replica_exchange_counts_its_pivots():
    peptide = build_peptide("GG")
    field = ForceField.from_openmm(peptide.system)
    rotors = find_rotors(peptide.bonds, field.masses)
    langevin = Langevin(field, torch.full_like(field.masses, 12.0), 0.002)
    ladder = (310.0, 400.0, 520.0)
    x = torch.from_numpy(peptide.positions).repeat(12, 1, 1)
    replicas = ReplicaExchange(langevin, ladder, 10, rotors, 3)
    state = replicas.run(replicas.start(x, generator()), 35, generator(1))
    assert state.pivots[0].tolist() == [4 * 3 * 3] * 3
    assert (state.pivots[1] > 0).all()
    plain = ReplicaExchange(langevin, ladder, 10)
    assert plain.run(plain.start(x, generator()), 35, generator(1)).pivots.sum() == 0
    alone = ReplicaExchange(langevin, (310.0,), 10, rotors, 3)
    assert alone.run(alone.start(x, generator()), 20, generator(1)).pivots[0].item() == 72
    with pytest.raises(ValueError, match="tries"):
        ReplicaExchange(langevin, ladder, 10, rotors, -1)
    with pytest.raises(ValueError, match="without rotors"):
        ReplicaExchange(langevin, ladder, 10, tries=3)
