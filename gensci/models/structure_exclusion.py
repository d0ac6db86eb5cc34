"""Atoms of a crystal that keep their distance while a model places them.

A model of crystals may put an atom where another is already. Drawing such an atom again is
rejection sampling of the model's own law of this atom, given that it overlaps with none before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gensci.core.periodic import distances_to
from gensci.models.structure_batches import read_crystals
from gensci.nn.structure_decoding import Track
from gensci.nn.structure_layout import FRACTION

FLAT = 0.05  # of the volume of a rectangular cell with the same edges


@dataclass(frozen=True)
class Exclusion:
    """Two atoms of a crystal are never closer than a share of the sum of their radii.

    Attributes:
        radii: (Z + 1,) Angstrom by atomic number.
        scale: the share.
        tries: how often an atom is drawn again; then the draw with most room stays.
    """

    radii: Tensor
    scale: float = 0.7
    tries: int = 12

    def __call__(
        self, track: Track, rows: Tensor, values: Tensor, again: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Slots without overlaps.

        Args:
            track: what is drawn so far.
            rows: (n,) of the track.
            values: (n, 3) drawn for the slots at its place.
            again: draws anew for some of the n, (k,) to (k, 3).

        Returns:
            (n, 3), drawn again where they overlapped.
        """
        overlap, values = self.overlap(track, rows, values), values.clone()
        for _ in range(self.tries):
            bad = (overlap > 0).nonzero().squeeze(-1)
            if not len(bad):
                break
            drawn = again(bad)
            found = self.overlap(track, rows[bad], drawn)
            better = found < overlap[bad]
            values[bad[better]], overlap[bad[better]] = drawn[better], found[better]
        return values

    def overlap(self, track: Track, rows: Tensor, values: Tensor) -> Tensor:
        """(n,) missing part of the least distance to atoms before, 0 where there is room.

        Slots that are no atoms, the first atoms, and atoms of cells without a volume have room.
        """
        batch, place = track.batch.rows(rows), track.place
        before = ((batch.kind == FRACTION) & ~batch.template)[:, :place].sum(1)
        x = read_crystals(batch, track.network.layout)
        atom = (batch.kind[:, place] == FRACTION) & (before > 0) & closes(x["lattice"])
        missing = torch.zeros(len(rows), dtype=torch.float64, device=values.device)
        if not atom.any():
            return missing
        before, numbers = before[atom], x["numbers"][atom]
        distance = distances_to(values[atom], x["fractional"][atom], x["lattice"][atom])
        radii = self.radii.to(distance)
        own = numbers.gather(1, before.unsqueeze(1))
        short = 1 - distance / (self.scale * (radii[own] + radii[numbers]))
        earlier = torch.arange(numbers.shape[1], device=before.device) < before.unsqueeze(1)
        missing[atom] = short.where(earlier, torch.zeros_like(short)).amax(1).clamp_min(0)
        return missing


def closes(lattice: Tensor) -> Tensor:
    """(n,) whether lattice vectors (n, 3, 3) span a volume that is not next to nothing."""
    volume = torch.linalg.det(lattice.double()).abs()
    return volume > FLAT * lattice.double().norm(dim=-1).prod(-1)
