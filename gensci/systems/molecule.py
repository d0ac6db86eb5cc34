"""Molecules from files as systems to sample: an OpenMM System XML, or an Amber prmtop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.errors import GensciError, SystemTextError, UsageError
from gensci.core.registry import SYSTEMS
from gensci.sims.dynamics import relax
from gensci.sims.forcefield import ForceField
from gensci.sims.molecule import Molecule, handed_centres, read_molecule
from gensci.sims.peptide import is_natural
from gensci.systems.peptide import CENTROID_SCALE, TEMPERATURE, PeptideTarget
from gensci.systems.settings import typed_settings
from gensci.systems.short_dynamics import ShortDynamics

if TYPE_CHECKING:
    from openmm import app

_START_STEPS = 250
_START_DRAWS = 4


@SYSTEMS.register("file", proposal="dynamics", example="molecule.prmtop")
@dataclass(frozen=True, eq=False)
class MoleculeSystem:
    """A molecule from its files, with the energies that they define.

    A conformation counts when every stereocentre has the handedness of the coordinates given: each
    carbon with four neighbours of which at most one is hydrogen.

    Attributes:
        molecule: Topology, System and coordinates.
        temperature: K.
        settings: All settings, for the record.
        centroid_scale: nm, see ``PeptideTarget``.
    """

    molecule: Molecule
    temperature: float = TEMPERATURE
    settings: Mapping[str, Any] = field(default_factory=dict)
    centroid_scale: float = CENTROID_SCALE

    @classmethod
    def from_text(cls, text: str, **settings: Any) -> MoleculeSystem:
        """Read the molecule of a file; see ``molecule_system``."""
        chosen = molecule_settings(settings)
        try:
            molecule = read_molecule(text, **chosen)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"molecules from files need the package {error.name}",
                "pip install 'gensci[peptides]'",
            ) from error
        except ValueError as error:
            raise SystemTextError(f"--system {text}: {_without_path(text, error)}") from error
        return cls(molecule, chosen["temperature"], chosen)

    @property
    def name(self) -> str:
        """Stem of the file."""
        return self.molecule.name

    @property
    def topology(self) -> app.Topology:
        """OpenMM topology, for files that viewers open."""
        return self.molecule.topology

    @property
    def positions(self) -> np.ndarray:
        """(atoms, 3) float64 nm, the coordinates given, centred."""
        return self.molecule.positions

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Pairs of atom indices."""
        return self.molecule.bonds

    @property
    def force_field_names(self) -> tuple[str, ...]:
        """The file, and the implicit solvent that was added to it."""
        return self.molecule.force_field

    @cached_property
    def force_field(self) -> ForceField:
        """The batched potential energy, on the device and in the precision of its argument."""
        return ForceField(self.molecule.parameters)

    @cached_property
    def handed_centres(self) -> Tensor:
        """(k, 4) int64, see ``gensci.sims.molecule.handed_centres``."""
        return handed_centres(self.molecule.elements, self.bonds, self.positions)

    def natural(self, x: Tensor) -> Tensor:
        """(n,) bool: every stereocentre of x (n, atoms, 3) is handed as in the coordinates."""
        return is_natural(x, self.handed_centres)

    def record(self) -> dict[str, Any]:
        """Everything that decides the energies, for `run.json`: settings, files and their hashes.

        Files stand there by name and content, so that a moved folder is the same system.
        """
        facts = {f"system.{name}": value for name, value in self.settings.items()}
        for role, (name, digest) in self.molecule.files.items():
            facts |= {f"system.{role}": name, f"system.{role}_sha256": digest}
        return {**facts, "system.implicit_solvent": self.molecule.implicit_solvent}

    def warnings(self) -> tuple[str, ...]:
        """What the user must know although the run goes on, a line each."""
        name = self.molecule.files["file"][0]
        lines = tuple(f"{name}: {' '.join(line.split())}" for line in self.molecule.warnings)
        if self.settings.get("implicit_solvent") == "default":
            solvent = self.molecule.implicit_solvent
            if solvent != "file":
                lines += (
                    f"{name} names no solvent and gets {solvent}, the default; choose one with "
                    "--system.implicit_solvent (none for vacuum)",
                )
        return lines

    def target(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PeptideTarget:
        """The Boltzmann density; by default it follows the device and precision of its argument."""
        return PeptideTarget(
            self.force_field.to(device=device, dtype=dtype),
            self.temperature,
            self.natural,
            self.centroid_scale,
        )

    def proposal(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ShortDynamics:
        """Short dynamics from the coordinates; it draws, and has no density."""
        field = self.force_field.to(device=device, dtype=dtype or torch.float32)
        start = torch.from_numpy(self.positions).to(device=device, dtype=dtype or torch.float32)
        return ShortDynamics(field, start, self.temperature, self.centroid_scale)

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        """Relaxed conformations to begin simulations with, after a short hot run.

        Returns:
            (n, atoms, 3) float32 nm.

        Raises:
            GensciError: The coordinates cannot be simulated from.
        """
        proposal = self.proposal()
        found: list[Tensor] = []
        for _ in range(_START_DRAWS):
            x, energy = relax(proposal.force_field, proposal.heated(n, generator), _START_STEPS)
            found.append(x[self.natural(x) & energy.isfinite()])
            if sum(map(len, found)) >= n:
                return torch.cat(found)[:n]
        raise GensciError(
            f"molecule {self.name}: only {sum(map(len, found))} of {n} starts could be relaxed",
            "minimise the structure first, or use fewer --ladders",
        )


def molecule_system(path: str | Path, **settings: Any) -> MoleculeSystem:
    """The system of a `.xml`, `.prmtop` or `.parm7` file, for `gensci sample` and `simulate`.

    Args:
        path: The file; its coordinates lie beside it or are given by ``coordinates``.
        **settings: ``temperature`` and those of ``gensci.sims.molecule.read_molecule``, as values
            or as texts from the command line.

    Raises:
        SystemTextError: The files are absent, damaged or do not fit each other, or hold something
            that the energies lack (constraints, virtual sites, a periodic box, other forces).
        UsageError: An unknown setting, or a value of the wrong type.
    """
    return MoleculeSystem.from_text(str(path), **settings)


def molecule_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a molecule from a file, given ones checked against their types.

    Raises:
        UsageError: An unknown setting or a value of the wrong type.
    """

    def declare(parser: Any) -> None:
        parser.add_function_arguments(read_molecule, skip={"path"})

    return typed_settings(settings, "a molecule from a file", declare)


def _without_path(text: str, error: Exception) -> str:
    """The message without the file that the line begins with already."""
    return str(error).removeprefix(f"{Path(text)}: ")
