"""Bonds, elements and a topology for Systems that come with neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .handedness import neighbours

if TYPE_CHECKING:
    import openmm
    from openmm import app

# nm; Cordero et al. 2008, doi:10.1039/b801115j, rounded up where it depends on the bonding
_RADII = {
    "H": 0.031, "B": 0.084, "C": 0.077, "N": 0.071, "O": 0.066, "F": 0.057, "Si": 0.111,
    "P": 0.107, "S": 0.105, "Cl": 0.102, "Se": 0.120, "Br": 0.120, "I": 0.139,
}  # fmt: skip
_RADIUS = 0.15  # of elements not listed
_STRETCH = 1.3  # hydrogens of a methyl are 1.78 A apart, beyond this times their radii
_LIGHT = 4.5  # Da; heavier than any hydrogen, also where masses were repartitioned


def bond_lengths(system: openmm.System) -> dict[tuple[int, int], float]:
    """Reference lengths in nm of all harmonic bonds, smaller index first."""
    import openmm
    from openmm import unit

    lengths = {}
    for force in system.getForces():
        if not isinstance(force, openmm.HarmonicBondForce):
            continue
        for index in range(force.getNumBonds()):
            a, b, length, _ = force.getBondParameters(index)
            lengths[min(a, b), max(a, b)] = float(length.value_in_unit(unit.nanometer))
    return lengths


def covalent_bonds(
    lengths: dict[tuple[int, int], float], elements: Sequence[str]
) -> tuple[tuple[int, int], ...]:
    """The harmonic bonds that are no longer than bonds are, sorted.

    Restraints and the 1-3 springs of Urey and Bradley are harmonic bonds as well.
    """
    reach = [_STRETCH * _RADII.get(symbol, _RADIUS) for symbol in elements]
    return tuple(sorted(p for p, length in lengths.items() if length < reach[p[0]] + reach[p[1]]))


def elements_from_masses(
    masses: Sequence[float], lengths: dict[tuple[int, int], float]
) -> tuple[str, ...]:
    """Symbols of the elements; hydrogens made heavier are known by having one short bond.

    Args:
        masses: Da, positive.
        lengths: Harmonic bonds, see ``bond_lengths``.
    """
    from openmm.app import Element

    short = [pair for pair, length in lengths.items() if length < 0.16]
    bound = neighbours(len(masses), short)
    light = [mass < _LIGHT and len(row) <= 1 for mass, row in zip(masses, bound, strict=True)]
    hydrogen = Element.getBySymbol("H").mass._value
    symbols = []
    for atom, mass in enumerate(masses):
        given = sum(masses[other] - hydrogen for other in bound[atom] if light[other])
        element = Element.getByMass(mass + given) if not light[atom] else None
        symbols.append("H" if element is None else element.symbol)
    return tuple(symbols)


def plain_topology(
    elements: Sequence[str], bonds: Sequence[tuple[int, int]], residue: str = "MOL"
) -> app.Topology:
    """A topology that names atoms by element and number, with one residue per molecule.

    Atoms of a molecule need not be adjacent: where they are not, all go to one residue.
    """
    from openmm import app

    fragment = _fragments(len(elements), bonds)
    if fragment != sorted(fragment):
        fragment = [0] * len(elements)
    topology = app.Topology()
    chain = topology.addChain("A")
    atoms, counts = [], dict[str, int]()
    for index, symbol in enumerate(elements):
        if index == 0 or fragment[index] != fragment[index - 1]:
            current = topology.addResidue(residue, chain)
            counts = {}
        counts[symbol] = counts.get(symbol, 0) + 1
        element = app.Element.getBySymbol(symbol)
        atoms.append(topology.addAtom(f"{symbol}{counts[symbol]}", element, current))
    for a, b in bonds:
        topology.addBond(atoms[a], atoms[b])
    return topology


def _fragments(num_atoms: int, bonds: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the connected molecule that each atom belongs to, by its first atom."""
    bound = neighbours(num_atoms, bonds)
    fragment = [-1] * num_atoms
    for first in range(num_atoms):
        if fragment[first] >= 0:
            continue
        queue = [first]
        while queue:
            atom = queue.pop()
            if fragment[atom] < 0:
                fragment[atom] = first
                queue += bound[atom]
    return fragment
