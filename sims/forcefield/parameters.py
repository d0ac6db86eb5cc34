"""The numbers of a force field, as float64 tensors on the CPU."""

from dataclasses import dataclass

import torch

COULOMB_CONSTANT = 138.93545764438198
"""1 / (4 pi epsilon_0) in kJ nm / (mol e^2), as OpenMM's NonbondedForce uses it."""

MAX_PERIODICITY = 6
"""Highest multiple of a dihedral angle that the kernels evaluate."""


NECK_SHARPNESS = (100.0, 0.3e6)
"""nm^-2 and nm^-6: a neck falls off with d, the distance less that of its maximum, as
1 / (1 + 100 d^2 + 0.3e6 d^6)."""


@dataclass(frozen=True)
class BornParameters:
    """A generalised Born model: HCT, OBC1, OBC2, GBn or GBn2, with or without salt.

    With the Born integral I_i = sum_j [H_ij + neck_ij] (H of Hawkins, Cramer, Truhlar 1995,
    doi:10.1016/0009-2614(95)01082-K) and psi = I offset_radius, the Born radius B is
    1/B = 1/offset_radius - tanh(alpha_1 psi + alpha_2 psi^2 + alpha_3 psi^3) / radius
    (Onufriev, Bashford, Case 2004, doi:10.1002/prot.20033), or in HCT 1/B = 1/offset_radius - I.
    A neck (Mongan et al. 2007, doi:10.1021/ct600085e) adds neck_value / (1 + 100 d^2 + 0.3e6 d^6)
    with d = r - neck_distance wherever r <= radius_i + radius_j + neck_cut. The polar energy of a
    pair is charge_i charge_j g(f) / f, of an atom charge^2 g(B) / 2B, with
    g(f) = prefactor - screened (1 - exp(-kappa f)) (Srinivasan et al. 1999).

    Attributes:
        charge: (atoms,) e.
        offset_radius: (atoms,) nm, the intrinsic radius less the dielectric offset.
        scaled_radius: (atoms,) nm, the overlap scale times the offset radius; may be negative.
        radius: (atoms,) nm, the intrinsic radius.
        alpha: (atoms, 3) coefficients of psi, psi^2 and psi^3 inside the tanh; zero in HCT.
        tanh: whether the Born radius is bent by the tanh; false in HCT.
        prefactor: kJ nm / (mol e^2), negative for a solvent more polar than the solute.
        surface: kJ / (mol nm^2), coefficient of (radius + 0.14)^2 (radius / B)^6; zero for none.
        kappa: nm^-1, inverse Debye length of salt; zero for none.
        screened: kJ nm / (mol e^2), the part of the prefactor that salt screens; zero for none.
        neck_value: (atoms, atoms) nm^-1, [i, j] is the height of what j adds to the integral of i;
            None in a model without necks.
        neck_distance: (atoms, atoms) nm, [i, j] is where that is greatest; None likewise.
        neck_cut: nm; zero likewise.
    """

    charge: torch.Tensor
    offset_radius: torch.Tensor
    scaled_radius: torch.Tensor
    radius: torch.Tensor
    alpha: torch.Tensor
    tanh: bool
    prefactor: float
    surface: float
    kappa: float = 0.0
    screened: float = 0.0
    neck_value: torch.Tensor | None = None
    neck_distance: torch.Tensor | None = None
    neck_cut: float = 0.0


@dataclass(frozen=True)
class Parameters:
    """Everything that the energy depends on besides positions.

    Attributes:
        masses: (atoms,) Da.
        bond_atoms, bond_length, bond_k: (bonds, 2), nm, kJ / (mol nm^2).
        angle_atoms, angle_theta, angle_k: (angles, 3), radian, kJ / (mol radian^2).
        torsion_atoms: (torsions, 4), every quadruple once.
        torsion_cos, torsion_sin: (torsions, 7) Fourier coefficients in kJ / mol.
        coulomb: (atoms, atoms) kJ nm / mol, symmetric, exceptions applied, zero diagonal.
        lj12, lj6: (atoms, atoms) 4 epsilon sigma^12 and 4 epsilon sigma^6, likewise.
        reaction_field: (atoms, atoms) bool, the pairs that the cutoff applies to.
        born: the implicit solvent, or None in vacuum.
        cutoff: nm, or None.
        krf, crf: reaction-field constants, nm^-3 and nm^-1; zero without a cutoff.
        switch: nm, where the switching function of the Lennard-Jones energy begins, or None. With
            t = (r - switch) / (cutoff - switch) it is 1 - 10 t^3 + 15 t^4 - 6 t^5; like the cutoff
            it applies to the pairs of reaction_field.
    """

    masses: torch.Tensor
    bond_atoms: torch.Tensor
    bond_length: torch.Tensor
    bond_k: torch.Tensor
    angle_atoms: torch.Tensor
    angle_theta: torch.Tensor
    angle_k: torch.Tensor
    torsion_atoms: torch.Tensor
    torsion_cos: torch.Tensor
    torsion_sin: torch.Tensor
    coulomb: torch.Tensor
    lj12: torch.Tensor
    lj6: torch.Tensor
    reaction_field: torch.Tensor
    born: BornParameters | None
    cutoff: float | None
    krf: float
    crf: float
    switch: float | None = None

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.masses)
