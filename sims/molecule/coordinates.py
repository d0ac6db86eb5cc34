"""Coordinates of a molecule: which file has them, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import MoleculeFileError
from .serialised import read_state_xml

if TYPE_CHECKING:
    from openmm import app

STRUCTURES = (".pdb", ".ent", ".cif", ".pdbx", ".mmcif")
RESTARTS = (".inpcrd", ".rst7", ".crd", ".restrt", ".rst", ".ncrst")
STATE = ".state.xml"


@dataclass(frozen=True, eq=False)
class Coordinates:
    """What a coordinate file holds.

    Attributes:
        path: The file.
        positions: (atoms, 3) float64 nm.
        topology: Names and bonds, or None where such files have none.
    """

    path: Path
    positions: np.ndarray
    topology: app.Topology | None = None


def find_coordinates(path: Path, chosen: str | None) -> Path:
    """The coordinate file: the chosen one, or one of the same name beside ``path``.

    Raises:
        MoleculeFileError: It is not there.
    """
    if chosen is not None:
        return Path(chosen)
    amber = path.suffix.lower() != ".xml"
    order = (*RESTARTS, *STRUCTURES) if amber else (*STRUCTURES, *RESTARTS)
    for suffix in (*order, STATE):
        if (beside := path.with_suffix(suffix)).is_file():
            return beside
    likely = ("inpcrd", "rst7", "crd", "pdb") if amber else ("pdb", "cif", "state.xml")
    names = ", ".join(f"{path.stem}.{suffix}" for suffix in likely)
    raise MoleculeFileError(
        f"{path}: no coordinates beside it; put one of {names} there, or give the file with "
        "--system.coordinates PATH"
    )


def find_structure(path: Path) -> Path | None:
    """A PDB or mmCIF file of the same name beside ``path``, which knows the names of the atoms."""
    beside = (path.with_suffix(suffix) for suffix in STRUCTURES)
    return next((file for file in beside if file.is_file()), None)


def read_coordinates(path: Path) -> Coordinates:
    """Coordinates of a PDB, PDBx/mmCIF, Amber restart or State XML file.

    Raises:
        MoleculeFileError: It is absent, damaged or of another kind.
    """
    if not path.is_file():
        raise MoleculeFileError(f"{path}: no such coordinate file; check --system.coordinates")
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return Coordinates(path, read_state_xml(path))
    if suffix in RESTARTS:
        return Coordinates(path, _positions(_open(path, "AmberInpcrdFile")))
    if suffix in STRUCTURES:
        kind = "PDBFile" if suffix in (".pdb", ".ent") else "PDBxFile"
        structure = _open(path, kind)
        return Coordinates(path, _positions(structure), structure.topology)
    raise MoleculeFileError(
        f"{path}: coordinates are read from {' '.join((*RESTARTS, *STRUCTURES))} or a State .xml; "
        "convert the file or rename it"
    )


def _open(path: Path, kind: str) -> Any:
    from openmm import app

    try:
        return getattr(app, kind)(str(path))
    # OpenMM's readers raise whatever their indexing meets, and plain Exception
    except Exception as error:
        label = {"PDBFile": "PDB", "PDBxFile": "PDBx/mmCIF"}.get(kind, "Amber restart")
        raise MoleculeFileError(
            f"{path}: this is no complete {label} file ({type(error).__name__}: {error}); "
            "write it again"
        ) from error


def _positions(file: Any) -> np.ndarray:
    from openmm import unit

    return np.array(file.getPositions(asNumpy=True).value_in_unit(unit.nanometer), np.float64)
