"""Recognises the generalised Born models of OpenMM by what their expressions evaluate to."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import UnsupportedForce
from .expressions import evaluate
from .parameters import COULOMB_CONSTANT, BornParameters

if TYPE_CHECKING:
    import openmm

_PROBE = 0.14  # nm, the solvent probe of the ACE surface term
_FIRST = {"charge": 0.4, "or": 0.11, "sr": 0.08}
_SECOND = {"charge": -0.7, "or": 0.16, "sr": 0.13}
_DISTANCES = (0.02, 0.05, 0.1, 0.17, 0.3, 0.9, 1.8)
_INTEGRALS = (0.5, 1.5, 3.0, 5.0, 7.0)


def read_gbsa_obc(force: "openmm.GBSAOBCForce") -> BornParameters:
    """Reads OpenMM's own GBSAOBCForce (the OBC2 model with an ACE surface term)."""
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
        alpha=(1.0, -0.8, 4.85),
        prefactor=-COULOMB_CONSTANT * dielectric,
        surface=4 * math.pi * surface,
    )


def read_custom_gb(force: "openmm.CustomGBForce", cutoff: float | None) -> BornParameters:
    """Reads a CustomGBForce that holds an OBC model, as openmm.app writes it.

    Raises:
        UnsupportedForce: the expressions are not those of an OBC model.
    """
    try:
        model = _Expressions(force)
        model.check_integral()
        offset, alpha = model.radius_coefficients()
        prefactor, surface = model.energy_coefficients(offset, cutoff)
    except (ValueError, ArithmeticError, KeyError, IndexError) as error:
        raise UnsupportedForce(
            f"CustomGBForce holds {_guess_name(force)}, not a plain OBC model ({error}); build the "
            "System with implicit/obc1.xml or implicit/obc2.xml, without salt, or in vacuum"
        ) from error
    table = np.array([force.getParticleParameters(i) for i in range(force.getNumParticles())])
    columns = dict(zip(model.names, torch.from_numpy(table).double().T, strict=True))
    return BornParameters(
        charge=columns["charge"].clone(),
        offset_radius=columns["or"].clone(),
        scaled_radius=columns["sr"].clone(),
        radius=columns["or"] + offset,
        alpha=alpha,
        prefactor=prefactor,
        surface=surface,
    )


def pair_integral(r: float, offset_radius: float, scaled_radius: float) -> float:
    """The descreening of one atom by another at distance r, in nm^-1 (Hawkins et al. 1995)."""
    if r + scaled_radius <= offset_radius:
        return 0.0
    upper, lower = r + scaled_radius, max(offset_radius, abs(r - scaled_radius))
    area = (r - scaled_radius**2 / r) * (upper**-2 - lower**-2)
    return 0.5 * (1 / lower - 1 / upper + 0.25 * area + 0.5 * math.log(lower / upper) / r)


class _Expressions:
    """The texts of one CustomGBForce, sorted by role."""

    def __init__(self, force: "openmm.CustomGBForce") -> None:
        import openmm

        count = force.getNumPerParticleParameters()
        self.names = [force.getPerParticleParameterName(i) for i in range(count)]
        if sorted(self.names) != ["charge", "or", "sr"]:
            raise ValueError(f"per-particle parameters are {', '.join(self.names)}")
        if force.getNumTabulatedFunctions() or force.getNumExclusions():
            raise ValueError("it has tabulated functions or exclusions, as GBn models do")
        self.globals = {
            force.getGlobalParameterName(i): force.getGlobalParameterDefaultValue(i)
            for i in range(force.getNumGlobalParameters())
        }
        single = openmm.CustomGBForce.SingleParticle
        pair = openmm.CustomGBForce.ParticlePairNoExclusions
        values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
        if [(v[0], v[2]) for v in values] != [("I", pair), ("B", single)]:
            raise ValueError(f"computed values are {', '.join(v[0] for v in values)}")
        self.integral, self.radius = values[0][1], values[1][1]
        terms = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
        if any(kind not in (single, pair) for _, kind in terms):
            raise ValueError("an energy term applies exclusions")
        self.singles = [text for text, kind in terms if kind == single]
        self.pairs = [text for text, kind in terms if kind == pair]

    def _value(self, text: str, values: Mapping[str, float]) -> float:
        return evaluate(text, {**self.globals, **values})

    def check_integral(self) -> None:
        """Refuses any pair integral but that of Hawkins, Cramer and Truhlar."""
        for r in _DISTANCES:
            values = {"r": r, **_numbered(_FIRST, 1), **_numbered(_SECOND, 2)}
            truth = pair_integral(r, _FIRST["or"], _SECOND["sr"])
            _agree(self._value(self.integral, values), truth, "the Born integral")

    def radius_coefficients(self) -> tuple[float, tuple[float, float, float]]:
        """Solves for the offset and the tanh polynomial, then checks them elsewhere."""
        small, large = _FIRST["or"], _SECOND["or"]
        # With psi so large that tanh is 1, 1/B = 1/or - 1/(or + offset).
        radius = 1 / (1 / small - 1 / self._value(self.radius, {**_FIRST, "I": 100 / small}))
        psi = np.array([0.2, 0.5, 0.8])
        born = np.array([self._value(self.radius, {**_FIRST, "I": p / small}) for p in psi])
        inner = np.arctanh((1 / small - 1 / born) * radius)
        alpha = np.linalg.solve(psi[:, None] ** np.array([1, 2, 3]), inner)
        alpha, offset = np.round(alpha, 9) + 0.0, round(radius - small, 9)
        for integral in _INTEGRALS:
            psi_large = integral * large
            inner_large = float(alpha @ psi_large ** np.array([1, 2, 3]))
            truth = 1 / (1 / large - math.tanh(inner_large) / (large + offset))
            value = self._value(self.radius, {**_SECOND, "I": integral})
            _agree(value, truth, "the Born radius")
        return offset, (float(alpha[0]), float(alpha[1]), float(alpha[2]))

    def energy_coefficients(self, offset: float, cutoff: float | None) -> tuple[float, float]:
        """Finds the strengths of the polar and surface terms, and checks every formula."""
        unit = {"charge": 1.0, "or": 0.12, "sr": 0.1, "B": 0.2}
        neutral = {**unit, "charge": 0.0}
        surface = sum(self._value(text, neutral) for text in self.singles)
        surface /= (0.12 + offset + _PROBE) ** 2 * ((0.12 + offset) / 0.2) ** 6
        total = sum(self._value(text, unit) - self._value(text, neutral) for text in self.singles)
        prefactor = total * 2 * 0.2
        for sample, born in ((_FIRST, 0.15), (_SECOND, 0.31)):
            radius = sample["or"] + offset
            truth = 0.5 * prefactor * sample["charge"] ** 2 / born
            truth += surface * (radius + _PROBE) ** 2 * (radius / born) ** 6
            value = sum(self._value(text, {**sample, "B": born}) for text in self.singles)
            _agree(value, truth, "the one-atom energy")
        for r in _DISTANCES:
            self._check_pair(r, prefactor, cutoff)
        return prefactor, surface

    def _check_pair(self, r: float, prefactor: float, cutoff: float | None) -> None:
        first, second = {**_FIRST, "B": 0.15}, {**_SECOND, "B": 0.31}
        product = 0.15 * 0.31
        f = math.sqrt(r * r + product * math.exp(-r * r / (4 * product)))
        shift = 0.0 if cutoff is None else 1 / cutoff
        truth = prefactor * _FIRST["charge"] * _SECOND["charge"] * (1 / f - shift)
        values = {"r": r, **_numbered(first, 1), **_numbered(second, 2)}
        value = sum(self._value(text, values) for text in self.pairs)
        _agree(value, truth, "the pair energy")


def _guess_name(force: "openmm.CustomGBForce") -> str:
    """Names a model for the error message, by the marks of those that openmm.app can write."""
    count = force.getNumPerParticleParameters()
    names = [force.getPerParticleParameterName(i) for i in range(count)]
    values = [force.getComputedValueParameters(i)[1] for i in range(force.getNumComputedValues())]
    terms = [force.getEnergyTermParameters(i)[0] for i in range(force.getNumEnergyTerms())]
    if "radindex" in names:
        return "the GBn2 model" if "gamma" in names else "the GBn model"
    if any(text.startswith("1/(1/or-I)") for text in values):
        return "the HCT model"
    if any("exp(-kappa" in text for text in terms):
        return "an OBC or similar model with salt"
    return "an unknown generalised Born model"


def _numbered(values: Mapping[str, float], number: int) -> dict[str, float]:
    return {f"{name}{number}": value for name, value in values.items()}


def _agree(value: float, truth: float, what: str) -> None:
    if not math.isclose(value, truth, rel_tol=1e-8, abs_tol=1e-9):
        raise ValueError(f"{what} is {value:.9g} where OBC has {truth:.9g}")
