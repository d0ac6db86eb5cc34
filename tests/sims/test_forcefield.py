import copy
import math

import openmm
import pytest
import torch

from gensci.sims.forcefield import ForceField
from gensci.sims.forcefield.expressions import evaluate

from .openmm_reference import conformations, peptide_system, reference

LETTERS = "ARNDCQEGHILKMFPSTWYV"
# Every residue stands once at either end of a zwitterion.
DIPEPTIDES = [a + b for a, b in zip(LETTERS, LETTERS[1:] + LETTERS[0], strict=True)]
PEPTIDES = [*DIPEPTIDES, "Ace-A-Nme", "Ace-GP-Nme", "AAAA", "GYDPETGTWG"]


def check_against_openmm(system, x, **settings):
    field = ForceField.from_openmm(system, **settings)
    for dtype in (torch.float64, torch.float32):
        rounded = x.to(dtype)
        energy, forces = field.energy_and_forces(rounded)
        true_energy, true_forces = reference(system, rounded)
        # Energies happen to pass through zero, so single precision is held to a scale.
        bound = 1e-3 if dtype == torch.float64 else 1e-5 * true_energy.abs().clamp_min(100.0)
        assert ((energy.double() - true_energy).abs() < bound).all()
        error = (forces.double() - true_forces).flatten(1).norm(dim=1)
        assert (error < 1e-4 * true_forces.flatten(1).norm(dim=1)).all()
        torch.testing.assert_close(field.energy(rounded), energy)


@pytest.mark.parametrize("text", PEPTIDES)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_agrees_with_openmm(text, fused):
    check_against_openmm(peptide_system(text)[0], conformations(text), fused=fused)


def test_terms_agree_with_openmm_one_by_one():
    system, x = peptide_system("AAAA")[0], conformations("AAAA")
    terms = ForceField.from_openmm(system).energy_terms(x)
    ours = {
        openmm.HarmonicBondForce: terms["bonds"],
        openmm.HarmonicAngleForce: terms["angles"],
        openmm.PeriodicTorsionForce: terms["torsions"],
        openmm.NonbondedForce: terms["lennard_jones"] + terms["coulomb"],
        openmm.CustomGBForce: terms["solvent_polar"] + terms["solvent_surface"],
    }
    for kind, energy in ours.items():
        alone = copy.deepcopy(system)
        for i in reversed(range(alone.getNumForces())):
            if not isinstance(alone.getForce(i), kind):
                alone.removeForce(i)
        torch.testing.assert_close(energy, reference(alone, x)[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("periodicity", [1, 2, 3, 4, 5, 6])
def test_torsions_of_any_phase(periodicity, fused):
    system, force = openmm.System(), openmm.PeriodicTorsionForce()
    for _ in range(4):
        system.addParticle(12.0)
    force.addTorsion(0, 1, 2, 3, periodicity, 0.7, 5.0)
    force.addTorsion(3, 2, 1, 0, 2, -1.9, 3.0)  # the same angle, counted from the other end
    system.addForce(force)
    x = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    energy, forces = ForceField.from_openmm(system, fused=fused).energy_and_forces(x)
    true_energy, true_forces = reference(system, x)
    torch.testing.assert_close(energy, true_energy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forces, true_forces, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_gradient_is_minus_the_force(fused):
    field = ForceField.from_openmm(peptide_system("AA")[0], fused=fused)
    x = conformations("AA").clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * field.energy(x)).sum(), x)
    expected = -weight[:, None, None] * field.energy_and_forces(x)[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_second_derivatives(fused):
    field = ForceField.from_openmm(peptide_system("AA")[0], fused=fused)
    x = conformations("AA")[:2].clone().requires_grad_()
    weight = torch.tensor([1.0, -0.3], dtype=torch.float64)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
    (gradient,) = torch.autograd.grad((weight * field.energy(x)).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((gradient * direction).sum(), x)
    step = 1e-5 * direction
    ahead, behind = (field.energy_and_forces(x + s)[1] for s in (step, -step))
    expected = weight[:, None, None] * (behind - ahead) / 2e-5
    torch.testing.assert_close(curvature, expected, rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_hopeless_rows_have_huge_energies_and_harm_no_other(fused, dtype):
    field = ForceField.from_openmm(peptide_system("AAAA")[0], fused=fused)
    good = conformations("AAAA", 12).to(dtype)
    x = good.clone()
    x[1, 5] = x[1, 30]  # two atoms in one place
    x[2] = 0  # all of them
    x[3] *= 1e-4
    x[4, 7, 1] = torch.nan
    x[5, 0, 0] = torch.inf
    x[6] *= 1e30
    energy, forces = field.energy_and_forces(x)
    assert (energy[1:4] > 1e8).all()
    assert (energy[4:6] == torch.inf).all()
    assert energy[6] > 1e8
    assert forces.isfinite().all()
    assert (field.energy(x) == energy).all()
    rest = [0, *range(7, 12)]
    true_energy, true_forces = field.energy_and_forces(good)
    assert (energy[rest] == true_energy[rest]).all()
    assert (forces[rest] == true_forces[rest]).all()


def test_energy_does_not_change_under_rigid_motions_and_forces_cancel():
    field = ForceField.from_openmm(peptide_system("WY")[0])
    x = conformations("WY")
    angle = torch.tensor(1.1, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    energy, forces = field.energy_and_forces(x)
    moved_energy, moved_forces = field.energy_and_forces(x @ turn.T + 2.5)
    torch.testing.assert_close(moved_energy, energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(moved_forces, forces @ turn.T, rtol=0, atol=1e-6)
    assert forces.sum(1).abs().max() < 1e-7
    assert torch.linalg.cross(x, forces).sum(1).abs().max() < 1e-7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_agrees_on_the_gpu(dtype):
    system, x = peptide_system("AAAA")[0], conformations("AAAA").to(dtype)
    energy, forces = ForceField.from_openmm(system, device="cuda").energy_and_forces(x)
    true_energy, true_forces = reference(system, x)
    torch.testing.assert_close(energy.cpu().double(), true_energy, rtol=1e-5, atol=0)
    error = (forces.cpu().double() - true_forces).norm() / true_forces.norm()
    assert error < 1e-4


def test_ignores_the_remover_of_centre_of_mass_motion():
    system = copy.deepcopy(peptide_system("AA")[0])
    system.addForce(openmm.CMMotionRemover())
    check_against_openmm(system, conformations("AA"))


def test_positions_of_another_molecule_are_refused():
    field = ForceField.from_openmm(peptide_system("AA")[0])
    with pytest.raises(ValueError, match=r"\(n, 23, 3\)"):
        field.energy(torch.zeros(2, 22, 3))
    with pytest.raises(ValueError, match="float32 or float64"):
        field.energy(torch.zeros(2, 23, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_threads"):
        ForceField.from_openmm(peptide_system("AA")[0], num_threads=0)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_an_empty_batch_has_no_energies(fused):
    field = ForceField.from_openmm(peptide_system("AA")[0], fused=fused)
    energy, forces = field.energy_and_forces(torch.zeros(0, 23, 3))
    assert energy.shape == (0,)
    assert forces.shape == (0, 23, 3)


def test_to_changes_the_precision():
    field = ForceField.from_openmm(peptide_system("AA")[0])
    x = conformations("AA")
    double = field.to(dtype=torch.float64).energy(x.float())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, field.energy(x.float().double()))
    assert field.masses.sum().item() == pytest.approx(160.17, abs=0.02)  # C6 H12 N2 O3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*a^2; a = or + 1; or = 3*x", 2 * 7.0**2),
        ("select(step(x-3), 1, -y)", -0.5),
        ("-x^2 + max(x, y)", -2.0),
        ("1/(1+exp(-x))", 1 / (1 + math.exp(-2))),
        ("1.5e1*log(x)", 15 * math.log(2)),
    ],
)
def test_expressions(text, value):
    assert evaluate(text, {"x": 2.0, "y": 0.5}) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("text", ["x.real", "__import__(x)", "z", "[x]", "x +", "x if x else y"])
def test_expressions_refuse_what_they_do_not_know(text):
    with pytest.raises(ValueError, match="expression"):
        evaluate(text, {"x": 2.0, "y": 0.5})
