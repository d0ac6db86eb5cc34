"""The energy terms in plain torch: batched, differentiable, any device.

Every function takes positions (n, atoms, 3) in nm and gives energies (n,) in kJ/mol. Pair terms
are dense (n, atoms, atoms): the derivative of a broadcast is a sum, so results do not depend on
the order of atomic additions on a GPU. Sums run in float64, because terms of either sign of some
10^3 kJ/mol cancel to a total that is wanted to 1e-5.
"""

from dataclasses import dataclass

import torch

from .parameters import MAX_PERIODICITY, NECK_SHARPNESS, BornParameters, Parameters

MIN_DISTANCE = 2e-3
"""nm. Closer atoms are taken to be this far apart: large energies that stay finite in float32."""

_TINY = 1e-18
_PROBE = 0.14


@dataclass(frozen=True)
class PairGeometry:
    """Squared distances and their inverse roots.

    Attributes:
        r2: (n, atoms, atoms) nm^2; the diagonal is set to 1.
        inverse: (n, atoms, atoms) nm^-1.
        inside: (n, atoms, atoms) bool, or None without a cutoff.
    """

    r2: torch.Tensor
    inverse: torch.Tensor
    inside: torch.Tensor | None


def bond_energy(x: torch.Tensor, p: Parameters) -> torch.Tensor:
    """Harmonic bonds."""
    ends = x[:, p.bond_atoms]
    length = (ends[:, :, 0] - ends[:, :, 1]).square().sum(-1).clamp_min(MIN_DISTANCE**2).sqrt()
    return _total(0.5 * p.bond_k * (length - p.bond_length).square(), -1)


def angle_energy(x: torch.Tensor, p: Parameters) -> torch.Tensor:
    """Harmonic angles; the arc tangent keeps full precision near 0 and pi."""
    ends = x[:, p.angle_atoms]
    a, b = ends[:, :, 0] - ends[:, :, 1], ends[:, :, 2] - ends[:, :, 1]
    cross = torch.linalg.cross(a, b).square().sum(-1).clamp_min(_TINY).sqrt()
    theta = torch.atan2(cross, (a * b).sum(-1))
    return _total(0.5 * p.angle_k * (theta - p.angle_theta).square(), -1)


def torsion_energy(x: torch.Tensor, p: Parameters) -> torch.Tensor:
    """Fourier series in the dihedral angles, by the multiple-angle recurrence."""
    ends = x[:, p.torsion_atoms]
    b1, b2, b3 = (ends[:, :, i + 1] - ends[:, :, i] for i in range(3))
    m, n = torch.linalg.cross(b1, b2), torch.linalg.cross(b2, b3)
    scale = (m.square().sum(-1) * n.square().sum(-1)).clamp_min(_TINY).rsqrt()
    cos = (m * n).sum(-1) * scale
    sin = (b1 * n).sum(-1) * b2.square().sum(-1).clamp_min(MIN_DISTANCE**2).sqrt() * scale
    energy = p.torsion_cos[:, 0].expand_as(cos)
    cos_k, sin_k = torch.ones_like(cos), torch.zeros_like(cos)
    for k in range(1, MAX_PERIODICITY + 1):
        cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin
        energy = energy + p.torsion_cos[:, k] * cos_k + p.torsion_sin[:, k] * sin_k
    return _total(energy, -1)


def pair_geometry(x: torch.Tensor, p: Parameters) -> PairGeometry:
    """Distances of all ordered pairs."""
    eye = torch.eye(p.num_atoms, dtype=torch.bool, device=x.device)
    r2 = (x[:, :, None] - x[:, None]).square().sum(-1)
    r2 = r2.clamp_min(MIN_DISTANCE**2).masked_fill(eye, 1.0)
    inside = None if p.cutoff is None else (r2 <= p.cutoff**2) & ~eye
    return PairGeometry(r2, r2.rsqrt(), inside)


def nonbonded_energies(g: PairGeometry, p: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
    """Lennard-Jones and Coulomb energies, with exceptions and the reaction field."""
    sixth = (g.inverse * g.inverse) ** 3
    lj = (p.lj12 * sixth - p.lj6) * sixth
    coulomb = p.coulomb * g.inverse
    if g.inside is not None:
        field = p.coulomb * (p.krf * g.r2 - p.crf)
        coulomb = torch.where(p.reaction_field, coulomb + field, coulomb)
        lj = torch.where(p.reaction_field, lj * switching(g, p), lj)
        counted = g.inside | ~p.reaction_field
        lj, coulomb = (e.masked_fill(~counted, 0.0) for e in (lj, coulomb))
    return 0.5 * _total(lj, (-1, -2)), 0.5 * _total(coulomb, (-1, -2))


def switching(g: PairGeometry, p: Parameters) -> torch.Tensor | float:
    """Takes the Lennard-Jones energy to zero at the cutoff, with two continuous derivatives."""
    if p.switch is None or p.cutoff is None:
        return 1.0
    t = ((g.r2 * g.inverse - p.switch) / (p.cutoff - p.switch)).clamp(0.0, 1.0)
    return 1 - t**3 * (10 - t * (15 - 6 * t))


def born_integrals(g: PairGeometry, b: BornParameters) -> torch.Tensor:
    """What descreens every atom, (n, atoms) nm^-1 (Hawkins, Cramer, Truhlar 1995)."""
    own, other = b.offset_radius[:, None], b.scaled_radius
    r = g.r2 * g.inverse
    elsewhere = ~torch.eye(len(own), dtype=torch.bool, device=r.device)
    elsewhere = elsewhere if g.inside is None else elsewhere & g.inside
    counted = (r + other > own) & elsewhere
    # The distances that do not count are replaced, since their logarithm may not exist.
    upper = 1 / torch.where(counted, r + other, own)
    lower = 1 / torch.maximum(own, (r - other).abs())
    area = (r - other.square() * g.inverse) * (upper.square() - lower.square())
    integral = lower - upper + 0.25 * area + 0.5 * (upper / lower).log() * g.inverse
    integral = 0.5 * torch.where(counted, integral, 0.0)
    if b.neck_value is not None:
        integral = integral + torch.where(elsewhere, necks(r, b), 0.0)
    return integral.sum(-1)


def necks(r: torch.Tensor, b: BornParameters) -> torch.Tensor:
    """The space between two atoms that no solvent fits into, (n, atoms, atoms) nm^-1."""
    reach = b.radius[:, None] + b.radius + b.neck_cut
    d2 = (r - b.neck_distance).square()
    value = b.neck_value / (1 + d2 * (NECK_SHARPNESS[0] + NECK_SHARPNESS[1] * d2 * d2))
    return torch.where(r <= reach, value, 0.0)


def born_radii(g: PairGeometry, b: BornParameters) -> torch.Tensor:
    """Effective Born radii (n, atoms) nm (Onufriev, Bashford, Case 2004)."""
    psi = born_integrals(g, b) * b.offset_radius
    if not b.tanh:
        return b.offset_radius / (1 - psi)
    inner = psi * (b.alpha[:, 0] + psi * (b.alpha[:, 1] + psi * b.alpha[:, 2]))
    return 1 / (1 / b.offset_radius - inner.tanh() / b.radius)


def strength(f: torch.Tensor, b: BornParameters) -> torch.Tensor | float:
    """The polar prefactor at an effective distance f (or Born radius), kJ nm / (mol e^2)."""
    if b.kappa == 0:
        return b.prefactor
    return b.prefactor + b.screened * torch.expm1(-b.kappa * f)


def solvent_energies(
    g: PairGeometry, p: Parameters, b: BornParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Polar and surface energies of the implicit solvent."""
    radii = born_radii(g, b)
    ratio = b.radius / radii
    surface = b.surface * (b.radius + _PROBE).square() * ratio**6
    product = radii[:, :, None] * radii[:, None]
    f2 = g.r2 + product * torch.exp(-g.r2 / (4 * product))
    inverse = f2.rsqrt()
    energy = strength(f2 * inverse, b) * (inverse - (0.0 if p.cutoff is None else 1 / p.cutoff))
    energy = energy if g.inside is None else energy.masked_fill(~g.inside, 0.0)
    diagonal = torch.eye(p.num_atoms, dtype=torch.bool, device=radii.device)
    energy = torch.where(diagonal, (strength(radii, b) / radii)[:, :, None], energy)
    polar = b.charge[:, None] * b.charge * energy
    return 0.5 * _total(polar, (-1, -2)), _total(surface, -1)


def energy_terms(x: torch.Tensor, p: Parameters) -> dict[str, torch.Tensor]:
    """All terms by name, float64 sums of terms in the precision of x."""
    pairs = pair_geometry(x, p)
    lj, coulomb = nonbonded_energies(pairs, p)
    terms = {
        "bonds": bond_energy(x, p),
        "angles": angle_energy(x, p),
        "torsions": torsion_energy(x, p),
        "lennard_jones": lj,
        "coulomb": coulomb,
    }
    if p.born is not None:
        terms["solvent_polar"], terms["solvent_surface"] = solvent_energies(pairs, p, p.born)
    return terms


def _total(energy: torch.Tensor, dims: int | tuple[int, ...]) -> torch.Tensor:
    return energy.sum(dims, dtype=torch.float64)
