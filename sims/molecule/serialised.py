"""OpenMM objects from XML files: Systems, and States for their coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from .errors import MoleculeFileError

if TYPE_CHECKING:
    import openmm

_KINDS = {
    "System": "an OpenMM System",
    "State": "an OpenMM State (coordinates)",
    "Integrator": "an OpenMM Integrator",
    "ForceField": "an OpenMM ForceField",
}


def read_system_xml(path: Path) -> openmm.System:
    """The System of a file written with ``openmm.XmlSerializer``.

    Raises:
        MoleculeFileError: it cannot be read, is cut off, or holds something else.
    """
    return _deserialise(path, "System")


def read_state_xml(path: Path) -> np.ndarray:
    """Positions (atoms, 3) float64 nm of a serialised State.

    Raises:
        MoleculeFileError: as for a System, or the State holds no positions.
    """
    from openmm import OpenMMException, unit

    state = _deserialise(path, "State")
    try:
        positions = state.getPositions(asNumpy=True)
    except OpenMMException as error:
        raise MoleculeFileError(
            f"{path}: the State holds no positions; save it with getState(positions=True)"
        ) from error
    return np.array(positions.value_in_unit(unit.nanometer), dtype=np.float64)


def _deserialise(path: Path, kind: str) -> Any:
    from openmm import OpenMMException, XmlSerializer

    text = _read_text(path)
    found = _kind_of(path, text)
    if found != kind:
        raise MoleculeFileError(
            f"{path}: this XML holds {_KINDS.get(found, f'<{found}>')}, not {_KINDS[kind]}; "
            f"write one with openmm.XmlSerializer.serialize({kind.lower()})"
        )
    try:
        return XmlSerializer.deserialize(text)
    except (OpenMMException, ValueError) as error:
        raise MoleculeFileError(
            f"{path}: OpenMM cannot read this {kind} ({error}); serialise it again, with this "
            "version of OpenMM or an older one"
        ) from error


def _kind_of(path: Path, text: str) -> str:
    """Name of the outermost element. OpenMM's own reader takes a file that is cut off."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MoleculeFileError(
            f"{path}: this is no complete XML ({error}); copy or serialise it again"
        ) from error
    # Integrators carry the name of their class, and `type` says what they are.
    return "Integrator" if root.tag.endswith("Integrator") else root.tag


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise MoleculeFileError(f"{path}: cannot read this file ({reason})") from error
