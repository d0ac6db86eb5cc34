"""Draws of molecules that no model knows: a short, hot run of dynamics for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gensci.core.errors import GensciError
from gensci.core.protocols import Tensors
from gensci.core.random import randn_like
from gensci.sims.dynamics import Langevin, relax
from gensci.sims.forcefield import ForceField

HOTTEST = 800.0  # K, where torsions of single bonds turn within a picosecond
_FRICTION = 10.0  # 1/ps: the heat must come and go within the run
_HEATING = 2.0  # ps
_COOLING = 1.0  # ps, ten times what friction needs
_TIME_STEP = 0.001  # ps
_RELAX_STEPS = 300
_TOO_HIGH = 1000.0  # kJ/mol and atom, beyond any geometry that dynamics survives


@dataclass(frozen=True, eq=False)
class ShortDynamics:
    """Draws by dynamics: from one relaxed geometry, hot for 2 ps and then 1 ps at the temperature.

    Draws are independent of each other but scatter about one geometry: what lies behind high
    barriers is not among them. Their density is not known, so samplers that need one refuse.

    Attributes:
        force_field: The potential energy.
        start: (atoms, 3) nm, the geometry that every draw begins with.
        temperature: K, at the end.
        centroid_scale: nm, see ``gensci.systems.peptide.PeptideTarget``.
        heating: ps at ``HOTTEST``.
        cooling: ps at the temperature.
    """

    force_field: ForceField
    start: Tensor
    temperature: float
    centroid_scale: float
    heating: float = _HEATING
    cooling: float = _COOLING

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Positions (n, atoms, 3) nm, float32."""
        hot = self.heated(n, generator)
        x = self._run(hot, self.temperature, self.cooling, generator)
        x = x - x.mean(dim=1, keepdim=True)
        centroid = randn_like(x[:, :1], generator) * self.centroid_scale / x.shape[1] ** 0.5
        return {"positions": x + centroid}

    def heated(self, n: int, generator: torch.Generator) -> Tensor:
        """Positions (n, atoms, 3) nm after the hot part."""
        x = self.relaxed()[None].repeat(n, 1, 1)
        return self._run(x, max(HOTTEST, self.temperature), self.heating, generator)

    def relaxed(self) -> Tensor:
        """The start (atoms, 3) nm, moved downhill so that dynamics can begin.

        Raises:
            GensciError: Its energy stays out of reach of dynamics: atoms coincide.
        """
        x, energy = relax(self.force_field, self.start[None], _RELAX_STEPS)
        # where atoms coincide their repulsion has no direction, and relaxing leads nowhere
        if not (energy[0] < _TOO_HIGH * len(self.start) and x.isfinite().all()):
            raise GensciError(
                f"the energy of the coordinates is {energy[0]:.3g} kJ/mol also after relaxing, "
                "atoms lie on top of each other",
                "minimise the structure first, or give another with --system.coordinates",
            )
        return x[0]

    def _run(
        self, x: Tensor, temperature: float, duration: float, generator: torch.Generator
    ) -> Tensor:
        langevin = Langevin(self.force_field, self.force_field.masses, _TIME_STEP, _FRICTION)
        heat = torch.full((len(x),), temperature, dtype=x.dtype, device=x.device)
        state = langevin.start(x, heat, generator)
        x = langevin.run(state, heat, round(duration / _TIME_STEP), generator).positions
        if not x.isfinite().all():
            raise GensciError(
                f"dynamics at {temperature} K became unstable from these coordinates",
                "minimise the structure first, or give another with --system.coordinates",
            )
        return x
