"""The numbers of a force field, as float64 tensors on the CPU."""

from dataclasses import dataclass

import torch

COULOMB_CONSTANT = 138.93545764438198
"""1 / (4 pi epsilon_0) in kJ nm / (mol e^2), as OpenMM's NonbondedForce uses it."""

MAX_PERIODICITY = 6
"""Highest multiple of a dihedral angle that the kernels evaluate."""


@dataclass(frozen=True)
class BornParameters:
    """An OBC generalised Born model (Onufriev, Bashford, Case 2004, doi:10.1002/prot.20033).

    Attributes:
        charge: (atoms,) e.
        offset_radius: (atoms,) nm, the intrinsic radius less the dielectric offset.
        scaled_radius: (atoms,) nm, the overlap scale times the offset radius.
        radius: (atoms,) nm, the intrinsic radius.
        alpha: coefficients of psi, psi^2 and psi^3 inside the tanh.
        prefactor: kJ nm / (mol e^2), negative for a solvent more polar than the solute.
        surface: kJ / (mol nm^2), coefficient of (r + 0.14)^2 (r / B)^6.
    """

    charge: torch.Tensor
    offset_radius: torch.Tensor
    scaled_radius: torch.Tensor
    radius: torch.Tensor
    alpha: tuple[float, float, float]
    prefactor: float
    surface: float


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

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self.masses)
