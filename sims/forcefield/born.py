"""Reads the generalised Born models that an OpenMM System may hold."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .born_text import RadiusLaw, SolventText
from .errors import UnsupportedForce
from .parameters import COULOMB_CONSTANT, BornParameters

if TYPE_CHECKING:
    import openmm


def read_gbsa_obc(force: "openmm.GBSAOBCForce") -> BornParameters:
    """Reads OpenMM's own GBSAOBCForce (the OBC2 model with an ACE surface term).

    An atom wholly inside of another's descreening sphere, which takes less than 0.06 nm between
    them, is treated as openmm.app's text of the same model has it; GBSAOBCForce adds a term there.
    """
    from openmm import unit

    charge, radius, scale = zip(
        *(force.getParticleParameters(i) for i in range(force.getNumParticles())), strict=True
    )
    radii = np.array([r.value_in_unit(unit.nanometer) for r in radius])
    offset = radii - 0.009
    surface = force.getSurfaceAreaEnergy().value_in_unit_system(unit.md_unit_system)
    dielectric = 1 / force.getSoluteDielectric() - 1 / force.getSolventDielectric()
    return BornParameters(
        charge=torch.tensor([q.value_in_unit(unit.elementary_charge) for q in charge]).double(),
        offset_radius=torch.from_numpy(offset),
        scaled_radius=torch.from_numpy(np.array(scale) * offset),
        radius=torch.from_numpy(radii),
        alpha=torch.tensor([1.0, -0.8, 4.85], dtype=torch.float64).repeat(len(radii), 1),
        tanh=True,
        prefactor=-COULOMB_CONSTANT * dielectric,
        surface=4 * math.pi * surface,
    )


def read_custom_gb(force: "openmm.CustomGBForce", cutoff: float | None) -> BornParameters:
    """Reads a CustomGBForce that holds HCT, OBC1, OBC2, GBn or GBn2, as openmm.app writes them.

    Raises:
        UnsupportedForce: the expressions are those of no such model.
    """
    try:
        return _read_text(SolventText(force), force, cutoff)
    except (ValueError, ArithmeticError, KeyError, IndexError) as error:
        raise UnsupportedForce(
            f"CustomGBForce holds none of HCT, OBC1, OBC2, GBn and GBn2 ({error}); build the "
            "System with one of OpenMM's implicit/*.xml, or in vacuum"
        ) from error


def _read_text(
    text: SolventText, force: "openmm.CustomGBForce", cutoff: float | None
) -> BornParameters:
    rows = [force.getParticleParameters(i) for i in range(force.getNumParticles())]
    columns = dict(zip(text.names, np.array(rows, dtype=np.float64).T, strict=True))
    law, alpha = _radius_laws(text, columns)
    prefactor, screened, kappa = text.polar_strength()
    surface = text.surface_strength(law.offset)
    text.check_energies(law.offset, (prefactor, screened, kappa), surface, cutoff)
    scale, neck_cut = text.neck(law.offset)
    return BornParameters(
        charge=torch.from_numpy(columns["charge"].copy()),
        offset_radius=torch.from_numpy(columns["or"].copy()),
        scaled_radius=torch.from_numpy(columns["sr"].copy()),
        radius=torch.from_numpy(columns["or"] + law.offset),
        alpha=torch.from_numpy(alpha),
        tanh=law.tanh,
        prefactor=prefactor,
        surface=surface,
        kappa=kappa,
        screened=screened,
        neck_cut=neck_cut,
        **_neck_tables(text, columns, scale),
    )


def _radius_laws(text: SolventText, columns: dict[str, np.ndarray]) -> tuple[RadiusLaw, np.ndarray]:
    """One law for every kind of atom; (atoms, 3) coefficients, which GBn2 gives to each atom."""
    own = np.stack([columns[name] for name in text.curve_names], -1) if text.curve_names else None
    if own is None:
        law = text.radius_law({})
        return law, np.tile(law.alpha, (len(columns["or"]), 1))
    kinds, kind = np.unique(own, axis=0, return_inverse=True)
    laws = [text.radius_law(dict(zip(text.curve_names, row, strict=True))) for row in kinds]
    if len({(law.offset, law.tanh) for law in laws}) > 1:
        raise ValueError("the dielectric offset differs between atoms")
    return laws[0], np.array([law.alpha for law in laws])[kind.reshape(-1)]


def _neck_tables(
    text: SolventText, columns: dict[str, np.ndarray], scale: float
) -> dict[str, torch.Tensor]:
    if scale == 0:
        return {}
    index = columns["radindex"].round().astype(int)
    first, second = index[:, None], index[None]
    return {
        "neck_value": torch.from_numpy(scale * text.tables["getm0"][first, second]),
        "neck_distance": torch.from_numpy(text.tables["getd0"][first, second]),
    }
