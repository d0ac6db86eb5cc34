"""Cartesian coordinates from internal ones, for many torsion choices at once.

Reference: Parsons et al. 2005, J. Comput. Chem. 26, 1063 (natural extension reference frame).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .parse import PeptideSpec
from .tables import CAPS, SIDE_CHAINS, Placement

Key = tuple[int, str]
_NUM_CHI = 5
_TORSION = re.compile(r"(?P<base>[<>]?[A-Za-z]\w*)?(?P<offset>[+-]?\d+)?$")


@dataclass(frozen=True)
class Step:
    """Placement of one atom: three earlier atoms, and a torsion ``angle[base] + offset``."""

    key: Key
    parents: tuple[Key, Key, Key]
    length: float
    angle: float
    base: Key | None
    offset: float


def atom_keys(spec: PeptideSpec) -> tuple[Key, ...]:
    """(residue index, atom name) of every atom, in the order of all files and tensors."""
    names = spec.residue_names
    return tuple(
        (index, atom) for index, name in enumerate(names) for atom in _atoms(spec, index, name)
    )


def _atoms(spec: PeptideSpec, index: int, name: str) -> tuple[str, ...]:
    side = tuple(row.name for row in (SIDE_CHAINS.get(name) or CAPS.get(name) or ()))
    if name == "ACE":
        return (*side, "C", "O")
    if name == "NME":
        return ("N", "H", *side)
    charged = index == 0
    amine = ("H2", "H3") if charged else ()
    amine = amine if name == "PRO" else ("H", *amine)
    alpha = ("HA2", "HA3") if name == "GLY" else ("HA",)
    beta = () if name == "GLY" else ("CB",)
    last = index == len(spec.residue_names) - 1
    return ("N", *amine, "CA", *alpha, *beta, *side, "C", "O", *(("OXT",) if last else ()))


def torsion_keys(spec: PeptideSpec) -> tuple[Key, ...]:
    """Free torsions: (residue, "phi" | "psi" | "chi1" ...). Proline's phi and chi are fixed."""
    free = []
    for index, name in enumerate(spec.residue_names):
        if name in CAPS:
            continue
        free += [(index, "psi")] if name == "PRO" else [(index, "phi"), (index, "psi")]
        used = {_split(row.torsion)[0] for row in SIDE_CHAINS[name]}
        free += [(index, f"chi{k}") for k in range(1, _NUM_CHI + 1) if f"chi{k}" in used]
    return tuple(free)


def default_torsions(spec: PeptideSpec) -> dict[Key, Tensor]:
    """One extended conformation: radians, each (1,)."""
    values = {"phi": -139.0, "psi": 135.0}
    angles = {key: values.get(key[1], 180.0) for key in torsion_keys(spec)}
    return {key: torch.tensor([math.radians(v)], dtype=torch.float64) for key, v in angles.items()}


def random_torsions(spec: PeptideSpec, n: int, generator: torch.Generator) -> dict[Key, Tensor]:
    """``n`` independent uniform draws of every free torsion, radians, each (n,)."""
    keys = torsion_keys(spec)
    draw = torch.rand((len(keys), n), generator=generator, dtype=torch.float64)
    return dict(zip(keys, (2 * draw - 1) * math.pi, strict=True))


def place_atoms(spec: PeptideSpec, torsions: dict[Key, Tensor]) -> Tensor:
    """Cartesian coordinates of the peptide.

    Args:
        spec: The peptide.
        torsions: Radians for every key of ``torsion_keys``, each (n,).

    Returns:
        (n, atoms, 3) nm, float64, in the order of ``atom_keys``.
    """
    n = len(next(iter(torsions.values())))
    angles = dict(torsions)
    for index, name in enumerate(spec.residue_names):
        if name == "PRO":
            angles[(index, "phi")] = torch.full((n,), math.radians(-65.0), dtype=torch.float64)
    first = 1 if spec.n_cap else 0
    placed = _first_atoms(first, n)
    pending = {step.key: step for step in _steps(spec) if step.key not in placed}
    for key in list(pending):
        _place(key, pending, placed, angles)
    return torch.stack([placed[key] for key in atom_keys(spec)], dim=1)


def _first_atoms(index: int, n: int) -> dict[Key, Tensor]:
    points = {"N": (0.0, 0.0, 0.0), "CA": (0.1458, 0.0, 0.0)}
    turn = math.radians(111.0)
    points["C"] = (0.1458 - 0.1525 * math.cos(turn), 0.1525 * math.sin(turn), 0.0)
    return {
        (index, name): torch.tensor(xyz, dtype=torch.float64).expand(n, 3)
        for name, xyz in points.items()
    }


def _place(
    key: Key, pending: dict[Key, Step], placed: dict[Key, Tensor], angles: dict[Key, Tensor]
) -> None:
    """Place an atom and, before it, whatever it is measured from."""
    if key in placed:
        return
    step = pending[key]
    for parent in step.parents:
        _place(parent, pending, placed, angles)
    if step.base is not None and step.base not in angles:
        _place(step.base, pending, placed, angles)
    n = len(placed[step.parents[0]])
    torsion = torch.full((n,), math.radians(step.offset), dtype=torch.float64)
    if step.base is not None:
        torsion = torsion + angles[step.base]
    angles[key] = torsion
    parent, grandparent, great = (placed[p] for p in step.parents)
    placed[key] = _extend(parent, grandparent, great, step.length, step.angle, torsion)


def _extend(
    parent: Tensor, grandparent: Tensor, great: Tensor, length: float, angle: float, torsion: Tensor
) -> Tensor:
    axis = torch.nn.functional.normalize(parent - grandparent, dim=-1)
    normal = torch.linalg.cross(grandparent - great, axis)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    side = torch.linalg.cross(normal, axis)
    bend = math.radians(angle)
    planar = side * torsion.cos()[:, None] + normal * torsion.sin()[:, None]
    return parent + length * (-math.cos(bend) * axis + math.sin(bend) * planar)


def _split(torsion: str) -> tuple[str | None, float]:
    match = _TORSION.match(torsion)
    if match is None:
        raise RuntimeError(f"residue template has a malformed torsion {torsion!r}")
    return match["base"], float(match["offset"] or 0)


def _steps(spec: PeptideSpec) -> list[Step]:
    steps = []
    for index, name in enumerate(spec.residue_names):
        if name in CAPS:
            rows = _cap_rows(name)
        else:
            rows = _backbone_rows(spec, index, name) + list(SIDE_CHAINS[name])
        steps += [_step(index, row) for row in rows]
    return steps


def _step(index: int, row: Placement) -> Step:
    base, offset = _split(row.torsion)
    parents = tuple(_key(index, name) for name in (row.parent, row.grandparent, row.great))
    angle_key = None if base is None else _key(index, base)
    return Step((index, row.name), parents, row.length, row.angle, angle_key, offset)


def _key(index: int, name: str) -> Key:
    """A leading ``<`` or ``>`` names the residue before or after."""
    if name[0] in "<>":
        return index + (1 if name[0] == ">" else -1), name[1:]
    return index, name


def _row(name: str, refs: str, length: float, angle: float, torsion: str) -> Placement:
    return Placement(name, *refs.split(), length, angle, torsion)


def _backbone_rows(spec: PeptideSpec, index: int, name: str) -> list[Placement]:
    rows = [_row("O", "C CA N", 0.1229, 120.5, "psi+180")]
    if index == len(spec.residue_names) - 1:
        rows.append(_row("OXT", "C CA N", 0.125, 117.0, "psi"))
    if index > 0:
        rows.append(_row("N", "<C <CA <N", 0.1335, 116.6, "<psi"))
        rows.append(_row("CA", "N <C <CA", 0.1458, 121.9, "180"))
        rows.append(_row("C", "CA N <C", 0.1525, 111.0, "phi"))
    rows += _amine_rows(index == 0, name)
    rows.append(_row("HA2" if name == "GLY" else "HA", "CA N C", 0.109, 109.0, "118"))
    fourth, bond = ("HA3", 0.109) if name == "GLY" else ("CB", 0.1526)
    return [*rows, _row(fourth, "CA N C", bond, 110.0, "-122")]


def _amine_rows(charged: bool, name: str) -> list[Placement]:
    angle = 109.5 if charged else 118.0
    opposite = [] if name == "PRO" else [_row("H", "N CA C", 0.101, angle, "phi+180")]
    if not charged:
        return opposite
    pair = [
        _row("H2", "N CA C", 0.101, 109.5, "phi+60"),
        _row("H3", "N CA C", 0.101, 109.5, "phi-60"),
    ]
    return opposite + pair


def _cap_rows(name: str) -> list[Placement]:
    if name == "ACE":
        carbonyl = [_row("C", ">N >CA >C", 0.1335, 121.9, ">phi")]
        return [*carbonyl, _row("O", "C >N >CA", 0.1229, 122.0, "0"), *CAPS["ACE"]]
    amide = [
        _row("N", "<C <CA <N", 0.1335, 116.6, "<psi"),
        _row("H", "N <C <CA", 0.101, 119.0, "0"),
    ]
    return [*amide, *CAPS["NME"]]
