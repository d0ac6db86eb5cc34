"""Molecules from files as systems: density, handedness, draws by dynamics, the record."""

import hashlib
import math

import numpy as np
import openmm
import pytest
import torch
from molecule_files import peptide, write_peptide_xml, write_prmtop, write_system
from prmtop_text import inpcrd_text

from gensci.core.errors import GensciError, SystemTextError, UsageError
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.systems.molecule import molecule_system


@pytest.fixture(scope="module")
def prmtop(tmp_path_factory):
    return write_prmtop(tmp_path_factory.mktemp("amber"))


@pytest.fixture(scope="module")
def dimer(tmp_path_factory):
    """Two atoms on a spring: its energy at equilibrium is known."""
    folder = tmp_path_factory.mktemp("dimer")
    system, bond = openmm.System(), openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(14.007)
    bond.addBond(0, 1, 0.11, 5e5)
    system.addForce(bond)
    (folder / "dimer.inpcrd").write_text(inpcrd_text(np.array([[0, 0, 0], [0.1, 0, 0.1]])))
    return write_system(folder, system, "dimer")


def rows(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_density_is_that_of_the_energies_and_of_one_handedness(prmtop):
    system = molecule_system(prmtop, temperature=350.0)
    built = peptide("Ace-A-Nme")
    x = torch.from_numpy(built.positions)[None]
    context = openmm.Context(
        built.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(built.positions)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    variance = 0.35**2 / 22
    truth = -energy / (GAS_CONSTANT * 350.0) - 1.5 * math.log(2 * math.pi * variance)
    target = system.target("cpu", torch.float64)
    assert target.log_prob({"positions": x}).item() == pytest.approx(truth, abs=1e-3)
    assert system.natural(torch.cat([x, x * torch.tensor([1, 1, -1])])).tolist() == [True, False]
    assert target.log_prob({"positions": -x}).item() == -math.inf


def test_draws_are_those_of_the_temperature(dimer):
    """Bond of a stiff dimer: mean energy kT/2, mean square of the centroid as the target has it."""
    n = 600
    x = molecule_system(dimer).proposal().sample(n, rows())["positions"].double()
    bond = (x[:, 0] - x[:, 1]).norm(dim=-1)
    kt = GAS_CONSTANT * 310.0
    energy = 0.5 * 5e5 * (bond - 0.11) ** 2
    assert energy.mean() == pytest.approx(0.5 * kt, abs=4 * kt / math.sqrt(2 * n))
    variance = 0.35**2 / 2
    assert x.mean(dim=1).square().mean() == pytest.approx(
        variance, abs=4 * variance * math.sqrt(2 / (3 * n))
    )


def test_draws_differ_are_handed_and_come_again_with_the_seed(prmtop):
    system = molecule_system(prmtop)
    proposal = system.proposal("cpu", torch.float32)
    x = proposal.sample(6, rows())["positions"]
    assert (x.shape, x.dtype) == ((6, 22, 3), torch.float32)
    assert torch.equal(x, proposal.sample(6, rows())["positions"])
    assert system.natural(x).all()
    distances = (x[:, 0] - x[:, -1]).norm(dim=-1)
    assert distances.std() > 0.01
    assert (system.force_field.energy(x) < 150.0).all()


def test_starts_are_relaxed_conformations(prmtop):
    system = molecule_system(prmtop)
    x = system.starts(5, rows(1))
    assert (x.shape, x.dtype) == ((5, 22, 3), torch.float32)
    assert torch.equal(x, system.starts(5, rows(1)))
    assert system.natural(x).all()
    energy, forces = system.force_field.energy_and_forces(x)
    thermal = system.force_field.energy(system.proposal().sample(5, rows())["positions"])
    assert energy.max() < thermal.min()
    assert forces.square().mean().sqrt() < 100.0


def test_atoms_on_top_of_each_other_are_told(tmp_path):
    built = peptide("AA")
    path = write_system(tmp_path, built.system)
    positions = built.positions.copy()
    positions[[5, 7]] = positions[[5, 7]].mean(axis=0)  # HA and HB of the same residue
    (tmp_path / "molecule.inpcrd").write_text(inpcrd_text(positions))
    system = molecule_system(path)
    with pytest.raises(GensciError, match="lie on top of each other; minimise the structure"):
        system.proposal().sample(2, rows())


def test_the_simulable_interface(prmtop):
    system = molecule_system(prmtop, implicit_solvent="obc2")
    assert (system.name, system.temperature) == ("ala", 310.0)
    assert system.force_field_names == ("ala.prmtop", "obc2")
    assert system.positions.shape == (22, 3)
    assert system.positions.dtype == np.float64
    assert system.topology.getNumAtoms() == 22
    assert system.bonds == peptide("Ace-A-Nme").bonds


def test_the_record_holds_names_hashes_and_settings(prmtop):
    settings = {"implicit_solvent": "none", "temperature": "400", "hydrogen-mass": "3"}
    system = molecule_system(str(prmtop), **settings)
    record = system.record()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()
               for path in (prmtop, prmtop.with_suffix(".inpcrd"))]  # fmt: skip
    assert [record["system.file_sha256"], record["system.coordinates_sha256"]] == digests
    assert (record["system.file"], record["system.coordinates"]) == ("ala.prmtop", "ala.inpcrd")
    assert record["system.temperature"] == 400.0
    assert record["system.hydrogen_mass"] == 3.0
    assert record["system.implicit_solvent"] == "none"
    assert system.warnings() == ()
    assert system.force_field.masses.min() == 3.0


def test_a_solvent_that_nobody_chose_is_told(prmtop, tmp_path):
    (line,) = molecule_system(prmtop).warnings()
    assert "gets obc1, the default; choose one with --system.implicit_solvent" in line
    assert molecule_system(write_peptide_xml(tmp_path)).warnings() == ()
    warned = molecule_system(prmtop, implicit_solvent="hct").warnings()
    assert [line.startswith("ala.prmtop: Non-optimal GB parameters") for line in warned] == [True]


def test_mistakes_are_errors_of_usage(prmtop, tmp_path):
    with pytest.raises(UsageError, match=r"no setting --system.temprature .* 'temperature'"):
        molecule_system(prmtop, temprature=300)
    with pytest.raises(UsageError, match=r"--system.temperature 0.0; give a positive one"):
        molecule_system(prmtop, temperature=0)
    with pytest.raises(UsageError, match=r"--system.cutoff 'far' cannot be used; give a number or"):
        molecule_system(prmtop, cutoff="far")
    path = tmp_path / "molecule.xml"
    with pytest.raises(SystemTextError, match=f"--system {path}: no such file; check"):
        molecule_system(path)


def test_a_missing_package_is_one_line_with_what_installs_it(prmtop, monkeypatch):
    def missing(*args, **settings):
        raise ModuleNotFoundError("No module named 'openmm'", name="openmm")

    monkeypatch.setattr("gensci.sims.molecule.molecule.read_prmtop", missing)
    with pytest.raises(UsageError, match=r"package openmm; pip install 'gensci\[peptides\]'"):
        molecule_system(prmtop)
