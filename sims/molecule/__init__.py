"""Molecules from files: an OpenMM System XML, or an Amber prmtop, with coordinates."""

from .amber import IMPLICIT_SOLVENTS
from .checks import MAX_ATOMS
from .errors import MoleculeFileError
from .handedness import handed_centres
from .molecule import SUFFIXES, Molecule, read_molecule

__all__ = [
    "IMPLICIT_SOLVENTS",
    "MAX_ATOMS",
    "SUFFIXES",
    "Molecule",
    "MoleculeFileError",
    "handed_centres",
    "read_molecule",
]
