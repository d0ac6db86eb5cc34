"""Damaged, foreign and unfitting files of molecules: one clear line with the remedy."""

import re

import numpy as np
import openmm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecule_files import peptide, write_pdb, write_peptide_xml, write_prmtop, write_state
from openmm import XmlSerializer
from prmtop_text import inpcrd_text

from gensci.sims.molecule import MoleculeFileError, read_molecule


@pytest.fixture
def xml(tmp_path):
    return write_peptide_xml(tmp_path)


@pytest.fixture
def prmtop(tmp_path):
    return write_prmtop(tmp_path)


def refused(path, part, **given):
    with pytest.raises(MoleculeFileError, match=part) as error:
        read_molecule(path, **given)
    assert "\n" not in str(error.value)


def test_absent_files_are_named(tmp_path, xml, prmtop):
    refused(tmp_path / "nope.xml", "nope.xml: no such file")
    refused(xml, "nope.pdb: no such coordinate file", coordinates=str(tmp_path / "nope.pdb"))
    (tmp_path / "molecule.pdb").unlink()
    refused(xml, r"no coordinates beside it; put one of molecule.pdb, .*--system.coordinates")
    (tmp_path / "ala.inpcrd").unlink()
    refused(prmtop, r"put one of ala.inpcrd, ala.rst7")


def test_xml_of_another_kind_is_named(tmp_path, xml):
    built = peptide("AA")
    state = write_state(tmp_path / "state.xml", built.system, built.positions)
    refused(state, "holds an OpenMM State .*, not an OpenMM System")
    refused(xml, "holds an OpenMM System, not an OpenMM State", coordinates=str(xml))
    (tmp_path / "i.xml").write_text(XmlSerializer.serialize(openmm.VerletIntegrator(0.001)))
    refused(tmp_path / "i.xml", "holds an OpenMM Integrator")
    (tmp_path / "f.xml").write_text("<ForceField></ForceField>")
    refused(tmp_path / "f.xml", "holds an OpenMM ForceField")
    (tmp_path / "h.xml").write_text("<html></html>")
    refused(tmp_path / "h.xml", "holds <html>")
    bare = write_state(tmp_path / "bare.xml", built.system, built.positions, energy=True)
    refused(xml, "the State holds no positions", coordinates=str(bare))


@settings(max_examples=25)
@given(st.floats(0.0, 0.999))
def test_an_xml_that_is_cut_off_anywhere_is_refused(tmp_path_factory, fraction):
    folder = tmp_path_factory.mktemp("cut")
    path = write_peptide_xml(folder)
    text = path.read_text().rstrip()
    path.write_text(text[: int(fraction * len(text))])
    refused(path, "no complete XML")


@settings(max_examples=25)
@given(st.floats(0.0, 0.9999))
def test_a_prmtop_that_is_cut_off_anywhere_is_refused(tmp_path_factory, fraction):
    path = write_prmtop(tmp_path_factory.mktemp("cut"))
    text = path.read_text().rstrip()
    path.write_text(text[: int(fraction * len(text))])
    refused(path, "no Amber prmtop|section .* has|no RADII|OpenMM cannot use this prmtop")


def test_bytes_and_other_texts_are_no_molecules(tmp_path, xml, prmtop):
    xml.write_bytes(b"\xff\xfe\x00")
    refused(xml, "cannot read this file")
    prmtop.write_bytes(b"\xff\xfe\x00")
    refused(prmtop, "cannot read this file")
    prmtop.write_text("dear\n")
    refused(prmtop, "no Amber prmtop")
    xml.write_text("<System type='System' version='99'></System>")
    refused(xml, "OpenMM cannot read this System")


@pytest.mark.parametrize(
    ("pattern", "replacement", "part"),
    [
        (r"%FLAG RADII.*?(?=%FLAG)", "", "no RADII for implicit_solvent obc1.*_solvent none"),
        (r"%FLAG SCREEN.*", "", "section SCREEN of the prmtop has 0 of 22"),
        (r"%FLAG HBCUT.*?(?=%FLAG)", "", None),
        (r"%FLAG LENNARD_JONES_ACOEF.*?(?=%FLAG)", "", "section LENNARD_JONES_ACOEF"),
        (r"%FLAG HBOND_ACOEF.*?(?=%FLAG)", "", "OpenMM cannot use this prmtop"),
        (r"(?<=%FLAG MASS\n%FORMAT\(5E16.8\)\n) +[0-9.E+-]+", f"{'xx':>16}", "OpenMM cannot use"),
    ],
    ids=["radii", "screen", "unused", "lennard-jones", "hydrogen bonds", "letters"],
)  # fmt: skip
def test_a_prmtop_without_a_section_names_it(prmtop, pattern, replacement, part):
    text, count = re.subn(pattern, replacement, prmtop.read_text(), count=1, flags=re.DOTALL)
    assert count == 1
    prmtop.write_text(text)
    if part is None:
        assert read_molecule(prmtop).num_atoms == 22
    else:
        refused(prmtop, part)


def test_a_periodic_prmtop_is_refused(prmtop):
    head, mark, rest = prmtop.read_text().partition("%FLAG POINTERS\n%FORMAT(10I8)\n")
    lines = rest.splitlines(keepends=True)
    lines[2] = lines[2][:56] + f"{1:8d}" + lines[2][64:]  # IFBOX is the 28th number
    prmtop.write_text(head + mark + "".join(lines))
    refused(prmtop, "periodic box")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"implicit_solvent": "obc3"}, "unknown implicit_solvent 'obc3': use one of hct, obc1"),
        ({"cutoff": -1.0}, "cutoff is -1.0 nm"),
        ({"cutoff": float("nan")}, "cutoff is nan nm"),
        ({"salt": -0.1}, "salt is -0.1"),
        ({"salt": 0.1, "implicit_solvent": "none"}, "salt is 0.1 in vacuum"),
        ({"kappa": float("inf")}, "kappa is inf"),
        ({"hydrogen_mass": 9.0}, "hydrogen_mass is 9.0 Da"),
        ({"hydrogen_mass": -1.0}, "hydrogen_mass is -1.0 Da"),
        ({"hydrogen_mass": float("nan")}, "hydrogen_mass is nan Da"),
    ],
)
def test_settings_out_of_range_are_refused(prmtop, given, part):
    refused(prmtop, re.escape(part), **given)


@pytest.mark.parametrize("name", ["implicit_solvent", "cutoff", "salt", "kappa"])
def test_a_system_xml_is_taken_as_it_is(xml, name):
    value = {"implicit_solvent": "obc2"}.get(name, 0.9)
    refused(xml, f"{name} {value} cannot be applied, a System XML holds", **{name: value})


def test_coordinates_that_are_not_finite_name_the_atom(tmp_path, xml, prmtop):
    built = peptide("Ace-A-Nme", implicit_solvent=None)
    positions = built.positions.copy()
    positions[8, 1] = np.nan
    (tmp_path / "ala.inpcrd").write_text(inpcrd_text(positions))
    refused(prmtop, r"ala.inpcrd: the coordinates of atom 9 \(CA of ALA 2\) are not finite; give")
    pdb = tmp_path / "molecule.pdb"
    lines = pdb.read_text().splitlines(keepends=True)
    for row in (3, 5):
        lines[row] = lines[row][:30] + f"{'nan':>8}" + lines[row][38:]
    pdb.write_text("".join(lines))
    refused(xml, r"coordinates of atom 3 \(H2 of ALA 1\) are not finite, nor those of 1 more")


def test_coordinates_of_other_atoms_are_refused(tmp_path, xml, prmtop):
    built = peptide("AA")
    refused(prmtop, "has 23 atoms, .*ala.prmtop has 22", coordinates=str(tmp_path / "molecule.pdb"))
    swapped = built.positions.copy()
    swapped[[0, 20]] = swapped[[20, 0]]
    write_pdb(tmp_path / "molecule.pdb", built.topology, swapped)
    refused(xml, r"atom 1 \(N of ALA 1\) and atom \d+ .* are bound in .* nm apart")
    (tmp_path / "molecule.pdb").write_text("REMARK nothing\n")
    refused(xml, "molecule.pdb")
    (tmp_path / "molecule.pdb").unlink()
    (tmp_path / "molecule.inpcrd").write_text("title\n  23\n  1.0\n")
    refused(xml, "no complete Amber restart")
    (tmp_path / "molecule.xyz").write_text("")
    refused(xml, "coordinates are read from", coordinates=str(tmp_path / "molecule.xyz"))


def test_a_structure_of_other_atoms_does_not_lend_its_names(tmp_path, xml):
    built = peptide("AA")
    state = write_state(tmp_path / "s.xml", built.system, built.positions)
    other = peptide("Ace-A-Nme")
    write_pdb(tmp_path / "molecule.pdb", other.topology, other.positions)
    refused(xml, "molecule.pdb has 22 atoms", coordinates=str(state))


@pytest.mark.parametrize("count", [0, 4001])
def test_too_many_atoms_or_none_are_refused(tmp_path, count):
    system = openmm.System()
    for _ in range(count):
        system.addParticle(1.0)
    path = tmp_path / "many.xml"
    path.write_text(XmlSerializer.serialize(system))
    refused(path, f"{count} atoms; molecules of 1 to 4000 atoms")
