"""The OpenMM system of a peptide: force field, solvent, cutoff."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .zwitterion import zwitterion_field

if TYPE_CHECKING:
    import openmm
    from openmm import app

DEFAULT_FORCE_FIELD = ("amber14-all.xml",)
IMPLICIT_SOLVENTS = ("hct", "obc1", "obc2", "gbn", "gbn2")


class PeptideBuildError(ValueError):
    """The geometry or the force field of a peptide cannot be made."""


def create_system(
    topology: app.Topology,
    *,
    forcefield: tuple[str, ...] = DEFAULT_FORCE_FIELD,
    implicit_solvent: str | None = "obc1",
    cutoff: float | None = None,
) -> openmm.System:
    """OpenMM system without constraints and without centre-of-mass remover.

    Raises:
        PeptideBuildError: Unknown solvent or force-field file, two solvents, residues without
            parameters, or a cutoff that is no positive length.
    """
    from openmm import app, unit

    # OpenMM takes a negative cutoff and then leaves out every pair.
    if cutoff is not None and not 0 < cutoff < math.inf:
        raise PeptideBuildError(f"cutoff is {cutoff} nm: give a positive length, or None for none")
    files = system_files(forcefield, implicit_solvent)
    field = zwitterion_field(topology, files) or _force_field(files)
    method = app.NoCutoff if cutoff is None else app.CutoffNonPeriodic
    options: dict[str, Any] = {} if cutoff is None else {"nonbondedCutoff": cutoff * unit.nanometer}
    try:
        system = field.createSystem(
            topology, nonbondedMethod=method, constraints=None, removeCMMotion=False, **options
        )
    except ValueError as error:
        raise PeptideBuildError(
            f"force field {', '.join(forcefield)} cannot describe this peptide ({error}); "
            "use amber14-all.xml or caps, e.g. Ace-A-Nme"
        ) from error
    _refuse_two_solvents(system, forcefield)
    return system


def _refuse_two_solvents(system: openmm.System, forcefield: tuple[str, ...]) -> None:
    import openmm

    models = (openmm.GBSAOBCForce, openmm.CustomGBForce)
    if sum(isinstance(force, models) for force in system.getForces()) > 1:
        raise PeptideBuildError(
            f"forcefield {', '.join(forcefield)} brings an implicit solvent of its own: "
            "use implicit_solvent=None with it"
        )


def system_files(forcefield: tuple[str, ...], implicit_solvent: str | None) -> tuple[str, ...]:
    """Names of the OpenMM files that make up a force field with its solvent."""
    if isinstance(forcefield, str):
        raise PeptideBuildError(f"forcefield is a text: give a tuple of files, ({forcefield!r},)")
    if implicit_solvent is None:
        return tuple(forcefield)
    if implicit_solvent not in IMPLICIT_SOLVENTS:
        raise PeptideBuildError(
            f"unknown implicit_solvent {implicit_solvent!r}: "
            f"use one of {', '.join(IMPLICIT_SOLVENTS)} or None"
        )
    return (*forcefield, f"implicit/{implicit_solvent}.xml")


@lru_cache(maxsize=8)
def _force_field(files: tuple[str, ...]) -> app.ForceField:
    from openmm import app

    try:
        return app.ForceField(*files)
    except ValueError as error:
        raise PeptideBuildError(f"forcefield {', '.join(files)}: {error}") from error
