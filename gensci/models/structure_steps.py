"""Structures drawn slot by slot, for samplers that steer while the model draws."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Generator, Tensor

from gensci.core.protocols import Tensors
from gensci.models.structure_batches import open_molecules, read_crystals
from gensci.models.structure_proposal import (
    ANGSTROM,
    ConformerProposal,
    CrystalProposal,
    Drawing,
)
from gensci.nn.structure_decoding import Track, draw_slot, open_slots

Tracks: TypeAlias = tuple[Track, ...]
"""The rows under their prompt, and under the one without properties where that takes part."""


class StepwiseCrystals(CrystalProposal):
    """Crystals of one composition whose slots can be drawn one at a time.

    The first two are the cell (three where it is vectors), then come the atoms in the order of
    `element_order`. Drawn so, the last of the templates leads all rows: the one that stands for
    none, where it is among them.
    """

    @property
    def cell_slots(self) -> int:
        """Slots of the cell, before the atoms."""
        return len(self.network.layout.cell_kinds)

    @property
    def num_steps(self) -> int:
        """Slots of a crystal."""
        return self.cell_slots + len(self.numbers)

    def begin(self, n: int, generator: Generator) -> Tracks:
        """Rows of which nothing is drawn."""
        which = torch.full((n,), len(self.templates) - 1)
        return tuple(self.tracks(which))

    def extend(self, partial: Tracks, step: int, generator: Generator) -> Tracks:
        """The rows with one more slot."""
        return extended(partial, self.drawing, generator)

    def view(self, partial: Tracks, step: int) -> Tensors:
        """Numbers and coordinates so far, with ``placed`` (n,) atoms; the cell once it is there."""
        x = read_crystals(partial[0].batch, self.network.layout)
        x["placed"] = torch.full((len(x["numbers"]),), max(0, step + 1 - self.cell_slots))
        if step + 1 < self.cell_slots:
            del x["lattice"]
        return x

    def select(self, partial: Tracks, rows: Tensor) -> Tracks:
        """Some rows; repeats allowed."""
        return selected(partial, rows)

    def finish(self, partial: Tracks) -> Tensors:
        """The crystals, their atoms in the order that was asked for."""
        return self.in_order(read_crystals(partial[0].batch, self.network.layout))


class GuidedCrystals(StepwiseCrystals):
    """Crystals of one composition under guidance, which are of no known density."""

    log_prob = None
    sample_and_log_prob = None


class SpacedCrystals(CrystalProposal):
    """Crystals of one composition whose atoms keep apart: of no known density, nor step by step."""

    log_prob = None
    sample_and_log_prob = None


class StepwiseConformers(ConformerProposal):
    """Conformers whose atoms can be drawn one at a time, the first mostly at the origin."""

    @property
    def fixed(self) -> int:
        """Atoms that are there from the beginning."""
        return self.network.layout.fixed_atoms["molecule"]

    @property
    def num_steps(self) -> int:
        """Atoms to place."""
        return max(1, len(self.graph.numbers) - self.fixed)

    def begin(self, n: int, generator: Generator) -> Tracks:
        """Rows with the first atom."""
        items = [(self.graph, self.pieces)] * n
        batch = open_molecules(self.network, items, self.prompt).to(self.device)
        with torch.no_grad():
            return (Track(self.network, batch, ~open_slots(batch)),)

    def extend(self, partial: Tracks, step: int, generator: Generator) -> Tracks:
        """The rows with one more atom; a molecule of one atom is complete."""
        done = partial[0].finished or not partial[0].open.any()
        return partial if done else extended(partial, self.drawing, generator)

    def view(self, partial: Tracks, step: int) -> Tensors:
        """Numbers and positions (nm) so far, with ``placed`` (n,) atoms."""
        x = self.finish(partial)
        placed = min(step + 1 + self.fixed, x["numbers"].shape[1])
        return {**x, "placed": torch.full((len(x["numbers"]),), placed)}

    def select(self, partial: Tracks, rows: Tensor) -> Tracks:
        """Some rows; repeats allowed."""
        return selected(partial, rows)

    def finish(self, partial: Tracks) -> Tensors:
        """The conformers."""
        molecule = partial[0].batch.molecule
        return {"numbers": molecule.numbers, "positions": molecule.positions * ANGSTROM}


def selected(tracks: Tracks, rows: Tensor) -> Tracks:
    """Some rows of all tracks."""
    rows = rows.to(tracks[0].hidden.device)
    return tuple(track.select(rows) for track in tracks)


def extended(tracks: Tracks, drawing: Drawing, generator: Generator) -> Tracks:
    """Tracks one slot further; those given stay as they are, for others may descend from them."""
    further = selected(tracks, torch.arange(len(tracks[0].hidden)))
    with torch.no_grad():
        draw_slot(further[0], drawing.solve(generator), further[1:])
    return further
