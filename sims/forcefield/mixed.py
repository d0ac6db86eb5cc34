"""Several molecules in one batch: rows sorted by molecule, atoms padded to the largest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .field import ForceField


class MixedForceField:
    """Energies and forces of rows that belong to different molecules.

    On a GPU one launch of the fused kernels serves all molecules, where they are of one kind (with
    or without implicit solvent, with or without cutoff); elsewhere each molecule's own force field
    does its rows.

    Args:
        fields: the force fields.
        counts: rows of each, in this order.

    Raises:
        ValueError: lengths differ, or a count is negative.
    """

    def __init__(self, fields: Sequence[ForceField], counts: Sequence[int]) -> None:
        if len(fields) != len(counts) or not fields:
            raise ValueError(f"{len(fields)} force fields and {len(counts)} counts; give as many")
        if min(counts) < 0:
            raise ValueError(f"counts are {list(counts)}; give zero or more rows of each")
        self.fields = tuple(fields)
        self.counts = tuple(counts)
        self.num_atoms = max(field.num_atoms for field in fields)
        self._kernels: dict[tuple[torch.device, torch.dtype], object] = {}

    @property
    def masses(self) -> torch.Tensor:
        """(n, atoms) float64 Da; infinite where a row has no such atom."""
        return self.pad([f.parameters.masses.expand(n, -1) for f, n in self._pairs()], torch.inf)

    def energy_and_forces(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (n,) kJ/mol and forces (n, atoms, 3) kJ/mol/nm, zero on padding.

        Args:
            x: (n, atoms, 3) nm; what stands on padding does not matter.
        """
        if x.shape != (sum(self.counts), self.num_atoms, 3):
            raise ValueError(
                f"positions have shape {tuple(x.shape)}; "
                f"give ({sum(self.counts)}, {self.num_atoms}, 3) in nm"
            )
        kernel = self._kernel(x)
        if kernel is not None:
            return kernel.evaluate(x, self.counts)
        rows = zip(self.fields, self.split(x), strict=True)
        energies, forces = zip(*(f.energy_and_forces(part) for f, part in rows), strict=True)
        return torch.cat(energies), self.pad(forces)

    def split(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The rows of each molecule with its own atoms, of x (n, atoms, ...)."""
        parts = x.split(self.counts)
        return [part[:, : f.num_atoms] for f, part in zip(self.fields, parts, strict=True)]

    def pad(self, parts: Sequence[torch.Tensor], value: float = 0.0) -> torch.Tensor:
        """One tensor (n, atoms, ...) of the rows of each molecule."""
        shape = (sum(map(len, parts)), self.num_atoms, *parts[0].shape[2:])
        whole = parts[0].new_full(shape, value)
        for row, part in zip(whole.split([len(p) for p in parts]), parts, strict=True):
            row[:, : part.shape[1]] = part
        return whole

    def _pairs(self) -> zip[tuple[ForceField, int]]:
        return zip(self.fields, self.counts, strict=True)

    def _kernel(self, x: torch.Tensor) -> object | None:
        if x.device.type != "cuda" or not all(field.fused for field in self.fields):
            return None
        key = (x.device, x.dtype)
        if key not in self._kernels:
            from .gpu import GpuKernel, NoGpuKernel

            parameters = [field.parameters for field in self.fields]
            try:
                self._kernels[key] = GpuKernel(parameters, *key)
            except (NoGpuKernel, ValueError):  # without triton, or molecules of different kinds
                self._kernels[key] = None
        return self._kernels[key]
