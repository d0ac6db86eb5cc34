"""A peptide from its sequence: topology, OpenMM system and minimised geometry. No AmberTools."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .chirality import chiral_centres, is_natural
from .geometry import atom_keys, default_torsions, place_atoms, random_torsions
from .labels import (
    Fork,
    PlanarGroup,
    canonical,
    exchanged_names,
    forks,
    is_canonical,
    planar_groups,
    planar_labels,
    uninverted,
)
from .parameters import DEFAULT_FORCE_FIELD, PeptideBuildError, create_system, system_files
from .parse import PeptideSpec, parse_peptide
from .topology import bond_pairs, chain_topology, element_of

if TYPE_CHECKING:
    import openmm
    from openmm import app

MAX_RESIDUES = 64
_SEED = 20250923


@dataclass(frozen=True, eq=False)
class Peptide:
    """A peptide ready for simulation. Atoms go residue by residue.

    Attributes:
        spec: What was asked for.
        topology: OpenMM topology.
        system: OpenMM system: force field, no constraints, no centre-of-mass remover.
        positions: (atoms, 3) float64 nm, a local minimum of the potential.
        atom_names: Amber names; the N-terminal hydrogens are H, H2, H3.
        residue_names: Three-letter name of the residue of every atom (HIS is HIE; caps ACE, NME).
        residue_index: 0-based residue of every atom, caps counted.
        elements: Element symbols.
        bonds: Pairs of atom indices.
        chiral_centres: (k, 4) int64, see ``chirality.chiral_centres``.
        force_field: Names of the OpenMM force-field files.
    """

    spec: PeptideSpec
    topology: app.Topology = field(repr=False)
    system: openmm.System = field(repr=False)
    positions: np.ndarray = field(repr=False)
    atom_names: tuple[str, ...] = field(repr=False)
    residue_names: tuple[str, ...] = field(repr=False)
    residue_index: tuple[int, ...] = field(repr=False)
    elements: tuple[str, ...] = field(repr=False)
    bonds: tuple[tuple[int, int], ...] = field(repr=False)
    force_field: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Canonical spelling of the sequence and caps."""
        return self.spec.name

    @property
    def num_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return len(self.atom_names)

    @cached_property
    def chiral_centres(self) -> Tensor:
        """(k, 4) int64 stereocentres; see ``chirality.chiral_centres``."""
        return chiral_centres(self.residue_index, self.residue_names, self.atom_names)

    def chirality(self, x: Tensor) -> Tensor:
        """(n,) bool: every stereocentre of x (n, atoms, 3) has its natural (L) handedness."""
        return is_natural(x, self.chiral_centres)

    @cached_property
    def planar_labels(self) -> Tensor:
        """(k, 4) int64 torsions that tell the names of equal atoms apart; see ``labels``."""
        return planar_labels(self.residue_index, self.residue_names, self.atom_names)

    @cached_property
    def forks(self) -> tuple[Fork, ...]:
        """Atoms with four neighbours of which some are equal; see ``labels``."""
        reference = torch.from_numpy(self.positions)
        return forks(self.elements, self.bonds, reference, self.chiral_centres)

    @cached_property
    def tetrahedra(self) -> Tensor:
        """(k, 4) int64: all atoms with four neighbours, stereocentres first, as those are given."""
        rows = torch.tensor([fork.centre for fork in self.forks], dtype=torch.int64)
        return torch.cat([self.chiral_centres, rows.reshape(-1, 4)])

    def counted(self, x: Tensor) -> Tensor:
        """(n,) bool: natural handedness, and equal atoms named as in the built geometry."""
        reference = torch.from_numpy(self.positions)
        return is_natural(x, self.tetrahedra) & is_canonical(x, reference, self.planar_labels)

    @property
    def _planar_groups(self) -> tuple[PlanarGroup, ...]:
        return planar_groups(self.residue_index, self.residue_names, self.atom_names)

    def canonical(self, x: Tensor) -> Tensor:
        """(n, atoms, 3) positions x with equal atoms named as in the built geometry."""
        reference = torch.from_numpy(self.positions)
        return canonical(uninverted(x, self.forks), reference, self._planar_groups)

    def named_as(self, x: Tensor) -> Peptide:
        """This peptide, its names given to atoms so that a flow told of them is in step with it.

        Which of two equal atoms has which name is a convention of the tool that built a molecule:
        the hydrogens of a methyl are numbered one way round or the other, and a flow on Cartesian
        coordinates learns what its data have.

        Args:
            x: (n, atoms, 3) nm, draws of a flow that was told of this peptide.

        Returns:
            For encoding only. Told of it, the flow draws positions whose equal atoms are named as
            ``counted`` wants, as far as most of x tell; rows are permuted, densities the same.
        """
        natural = self.chirality(x)
        x = x[natural] if natural.any() else x
        reference = torch.from_numpy(self.positions)
        names = list(self.atom_names)
        for a, b in exchanged_names(x, reference, self.forks, self._planar_groups):
            names[a], names[b] = names[b], names[a]
        return replace(self, atom_names=tuple(names))

    def scattered(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, atoms, 3) float64 nm with uniform random torsions, not minimised: atoms may clash."""
        return place_atoms(self.spec, random_torsions(self.spec, n, generator))


def build_peptide(
    spec: PeptideSpec | str,
    *,
    forcefield: tuple[str, ...] = DEFAULT_FORCE_FIELD,
    implicit_solvent: str | None = "obc1",
    cutoff: float | None = None,
    minimise: bool = True,
) -> Peptide:
    """Build a peptide from its sequence, deterministically.

    A single residue without caps has both ends charged; Amber lists no parameters for that, so
    they are combined as ``zwitterion`` explains. ``Ace-A-Nme`` needs no such step.

    Args:
        spec: A ``PeptideSpec`` or text such as ``AA`` or ``Ace-A-Nme``.
        forcefield: OpenMM force-field files that describe proteins.
        implicit_solvent: ``"obc1"`` (default), another of ``IMPLICIT_SOLVENTS``, or None (vacuum).
        cutoff: Non-bonded cutoff in nm without periodicity; None for no cutoff.
        minimise: Relax the built geometry with the force field.

    Raises:
        PeptideTextError: The text does not spell a peptide.
        PeptideBuildError: Too long, unknown solvent, no parameters, or a geometry that does not
            relax to a finite structure of natural handedness.
    """
    spec = parse_peptide(spec) if isinstance(spec, str) else spec
    if spec.num_residues > MAX_RESIDUES:
        raise PeptideBuildError(
            f"peptide of {spec.num_residues} residues: at most {MAX_RESIDUES} are built; shorten it"
        )
    keys = atom_keys(spec)
    names = spec.residue_names
    topology = chain_topology(spec)
    system = create_system(
        topology, forcefield=forcefield, implicit_solvent=implicit_solvent, cutoff=cutoff
    )
    peptide = Peptide(
        spec=spec,
        topology=topology,
        system=system,
        positions=_start(spec),
        atom_names=tuple(atom for _, atom in keys),
        residue_names=tuple(names[index] for index, _ in keys),
        residue_index=tuple(index for index, _ in keys),
        elements=tuple(element_of(atom) for _, atom in keys),
        bonds=bond_pairs(spec),
        force_field=system_files(forcefield, implicit_solvent),
    )
    return _relaxed(peptide) if minimise else peptide


def _start(spec: PeptideSpec) -> np.ndarray:
    """The extended conformation, or the least crowded of a few fixed random ones."""
    generator = torch.Generator().manual_seed(_SEED)
    extended = place_atoms(spec, default_torsions(spec))
    scattered = place_atoms(spec, random_torsions(spec, 64, generator))
    x = torch.cat([extended, scattered])
    gap = torch.cdist(x, x) + torch.eye(x.shape[1], dtype=x.dtype)
    crowding = torch.relu(0.22 - gap).square().sum(dim=(1, 2))
    best = x[crowding.argmin()]
    return (best - best.mean(dim=0)).numpy()


def _relaxed(peptide: Peptide) -> Peptide:
    positions, energy = minimise(peptide.system, peptide.positions)
    natural = bool(peptide.chirality(torch.from_numpy(positions)[None]))
    if not (math.isfinite(energy) and np.isfinite(positions).all() and natural):
        raise PeptideBuildError(
            f"peptide {peptide.name}: the built geometry did not relax (energy {energy:.3g} kJ/mol,"
            f" natural handedness {natural}); report the sequence"
        )
    return replace(peptide, positions=positions)


def minimise(
    system: openmm.System, positions: np.ndarray, *, tolerance: float = 10.0
) -> tuple[np.ndarray, float]:
    """Local minimum of the potential.

    Args:
        system: OpenMM system.
        positions: (atoms, 3) nm.
        tolerance: Root-mean-square force at which to stop, kJ/mol/nm.

    Returns:
        Centred positions (atoms, 3) float64 nm and the energy in kJ/mol.
    """
    import openmm
    from openmm import unit

    platform = openmm.Platform.getPlatformByName("CPU")
    properties = {"Threads": "1", "DeterministicForces": "true"}
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, platform, properties)
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance)
    state = context.getState(getPositions=True, getEnergy=True)
    relaxed = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    relaxed = np.asarray(relaxed, dtype=np.float64)
    return relaxed - relaxed.mean(axis=0), float(energy)
