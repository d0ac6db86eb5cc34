"""Sequences with open slots for crystals and molecules, and structures read from drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gensci.core.protocols import Tensors
from gensci.nn.structure_collate import Ordered, molecule_batch
from gensci.nn.structure_layout import FRACTION, Layout
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import Batch, Prompted, crystal_line, molecule_line, stack


def open_crystals(
    network: StructureTransformer,
    compositions: Sequence[np.ndarray],
    prompt: Prompted,
    templates: Sequence[Ordered | None] | None = None,
) -> Batch:
    """Sequences of crystals in full length with open slots.

    Args:
        network: a model of crystals.
        compositions: atomic numbers (N,) of each, in the order of the sequence.
        prompt: training set and properties.
        templates: of each, or None.
    """
    templates = [None] * len(compositions) if templates is None else templates
    cell = np.full(6, 90.0, np.float32)
    lines = [
        crystal_line(
            network.vocabulary, numbers, prompt, cell, np.zeros((len(numbers), 3), np.float32),
            template, None if template is None else True, network.layout,
        )
        for numbers, template in zip(compositions, templates, strict=True)
    ]  # fmt: skip
    return stack(lines)


def read_crystals(batch: Batch, layout: Layout | None = None) -> Tensors:
    """Numbers, fractional coordinates and lattices of drawn sequences, padded with zeros."""
    layout = layout or Layout()
    atoms = ~batch.template & (batch.kind == FRACTION)
    counts, device = atoms.sum(1), batch.ids.device
    most = int(counts.max())
    numbers = torch.zeros(len(counts), most, dtype=torch.long, device=device)
    fractional = torch.zeros(len(counts), most, 3, device=device)
    inside = torch.arange(most, device=device) < counts.unsqueeze(-1)
    numbers[inside], fractional[inside] = batch.element[atoms], batch.value[atoms]
    kinds = torch.tensor(layout.cell_kinds, device=device)
    cell = batch.learn & torch.isin(batch.kind, kinds)
    slots = batch.value[cell].view(-1, len(kinds), 3)
    return {
        "numbers": numbers,
        "fractional": fractional,
        "lattice": layout.cell_vectors(slots, counts),
    }


def open_molecules(
    network: StructureTransformer, items: Sequence[tuple[Any, Sequence[int]]], prompt: Prompted
) -> Batch:
    """Sequences of molecules, given by graph and tokens of the SMILES, with open slots.

    In local frames the slot of the first atom is not learned: it is the origin.
    """
    lines, starts = [], []
    for graph, pieces in items:
        n = len(graph.numbers)
        empty = np.zeros((n, 3), np.float32)
        line = molecule_line(
            network.vocabulary, pieces, prompt, graph.numbers, empty, layout=network.layout
        )
        lines.append(line)
        starts.append(line.length - 1 - n)
    graphs = [graph for graph, _ in items]
    atoms = molecule_batch(graphs, [np.zeros((len(g.numbers), 3), np.float32) for g in graphs])
    return replace(stack(lines), molecule=replace(atoms, start=torch.tensor(starts)))
