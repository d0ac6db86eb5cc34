"""Physics as a judge of conformers: the MMFF94 force field of RDKit, and stereochemistry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.protocols import Tensors
from gensci.sims.dynamics import GAS_CONSTANT

if TYPE_CHECKING:
    from rdkit import Chem

_KILOCALORIE = 4.184  # kJ
_ANGSTROM_PER_NM = 10.0


class MmffTarget:
    """Boltzmann density ``-E / kT`` of conformers in vacuum, in nats and not normalised.

    The energy does not depend on where the molecule is or how it is turned. With
    ``centroid_scale`` the density of the centroid is ``N(0, centroid_scale^2 I / atoms)``, as that
    of ``PeptideTarget``; without it, it is flat, which fits proposals of centred conformers.

    Args:
        mol: with explicit hydrogens, its atoms in the order of the positions.
        temperature: K.
        natural: which conformations count, (n, atoms, 3) -> (n,) bool.
        centroid_scale: nm, or None.

    Raises:
        UsageError: the temperature is not positive, or MMFF94 lacks parameters of the molecule.

    Reference: Halgren (1996), MMFF94, doi:10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.
    CO;2-P; Tosco, Stiefl and Landrum (2014), doi:10.1186/s13321-014-0037-3.
    """

    def __init__(
        self,
        mol: Chem.Mol,
        temperature: float,
        natural: Callable[[Tensor], Tensor] | None = None,
        centroid_scale: float | None = None,
    ) -> None:
        if not 0 < temperature < math.inf:
            raise UsageError(f"temperature is {temperature} K", "give a positive one, e.g. 300")
        self.temperature = temperature
        self.kt = GAS_CONSTANT * temperature
        self.centroid_scale = centroid_scale
        self._natural = natural
        self._mol, self._field = _force_field(mol)

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density of ``x["positions"]`` (n, atoms, 3) nm: (n,), -inf where it is zero."""
        positions = x["positions"]
        return self._masked(positions, self.energy(x))

    def log_prob_and_grad(self, x: Tensors) -> tuple[Tensor, Tensors]:
        """Log-density (n,) and its gradient {"positions": (n, atoms, 3)} in nats/nm."""
        positions = x["positions"].detach()
        # The gradient takes its distances from the last energy, so both are worked out in turn.
        found = [
            (self._field.CalcEnergy(row), self._field.CalcGrad(row)) for row in _angstrom(positions)
        ]
        energy = torch.tensor([value for value, _ in found], dtype=torch.float64)
        log_prob = self._masked(positions, _KILOCALORIE * energy.to(positions))
        slope = torch.tensor([row for _, row in found], dtype=torch.float64)
        unit = _KILOCALORIE * _ANGSTROM_PER_NM / self.kt
        gradient = -unit * slope.reshape(positions.shape).to(positions)
        if self.centroid_scale is not None:
            gradient = gradient - positions.mean(1, keepdim=True) / self.centroid_scale**2
        usable = log_prob.isfinite()[:, None, None] & gradient.isfinite()
        return log_prob, {"positions": torch.where(usable, gradient, 0.0)}

    def energy(self, x: Tensors) -> Tensor:
        """Potential energy (n,) kJ/mol."""
        positions = x["positions"].detach()
        energies = [self._field.CalcEnergy(row) for row in _angstrom(positions)]
        return _KILOCALORIE * torch.tensor(energies, dtype=torch.float64).to(positions)

    def _masked(self, positions: Tensor, energy: Tensor) -> Tensor:
        log_prob = -energy / self.kt
        if self.centroid_scale is not None:
            variance = self.centroid_scale**2 / positions.shape[1]
            square = positions.mean(1).square().sum(-1)
            log_prob = log_prob - 0.5 * square / variance - 1.5 * math.log(2 * math.pi * variance)
        allowed = log_prob.isfinite() & positions.isfinite().all(-1).all(-1)
        if self._natural is not None:
            allowed = allowed & self._natural(positions.detach())
        return torch.where(allowed, log_prob, -torch.inf)


def has_parameters(mol: Chem.Mol) -> bool:
    """Whether MMFF94 knows every atom of a molecule with explicit hydrogens."""
    from rdkit import rdBase
    from rdkit.Chem import rdForceFieldHelpers

    with rdBase.BlockLogs():
        return bool(rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol))


def _angstrom(positions: Tensor) -> list[list[float]]:
    """Flat coordinates of every row; one that is not finite becomes zeros, and is masked later."""
    flat = positions.cpu().double().flatten(1) * _ANGSTROM_PER_NM
    return torch.where(flat.isfinite(), flat, 0.0).tolist()


def _force_field(mol: Chem.Mol) -> tuple[Any, Any]:
    """A copy of the molecule and its force field, which takes coordinates as flat lists."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdForceFieldHelpers

    if not has_parameters(mol):
        raise UsageError(
            f"MMFF94 has no parameters for {Chem.MolToSmiles(Chem.RemoveHs(mol))}",
            "use --system.target none",
        )
    own = Chem.Mol(mol)
    own.RemoveAllConformers()
    own.AddConformer(Chem.Conformer(own.GetNumAtoms()), assignId=True)
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(own)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            own, properties, nonBondedThresh=1e6, ignoreInterfragInteractions=False
        )
    field.Initialize()
    return own, field
