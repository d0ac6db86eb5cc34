"""A molecule from its files: parameters and coordinates, read and checked against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..forcefield.parameters import Parameters
from ..forcefield.reader import read_system
from .amber import IMPLICIT_SOLVENTS, read_prmtop
from .checks import (
    atom_labels,
    check_count,
    check_finite,
    check_order,
    check_settings,
    check_size,
)
from .coordinates import Coordinates, find_coordinates, find_structure, read_coordinates
from .errors import MoleculeFileError
from .naming import bond_lengths, covalent_bonds, elements_from_masses, plain_topology
from .serialised import read_system_xml

if TYPE_CHECKING:
    import openmm
    from openmm import app

SUFFIXES = (".xml", ".prmtop", ".parm7")
DEFAULT_SOLVENT = "obc1"
_VACUUM = ("none", "vacuum", "null")


@dataclass(frozen=True, eq=False)
class Molecule:
    """A molecule ready for simulation; atoms in the order of its System.

    Attributes:
        name: Stem of the file.
        topology: OpenMM topology.
        system: OpenMM System, no constraints.
        positions: (atoms, 3) float64 nm, as in the file but centred.
        bonds: Pairs of atom indices, smaller first, sorted.
        elements: Symbols.
        parameters: The numbers of the force field, masses among them.
        force_field: What the energies come from, for records.
        files: What was read, by role (``file``, ``coordinates``, ``names``), as (name, SHA-256).
        implicit_solvent: One of ``IMPLICIT_SOLVENTS`` or ``none``; of a System XML ``file``.
        warnings: What OpenMM warned of.
    """

    name: str
    topology: app.Topology = field(repr=False)
    system: openmm.System = field(repr=False)
    positions: np.ndarray = field(repr=False)
    bonds: tuple[tuple[int, int], ...] = field(repr=False)
    elements: tuple[str, ...] = field(repr=False)
    parameters: Parameters = field(repr=False)
    force_field: tuple[str, ...]
    files: dict[str, tuple[str, str]]
    implicit_solvent: str
    warnings: tuple[str, ...] = ()

    @property
    def num_atoms(self) -> int:
        """Number of atoms, hydrogens included."""
        return self.parameters.num_atoms


def read_molecule(
    path: str | Path,
    *,
    coordinates: str | None = None,
    implicit_solvent: str | None = "default",
    cutoff: float | None = None,
    hydrogen_mass: float | None = None,
    salt: float = 0.0,
    kappa: float | None = None,
    temperature: float = 310.0,
) -> Molecule:
    """Read an OpenMM System XML or an Amber prmtop with its coordinates.

    A prmtop does not say which solvent it is meant for; by default it gets OBC1, as peptides do. A
    System XML holds its solvent and cutoff, which are taken as they are.

    Args:
        path: A ``.xml``, ``.prmtop`` or ``.parm7`` file.
        coordinates: PDB, PDBx/mmCIF, Amber restart or State XML; by default the file of the same
            name beside ``path``.
        implicit_solvent: hct, obc1, obc2, gbn, gbn2 or none (vacuum).
        cutoff: Non-bonded cutoff in nm without periodicity; None for no cutoff.
        hydrogen_mass: New mass of hydrogens in Da, taken from the atoms they are bound to.
        salt: mol/l of a 1:1 salt in the implicit solvent of a prmtop.
        kappa: 1/nm, the inverse screening length instead of ``salt``.
        temperature: K, at which ``salt`` screens.

    Raises:
        MoleculeFileError: A file is absent, damaged or of another kind, files do not fit each
            other, or a setting is unusable. One line with the remedy.
        UnsupportedForce: The System holds something that the energies would lack.
    """
    path = Path(path)
    if not path.is_file():
        raise MoleculeFileError(f"{path}: no such file; check the path")
    solvent = _solvent(path, implicit_solvent)
    settings = {"cutoff": cutoff, "salt": salt, "kappa": kappa}
    if path.suffix.lower() == ".xml":
        _refuse_prmtop_settings(path, **{**settings, "salt": salt or None})
        parts = _Parts(path, solvent, read_system_xml(path))
    else:
        check_settings(**settings, solvent=solvent)
        model = None if solvent == "none" else solvent
        read = read_prmtop(path, implicit_solvent=model, temperature=temperature, **settings)
        parts = _Parts(path, solvent, *read)
    check_size(path, parts.system)
    parameters = read_system(parts.system)
    found = read_coordinates(find_coordinates(path, coordinates))
    check_count(path, parameters.num_atoms, found)
    molecule = _assembled(parts, parameters, found)
    return molecule if hydrogen_mass is None else _repartitioned(molecule, hydrogen_mass)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What was read from the file with the parameters."""

    path: Path
    solvent: str
    system: openmm.System
    topology: app.Topology | None = None
    warnings: tuple[str, ...] = ()


def _assembled(parts: _Parts, parameters: Parameters, found: Coordinates) -> Molecule:
    """Put parameters and coordinates together, and check that they fit."""
    names = _names(parts, parameters.num_atoms, found)
    topology = parts.topology if names is None else names.topology
    lengths = bond_lengths(parts.system)
    elements = _elements(topology, parameters.masses.tolist(), lengths)
    bonds = covalent_bonds(lengths, elements)
    topology = plain_topology(elements, bonds) if topology is None else topology
    labels = atom_labels(topology)
    check_finite(found, labels)
    check_order(parts.path, found, {pair: lengths[pair] for pair in bonds}, labels)
    files = {"file": parts.path, "coordinates": found.path}
    files |= {} if names is None or names is found else {"names": names.path}
    solvent = () if parts.solvent in ("file", "none") else (parts.solvent,)
    return Molecule(
        name=parts.path.stem,
        topology=topology,
        system=parts.system,
        positions=found.positions - found.positions.mean(axis=0),
        bonds=_joined_bonds(topology, bonds),
        elements=elements,
        parameters=parameters,
        force_field=(parts.path.name, *solvent),
        files={role: (file.name, _sha256(file)) for role, file in files.items()},
        implicit_solvent=parts.solvent,
        warnings=parts.warnings,
    )


def _solvent(path: Path, text: str | None) -> str:
    """What the text means for this kind of file."""
    name = "none" if text is None else text.strip().lower()
    name = "none" if name in _VACUUM else name
    if path.suffix.lower() == ".xml":
        if name != "default":
            _refuse_prmtop_settings(path, implicit_solvent=name)
        return "file"
    if name == "default":
        return DEFAULT_SOLVENT
    if name not in (*IMPLICIT_SOLVENTS, "none"):
        raise MoleculeFileError(
            f"unknown implicit_solvent {text!r}: use one of {', '.join(IMPLICIT_SOLVENTS)} or none"
        )
    return name


def _refuse_prmtop_settings(path: Path, **settings: str | float | None) -> None:
    for name, value in settings.items():
        if value is not None:
            raise MoleculeFileError(
                f"{path}: {name} {value} cannot be applied, a System XML holds its forces as they "
                "are; leave it out, or build the System with it"
            )


def _names(parts: _Parts, count: int, found: Coordinates) -> Coordinates | None:
    """The file that names the atoms: that of the coordinates, one beside the System, or none."""
    if parts.topology is not None or found.topology is not None:
        return None if parts.topology is not None else found
    beside = find_structure(parts.path)
    if beside is None:
        return None
    names = read_coordinates(beside)
    check_count(parts.path, count, names)
    return names


def _elements(
    topology: app.Topology | None, masses: list[float], lengths: dict[tuple[int, int], float]
) -> tuple[str, ...]:
    """Symbols by the topology where it has them all, else by mass."""
    if topology is not None:
        known = [atom.element for atom in topology.atoms()]
        if all(element is not None for element in known):
            return tuple(element.symbol for element in known)
    return elements_from_masses(masses, lengths)


def _joined_bonds(
    topology: app.Topology, covalent: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Bonds of topology and System; those a PDB file cannot know are added to the topology."""
    atoms = list(topology.atoms())
    known = {tuple(sorted((a.index, b.index))) for a, b in topology.bonds()}
    for a, b in covalent:
        if (a, b) not in known:
            topology.addBond(atoms[a], atoms[b])
    return tuple(sorted({*known, *covalent}))


def _repartitioned(molecule: Molecule, hydrogen: float) -> Molecule:
    """The molecule with hydrogens of another mass, also in its System."""
    elements, old = molecule.elements, molecule.parameters.masses
    new = old.clone()
    for a, b in molecule.bonds:
        light, heavy = (a, b) if elements[a] == "H" else (b, a)
        if elements[light] == "H" and elements[heavy] != "H":
            new[heavy] -= hydrogen - old[light]
            new[light] = hydrogen
    if not hydrogen > 0 or not (new > 0).all() or not new.isfinite().all():
        raise MoleculeFileError(
            f"hydrogen_mass is {hydrogen} Da: give a positive one that leaves mass on every heavy "
            "atom, for example 3"
        )
    for atom, mass in enumerate(new.tolist()):
        molecule.system.setParticleMass(atom, mass)
    return replace(molecule, parameters=replace(molecule.parameters, masses=new))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
