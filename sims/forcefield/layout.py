"""Lays the numbers of a force field out as the C kernel reads them."""

import ctypes
from typing import Any

import numpy as np
import torch

from .parameters import BornParameters, Parameters

_FAR_RATIO = 0.6  # largest s / r that the series of the kernel's far branch holds for

_COUNTS = (
    "atoms", "bonds", "angles", "torsions",
    "has_born", "has_tanh", "has_neck", "has_salt", "has_cutoff", "has_switch",
)  # fmt: skip
_POINTERS = (
    "bond_atoms", "angle_atoms", "torsion_atoms", "torsion_order",
    "bond", "angle", "torsion", "pair", "neck", "atom",
)  # fmt: skip
_SCALARS = ("surface", "kappa", "cutoff", "krf", "crf", "switch_start", "switch_scale")


def model_class(real: Any) -> type[ctypes.Structure]:
    """The C structure Model of pairs.c."""

    class _Model(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int32) for name in _COUNTS),
            *((name, ctypes.c_void_p) for name in _POINTERS),
            *((name, real) for name in _SCALARS),
        )

    return _Model


def fill_model(model: Any, p: Parameters, arrays: dict[str, np.ndarray]) -> None:
    """Fills the structure; the arrays must outlive it, because it holds their addresses."""
    model.atoms, model.bonds = p.num_atoms, len(p.bond_k)
    model.angles, model.torsions = len(p.angle_k), len(p.torsion_cos)
    model.has_cutoff, model.has_switch = p.cutoff is not None, p.switch is not None
    for name in _POINTERS:
        setattr(model, name, arrays[name].ctypes.data)
    model.cutoff, model.krf, model.crf = p.cutoff or 0.0, p.krf, p.crf
    if p.cutoff is not None and p.switch is not None:
        model.switch_start, model.switch_scale = p.switch, 1 / (p.cutoff - p.switch)
    if p.born is not None:
        model.has_born, model.has_tanh = True, p.born.tanh
        model.has_neck, model.has_salt = p.born.neck_value is not None, p.born.kappa != 0
        model.surface, model.kappa = p.born.surface, p.born.kappa


def pack_tables(p: Parameters, real: Any, *, far: bool) -> dict[str, np.ndarray]:
    """Lays the numbers out as pairs.c reads them."""
    orders = [[0, *np.flatnonzero(row)][-1] for row in (p.torsion_cos.abs() + p.torsion_sin.abs())]
    tables = {
        "bond": torch.stack([p.bond_length, p.bond_k], -1),
        "angle": torch.stack([p.angle_theta, p.angle_k], -1),
        "torsion": torch.stack([p.torsion_cos, p.torsion_sin], -2),
        "pair": _pair_table(p, far),
        "neck": _neck_table(p.born),
        "atom": _atom_table(p),
    }
    indices = {
        "bond_atoms": p.bond_atoms,
        "angle_atoms": p.angle_atoms,
        "torsion_atoms": p.torsion_atoms,
        "torsion_order": torch.tensor(orders),
    }
    packed = {k: np.ascontiguousarray(v.numpy(), dtype=real) for k, v in tables.items()}
    return packed | {k: np.ascontiguousarray(v.numpy(), np.int32) for k, v in indices.items()}


def _pair_table(p: Parameters, far: bool) -> torch.Tensor:
    """(pairs, 8): Coulomb, r^-12, r^-6, polar, in the cutoff, far beyond (nm^2), screened, 0."""
    polar = screened = torch.zeros_like(p.coulomb)
    distant = torch.full_like(p.coulomb, torch.inf)
    if p.born is not None:
        product = p.born.charge[:, None] * p.born.charge
        polar, screened = p.born.prefactor * product, p.born.screened * product
        if far:
            distant = _far_distance(p.born).square()
    columns = (p.coulomb, p.lj12, p.lj6, polar, p.reaction_field.double(), distant, screened)
    return torch.nn.functional.pad(_upper(*columns), (0, 1))


def _neck_table(b: BornParameters | None) -> torch.Tensor:
    """(pairs, 5): height and distance of the neck on i by j, of that on j by i, and its end, nm."""
    if b is None or b.neck_value is None or b.neck_distance is None:
        return torch.zeros(0, 5)
    value, distance = b.neck_value, b.neck_distance
    reach = b.radius[:, None] + b.radius + b.neck_cut
    return _upper(value, distance, value.T, distance.T, reach)


def _upper(*columns: torch.Tensor) -> torch.Tensor:
    """Rows of the upper triangle of (atoms, atoms) tables, side by side."""
    row, column = torch.triu_indices(*columns[0].shape, offset=1)
    return torch.stack([c[row, column] for c in columns], -1)


def _far_distance(b: BornParameters) -> torch.Tensor:
    """Beyond it neither atom reaches into the other and s / r is small, for each pair."""
    scaled = b.scaled_radius.abs()
    reach = torch.maximum(b.offset_radius[:, None] + scaled, scaled[None] / _FAR_RATIO)
    return torch.maximum(reach, reach.T) * (1 + 1e-5)


def _atom_table(p: Parameters) -> torch.Tensor:
    """(atoms, 8): offset, scaled and intrinsic radius, polar, screened, three alpha."""
    b = p.born
    if b is None:
        return torch.zeros(p.num_atoms, 8)
    square = b.charge.square()
    polar, screened = b.prefactor * square, b.screened * square
    columns = (b.offset_radius, b.scaled_radius, b.radius, polar, screened, *b.alpha.T)
    return torch.stack(columns, -1)
