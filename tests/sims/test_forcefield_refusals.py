"""What the force field cannot represent is refused by name before any energy."""

import copy
import math

import openmm
import pytest
from openmm import app

from gensci.sims.forcefield import ForceField, UnsupportedForce
from gensci.sims.peptide import PeptideBuildError, build_peptide

from .openmm_reference import peptide_system


def broken(change):
    system = copy.deepcopy(peptide_system("AA")[0])
    change(system)
    return system


def find(system, kind):
    return next(force for force in system.getForces() if isinstance(force, kind))


def nonbonded(system):
    return find(system, openmm.NonbondedForce)


def solvent(system):
    return find(system, openmm.CustomGBForce)


def add_virtual_site(system):
    index = system.addParticle(0.0)
    system.setVirtualSite(index, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))


def use_bad_switch(system):
    for force in (nonbonded(system), solvent(system)):
        force.setNonbondedMethod(force.CutoffNonPeriodic)
    nonbonded(system).setUseSwitchingFunction(True)
    nonbonded(system).setSwitchingDistance(1.5)


def add_offsets(system):
    nonbonded(system).addGlobalParameter("a", 0.0)
    nonbonded(system).addParticleParameterOffset("a", 0, 1.0, 0.0, 0.0)


def bend_radius(system):
    name, text, kind = solvent(system).getComputedValueParameters(1)
    solvent(system).setComputedValueParameters(1, name, text.replace("tanh", "sin"), kind)


def weaken_pairs(system):
    terms = [solvent(system).getEnergyTermParameters(i) for i in range(3)]
    index, (text, kind) = next((i, t) for i, t in enumerate(terms) if "charge1" in t[0])
    solvent(system).setEnergyTermParameters(index, f"0.5*{text}", kind)


def stretch_integral(system):
    name, text, kind = solvent(system).getComputedValueParameters(0)
    solvent(system).setComputedValueParameters(0, name, f"1.01*{text}", kind)


def nan_charge(system):
    nonbonded(system).setParticleParameters(3, math.nan, 0.3, 0.1)


def infinite_bond(system):
    find(system, openmm.HarmonicBondForce).setBondParameters(2, 0, 1, 0.1, math.inf)


REFUSED = {
    r"CMAPTorsionForce is not supported; use a force field without CMAP": lambda s: s.addForce(
        openmm.CMAPTorsionForce()
    ),
    "CustomTorsionForce, CMAPTorsionForce are not supported; use a force field without": lambda s: (
        s.addForce(openmm.CustomTorsionForce("theta")),
        s.addForce(openmm.CMAPTorsionForce()),
    ),
    "CustomNonbondedForce is not supported; give a System of": lambda s: s.addForce(
        openmm.CustomNonbondedForce("r")
    ),
    "CustomBondForce is not supported": lambda s: s.addForce(openmm.CustomBondForce("r")),
    "CustomTorsionForce is not supported": lambda s: s.addForce(openmm.CustomTorsionForce("theta")),
    "CustomExternalForce is not supported": lambda s: s.addForce(openmm.CustomExternalForce("x")),
    "AmoebaVdwForce is not supported": lambda s: s.addForce(openmm.AmoebaVdwForce()),
    "DrudeForce is not supported": lambda s: s.addForce(openmm.DrudeForce()),
    "MonteCarloBarostat is not supported; remove it": lambda s: s.addForce(
        openmm.MonteCarloBarostat(1.0, 300.0)
    ),
    "AndersenThermostat is not supported; remove it": lambda s: s.addForce(
        openmm.AndersenThermostat(300.0, 1.0)
    ),
    "1 constraints; build it with constraints=None": lambda s: s.addConstraint(0, 1, 0.1),
    "virtual sites; use a model without": add_virtual_site,
    "particle 4 has no mass, so OpenMM would hold it in place": lambda s: s.setParticleMass(4, 0.0),
    "NonbondedForce uses a periodic box; build": lambda s: nonbonded(s).setNonbondedMethod(
        openmm.NonbondedForce.CutoffPeriodic
    ),
    "NonbondedForce uses a periodic box": lambda s: nonbonded(s).setNonbondedMethod(
        openmm.NonbondedForce.PME
    ),
    "HarmonicBondForce uses a periodic box": lambda s: find(
        s, openmm.HarmonicBondForce
    ).setUsesPeriodicBoundaryConditions(True),
    "switches at 1.5 nm; give a distance below": use_bad_switch,
    "different cutoffs; make them equal": lambda s: nonbonded(s).setNonbondedMethod(
        openmm.NonbondedForce.CutoffNonPeriodic
    ),
    "periodicity 7; at most 6": lambda s: find(s, openmm.PeriodicTorsionForce).addTorsion(
        0, 1, 2, 3, 7, 0.0, 1.0
    ),
    "2 of NonbondedForce; keep one": lambda s: s.addForce(openmm.NonbondedForce()),
    "both GBSAOBCForce and CustomGBForce; keep one": lambda s: s.addForce(openmm.GBSAOBCForce()),
    "parameter offsets; remove them": add_offsets,
    "none of HCT, OBC1, OBC2, GBn and GBn2 .the Born radius": bend_radius,
    "none of HCT, OBC1, OBC2, GBn and GBn2 .the pair energy": weaken_pairs,
    "none of HCT, OBC1, OBC2, GBn and GBn2 .the Born integral": stretch_integral,
    "HarmonicBondForce names particle 99, the System has": lambda s: find(
        s, openmm.HarmonicBondForce
    ).addBond(0, 99, 0.1, 1000.0),
    "HarmonicAngleForce names particle -1, the System has": lambda s: find(
        s, openmm.HarmonicAngleForce
    ).addAngle(0, -1, 2, 2.0, 100.0),
    "a torsion force names particle 99, the System has": lambda s: find(
        s, openmm.PeriodicTorsionForce
    ).addTorsion(0, 1, 2, 99, 1, 0.0, 1.0),
    "NonbondedForce names particle 99, the System has": lambda s: nonbonded(s).addException(
        0, 99, 0.0, 1.0, 0.0
    ),
    "NonbondedForce has .* particles, the System .*; give both": lambda s: s.addParticle(1.0),
    r"not finite, first coulomb at \(3, 7\); correct the force field": nan_charge,
    r"1 parameters that are not finite, first bond_k at .2,.": infinite_bond,
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_what_it_would_have_to_ignore(message):
    with pytest.raises(UnsupportedForce, match=message) as caught:
        ForceField.from_openmm(broken(REFUSED[message]))
    assert "\n" not in str(caught.value)


def test_refuses_the_surface_term_lcpo():
    topology = build_peptide("AA", minimise=False).topology
    field = app.ForceField("amber14-all.xml", "implicit/obc1.xml")
    with pytest.raises(UnsupportedForce, match="LCPOForce is not supported; use the surface"):
        ForceField.from_openmm(field.createSystem(topology, sasaMethod="LCPO"))


@pytest.mark.slow  # OpenMM takes seconds to read the file
def test_refuses_charmm_for_its_maps():
    peptide = build_peptide(
        "AAA", forcefield=("charmm36.xml",), implicit_solvent=None, minimise=False
    )
    with pytest.raises(
        UnsupportedForce, match=r"CMAPTorsionForce.*are not supported; .*without CM"
    ):
        ForceField.from_openmm(peptide.system)


def test_a_peptide_has_one_solvent():
    with pytest.raises(PeptideBuildError, match="solvent of its own: use implicit_solvent=None"):
        build_peptide("AA", forcefield=("amber99sbildn.xml", "amber99_obc.xml"), minimise=False)
