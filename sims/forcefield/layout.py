"""Lays the numbers of a force field out as the C kernel reads them."""

import ctypes
from typing import Any

import numpy as np
import torch

from .parameters import BornParameters, Parameters

_FAR_RATIO = 0.6  # largest s / r that the series of the kernel's far branch holds for

_COUNTS = ("atoms", "bonds", "angles", "torsions", "has_born", "has_cutoff")
_POINTERS = (
    "bond_atoms", "angle_atoms", "torsion_atoms", "torsion_order",
    "bond", "angle", "torsion", "pair", "atom",
)  # fmt: skip
_SCALARS = ("surface", "cutoff", "krf", "crf")


def model_class(real: Any) -> type[ctypes.Structure]:
    """The C structure Model of pairs.c."""

    class _Model(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int32) for name in _COUNTS),
            *((name, ctypes.c_void_p) for name in _POINTERS),
            ("alpha", real * 3),
            *((name, real) for name in _SCALARS),
        )

    return _Model


def fill_model(model: Any, p: Parameters, arrays: dict[str, np.ndarray]) -> None:
    """Fills the structure; the arrays must outlive it, because it holds their addresses."""
    model.atoms, model.bonds = p.num_atoms, len(p.bond_k)
    model.angles, model.torsions = len(p.angle_k), len(p.torsion_cos)
    model.has_born, model.has_cutoff = p.born is not None, p.cutoff is not None
    for name in _POINTERS:
        setattr(model, name, arrays[name].ctypes.data)
    model.cutoff, model.krf, model.crf = p.cutoff or 0.0, p.krf, p.crf
    if p.born is not None:
        model.alpha[:] = p.born.alpha
        model.surface = p.born.surface


def pack_tables(p: Parameters, real: Any, *, far: bool) -> dict[str, np.ndarray]:
    """Lays the numbers out as pairs.c reads them."""
    orders = [[0, *np.flatnonzero(row)][-1] for row in (p.torsion_cos.abs() + p.torsion_sin.abs())]
    tables = {
        "bond": torch.stack([p.bond_length, p.bond_k], -1),
        "angle": torch.stack([p.angle_theta, p.angle_k], -1),
        "torsion": torch.stack([p.torsion_cos, p.torsion_sin], -2),
        "pair": _pair_table(p, far),
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
    """(pairs, 8): Coulomb, r^-12, r^-6, polar, subject to the cutoff, far beyond (nm^2), 0, 0."""
    polar = torch.zeros_like(p.coulomb)
    distant = torch.full_like(p.coulomb, torch.inf)
    if p.born is not None:
        polar = p.born.prefactor * p.born.charge[:, None] * p.born.charge
        if far:
            distant = _far_distance(p.born).square()
    columns = (p.coulomb, p.lj12, p.lj6, polar, p.reaction_field.double(), distant)
    row, column = torch.triu_indices(p.num_atoms, p.num_atoms, offset=1)
    table = torch.stack([c[row, column] for c in columns], -1)
    return torch.nn.functional.pad(table, (0, 2))


def _far_distance(b: BornParameters) -> torch.Tensor:
    """Beyond it neither atom reaches into the other and s / r is small, for each pair."""
    scaled = b.scaled_radius.abs()
    reach = torch.maximum(b.offset_radius[:, None] + scaled, scaled[None] / _FAR_RATIO)
    return torch.maximum(reach, reach.T) * (1 + 1e-5)


def _atom_table(p: Parameters) -> torch.Tensor:
    b = p.born
    if b is None:
        return torch.zeros(p.num_atoms, 4)
    return torch.stack(
        [b.offset_radius, b.scaled_radius, b.radius, b.prefactor * b.charge.square()], -1
    )
