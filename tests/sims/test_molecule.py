"""Molecules from files: energies against OpenMM, names and bonds, and files that do not fit."""

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from molecule_files import (
    copy_of,
    peptide,
    write_cif,
    write_pdb,
    write_peptide_xml,
    write_prmtop,
    write_state,
    write_system,
)
from openmm import app, unit
from prmtop_text import inpcrd_text

from gensci.sims.forcefield import ForceField
from gensci.sims.molecule import handed_centres, read_molecule
from gensci.sims.molecule.naming import elements_from_masses, plain_topology

from .openmm_reference import reference

AMBER_OPTIONS = {
    "none": {},
    "hct": {"implicitSolvent": app.HCT},
    "obc1": {"implicitSolvent": app.OBC1},
    "obc2": {"implicitSolvent": app.OBC2},
    "gbn": {"implicitSolvent": app.GBn},
    "gbn2": {"implicitSolvent": app.GBn2},
}


def shaken(positions, count=3):
    """(count, atoms, 3) float64 nm about a geometry."""
    noise = torch.randn(count, *positions.shape, generator=torch.Generator().manual_seed(3))
    return torch.from_numpy(positions) + 0.003 * noise.double()


def assert_same_physics(molecule, system):
    """Energies and forces of the molecule are those of OpenMM's Reference platform."""
    x = shaken(molecule.positions)
    energy, forces = reference(system, x)
    found, found_forces = ForceField(molecule.parameters).energy_and_forces(x)
    # OpenMM's own OBC2 force rounds its constants to seven digits
    assert torch.allclose(found, energy, rtol=0, atol=1e-4)
    assert torch.allclose(found_forces, forces, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def prmtop(tmp_path_factory):
    return write_prmtop(tmp_path_factory.mktemp("amber"))


@pytest.mark.filterwarnings("ignore:Non-optimal GB parameters")
@pytest.mark.parametrize("cutoff", [None, 0.7])
@pytest.mark.parametrize("solvent", AMBER_OPTIONS)
def test_a_prmtop_has_the_energies_that_openmm_gives_it(prmtop, solvent, cutoff):
    molecule = read_molecule(prmtop, implicit_solvent=solvent, cutoff=cutoff)
    method = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.7}
    options = AMBER_OPTIONS[solvent] | ({} if cutoff is None else method)
    system = app.AmberPrmtopFile(str(prmtop)).createSystem(**options)
    assert_same_physics(molecule, system)
    assert molecule.implicit_solvent == solvent


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"salt": 0.15}, {"implicitSolventSaltConc": 0.15, "temperature": 310.0}),
        (
            {"salt": 0.15, "temperature": 400.0},
            {"implicitSolventSaltConc": 0.15, "temperature": 400.0},
        ),
        ({"kappa": 1.3}, {"implicitSolventKappa": 1.3}),
    ],
)  # fmt: skip
def test_salt_screens_as_in_openmm(prmtop, settings, options):
    molecule = read_molecule(prmtop, implicit_solvent="obc1", **settings)
    system = app.AmberPrmtopFile(str(prmtop)).createSystem(implicitSolvent=app.OBC1, **options)
    assert_same_physics(molecule, system)


def test_the_written_prmtop_is_the_peptide_it_was_written_from(prmtop):
    """The tests' own prmtop writer is right: energies agree with the force field it came from."""
    built = peptide("Ace-A-Nme")
    molecule = read_molecule(prmtop)
    assert molecule.implicit_solvent == "obc1"  # the default, as of peptides
    x = shaken(built.positions)
    found = ForceField(molecule.parameters).energy(x)
    assert torch.allclose(found, reference(built.system, x)[0], rtol=0, atol=2e-3)
    assert (molecule.bonds, molecule.elements) == (built.bonds, built.elements)
    vacuum = peptide("Ace-A-Nme", implicit_solvent=None)  # whose geometry was written
    assert np.allclose(molecule.positions, vacuum.positions, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [{}, {"implicit_solvent": None}, {"implicit_solvent": "obc2", "cutoff": 0.8},
     {"implicit_solvent": "gbn2"}],
    ids=["obc1", "vacuum", "obc2 with cutoff", "gbn2"],
)  # fmt: skip
def test_a_system_xml_has_the_energies_of_its_system(tmp_path, settings):
    built = peptide("AA", **settings)
    molecule = read_molecule(write_peptide_xml(tmp_path, "AA", **settings))
    assert_same_physics(molecule, built.system)
    assert (molecule.bonds, molecule.elements) == (built.bonds, built.elements)
    assert [atom.name for atom in molecule.topology.atoms()] == list(built.atom_names)
    assert np.allclose(molecule.positions, built.positions, atol=1e-4)  # PDB rounds


@pytest.mark.parametrize("kind", ["prmtop", "xml"])
def test_hydrogens_are_made_heavier_as_openmm_does(tmp_path, kind):
    path = write_prmtop(tmp_path) if kind == "prmtop" else write_peptide_xml(tmp_path, "Ace-A-Nme")
    heavier = app.AmberPrmtopFile(str(write_prmtop(tmp_path, name="b"))).createSystem(
        hydrogenMass=2.5 * unit.dalton, rigidWater=False
    )
    expected = [heavier.getParticleMass(i)._value for i in range(heavier.getNumParticles())]
    molecule = read_molecule(path, hydrogen_mass=2.5)
    assert np.allclose(molecule.parameters.masses, expected, atol=2e-3)  # two tables of masses
    own = [molecule.system.getParticleMass(i)._value for i in range(molecule.num_atoms)]
    assert np.allclose(own, molecule.parameters.masses)


@pytest.mark.parametrize("kind", ["pdb", "cif", "inpcrd", "state"])
def test_coordinates_come_from_every_kind_of_file(tmp_path, kind):
    built = peptide("AA")
    path = write_system(tmp_path, built.system)
    if kind == "pdb":
        write_pdb(tmp_path / "molecule.pdb", built.topology, built.positions)
    elif kind == "cif":
        write_cif(tmp_path / "molecule.cif", built.topology, built.positions)
    elif kind == "inpcrd":
        (tmp_path / "molecule.inpcrd").write_text(inpcrd_text(built.positions))
    else:
        write_state(tmp_path / "molecule.state.xml", built.system, built.positions)
    molecule = read_molecule(path)
    assert np.allclose(molecule.positions, built.positions, atol=1e-4)
    assert (molecule.bonds, molecule.elements) == (built.bonds, built.elements)
    topology = {tuple(sorted((a.index, b.index))) for a, b in molecule.topology.bonds()}
    assert topology == set(built.bonds)


def test_a_state_takes_its_names_from_the_structure_beside_it(tmp_path):
    built = peptide("AA")
    path = write_peptide_xml(tmp_path)
    moved = built.positions + 0.01 * np.sin(np.arange(built.positions.size)).reshape(-1, 3)
    state = write_state(tmp_path / "other.xml", built.system, moved)
    molecule = read_molecule(path, coordinates=str(state))
    assert np.allclose(molecule.positions, moved - moved.mean(axis=0))
    assert [atom.name for atom in molecule.topology.atoms()] == list(built.atom_names)
    assert {role: name for role, (name, _) in molecule.files.items()} == {
        "file": "molecule.xml", "coordinates": "other.xml", "names": "molecule.pdb",
    }  # fmt: skip


def test_bonds_that_a_pdb_file_lacks_come_from_the_system(tmp_path):
    built = peptide("AA")
    path = write_peptide_xml(tmp_path)
    pdb = tmp_path / "molecule.pdb"
    pdb.write_text(pdb.read_text().replace("ALA", "XYZ"))  # no residue that OpenMM knows
    molecule = read_molecule(path)
    assert molecule.bonds == built.bonds
    assert molecule.topology.getNumBonds() == len(built.bonds)


@pytest.mark.parametrize("hydrogen_mass", [None, 3.0, 4.0])
@pytest.mark.parametrize("text", ["AA", "MC", "HW"])
def test_elements_are_known_by_mass_also_with_heavy_hydrogens(tmp_path, text, hydrogen_mass):
    built = peptide(text)
    molecule = read_molecule(write_peptide_xml(tmp_path, text), hydrogen_mass=hydrogen_mass)
    state = write_state(tmp_path / "b.state.xml", built.system, built.positions)
    again = read_molecule(write_system(tmp_path, molecule.system, "b"), coordinates=str(state))
    assert (again.elements, again.bonds) == (built.elements, built.bonds)


def test_molecules_of_a_plain_topology_are_residues_of_their_own():
    bonds = ((0, 1), (2, 3), (3, 4))
    topology = plain_topology(("H", "H", "H", "O", "H"), bonds)
    residues = [[atom.name for atom in residue.atoms()] for residue in topology.residues()]
    assert residues == [["H1", "H2"], ["H1", "O1", "H2"]]
    mixed = plain_topology(("H", "H", "H", "H"), ((0, 2), (1, 3)))
    assert mixed.getNumResidues() == 1
    lengths = {(2, 3): 0.0957, (3, 4): 0.0957, (0, 1): 0.074}
    masses = [1.008, 1.008, 1.008, 15.999, 1.008]
    assert elements_from_masses(masses, lengths) == ("H", "H", "H", "O", "H")


@given(st.permutations(range(5)), st.integers(0, 10**6))
def test_a_centre_is_kept_by_motions_and_lost_by_mirrors(order, seed):
    tetrahedron = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    rank = np.argsort(order)
    elements = np.array(["C", "H", "F", "Cl", "Br"])[list(order)]
    bonds = [(int(rank[0]), int(rank[k])) for k in range(1, 5)]
    positions = 0.1 * tetrahedron[list(order)]
    centres = handed_centres(elements.tolist(), bonds, positions)
    assert len(centres) == 1
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    centre, a, b, c = centres[0].tolist()
    for points, sign in ((positions @ turn.T, 1), (positions * [1, 1, -1], -1)):
        vectors = points[[a, b, c]] - points[centre]
        assert np.sign(np.linalg.det(vectors)) == sign


def test_centres_are_carbons_with_four_neighbours_that_are_not_flat():
    built = peptide("Ace-A-Nme")
    (centre,) = handed_centres(built.elements, built.bonds, built.positions)[:, 0].tolist()
    assert built.atom_names[centre] == "CA"
    flat = built.positions * [1.0, 1.0, 0.0]
    assert len(handed_centres(built.elements, built.bonds, flat)) == 0


def with_constraints(system):
    system.addConstraint(0, 1, 0.1)


def with_a_virtual_site(system):
    system.addParticle(0.0)
    system.setVirtualSite(
        system.getNumParticles() - 1, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5)
    )
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.addParticle(0, 1, 0)
        if isinstance(force, openmm.CustomGBForce):
            force.addParticle((0, 0.1, 0.1))


def with_pme(system):
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setNonbondedMethod(force.PME)


def with_a_custom_force(system):
    force = openmm.CustomExternalForce("x^2")
    force.addParticle(0)
    system.addForce(force)


def with_a_barostat(system):
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (with_constraints, "1 constraints"),
        (with_a_virtual_site, "virtual sites"),
        (with_pme, "NonbondedForce uses a periodic box"),
        (with_a_custom_force, "CustomExternalForce"),
        (with_a_barostat, "MonteCarloBarostat"),
    ],
)
def test_what_the_energies_would_lack_is_refused_by_name(tmp_path, change, part):
    system = copy_of(peptide("AA").system)
    change(system)
    with pytest.raises(ValueError, match=part) as error:
        read_molecule(write_system(tmp_path, system))  # before the coordinates are looked for
    assert type(error.value).__name__ == "UnsupportedForce"
