"""Numbers and orders that the Prose network gives to the atoms of a peptide.

Everything follows from residue and atom names (Amber naming): the type of an atom, the type of its
residue, and the eight orders in which the flow's blocks visit the atoms.

Reference: Tan et al. 2025, arXiv:2508.18175.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gensci.core.errors import UsageError

_ATOM_NAMES = (
    "C CA CB CD CD1 CD2 CE CE1 CE2 CE3 CG CG1 CG2 CH2 CZ CZ2 CZ3 H HA HB HD HD1 HD2 HE HE1 HE2 HE3 "
    "HG HG1 HG2 HH HH1 HH2 HZ HZ2 HZ3 N ND1 ND2 NE NE1 NE2 NH1 NH2 NZ O OD OE OG OG1 OH OXT SD SG"
)
_RESIDUE_NAMES = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
ATOM_TYPES = {name: number for number, name in enumerate(_ATOM_NAMES.split(), start=1)}
RESIDUE_TYPES = {name: number for number, name in enumerate(_RESIDUE_NAMES.split(), start=1)}
BEFORE_SIDE_CHAIN = ("N", "H", "H2", "H3", "CA", "HA", "HA2", "HA3")
AFTER_SIDE_CHAIN = ("C", "O", "OXT")
HEAVY_BACKBONE = ("N", "CA", "C", "O", "OXT")
SIDE_CHAINS = {
    residue: tuple(names.split())
    for residue, names in {
        "ALA": "CB HB1 HB2 HB3",
        "ARG": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3 NE HE CZ NH1 HH11 HH12 NH2 HH21 HH22",
        "ASN": "CB HB2 HB3 CG OD1 ND2 HD21 HD22",
        "ASP": "CB HB2 HB3 CG OD1 OD2",
        "CYS": "CB HB2 HB3 SG HG",
        "GLN": "CB HB2 HB3 CG HG2 HG3 CD OE1 NE2 HE21 HE22",
        "GLU": "CB HB2 HB3 CG HG2 HG3 CD OE1 OE2",
        "GLY": "",
        "HIS": "CB HB2 HB3 CG ND1 CE1 HE1 NE2 HE2 CD2 HD2",
        "ILE": "CB HB CG2 HG21 HG22 HG23 CG1 HG12 HG13 CD1 HD11 HD12 HD13",
        "LEU": "CB HB2 HB3 CG HG CD1 HD11 HD12 HD13 CD2 HD21 HD22 HD23",
        "LYS": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3 CE HE2 HE3 NZ HZ1 HZ2 HZ3",
        "MET": "CB HB2 HB3 CG HG2 HG3 SD CE HE1 HE2 HE3",
        "PHE": "CB HB2 HB3 CG CD1 HD1 CE1 HE1 CZ HZ CE2 HE2 CD2 HD2",
        "PRO": "CB HB2 HB3 CG HG2 HG3 CD HD2 HD3",
        "SER": "CB HB2 HB3 OG HG",
        "THR": "CB HB OG1 HG1 CG2 HG21 HG22 HG23",
        "TRP": "CB HB2 HB3 CG CD1 HD1 NE1 HE1 CE2 CZ2 HZ2 CH2 HH2 CZ3 HZ3 CE3 HE3 CD2",
        "TYR": "CB HB2 HB3 CG CD1 HD1 CE1 HE1 CZ OH HH CE2 HE2 CD2 HD2",
        "VAL": "CB HB CG1 HG11 HG12 HG13 CG2 HG21 HG22 HG23",
    }.items()
}
# Rings walked the other way round, or the two branches of a fork exchanged.
VARIANT_SIDE_CHAINS = {
    residue: tuple(names.split())
    for residue, names in {
        "HIS": "CB HB2 HB3 CG CD2 HD2 NE2 HE2 CE1 HE1 ND1",
        "ILE": "CB HB CG1 HG12 HG13 CD1 HD11 HD12 HD13 CG2 HG21 HG22 HG23",
        "LEU": "CB HB2 HB3 CG HG CD2 HD21 HD22 HD23 CD1 HD11 HD12 HD13",
        "PHE": "CB HB2 HB3 CG CD2 HD2 CE2 HE2 CZ HZ CE1 HE1 CD1 HD1",
        "PRO": "CD HD2 HD3 CG HG2 HG3 CB HB2 HB3",
        "THR": "CB HB CG2 HG21 HG22 HG23 OG1 HG1",
        "TRP": "CB HB2 HB3 CG CD2 CE3 HE3 CZ3 HZ3 CH2 HH2 CZ2 HZ2 CE2 NE1 HE1 CD1 HD1",
        "TYR": "CB HB2 HB3 CG CD2 HD2 CE2 HE2 CZ OH HH CE1 HE1 CD1 HD1",
        "VAL": "CB HB CG2 HG21 HG22 HG23 CG1 HG11 HG12 HG13",
    }.items()
}
# Residues whose ring or branch hydrogens keep their digit as part of the type.
NUMBERED_HYDROGENS = frozenset({"HIS", "PHE", "TRP", "TYR"})

ORDERS = (
    "backbone-first",
    "residue-by-residue_flip",
    "backbone-first_flip",
    "residue-by-residue",
    "backbone-first_variant",
    "residue-by-residue_variant_flip",
    "backbone-first_variant_flip",
    "residue-by-residue_variant",
)
"""Names of the orders, in the sequence in which the published network uses them."""


class PeptideLike(Protocol):
    """What the encoding needs to know of a peptide; one entry per atom, in order of residues."""

    atom_names: Sequence[str]
    residue_names: Sequence[str]
    residue_index: Sequence[int]


def atom_type(residue: str, name: str) -> int:
    """Number (1 to 54) of the type of atom `name` of `residue`.

    Raises:
        UsageError: The residue has no such atom in the encoding.
    """
    residue = _residue(residue)
    if name not in (*BEFORE_SIDE_CHAIN, *SIDE_CHAINS[residue], *AFTER_SIDE_CHAIN):
        raise UsageError(
            f"the flow has no type for atom {name!r} of residue {residue}",
            "name the atoms as Amber does (HIS protonated at NE2; free ends H, H2, H3 and OXT)",
        )
    return ATOM_TYPES[_type_name(residue, name)]


def residue_type(residue: str) -> int:
    """Number (1 to 20) of a residue.

    Raises:
        UsageError: Not one of the 20 natural residues.
    """
    return RESIDUE_TYPES[_residue(residue)]


def atom_order(peptide: PeptideLike, order: str) -> list[int]:
    """Atom indices in the sequence in which one of `ORDERS` visits them.

    Args:
        peptide: Atom names, residue names and residue index per atom.
        order: One of `ORDERS`.

    Returns:
        Index of the atom at each position of the order.
    """
    style, *options = order.split("_")
    sequence: list[int] = []
    later: list[int] = []
    for residue, atoms in _residues(peptide):
        named = [n for n in _residue_order(residue, "variant" in options) if n in atoms]
        if style == "backbone-first":
            sequence += [atoms[n] for n in HEAVY_BACKBONE if n in atoms]
            later += [atoms[n] for n in named if n not in HEAVY_BACKBONE]
        else:
            sequence += [atoms[n] for n in named]
    sequence += later
    return sequence[::-1] if "flip" in options else sequence


def encode(peptide: PeptideLike) -> dict[str, Tensor]:
    """Conditioning of a peptide network, from names alone.

    Args:
        peptide: Atom names, residue names and 0-based residue index per atom.

    Returns:
        For N atoms: `atom_type`, `aa_type`, `residue_index` (1-based) and `length` (residues,
        repeated), each (N,) int64; `permutations` (N, 8) int64, one column for each of `ORDERS`;
        `mask` (N,) bool, all true.

    Raises:
        UsageError: A cap, or an atom or residue that the encoding does not know.
    """
    names, residues = list(peptide.atom_names), list(peptide.residue_names)
    index = torch.as_tensor([int(i) for i in peptide.residue_index])
    types = [atom_type(r, n) for r, n in zip(residues, names, strict=True)]
    return {
        "atom_type": torch.tensor(types),
        "aa_type": torch.tensor([residue_type(r) for r in residues]),
        "residue_index": index + 1,
        "length": torch.full_like(index, int(index.max()) + 1),
        "permutations": torch.tensor([atom_order(peptide, order) for order in ORDERS]).T,
        "mask": torch.ones(len(names), dtype=torch.bool),
    }


def collate(conditions: Sequence[dict[str, Tensor]], size: int | None = None) -> dict[str, Tensor]:
    """Pad several conditionings to one size and stack them.

    Args:
        conditions: Results of `encode`.
        size: Number of atoms to pad to; the largest by default.

    Returns:
        The same keys with a leading batch dimension. Padding has type 0, mask false, and stays in
        place at the end of every permutation.
    """
    longest = max(len(condition["mask"]) for condition in conditions)
    size = longest if size is None else size
    if size < longest:
        raise UsageError(f"size {size} is too small", f"a peptide has {longest} atoms: pad to that")
    padded = [_pad(condition, size) for condition in conditions]
    return {key: torch.stack([p[key] for p in padded]) for key in padded[0]}


def _pad(condition: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """One conditioning padded to `size` atoms."""
    count = len(condition["mask"])
    padded = {
        key: torch.cat([value, value.new_zeros(size - count, *value.shape[1:])])
        for key, value in condition.items()
    }
    padded["permutations"][count:] = torch.arange(count, size).unsqueeze(1)
    return padded


def _residue(name: str) -> str:
    """The name of a residue in the tables, or an error that says what to do."""
    if name in ("ACE", "NME"):
        raise UsageError(
            f"the flow has no atom types for the cap {name}",
            "sample the uncapped peptide, or use a sampler that needs no flow (--sampler mcmc)",
        )
    name = "HIS" if name == "HIE" else name
    if name not in RESIDUE_TYPES:
        raise UsageError(
            f"the flow does not know residue {name!r}", f"use {', '.join(RESIDUE_TYPES)}"
        )
    return name


def _type_name(residue: str, name: str) -> str:
    """Atom name without the digits that only tell equivalent atoms apart."""
    if name in ("OD1", "OD2", "OE1", "OE2"):
        return name[:-1]
    if residue in NUMBERED_HYDROGENS and name[:2] in ("HD", "HE", "HZ", "HH"):
        return name
    return name[:-1] if name[0] == "H" and name[-1] in "123" else name


def _residue_order(residue: str, variant: bool) -> tuple[str, ...]:
    """Names of the atoms of a residue, backbone and side chain, in order."""
    residue = _residue(residue)
    side_chain = SIDE_CHAINS[residue]
    if variant:
        side_chain = VARIANT_SIDE_CHAINS.get(residue, side_chain)
    return BEFORE_SIDE_CHAIN + side_chain + AFTER_SIDE_CHAIN


def _residues(peptide: PeptideLike) -> list[tuple[str, dict[str, int]]]:
    """Name and atom indices by atom name of each residue, in order."""
    found: dict[int, tuple[str, dict[str, int]]] = {}
    rows = zip(peptide.residue_index, peptide.residue_names, peptide.atom_names, strict=True)
    for atom, (index, residue, name) in enumerate(rows):
        found.setdefault(int(index), (residue, {}))[1][name] = atom
    return [found[index] for index in sorted(found)]
