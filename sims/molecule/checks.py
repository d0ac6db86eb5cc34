"""Whether the files of a molecule are usable and fit each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .coordinates import Coordinates
from .errors import MoleculeFileError

if TYPE_CHECKING:
    import openmm
    from openmm import app

MAX_ATOMS = 4000  # the force field keeps tables of all pairs
_APART = 0.1  # nm that a bond of the coordinates may be longer than its reference length


def check_settings(cutoff: float | None, salt: float, kappa: float | None, solvent: str) -> None:
    """Refuse lengths and concentrations that mean nothing."""
    if cutoff is not None and not 0 < cutoff < math.inf:
        raise MoleculeFileError(f"cutoff is {cutoff} nm: give a positive length")
    for name, value in (("salt", salt), ("kappa", 0.0 if kappa is None else kappa)):
        if not 0 <= value < math.inf:
            raise MoleculeFileError(f"{name} is {value}: give zero or more")
        if value and solvent == "none":
            raise MoleculeFileError(f"{name} is {value} in vacuum: give an implicit_solvent too")


def check_size(path: Path, system: openmm.System) -> None:
    """Refuse an empty System, and one whose table of pairs would not fit in memory."""
    count = system.getNumParticles()
    if not 0 < count <= MAX_ATOMS:
        raise MoleculeFileError(
            f"{path}: {count} atoms; molecules of 1 to {MAX_ATOMS} atoms are sampled, remove the "
            "solvent and use an implicit one"
        )


def check_count(path: Path, count: int, found: Coordinates) -> None:
    """Refuse coordinates of another number of atoms."""
    if len(found.positions) != count:
        raise MoleculeFileError(
            f"{found.path} has {len(found.positions)} atoms, {path} has {count}; give coordinates "
            "of the same atoms in the same order, all hydrogens included"
        )


def atom_labels(topology: app.Topology) -> list[str]:
    """How messages name the atoms, for example ``atom 5 (CB of ALA 2)``; counted from 1."""
    return [
        f"atom {number} ({atom.name} of {atom.residue.name} {atom.residue.id})"
        for number, atom in enumerate(topology.atoms(), start=1)
    ]


def check_finite(found: Coordinates, labels: Sequence[str]) -> None:
    """Refuse coordinates that are not finite, naming the first such atom."""
    bad = np.flatnonzero(~np.isfinite(found.positions).all(axis=1))
    if len(bad):
        raise MoleculeFileError(
            f"{found.path}: the coordinates of {labels[bad[0]]} are not finite"
            + (f", nor those of {len(bad) - 1} more atoms" if len(bad) > 1 else "")
            + "; give others"
        )


def check_order(
    path: Path,
    found: Coordinates,
    lengths: dict[tuple[int, int], float],
    labels: Sequence[str],
) -> None:
    """Refuse coordinates in which bound atoms are far apart: another order, or Angstrom as nm."""
    for (a, b), length in lengths.items():
        distance = float(np.linalg.norm(found.positions[a] - found.positions[b]))
        if distance > length + _APART:
            raise MoleculeFileError(
                f"{found.path}: {labels[a]} and {labels[b]} are bound in {path} but "
                f"{distance:.2f} nm apart; give coordinates with the atoms in the same order, not "
                "cut by a periodic box"
            )
