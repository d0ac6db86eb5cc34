"""What the internal-coordinate flow is told of a molecule: identities, placing tree, widths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .zmatrix import build_zmatrix, force_field_widths, rigid_groups, topological_distances

Tensors = dict[str, Tensor]

RESIDUES = (
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL ACE NME"
).split()
ATOM_NAMES = (
    "N H H1 H2 H3 CA HA HA2 HA3 C O OXT CH3 HH31 HH32 HH33 CB HB HB1 HB2 HB3 CG HG HG1 HG2 HG3 "
    "CG1 CG2 HG11 HG12 HG13 HG21 HG22 HG23 CD CD1 CD2 HD1 HD2 HD3 HD11 HD12 HD13 HD21 HD22 HD23 "
    "CE CE1 CE2 CE3 HE HE1 HE2 HE3 HE21 HE22 CZ CZ2 CZ3 HZ HZ1 HZ2 HZ3 CH2 HH HH2 HH11 HH12 HH21 "
    "HH22 ND1 ND2 NE NE1 NE2 NZ NH1 NH2 OD1 OD2 OE1 OE2 OG OG1 OH SD SG"
).split()
NUM_RESIDUES = len(RESIDUES) + 1  # 0 is 'none', beyond the ends of the chain
NUM_NAMES = len(ATOM_NAMES)
MAX_HOPS = 8


def _lookup(text: str, table: list[str], what: str) -> int:
    try:
        return table.index(text)
    except ValueError:
        raise ValueError(
            f"{what} {text!r} is not one that peptide flows know; "
            "use the 20 natural amino acids with optional Ace-/-Nme caps"
        ) from None


def nonbonded_parameters(system: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Charge (e), sigma (nm) and epsilon (kJ/mol) of every atom of an ``openmm.System``."""
    force = next(f for f in system.getForces() if type(f).__name__ == "NonbondedForce")
    rows = [
        [value / value.unit for value in force.getParticleParameters(i)]
        for i in range(force.getNumParticles())
    ]
    charge, sigma, epsilon = torch.tensor(rows).unbind(-1)
    return charge, sigma, epsilon


def encode_internal(peptide: Any, temperature: float = 310.0) -> Tensors:
    """Conditioning tensors of one molecule, in placing order, without batch dimension.

    Args:
        peptide: has atom_names, residue_names, residue_index, elements, bonds, positions
            (atoms, 3) nm and an ``openmm.System`` as ``system`` (``gensci.sims.peptide.Peptide``).
        temperature: K, for the thermal widths.

    Returns:
        order, parent, grand, side, closing, rigid, torsion0 (see ``ZMatrix``); group (see
        ``rigid_groups``); length0, length_scale, bend0, bend_scale (nm, radians); charge (e),
        sigma (nm), epsilon (kJ/mol); residue, previous, next, name (table numbers); hops
        (atoms, atoms) bonds between atoms.
    """
    positions = torch.as_tensor(peptide.positions, dtype=torch.float64)
    names, bonds = list(peptide.atom_names), [tuple(b) for b in peptide.bonds]
    z = build_zmatrix(names, list(peptide.elements), bonds, positions)
    index = torch.as_tensor(list(peptide.residue_index), dtype=torch.long)
    names3 = ["HIS" if r == "HIE" else r for r in peptide.residue_names]
    number = torch.tensor([_lookup(r, RESIDUES, "residue") + 1 for r in names3])
    chain = torch.zeros(int(index.max()) + 3, dtype=torch.long)
    chain[index + 1] = number
    length0, length_scale, bend0, bend_scale = force_field_widths(peptide.system, z, temperature)
    charge, sigma, epsilon = nonbonded_parameters(peptide.system)
    hops = topological_distances(len(names), bonds, MAX_HOPS)
    return {
        "order": z.order,
        "parent": z.parent,
        "grand": z.grand,
        "side": z.side,
        "closing": z.closing,
        "group": rigid_groups(z),
        "rigid": z.rigid,
        "torsion0": z.torsion0,
        "length0": length0,
        "length_scale": length_scale,
        "bend0": bend0,
        "bend_scale": bend_scale,
        "charge": charge[z.order],
        "sigma": sigma[z.order],
        "epsilon": epsilon[z.order],
        "residue": number[z.order],
        "previous": chain[index][z.order],
        "next": chain[index + 2][z.order],
        "name": torch.tensor([_lookup(n, ATOM_NAMES, "atom name") for n in names])[z.order],
        "hops": hops[z.order][:, z.order],
    }
