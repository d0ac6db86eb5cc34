"""Files of molecules for the tests: serialised Systems, prmtop, coordinates."""

from functools import cache

import openmm
from openmm import XmlSerializer, app
from prmtop_text import inpcrd_text, prmtop_text

from gensci.sims.peptide import build_peptide


@cache
def peptide(text, **settings):
    """A built peptide; the same object for the same settings, so it must not be changed."""
    return build_peptide(text, **settings)


def write_prmtop(folder, text="Ace-A-Nme", name="ala"):
    """Write `name`.prmtop and `name`.inpcrd of a peptide; return the path of the first."""
    built = peptide(text, implicit_solvent=None)
    path = folder / f"{name}.prmtop"
    path.write_text(prmtop_text(built.topology, built.system))
    (folder / f"{name}.inpcrd").write_text(inpcrd_text(built.positions))
    return path


def write_system(folder, system, name="molecule"):
    """Write a System as XML; return its path."""
    path = folder / f"{name}.xml"
    path.write_text(XmlSerializer.serialize(system))
    return path


def write_pdb(path, topology, positions):
    """Write positions (atoms, 3) nm."""
    with path.open("w") as handle:
        app.PDBFile.writeFile(topology, 10 * positions, handle)
    return path


def write_cif(path, topology, positions):
    """Write positions (atoms, 3) nm."""
    with path.open("w") as handle:
        app.PDBxFile.writeFile(topology, 10 * positions, handle)
    return path


def write_state(path, system, positions, **kinds):
    """Write a State with positions, or with what `kinds` names."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    state = context.getState(**(kinds or {"positions": True}))
    path.write_text(XmlSerializer.serialize(state))
    return path


def write_peptide_xml(folder, text="AA", name="molecule", **settings):
    """Write `name`.xml and `name`.pdb of a peptide; return the path of the first."""
    built = peptide(text, **settings)
    write_pdb(folder / f"{name}.pdb", built.topology, built.positions)
    return write_system(folder, built.system, name)


def copy_of(system):
    """The same System, free to be changed."""
    return XmlSerializer.deserialize(XmlSerializer.serialize(system))
