"""Peptides as systems to sample: Boltzmann density of a molecular force field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gensci.core.errors import SystemTextError, UsageError
from gensci.core.protocols import Tensors
from gensci.core.registry import SYSTEMS
from gensci.sims.dynamics import GAS_CONSTANT, relax
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import Peptide, build_peptide
from gensci.systems.simulation import SimulationError

if TYPE_CHECKING:
    import numpy as np
    from openmm import app

TEMPERATURE = 310.0  # K, body temperature
CENTROID_SCALE = 0.35  # nm, the scale by which the networks standardise positions
_RELAX_STEPS = 250
_DRAWS = 8


class PeptideTarget:
    """Boltzmann density of a peptide on all of R^{3N}, in nats and not normalised.

    ``log p(x) = -U(x) / kT + log N(centroid(x); 0, centroid_scale^2 I / N)``. The energy does not
    depend on the centroid, so without the second term the density could not be normalised; the
    networks have the same factor. A wrong-handed stereocentre or a non-finite energy has zero
    density: the energy alone cannot tell a mirror image. So has the second naming of equal atoms,
    in the planar groups of ASN, GLN and ARG and in CH2, CH3, NH3+ and the like (see
    ``gensci.sims.peptide.labels``), which changes no physical average.

    Args:
        force_field: the potential energy.
        temperature: K.
        natural: which conformations count, (n, atoms, 3) -> (n,) bool: those of natural handedness
            and canonical naming.
        centroid_scale: nm.
    """

    def __init__(
        self,
        force_field: ForceField,
        temperature: float,
        natural: Callable[[Tensor], Tensor],
        centroid_scale: float = CENTROID_SCALE,
    ) -> None:
        if not temperature > 0:
            raise UsageError(f"temperature is {temperature} K", "give a positive one, e.g. 310")
        if not centroid_scale > 0:
            raise UsageError(f"centroid_scale is {centroid_scale} nm", "give a positive one")
        self.force_field = force_field
        self.temperature = temperature
        self.kt = GAS_CONSTANT * temperature
        self.natural = natural
        self.centroid_scale = centroid_scale

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density of ``x["positions"]`` (n, atoms, 3) nm: (n,), -inf where it is zero."""
        positions = x["positions"]
        energy = self.force_field.energy(positions)
        return self._masked(positions, self._log_density(positions, energy))

    def log_prob_and_grad(self, x: Tensors) -> tuple[Tensor, Tensors]:
        """Log-density (n,) and its gradient {"positions": (n, atoms, 3)} in nats/nm.

        The gradient is zero where the density is.
        """
        positions = x["positions"].detach()
        energy, forces = self.force_field.energy_and_forces(positions)
        log_prob = self._masked(positions, self._log_density(positions, energy))
        pull = positions.mean(dim=1, keepdim=True) / self.centroid_scale**2
        gradient = forces / self.kt - pull
        usable = (log_prob > -torch.inf)[:, None, None] & gradient.isfinite()
        return log_prob, {"positions": torch.where(usable, gradient, 0.0)}

    def energy(self, x: Tensors) -> Tensor:
        """Potential energy (n,) kJ/mol."""
        return self.force_field.energy(x["positions"])

    def _log_density(self, positions: Tensor, energy: Tensor) -> Tensor:
        variance = self.centroid_scale**2 / positions.shape[1]
        square = positions.mean(dim=1).square().sum(dim=-1)
        centroid = -0.5 * square / variance - 1.5 * math.log(2 * math.pi * variance)
        return -energy / self.kt + centroid

    def _masked(self, positions: Tensor, log_prob: Tensor) -> Tensor:
        allowed = self.natural(positions.detach()) & log_prob.isfinite()
        return torch.where(allowed, log_prob, -torch.inf)


@SYSTEMS.register("peptide", proposal="checkpoint", example="peptide:AA", checkpoint="peptide")
@dataclass(frozen=True, eq=False)
class PeptideSystem:
    """A peptide in implicit water: amber14 with OBC1, by its sequence (AA, AAAA, Ace-A-Nme).

    Attributes:
        name: Canonical spelling, for example ``Ace-A-Nme``.
        peptide: Topology, parameters and a minimised geometry.
        temperature: K.
        centroid_scale: nm, see ``PeptideTarget``.
    """

    name: str
    peptide: Peptide
    temperature: float = TEMPERATURE
    centroid_scale: float = CENTROID_SCALE

    @classmethod
    def from_text(
        cls, text: str, *, temperature: float = TEMPERATURE, **build: Any
    ) -> PeptideSystem:
        """Build the peptide that ``text`` spells.

        Args:
            text: For example ``AA`` or ``Ace-A-Nme``.
            temperature: K.
            **build: Settings of ``gensci.sims.peptide.build_peptide``.

        Raises:
            SystemTextError: The text does not spell a peptide, it cannot be built, or the force
                field has terms that the batched energies lack, such as CMAP.
        """
        try:
            peptide = build_peptide(text, **build)
            system = cls(peptide.name, peptide, temperature)
            _ = system.force_field  # read here, so that what it lacks is a usage error too
        except ValueError as error:
            raise SystemTextError(str(error)) from error
        return system

    @property
    def topology(self) -> app.Topology:
        """OpenMM topology, for files that viewers open."""
        return self.peptide.topology

    @cached_property
    def force_field(self) -> ForceField:
        """The batched potential energy, on the device and in the precision of its argument."""
        return ForceField.from_openmm(self.peptide.system)

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Pairs of atom indices."""
        return self.peptide.bonds

    @property
    def force_field_names(self) -> tuple[str, ...]:
        """Names of the OpenMM force-field files."""
        return self.peptide.force_field

    @property
    def positions(self) -> np.ndarray:
        """(atoms, 3) float64 nm, a minimised geometry."""
        return self.peptide.positions

    def natural(self, x: Tensor) -> Tensor:
        """(n,) bool: every stereocentre of x (n, atoms, 3) has its natural (L) handedness."""
        return self.peptide.chirality(x)

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        """Conformations with random backbone and side-chain torsions, relaxed.

        Draws are made until ``n`` have natural handedness and an energy that rules out a side chain
        threaded through a ring. Equal atoms are named as the target counts them.

        Returns:
            (n, atoms, 3) float32 nm.

        Raises:
            SimulationError: too few usable starts.
        """
        found: list[Tensor] = []
        force_field = self.force_field.to(dtype=torch.float32)
        margin = 150.0 + 5.0 * self.peptide.num_atoms  # kJ/mol; a threaded ring costs several 100
        for _ in range(_DRAWS):
            scattered = self.peptide.scattered(n, generator).float()
            x, energy = relax(force_field, scattered, _RELAX_STEPS)
            x = self.peptide.canonical(x)  # clashes may invert a methyl
            usable = self.natural(x) & (energy < energy.min() + margin)
            found.append(x[usable])
            if sum(map(len, found)) >= n:
                return torch.cat(found)[:n]
        raise SimulationError(
            f"peptide {self.name}: only {sum(map(len, found))} of {n} random starts could be "
            "relaxed",
            "use fewer --ladders",
        )

    def target(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PeptideTarget:
        """The Boltzmann density; by default it follows the device and precision of its argument."""
        return PeptideTarget(
            self.force_field.to(device=device, dtype=dtype),
            self.temperature,
            self.peptide.counted,
            self.centroid_scale,
        )
