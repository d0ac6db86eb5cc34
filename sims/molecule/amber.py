"""Amber prmtop files: what they hold is counted here, and turned into a System by OpenMM."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import MoleculeFileError

if TYPE_CHECKING:
    import openmm
    from openmm import app

IMPLICIT_SOLVENTS = ("hct", "obc1", "obc2", "gbn", "gbn2")
_OPENMM_NAMES = {"hct": "HCT", "obc1": "OBC1", "obc2": "OBC2", "gbn": "GBn", "gbn2": "GBn2"}
# Place in POINTERS and how many numbers an entry has, of the sections that OpenMM reads.
_PER_ATOM = ("ATOM_NAME", "CHARGE", "MASS", "ATOM_TYPE_INDEX", "NUMBER_EXCLUDED_ATOMS")
_PER_TERM = {
    "BONDS_INC_HYDROGEN": (2, 3),
    "BONDS_WITHOUT_HYDROGEN": (12, 3),
    "ANGLES_INC_HYDROGEN": (4, 4),
    "ANGLES_WITHOUT_HYDROGEN": (13, 4),
    "DIHEDRALS_INC_HYDROGEN": (6, 5),
    "DIHEDRALS_WITHOUT_HYDROGEN": (14, 5),
    "EXCLUDED_ATOMS_LIST": (10, 1),
    "RESIDUE_LABEL": (11, 1),
    "RESIDUE_POINTER": (11, 1),
    "BOND_FORCE_CONSTANT": (15, 1),
    "BOND_EQUIL_VALUE": (15, 1),
    "ANGLE_FORCE_CONSTANT": (16, 1),
    "ANGLE_EQUIL_VALUE": (16, 1),
    "DIHEDRAL_FORCE_CONSTANT": (17, 1),
    "DIHEDRAL_PERIODICITY": (17, 1),
    "DIHEDRAL_PHASE": (17, 1),
}
_LENNARD_JONES = ("LENNARD_JONES_ACOEF", "LENNARD_JONES_BCOEF")
_IFBOX = 27
_WIDTH = re.compile(r"%FORMAT\(\s*\d+\s*([AIEFG])(\d+)", re.IGNORECASE)


def read_prmtop(
    path: Path,
    *,
    implicit_solvent: str | None,
    cutoff: float | None = None,
    salt: float = 0.0,
    kappa: float | None = None,
    temperature: float = 310.0,
) -> tuple[openmm.System, app.Topology, tuple[str, ...]]:
    """System, without constraints, and topology of an Amber prmtop.

    Args:
        path: The file.
        implicit_solvent: One of ``IMPLICIT_SOLVENTS``, or None for vacuum.
        cutoff: nm, not periodic; None for none.
        salt: mol/l of a 1:1 salt in the implicit solvent.
        kappa: 1/nm, the inverse screening length instead of ``salt``.
        temperature: K, at which ``salt`` screens.

    Returns:
        System, topology, and what OpenMM warned of.

    Raises:
        MoleculeFileError: The file is cut off, of another kind or periodic, or lacks the radii of
            the implicit solvent.
    """
    _check_prmtop(path, implicit_solvent)
    from openmm import app, unit

    options: dict[str, Any] = {"nonbondedMethod": app.NoCutoff}
    if cutoff is not None:
        options["nonbondedMethod"] = app.CutoffNonPeriodic
        options["nonbondedCutoff"] = cutoff * unit.nanometer
    if implicit_solvent is not None:
        options["implicitSolvent"] = getattr(app, _OPENMM_NAMES[implicit_solvent])
        options["implicitSolventSaltConc"] = salt * unit.molar
        options["implicitSolventKappa"] = kappa
        options["temperature"] = temperature * unit.kelvin
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            prmtop = app.AmberPrmtopFile(str(path))
            system = prmtop.createSystem(
                constraints=None, rigidWater=False, removeCMMotion=False, **options
            )
        # OpenMM's reader raises whatever its indexing meets, and plain Exception
        except Exception as error:
            raise MoleculeFileError(
                f"{path}: OpenMM cannot use this prmtop ({type(error).__name__}: {error}); write "
                "it again with tleap or ParmEd"
            ) from error
    told = dict.fromkeys(str(warning.message) for warning in caught)
    return system, prmtop.topology, tuple(told)


def _check_prmtop(path: Path, implicit_solvent: str | None) -> None:
    """Refuse a file whose sections do not have the lengths that it announces."""
    counts, pointers = _sections(path)
    if len(pointers) <= _IFBOX:
        raise MoleculeFileError(
            f"{path}: this is no Amber prmtop (no %FLAG POINTERS section); give the topology file "
            "that tleap or ParmEd writes"
        )
    if pointers[_IFBOX]:
        raise MoleculeFileError(
            f"{path}: the prmtop has a periodic box; remove solvent and box (ParmEd: `strip "
            ":WAT,Na+,Cl- nobox`) and use an implicit solvent"
        )
    for name, count in _needed(pointers, implicit_solvent).items():
        if name == "RADII" and name not in counts:
            raise MoleculeFileError(
                f"{path}: the prmtop has no RADII for implicit_solvent {implicit_solvent}; add "
                "them (ParmEd: changeRadii mbondi2) or use implicit_solvent none"
            )
        if counts.get(name, 0) < count:
            raise MoleculeFileError(
                f"{path}: section {name} of the prmtop has {counts.get(name, 0)} of {count} "
                "entries; the file is damaged or cut off, copy or write it again"
            )


def _needed(pointers: list[int], implicit_solvent: str | None) -> dict[str, int]:
    """How many entries the sections must have, RADII after all those of any prmtop."""
    types = pointers[1]
    needed = dict.fromkeys(_PER_ATOM, pointers[0])
    needed |= {name: pointers[place] * width for name, (place, width) in _PER_TERM.items()}
    needed |= {"NONBONDED_PARM_INDEX": types**2}
    needed |= dict.fromkeys(_LENNARD_JONES, types * (types + 1) // 2)
    if implicit_solvent is not None:
        needed |= {"RADII": pointers[0]}
        needed |= {} if implicit_solvent.startswith("gbn") else {"SCREEN": pointers[0]}
    return needed


def _sections(path: Path) -> tuple[dict[str, int], list[int]]:
    """Number of entries of every section, and the numbers of POINTERS."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise MoleculeFileError(f"{path}: cannot read this file ({reason})") from error
    counts: dict[str, int] = {}
    pointers: list[int] = []
    name, width, text = "", 0, False
    for line in lines:
        if line.startswith("%FLAG"):
            name, width = line[5:].strip(), 0
            counts[name] = 0
        elif match := _WIDTH.match(line):
            width, text = int(match[2]), match[1] in "aA"
        elif width and not line.startswith("%"):
            # numbers stand at the right of their field: a part of a field is one that was cut off
            length = len(line.rstrip())
            counts[name] += math.ceil(length / width) if text else length // width
            if name == "POINTERS":
                pointers += [int(word) for word in line.split() if word.lstrip("-").isdigit()]
    return counts, pointers
