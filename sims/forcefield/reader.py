"""Reads an OpenMM System into tensors, refusing whatever it would have to ignore."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .born import read_custom_gb, read_gbsa_obc
from .errors import UnsupportedForce
from .parameters import COULOMB_CONSTANT, MAX_PERIODICITY, BornParameters, Parameters

if TYPE_CHECKING:
    import openmm

_IGNORED = ("CMMotionRemover",)
_ONCE = ("NonbondedForce", "GBSAOBCForce", "CustomGBForce")
_READ = (
    "HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "RBTorsionForce", *_ONCE,
)  # fmt: skip
_REMEDY = (
    "give a System of harmonic bonds and angles, periodic torsions, one NonbondedForce and at most "
    "one generalised Born solvent, as amber14-all.xml makes it"
)
_REMEDIES = {
    "CMAPTorsionForce": "use a force field without CMAP, such as amber14-all.xml",
    "LCPOForce": "use the surface term ACE or none (sasaMethod='ACE' or None)",
    "MonteCarloBarostat": "remove it, for there is no periodic box",
    "AndersenThermostat": "remove it, for the dynamics has a thermostat of its own",
}


def read_system(system: "openmm.System") -> Parameters:
    """Reads every term of a System.

    Raises:
        UnsupportedForce: naming the force or feature (constraints, virtual sites, massless
            particles, periodic box, parameters that are not finite, an implicit solvent that is
            not known, particles that are not there) that cannot be represented.
    """
    _refuse_features(system)
    forces = _sort_forces(system)
    atoms = int(system.getNumParticles())
    pairs = _read_nonbonded(_single(forces, "NonbondedForce"), atoms)
    masses = [_plain(system.getParticleMass(i)) for i in range(atoms)]
    parameters = Parameters(
        masses=torch.tensor(masses, dtype=torch.float64),
        **_read_bonds(forces["HarmonicBondForce"]),
        **_read_angles(forces["HarmonicAngleForce"]),
        **_read_torsions(forces["PeriodicTorsionForce"], forces["RBTorsionForce"]),
        **pairs,
        born=_read_born(forces, pairs["cutoff"], atoms),
    )
    _refuse_strangers("HarmonicBondForce", parameters.bond_atoms, atoms)
    _refuse_strangers("HarmonicAngleForce", parameters.angle_atoms, atoms)
    _refuse_strangers("a torsion force", parameters.torsion_atoms, atoms)
    refuse_infinite(parameters)
    return parameters


def refuse_infinite(parameters: Parameters | BornParameters) -> None:
    """Refuses numbers that would make every energy meaningless.

    Raises:
        UnsupportedForce: naming the parameter and the atoms or terms.
    """
    for name, value in vars(parameters).items():
        if isinstance(value, BornParameters):
            refuse_infinite(value)
        elif isinstance(value, torch.Tensor | float):
            bad = (~torch.as_tensor(value).isfinite()).nonzero()
            if len(bad):
                where = f" at {tuple(bad[0].tolist())}" if bad.shape[1] else ""
                raise UnsupportedForce(
                    f"the System has {len(bad)} parameters that are not finite, first "
                    f"{name}{where}; correct the force field"
                )


def _refuse_strangers(force: str, indices: torch.Tensor, atoms: int) -> None:
    """Refuses particles that the System has not: the kernels would read past its end."""
    bad = indices[(indices < 0) | (indices >= atoms)]
    if len(bad):
        raise UnsupportedForce(
            f"{force} names particle {int(bad[0])}, the System has {atoms} (from 0); correct the "
            "force field"
        )


def _refuse_other_count(force: Any, atoms: int) -> None:
    if force.getNumParticles() != atoms:
        raise UnsupportedForce(
            f"{_known_name(force)} has {force.getNumParticles()} particles, the System {atoms}; "
            "give both as many"
        )


def _refuse_features(system: "openmm.System") -> None:
    atoms = range(system.getNumParticles())
    if system.getNumConstraints():
        raise UnsupportedForce(
            f"the System has {system.getNumConstraints()} constraints; build it with "
            "constraints=None and rigidWater=False"
        )
    if any(system.isVirtualSite(i) for i in atoms):
        raise UnsupportedForce("the System has virtual sites; use a model without them")
    massless = [i for i in atoms if _plain(system.getParticleMass(i)) <= 0]
    if massless:
        raise UnsupportedForce(
            f"particle {massless[0]} has no mass, so OpenMM would hold it in place; give every "
            "particle a positive mass"
        )


def _sort_forces(system: "openmm.System") -> dict[str, list[Any]]:
    present = [f for f in system.getForces() if type(f).__name__ not in _IGNORED]
    unknown = dict.fromkeys(type(f).__name__ for f in present if _known_name(f) is None)
    if unknown:
        remedy = next((_REMEDIES[name] for name in unknown if name in _REMEDIES), _REMEDY)
        verb = "is" if len(unknown) == 1 else "are"
        raise UnsupportedForce(f"{', '.join(unknown)} {verb} not supported; {remedy}")
    forces: dict[str, list[Any]] = defaultdict(list)
    for force in present:
        if force.usesPeriodicBoundaryConditions():
            raise UnsupportedForce(
                f"{type(force).__name__} uses a periodic box; build the System with NoCutoff or "
                "CutoffNonPeriodic"
            )
        forces[str(_known_name(force))].append(force)
    for name in _ONCE:
        if len(forces[name]) > 1:
            raise UnsupportedForce(f"the System has {len(forces[name])} of {name}; keep one")
    return forces


def _known_name(force: Any) -> str | None:
    """The OpenMM class that is read; openmm.app derives its GBSAOBC1Force from CustomGBForce."""
    return next((base.__name__ for base in type(force).__mro__ if base.__name__ in _READ), None)


def _single(forces: dict[str, list[Any]], name: str) -> Any | None:
    return forces[name][0] if forces[name] else None


def _plain(quantity: Any) -> float:
    """A number in OpenMM's unit system (nm, kJ/mol, Da, e, radian)."""
    from openmm import unit

    if unit.is_quantity(quantity):
        return float(quantity.value_in_unit_system(unit.md_unit_system))
    return float(quantity)


def _columns(rows: list[list[float]], atoms: int) -> tuple[torch.Tensor, ...]:
    """Splits rows of atom indices followed by numbers into an index tensor and its columns."""
    width = len(rows[0]) if rows else atoms + 2
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, width)
    return table[:, :atoms].long(), *(column.clone() for column in table[:, atoms:].T)


def _read_bonds(forces: list[Any]) -> dict[str, torch.Tensor]:
    rows = [
        [_plain(value) for value in force.getBondParameters(i)]
        for force in forces
        for i in range(force.getNumBonds())
    ]
    atoms, length, k = _columns([row for row in rows if row[-1] != 0], 2)
    return {"bond_atoms": atoms, "bond_length": length, "bond_k": k}


def _read_angles(forces: list[Any]) -> dict[str, torch.Tensor]:
    rows = [
        [_plain(value) for value in force.getAngleParameters(i)]
        for force in forces
        for i in range(force.getNumAngles())
    ]
    atoms, theta, k = _columns([row for row in rows if row[-1] != 0], 3)
    return {"angle_atoms": atoms, "angle_theta": theta, "angle_k": k}


def _read_torsions(periodic: list[Any], powers: list[Any]) -> dict[str, torch.Tensor]:
    """Merges the terms of a quadruple into one Fourier series: k (1 + cos(n phi - phase))."""
    series: dict[tuple[int, ...], np.ndarray] = defaultdict(
        lambda: np.zeros((2, MAX_PERIODICITY + 1))
    )
    for atoms, n, phase, k in _periodic_terms(periodic):
        # phi is the same from either end, so each quadruple has one canonical direction.
        row = series[min(atoms, atoms[::-1])]
        row[0, 0] += k
        row[:, n] += k * np.array([np.cos(phase), np.sin(phase)])
    for atoms, coefficients in _power_terms(powers):
        series[min(atoms, atoms[::-1])][0, : len(coefficients)] += coefficients
    table = np.array(list(series.values())).reshape(-1, 2, MAX_PERIODICITY + 1)
    table[np.abs(table) < 1e-12] = 0.0
    return {
        "torsion_atoms": torch.tensor(list(series), dtype=torch.long).reshape(-1, 4),
        "torsion_cos": torch.from_numpy(table[:, 0].copy()),
        "torsion_sin": torch.from_numpy(table[:, 1].copy()),
    }


def _periodic_terms(forces: list[Any]) -> Iterator[tuple[tuple[int, ...], int, float, float]]:
    """Atoms, periodicity, phase and k of PeriodicTorsionForce."""
    for force in forces:
        for i in range(force.getNumTorsions()):
            *atoms, periodicity, phase, k = map(_plain, force.getTorsionParameters(i))
            n = int(periodicity)
            if k != 0 and not 0 <= n <= MAX_PERIODICITY:
                raise UnsupportedForce(
                    f"PeriodicTorsionForce has periodicity {n}; at most {MAX_PERIODICITY} is known"
                )
            if k != 0:
                yield tuple(int(atom) for atom in atoms), n, phase, k


def _power_terms(forces: list[Any]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Atoms and cosine series of RBTorsionForce, whose powers are of cos(phi - pi)."""
    for force in forces:
        for i in range(force.getNumTorsions()):
            *atoms, c0, c1, c2, c3, c4, c5 = map(_plain, force.getTorsionParameters(i))
            series = np.polynomial.chebyshev.poly2cheb([c0, -c1, c2, -c3, c4, -c5])
            yield tuple(int(atom) for atom in atoms), series


def _read_nonbonded(force: Any | None, atoms: int) -> dict[str, Any]:
    zeros = torch.zeros(atoms, atoms, dtype=torch.float64)
    vacuum = {"cutoff": None, "krf": 0.0, "crf": 0.0}
    if force is None:
        tables = {"coulomb": zeros, "lj12": zeros, "lj6": zeros}
        return {**tables, "reaction_field": zeros.bool(), **vacuum}
    _refuse_other_count(force, atoms)
    rows = [[_plain(v) for v in force.getParticleParameters(i)] for i in range(atoms)]
    charge, sigma, epsilon = np.array(rows).T
    with np.errstate(invalid="ignore"):  # refuse_infinite tells of what is no number
        coulomb = COULOMB_CONSTANT * charge[:, None] * charge
        sigmas = 0.5 * (sigma[:, None] + sigma)
        epsilons = np.sqrt(epsilon[:, None] * epsilon)
    plain = ~np.eye(atoms, dtype=bool)
    for i in range(force.getNumExceptions()):
        first, second, product, s, e = map(_plain, force.getExceptionParameters(i))
        _refuse_strangers("NonbondedForce", torch.tensor([int(first), int(second)]), atoms)
        for pair in ((int(first), int(second)), (int(second), int(first))):
            coulomb[pair], sigmas[pair], epsilons[pair] = COULOMB_CONSTANT * product, s, e
            plain[pair] = False
    np.fill_diagonal(coulomb, 0.0)
    np.fill_diagonal(epsilons, 0.0)
    return {
        "coulomb": torch.from_numpy(coulomb),
        "lj12": torch.from_numpy(4 * epsilons * sigmas**12),
        "lj6": torch.from_numpy(4 * epsilons * sigmas**6),
        "reaction_field": torch.from_numpy(plain),
        **_read_cutoff(force, vacuum),
    }


def _read_cutoff(force: Any, vacuum: dict[str, Any]) -> dict[str, Any]:
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise UnsupportedForce("NonbondedForce has parameter offsets; remove them")
    if force.getNonbondedMethod() == force.NoCutoff:
        return vacuum
    cutoff = _plain(force.getCutoffDistance())
    dielectric = force.getReactionFieldDielectric()
    krf = (dielectric - 1) / (2 * dielectric + 1) / cutoff**3
    crf = 3 * dielectric / (2 * dielectric + 1) / cutoff
    switch = _plain(force.getSwitchingDistance()) if force.getUseSwitchingFunction() else None
    if switch is not None and not 0 <= switch < cutoff:
        raise UnsupportedForce(
            f"NonbondedForce switches at {switch} nm; give a distance below the cutoff {cutoff} nm"
        )
    return {"cutoff": cutoff, "krf": krf, "crf": crf, "switch": switch}


def _read_born(
    forces: dict[str, list[Any]], cutoff: float | None, atoms: int
) -> BornParameters | None:
    obc, custom = _single(forces, "GBSAOBCForce"), _single(forces, "CustomGBForce")
    if obc is not None and custom is not None:
        raise UnsupportedForce("the System has both GBSAOBCForce and CustomGBForce; keep one")
    solvent = obc or custom
    if solvent is None:
        return None
    _refuse_other_count(solvent, atoms)
    own = None if solvent.getNonbondedMethod() == solvent.NoCutoff else solvent.getCutoffDistance()
    if (None if own is None else _plain(own)) != cutoff:
        raise UnsupportedForce(
            f"{type(solvent).__name__} and NonbondedForce have different cutoffs; make them equal"
        )
    return read_gbsa_obc(obc) if obc is not None else read_custom_gb(custom, cutoff)
