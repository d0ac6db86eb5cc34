"""Every force field, solvent, salt and cutoff against OpenMM's Reference platform."""

import dataclasses
import functools
import itertools

import openmm
import pytest
import torch
from openmm import app
from openmm.unit import amu, nanometer

from gensci.sims.dynamics import repartitioned_masses
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import IMPLICIT_SOLVENTS, build_peptide

from .openmm_reference import conformations, peptide_system, reference

PEPTIDE = "MC"  # charged ends; sulphur, whose scaled radius is negative in GBn2
FF14, ILDN = "amber14-all.xml", "amber99sbildn.xml"


@functools.cache
def force_field(files):
    return app.ForceField(*files)


@functools.cache
def topology(text):
    return build_peptide(text, minimise=False).topology


@dataclasses.dataclass(frozen=True)
class Model:
    """A row of the table; lengths in nm, kappa in nm^-1."""

    files: tuple[str, ...]
    cutoff: float | None = None
    settings: tuple[tuple[str, object], ...] = ()

    def system(self, text=PEPTIDE):
        settings = dict(self.settings)
        if self.cutoff is not None:
            settings["nonbondedMethod"] = app.CutoffNonPeriodic
            settings["nonbondedCutoff"] = self.cutoff * nanometer
        field = force_field(self.files)
        return field.createSystem(topology(text), constraints=None, **settings)

    def __str__(self):
        settings = (f"{name}={value}" for name, value in self.settings)
        names = (name.removesuffix(".xml") for name in self.files)
        return ", ".join([*names, f"cutoff={self.cutoff}", *settings])


def solvent(name):
    return f"implicit/{name}.xml"


def salt(kappa):
    return (("implicitSolventKappa", kappa),) if kappa else ()


SOLVENTS = [
    Model((FF14, solvent(name)), cutoff, salt(kappa))
    for name, cutoff, kappa in itertools.product(IMPLICIT_SOLVENTS, (None, 0.5), (None, 1.1))
]
MODELS = [
    *SOLVENTS,
    Model((FF14,)),
    Model((FF14,), 0.4),
    Model((FF14,), 0.6, (("switchDistance", 0.3),)),
    Model((FF14, solvent("gbn2")), 0.6, (("switchDistance", 0.45),)),
    Model((FF14, solvent("obc1")), 2.0),
    Model((FF14, solvent("hct")), None, (("sasaMethod", None),)),
    Model((FF14, solvent("gbn2")), None, (("sasaMethod", None),)),
    Model((FF14, solvent("obc1")), None, (("soluteDielectric", 2.0), ("solventDielectric", 40.0))),
    Model((FF14, solvent("gbn")), None, (("soluteDielectric", 1.5), *salt(0.01))),
    Model((FF14, solvent("obc2")), None, salt(4.0)),
    Model((ILDN,)),
    Model((ILDN, "amber99_obc.xml")),  # OpenMM's own GBSAOBCForce
    Model((ILDN, "amber99_obc.xml"), 0.6),
    Model((ILDN, solvent("obc2"))),
    Model((ILDN, solvent("gbn2")), 0.6, salt(1.1)),
]


@pytest.fixture(scope="module", params=MODELS, ids=str)
def case(request):
    """System, conformations, and OpenMM's energies and forces."""
    system, x = request.param.system(), conformations(PEPTIDE, 3)
    return system, x, *reference(system, x)


def assert_forces(forces, truth, bound):
    error = (forces.double() - truth).flatten(1).norm(dim=1)
    assert (error < bound * truth.flatten(1).norm(dim=1)).all()


def test_double_precision_agrees_with_openmm(case):
    system, x, energy, forces = case
    fused = ForceField.from_openmm(system).energy_and_forces(x)
    plain = ForceField.from_openmm(system, fused=False).energy_and_forces(x)
    native = any(isinstance(f, openmm.GBSAOBCForce) for f in system.getForces())
    # OpenMM rounds the distances of its own GBSAOBCForce to single precision.
    bound = 1e-6 if native else 1e-11
    for ours, true in ((fused[0], energy), (plain[0], energy)):
        torch.testing.assert_close(ours, true, rtol=bound, atol=1e-8)
    for ours in (fused[1], plain[1]):
        assert_forces(ours, forces, bound)
    # The torch forces are derivatives by autograd, those of the kernel are written by hand.
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(fused[1], plain[1], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_single_precision_agrees_with_openmm(case, fused):
    system, x, energy, forces = case
    field = ForceField.from_openmm(system, fused=fused)
    single_energy, single_forces = field.energy_and_forces(x.float())
    # Energies happen to pass through zero, so they are held to a scale.
    error = (single_energy.double() - energy).abs()
    assert (error < 1e-5 * energy.abs().clamp_min(100.0)).all()
    assert_forces(single_forces, forces, 1e-4)


def test_energies_alone_have_the_same_bits(case):
    system, x, *_ = case
    field = ForceField.from_openmm(system)
    for y in (x, x.float(), 0.6 * x.float(), 2 * x.float()):
        assert torch.equal(field.energy(y), field.energy_and_forces(y)[0])


@pytest.mark.parametrize("name", [*IMPLICIT_SOLVENTS, None])
@pytest.mark.parametrize("file", [FF14, ILDN])
def test_a_peptide_is_built_with_any_solvent(name, file):
    peptide = build_peptide("Ace-AC-Nme", forcefield=(file,), implicit_solvent=name, minimise=False)
    x = torch.from_numpy(peptide.positions)[None]
    energy = ForceField.from_openmm(peptide.system).energy(x)
    torch.testing.assert_close(energy, reference(peptide.system, x)[0], rtol=1e-10, atol=1e-9)


def test_heavy_atoms_of_other_elements_have_their_necks():
    # All elements of proteins meet in these, charged side chains among them.
    system = Model((FF14, solvent("gbn2"))).system("KDMYW")
    x = conformations("KDMYW", 1)
    energy, forces = ForceField.from_openmm(system).energy_and_forces(x)
    true_energy, true_forces = reference(system, x)
    torch.testing.assert_close(energy, true_energy, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(forces, true_forces, rtol=1e-9, atol=1e-8)


def test_solvents_are_known_whatever_their_spelling():
    system = Model((FF14, solvent("gbn2")), None, salt(1.0)).system("AA")
    rewritten, force = openmm.System(), openmm.CustomGBForce()
    original = next(f for f in system.getForces() if isinstance(f, openmm.CustomGBForce))
    for i in range(system.getNumParticles()):
        rewritten.addParticle(system.getParticleMass(i))
    for i in range(original.getNumPerParticleParameters()):
        force.addPerParticleParameter(original.getPerParticleParameterName(i))
    for i in range(original.getNumTabulatedFunctions()):
        shape = original.getTabulatedFunction(i).getFunctionParameters()
        force.addTabulatedFunction(
            original.getTabulatedFunctionName(i), openmm.Discrete2DFunction(*shape)
        )
    force.addGlobalParameter("debye", 1.0)
    for i in range(original.getNumComputedValues()):
        name, text, kind = original.getComputedValueParameters(i)
        force.addComputedValue(name, text.replace("psi=I*or", "psi=or*(2*I)/2"), kind)
    for i in range(original.getNumEnergyTerms()):
        text, kind = original.getEnergyTermParameters(i)
        force.addEnergyTerm(text.replace("exp(-kappa*", "exp(-debye*").replace("^2", "^2.0"), kind)
    for i in range(original.getNumParticles()):
        force.addParticle(original.getParticleParameters(i))
    rewritten.addForce(force)
    x = conformations("AA")
    energy = ForceField.from_openmm(rewritten).energy(x)
    torch.testing.assert_close(energy, reference(rewritten, x)[0], rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "torch"])
def test_torsions_of_ryckaert_and_bellemans(fused):
    system, force = openmm.System(), openmm.RBTorsionForce()
    for _ in range(4):
        system.addParticle(12.0)
    force.addTorsion(0, 1, 2, 3, 1.3, -2.0, 3.1, 0.7, -1.1, 2.4)
    force.addTorsion(3, 2, 1, 0, 0.2, 0.0, -0.5, 0.0, 0.0, 0.3)
    system.addForce(force)
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2)).double()
    energy, forces = ForceField.from_openmm(system, fused=fused).energy_and_forces(x)
    true_energy, true_forces = reference(system, x)
    torch.testing.assert_close(energy, true_energy, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forces, true_forces, rtol=1e-7, atol=1e-7)


def test_exceptions_know_no_cutoff():
    system, force = openmm.System(), openmm.NonbondedForce()
    for charge in (0.5, -0.3, 0.2):
        system.addParticle(12.0)
        force.addParticle(charge, 0.3, 0.4)
    force.addException(0, 1, -0.2, 0.25, 0.6)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.5)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.3)
    system.addForce(force)
    x = torch.tensor([[[0.0, 0, 0], [d, 0, 0], [0, d, 0]] for d in (0.25, 0.33, 0.45, 0.6, 0.9)])
    x = x.double()
    true_energy, true_forces = reference(system, x)
    assert (true_energy[-2:] != 0).all()
    for fused in (True, False):
        energy, forces = ForceField.from_openmm(system, fused=fused).energy_and_forces(x)
        torch.testing.assert_close(energy, true_energy, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(forces, true_forces, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("hydrogen", [2.0, 3.0])
def test_repartitioned_masses_are_those_of_openmm(hydrogen):
    peptide = build_peptide("KVW", minimise=False)  # NH3, CH3, CH2, NH and one ring
    field = app.ForceField(FF14)
    heavy = field.createSystem(peptide.topology, hydrogenMass=hydrogen * amu)
    masses = ForceField.from_openmm(heavy).masses.double()
    true = [heavy.getParticleMass(i)._value for i in range(heavy.getNumParticles())]
    assert masses.tolist() == true
    plain = ForceField.from_openmm(peptide_system("KVW")[0]).masses.double()
    ours = repartitioned_masses(plain, peptide.bonds, hydrogen)
    torch.testing.assert_close(ours, masses, rtol=1e-12, atol=0)
