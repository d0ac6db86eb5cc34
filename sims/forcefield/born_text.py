"""Recognises generalised Born models in a CustomGBForce by what its expressions evaluate to.

Every constant is solved for and then checked at other points against the formulas of
BornParameters, so a model is known whatever its spelling, and none is taken for another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .expressions import evaluate
from .parameters import NECK_SHARPNESS

if TYPE_CHECKING:
    import openmm

_PROBE = 0.14  # nm, the solvent probe of the ACE surface term
_CURVE = ("alpha", "beta", "gamma")
_NAMES = {"charge", "or", "sr", "radindex", *_CURVE}
_FIRST = {"charge": 0.4, "or": 0.11, "sr": 0.08, "radindex": 1.0}
_SECOND = {"charge": -0.7, "or": 0.16, "sr": 0.13, "radindex": 2.0}
_THIRD = {"charge": 0.2, "or": 0.13, "sr": -0.047, "radindex": 3.0}
_DISTANCES = (0.02, 0.05, 0.1, 0.17, 0.3, 0.9, 1.8)
_INTEGRALS = (0.5, 1.5, 3.0, 5.0, 7.0)
_FARTHEST = 5.0  # nm, no neck reaches so far


@dataclass(frozen=True)
class RadiusLaw:
    """How a Born integral becomes a Born radius; the fields are those of BornParameters.

    Attributes:
        offset: nm, the intrinsic radius less the offset radius.
        alpha: three coefficients.
        tanh: false in HCT.
    """

    offset: float
    alpha: tuple[float, float, float]
    tanh: bool


class SolventText:
    """The expressions of one CustomGBForce, sorted by role.

    Args:
        force: as openmm.app writes it.

    Raises:
        ValueError: the force has other values, parameters or tables than a Born model.

    Attributes:
        names: of the per-particle parameters, in their order.
        curve_names: those among them that shape the Born radius.
        tables: getd0 and getm0 as arrays [first, second], or nothing.
    """

    def __init__(self, force: "openmm.CustomGBForce") -> None:
        count = force.getNumPerParticleParameters()
        self.names = [force.getPerParticleParameterName(i) for i in range(count)]
        if not {"charge", "or", "sr"} <= set(self.names) <= _NAMES:
            raise ValueError(f"per-particle parameters are {', '.join(self.names)}")
        self.curve_names = [name for name in _CURVE if name in self.names]
        self.tables = _read_tables(force)
        self._globals = {
            force.getGlobalParameterName(i): force.getGlobalParameterDefaultValue(i)
            for i in range(force.getNumGlobalParameters())
        }
        single, pair, excluding = force.SingleParticle, force.ParticlePairNoExclusions, None
        if force.getNumExclusions() == 0:
            excluding = force.ParticlePair
        values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
        kinds = [(name, pair if kind == excluding else kind) for name, _, kind in values]
        if kinds != [("I", pair), ("B", single)]:
            raise ValueError(f"computed values are {', '.join(v[0] for v in values)}")
        self._integral, self._radius = values[0][1], values[1][1]
        terms = [force.getEnergyTermParameters(i) for i in range(force.getNumEnergyTerms())]
        if any(kind not in (single, pair, excluding) for _, kind in terms):
            raise ValueError("an energy term applies exclusions")
        self._singles = [text for text, kind in terms if kind == single]
        self._pairs = [text for text, kind in terms if kind != single]

    def radius_law(self, curve: Mapping[str, float]) -> RadiusLaw:
        """Solves for the law of atoms that have these values of `curve_names`."""
        own = _FIRST["or"]
        plain = [1 / (1 / own - i) for i in _INTEGRALS]
        values = [self._born({**_FIRST, **curve}, i) for i in _INTEGRALS]
        if np.allclose(values, plain, rtol=1e-9, atol=0):
            law = RadiusLaw(self._surface_offset(), (0.0, 0.0, 0.0), tanh=False)
        else:
            law = self._tanh_law({**_FIRST, **curve})
        large = _SECOND["or"]
        for integral in _INTEGRALS:
            truth = _born_radius(integral, large, law)
            _agree(self._born({**_SECOND, **curve}, integral), truth, "the Born radius")
        return law

    def polar_strength(self) -> tuple[float, float, float]:
        """Prefactor and screened part in kJ nm / (mol e^2), kappa in nm^-1."""
        step = 0.3
        first, second, third = (self._charge_energy(step * k) * 2 * step * k for k in (1, 2, 3))
        if max(abs(first - second), abs(second - third)) < 1e-11 * abs(first):
            return first, 0.0, 0.0
        fade = (second - third) / (first - second)
        if not 0 < fade < 1:
            raise ValueError("the polar energy does not fade with the Born radius as with salt")
        screened = (first - second) / (fade * (1 - fade))
        return first + screened * (1 - fade), screened, -math.log(fade) / step

    def surface_strength(self, offset: float) -> float:
        """The coefficient of the surface term, kJ / (mol nm^2)."""
        radius = _FIRST["or"] + offset
        return self._surface(_FIRST, 0.2) / ((radius + _PROBE) ** 2 * (radius / 0.2) ** 6)

    def neck(self, offset: float) -> tuple[float, float]:
        """Scale of the neck heights, and how far beyond contact necks reach, nm; zero for none."""
        scale, cut = 0.0, 0.0
        if self.tables:
            place, height = _probe_place(1.0, 2.0), _probe_height(1.0, 2.0)
            scale = round(self._neck_alone(_FIRST, _SECOND, place) / height, 9)
            edge = _bisect(
                lambda r: self._neck_alone(_FIRST, _SECOND, r, 1e6) > 0, place, _FARTHEST
            )
            cut = round(edge - _FIRST["or"] - _SECOND["or"] - 2 * offset, 9)
        for a, b in ((_FIRST, _SECOND), (_SECOND, _FIRST), (_FIRST, _THIRD), (_THIRD, _THIRD)):
            edge = a["or"] + b["or"] + 2 * offset + cut
            for r in (*_DISTANCES, edge - 1e-6, edge + 1e-6):
                truth = pair_integral(r, a["or"], b["sr"])
                if r <= edge:
                    truth += scale * _probe_neck(r, a["radindex"], b["radindex"])
                _agree(self._pair_integral(a, b, r, 1.0), truth, "the Born integral")
        return scale, cut

    def check_energies(
        self,
        offset: float,
        polar: tuple[float, float, float],
        surface: float,
        cutoff: float | None,
    ) -> None:
        """Compares every energy term with the formulas at other points."""
        prefactor, screened, kappa = polar
        for sample, born in ((_FIRST, 0.15), (_SECOND, 0.31)):
            radius = sample["or"] + offset
            strength = prefactor + screened * math.expm1(-kappa * born)
            truth = 0.5 * strength * sample["charge"] ** 2 / born
            truth += surface * (radius + _PROBE) ** 2 * (radius / born) ** 6
            value = sum(self._value(text, {**sample, "B": born}) for text in self._singles)
            _agree(value, truth, "the one-atom energy")
        first, second = {**_FIRST, "B": 0.15}, {**_SECOND, "B": 0.31}
        product, shift = first["B"] * second["B"], 0.0 if cutoff is None else 1 / cutoff
        for r in _DISTANCES:
            f = math.sqrt(r * r + product * math.exp(-r * r / (4 * product)))
            truth = prefactor + screened * math.expm1(-kappa * f)
            truth *= _FIRST["charge"] * _SECOND["charge"] * (1 / f - shift)
            values = {"r": r, **_numbered(first, 1), **_numbered(second, 2)}
            value = sum(self._value(text, values) for text in self._pairs)
            _agree(value, truth, "the pair energy")

    def _value(self, text: str, values: Mapping[str, float], **functions: Any) -> float:
        return evaluate(text, {**self._globals, **values}, functions)

    def _born(self, values: Mapping[str, float], integral: float) -> float:
        return self._value(self._radius, {**values, "I": integral})

    def _surface(self, sample: Mapping[str, float], born: float) -> float:
        values = {**sample, "charge": 0.0, "B": born}
        return sum(self._value(text, values) for text in self._singles)

    def _charge_energy(self, born: float) -> float:
        values = {**_FIRST, "charge": 1.0, "B": born}
        total = sum(self._value(text, values) for text in self._singles)
        return total - self._surface(_FIRST, born)

    def _tanh_law(self, values: Mapping[str, float]) -> RadiusLaw:
        own = values["or"]
        # With psi so large that tanh is 1, 1/B = 1/or - 1/(or + offset).
        radius = 1 / (1 / own - 1 / self._born(values, 100 / own))
        psi = np.array([0.2, 0.5, 0.8])
        born = np.array([self._born(values, p / own) for p in psi])
        with np.errstate(invalid="ignore", divide="ignore"):  # of what is no such law
            inner = np.arctanh((1 / own - 1 / born) * radius)
        alpha = np.linalg.solve(psi[:, None] ** np.array([1, 2, 3]), inner)
        rounded = [round(float(a), 9) + 0.0 for a in alpha]
        return RadiusLaw(round(radius - own, 9), (rounded[0], rounded[1], rounded[2]), tanh=True)

    def _surface_offset(self) -> float:
        """The offset as the surface term has it, where the Born radius does not know it."""
        small, large = _FIRST["or"], _SECOND["or"]
        energies = [self._surface(sample, 0.2) for sample in (_FIRST, _SECOND)]
        if energies == [0.0, 0.0]:
            return 0.0

        def too_small(offset: float) -> bool:
            reach = (small + offset + _PROBE) / (large + offset + _PROBE)
            return reach**2 * ((small + offset) / (large + offset)) ** 6 < energies[0] / energies[1]

        return round(_bisect(too_small, -0.05, 0.1), 9)

    def _pair_integral(
        self, first: Mapping[str, float], second: Mapping[str, float], r: float, height: float
    ) -> float:
        values = {"r": r, **_numbered(first, 1), **_numbered(second, 2)}
        return self._value(
            self._integral,
            values,
            getd0=_probe_place,
            getm0=lambda i, j: height * _probe_height(i, j),
        )

    def _neck_alone(
        self,
        first: Mapping[str, float],
        second: Mapping[str, float],
        r: float,
        height: float = 1.0,
    ) -> float:
        with_neck, without = (self._pair_integral(first, second, r, h) for h in (height, 0.0))
        return with_neck - without


def pair_integral(r: float, offset_radius: float, scaled_radius: float) -> float:
    """The descreening of one atom by another at distance r, in nm^-1 (Hawkins et al. 1995)."""
    if r + scaled_radius <= offset_radius:
        return 0.0
    upper, lower = r + scaled_radius, max(offset_radius, abs(r - scaled_radius))
    area = (r - scaled_radius**2 / r) * (upper**-2 - lower**-2)
    return 0.5 * (1 / lower - 1 / upper + 0.25 * area + 0.5 * math.log(lower / upper) / r)


def _read_tables(force: "openmm.CustomGBForce") -> dict[str, np.ndarray]:
    """The tables of necks; OpenMM lets the first index run fastest."""
    tables = {}
    for k in range(force.getNumTabulatedFunctions()):
        columns, rows, values = force.getTabulatedFunction(k).getFunctionParameters()
        tables[force.getTabulatedFunctionName(k)] = np.array(values).reshape(rows, columns).T
    if tables and set(tables) != {"getd0", "getm0"}:
        raise ValueError(f"tabulated functions are {', '.join(tables)}")
    return tables


def _born_radius(integral: float, own: float, law: RadiusLaw) -> float:
    psi = integral * own
    if not law.tanh:
        return 1 / (1 / own - integral)
    inner = sum(a * psi**k for k, a in enumerate(law.alpha, start=1))
    return 1 / (1 / own - math.tanh(inner) / (own + law.offset))


def _probe_place(first: float, second: float) -> float:
    """Stands in for the table getd0, so that the order of its arguments shows."""
    return 0.25 + 0.01 * first + 0.03 * second


def _probe_height(first: float, second: float) -> float:
    """Stands in for the table getm0 likewise."""
    return 0.3 + 0.1 * first + 0.7 * second


def _probe_neck(r: float, first: float, second: float) -> float:
    d2 = (r - _probe_place(first, second)) ** 2
    fall = 1 + NECK_SHARPNESS[0] * d2 + NECK_SHARPNESS[1] * d2**3
    return _probe_height(first, second) / fall


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Where a statement that holds at `low` and not at `high` ceases to hold."""
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def _numbered(values: Mapping[str, float], number: int) -> dict[str, float]:
    return {f"{name}{number}": value for name, value in values.items()}


def _agree(value: float, truth: float, what: str) -> None:
    if not math.isclose(value, truth, rel_tol=1e-8, abs_tol=1e-9):
        raise ValueError(f"{what} is {value:.9g} where the formula has {truth:.9g}")
