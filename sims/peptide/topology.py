"""Atoms, bonds and the OpenMM topology of a peptide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .geometry import Key, atom_keys
from .parse import PeptideSpec
from .tables import CAPS, RING_BONDS, SIDE_CHAINS

if TYPE_CHECKING:
    from openmm import app


def element_of(atom_name: str) -> str:
    """Element symbol of an amino-acid atom name (C, H, N, O or S)."""
    return atom_name[0]


def bond_pairs(spec: PeptideSpec) -> tuple[tuple[int, int], ...]:
    """Covalent bonds as pairs of atom indices, smaller index first, sorted."""
    keys = atom_keys(spec)
    where = {key: i for i, key in enumerate(keys)}
    pairs: list[tuple[Key, Key]] = []
    for index, name in enumerate(spec.residue_names):
        atoms = [atom for i, atom in keys if i == index]
        pairs += [((index, a), (index, b)) for a, b in _residue_bonds(name, atoms)]
        if index:
            pairs.append(((index - 1, "C"), (index, "N")))
    return tuple(sorted((min(where[a], where[b]), max(where[a], where[b])) for a, b in pairs))


def _residue_bonds(name: str, atoms: list[str]) -> list[tuple[str, str]]:
    parents = {row.name: row.parent for row in {**SIDE_CHAINS, **CAPS}[name]}
    parents |= {"CA": "N", "C": "CA", "O": "C", "OXT": "C", "CB": "CA"}
    parents |= {"HA": "CA", "HA2": "CA", "HA3": "CA", "H": "N", "H2": "N", "H3": "N"}
    chain = [(parents[atom], atom) for atom in atoms if parents.get(atom) in atoms]
    return chain + list(RING_BONDS.get(name, ()))


def chain_topology(spec: PeptideSpec) -> app.Topology:
    """OpenMM topology of one chain, residue by residue, atoms as in ``atom_keys``."""
    from openmm import app

    topology = app.Topology()
    chain = topology.addChain("A")
    residues = [
        topology.addResidue(name, chain, id=str(index + 1))
        for index, name in enumerate(spec.residue_names)
    ]
    atoms = [
        topology.addAtom(name, app.Element.getBySymbol(element_of(name)), residues[index])
        for index, name in atom_keys(spec)
    ]
    for a, b in bond_pairs(spec):
        topology.addBond(atoms[a], atoms[b])
    return topology
