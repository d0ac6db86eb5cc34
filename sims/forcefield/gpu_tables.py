"""Lays the numbers of one or several force fields out as the Triton kernels read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .parameters import Parameters

SYSTEM_WIDTH = 3  # atoms, first row of the atom table, first row of the pair table
# prefactor, surface, cutoff^2, 1 / cutoff, krf, crf, switch, its scale, kappa, screened, neck cut
SETTING_WIDTH = 11
ATOM_WIDTH = 8  # offset, scaled and intrinsic radius, charge, alpha, beta, gamma, 0
PAIR_WIDTH = 4  # Coulomb, r^-12, r^-6, whether the cutoff applies
NECK_WIDTH = 4  # height and distance of the neck on i by j, and of that on j by i
ENTRY_WIDTH = 5  # up to three other atoms, row in the table of terms, order of a torsion
BLOCK_WIDTH = 3  # system, first conformation, end

_NEVER = 1e3  # nm, beyond every distance
_ROLES = ("bond", "angle middle", "torsion inner", "angle end", "torsion end")


@dataclass(frozen=True)
class Tables:
    """Concatenated numbers of the systems of a batch, in the order of the kernels' arguments.

    Attributes:
        systems: (systems, SYSTEM_WIDTH) int32.
        settings: (systems, SETTING_WIDTH).
        atom: (all atoms, ATOM_WIDTH).
        pairs: (sum of atoms^2, PAIR_WIDTH), rows j * atoms + i of each system.
        necks: (sum of atoms^2, NECK_WIDTH), likewise; empty where no system has necks.
        starts: (5, all atoms + 1) int32: where an atom's entries begin, for every role: bond,
            middle of an angle, inner of a torsion, end of an angle, end of a torsion.
        entries: (entries, ENTRY_WIDTH) int32, atoms counted within their system.
        bonds, angles: (terms, 2): equilibrium value and force constant.
        torsions: (terms, 14): cosine and sine coefficients.
    """

    systems: torch.Tensor
    settings: torch.Tensor
    atom: torch.Tensor
    pairs: torch.Tensor
    necks: torch.Tensor
    starts: torch.Tensor
    entries: torch.Tensor
    bonds: torch.Tensor
    angles: torch.Tensor
    torsions: torch.Tensor


def make_tables(
    parameters: Sequence[Parameters], dtype: torch.dtype, device: torch.device
) -> Tables:
    """Packs the systems, in this order."""
    atoms = torch.tensor([p.num_atoms for p in parameters])
    first_atom, first_pair = atoms.cumsum(0) - atoms, atoms.square().cumsum(0) - atoms.square()
    starts, entries = _bonded_entries(parameters)
    real = {
        "settings": torch.stack([_settings(p) for p in parameters]),
        "atom": torch.cat([_atom_rows(p) for p in parameters]),
        "pairs": torch.cat([_pair_rows(p) for p in parameters]),
        "necks": _neck_rows(parameters),
        "bonds": torch.cat([torch.stack([p.bond_length, p.bond_k], -1) for p in parameters]),
        "angles": torch.cat([torch.stack([p.angle_theta, p.angle_k], -1) for p in parameters]),
        "torsions": torch.cat([torch.cat([p.torsion_cos, p.torsion_sin], 1) for p in parameters]),
    }
    whole = {
        "systems": torch.stack([atoms, first_atom, first_pair], -1),
        "starts": starts,
        "entries": entries,
    }
    return Tables(
        **{k: v.to(device, dtype).contiguous() for k, v in real.items()},
        **{k: v.to(device, torch.int32).contiguous() for k, v in whole.items()},
    )


def make_blocks(counts: Sequence[int], lanes: int, device: torch.device) -> torch.Tensor:
    """(blocks, BLOCK_WIDTH) int32: runs of at most `lanes` conformations of one system."""
    blocks, first = [], 0
    for system, count in enumerate(counts):
        begin = torch.arange(first, first + count, lanes)
        first += count
        end = (begin + lanes).clamp_max(first)
        blocks.append(torch.stack([torch.full_like(begin, system), begin, end], -1))
    return torch.cat(blocks).to(device, torch.int32)


def _settings(p: Parameters) -> torch.Tensor:
    """One row for a system; what it lacks is set so that it has no effect."""
    cutoff, b = p.cutoff or 1.0, p.born
    start, scale = (_NEVER, 1.0) if p.switch is None else (p.switch, 1 / (cutoff - p.switch))
    values = [cutoff**2, 1 / cutoff, p.krf, p.crf, start, scale]
    if b is None:
        return torch.tensor([0.0, 0.0, *values, 0.0, 0.0, 0.0], dtype=torch.float64)
    solvent = [b.kappa, b.screened, b.neck_cut]
    return torch.tensor([b.prefactor, b.surface, *values, *solvent], dtype=torch.float64)


def _atom_rows(p: Parameters) -> torch.Tensor:
    table = torch.zeros(p.num_atoms, ATOM_WIDTH, dtype=torch.float64)
    if p.born is not None:
        b = p.born
        table[:, :4] = torch.stack([b.offset_radius, b.scaled_radius, b.radius, b.charge], -1)
        table[:, 4:7] = b.alpha
    return table


def _neck_rows(parameters: Sequence[Parameters]) -> torch.Tensor:
    if not has_necks(parameters):
        return torch.zeros(1, NECK_WIDTH)
    tables = []
    for p in parameters:
        table = torch.zeros(p.num_atoms, p.num_atoms, NECK_WIDTH, dtype=torch.float64)
        b = p.born
        if b is not None and b.neck_value is not None and b.neck_distance is not None:
            value, distance = b.neck_value, b.neck_distance
            table[:] = torch.stack([value.T, distance.T, value, distance], -1)
        tables.append(table.flatten(0, 1))
    return torch.cat(tables)


def has_necks(parameters: Sequence[Parameters]) -> bool:
    """Whether any system has a Born model with necks."""
    return any(p.born is not None and p.born.neck_value is not None for p in parameters)


def _pair_rows(p: Parameters) -> torch.Tensor:
    columns = (p.coulomb, p.lj12, p.lj6, p.reaction_field.double())
    return torch.stack(columns, -1).reshape(-1, PAIR_WIDTH)


def _bonded_entries(parameters: Sequence[Parameters]) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries of every role sorted by atom, and where each atom's begin."""
    owners: dict[str, list[torch.Tensor]] = {role: [] for role in _ROLES}
    entries: dict[str, list[torch.Tensor]] = {role: [] for role in _ROLES}
    atom, terms = 0, [0, 0, 0]
    for p in parameters:
        for role, owner, entry in _system_entries(p, terms):
            owners[role].append(owner + atom)
            entries[role].append(entry)
        atom += p.num_atoms
        terms = [a + len(b) for a, b in zip(terms, _terms(p), strict=True)]
    starts, rows, done = [], [], 0
    for role in _ROLES:
        owner, entry = torch.cat(owners[role]), torch.cat(entries[role])
        rows.append(entry[owner.argsort(stable=True)])
        counts = torch.bincount(owner, minlength=atom)
        starts.append(done + torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        done += len(entry)
    return torch.stack(starts), torch.cat(rows)


def _terms(p: Parameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return p.bond_atoms, p.angle_atoms, p.torsion_atoms


def _system_entries(
    p: Parameters, first: Sequence[int]
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Role, owning atom and entry of all the places that atoms of a system take in terms.

    A bond, angle or torsion reads the same backwards, which puts every atom first or second.
    """
    bond, angle, torsion = _terms(p)
    size = (p.torsion_cos.abs() + p.torsion_sin.abs()) > 0
    order = (size * torch.arange(size.shape[1])).amax(1) if len(size) else torch.zeros(0)
    places = []
    for turned in (False, True):
        b, a, t = (terms.flip(1) if turned else terms for terms in (bond, angle, torsion))
        places += [
            ("bond", b[:, 0], b[:, 1:], first[0], None),
            ("angle end", a[:, 0], a[:, 1:], first[1], None),
            ("torsion end", t[:, 0], t[:, 1:], first[2], order),
            ("torsion inner", t[:, 1], t[:, [0, 2, 3]], first[2], order),
        ]
    places.append(("angle middle", angle[:, 1], angle[:, [0, 2]], first[1], None))
    return [(role, owner, _entry(*rest)) for role, owner, *rest in places]


def _entry(others: torch.Tensor, first: int, order: torch.Tensor | None) -> torch.Tensor:
    entry = torch.zeros(len(others), ENTRY_WIDTH, dtype=torch.int64)
    entry[:, : others.shape[1]] = others
    entry[:, 3] = first + torch.arange(len(others))
    if order is not None:
        entry[:, 4] = order
    return entry
