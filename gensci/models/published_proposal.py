"""Crystals of a composition by UniGenX as published (Zhang et al. 2025, arXiv:2503.06687)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gensci.core.protocols import Tensors
from gensci.models.structure_proposal import ROWS_AT_ONCE, SlotSolver, with_volume
from gensci.nn.published_unigenx import UniGenX


class PublishedCrystals:
    """Crystals with the atoms of a composition in the order given; no densities.

    Args:
        network: with the released weights, for example.
        numbers: (N,) atomic numbers.
        solver: of the diffusion head; 200 steps of ``ddpm`` are the published way.
        temperature: handed to the solver.
    """

    def __init__(
        self,
        network: UniGenX,
        numbers: Sequence[int],
        solver: SlotSolver,
        temperature: float = 1.0,
    ):
        self.network = network.eval().requires_grad_(False)
        device = next(network.parameters()).device
        self.numbers = torch.as_tensor(numbers, dtype=torch.long, device=device)
        self.solver, self.temperature = solver, temperature

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"numbers", "fractional", "lattice"} of n crystals whose cells have a volume."""
        chunks = torch.arange(n).split(ROWS_AT_ONCE)
        parts = [with_volume(lambda rows: self._draw(len(rows), generator), c) for c in chunks]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        numbers = self.numbers.repeat(n, 1)
        with torch.no_grad():
            return self.network.sample_crystals(numbers, self.solver, generator, self.temperature)
