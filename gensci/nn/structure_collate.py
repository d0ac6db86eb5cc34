"""Structures to batches of sequences, augmented at random."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gensci.core.errors import UsageError
from gensci.nn.smiles_tokens import tokenize
from gensci.nn.structure_layout import Layout
from gensci.nn.structure_sequence import (
    Batch,
    Line,
    MoleculeBatch,
    Prompted,
    crystal_line,
    molecule_line,
    stack,
)
from gensci.nn.structure_vocabulary import Vocabulary

Rng = np.random.Generator
TOO_LARGE_TO_LEARN = (
    "give the network a larger max_atoms, or leave it out (data.max_atoms, or gensci data prepare "
    "--max-atoms)"
)


@dataclass(frozen=True)
class Ordered:
    """A template in the order of a sequence; see `crystal_line`."""

    source_numbers: np.ndarray
    fractional: np.ndarray
    lattice: np.ndarray


def element_order(numbers: np.ndarray, rng: Rng | None = None) -> np.ndarray:
    """An order of atoms (n,): by element, the rarest first, of equally rare ones the heaviest.

    The first atom becomes the origin, and rare atoms leave the fewest choices of it. Atoms of an
    element are shuffled by ``rng``, or stay as they are.
    """
    numbers = np.asarray(numbers)
    count = np.bincount(numbers)[numbers]
    ties = np.arange(len(numbers)) if rng is None else rng.random(len(numbers))
    return np.lexsort((ties, -numbers.astype(np.int64), count))


def from_first(fractional: np.ndarray, start: np.ndarray | float = 0.0) -> np.ndarray:
    """Fractional coordinates on the torus with the first atom at ``start``, the origin."""
    moved = (fractional.astype(np.float64) - fractional[:1] + start) % 1.0
    return moved.astype(np.float32) % np.float32(1.0)  # rounding can give exactly one


def arrange(
    layout: Layout, numbers: np.ndarray, fractional: np.ndarray, rng: Rng
) -> tuple[np.ndarray, np.ndarray | float]:
    """The order (n,) of a crystal's atoms, and where the first of them is to lie (3,) or 0."""
    order = element_order(numbers, rng)
    start = rng.random(3) if layout.origin == "random" else 0.0
    if layout.atom_order == "shuffled":
        return order, start
    inside = from_first(fractional[order], start)
    # Stable, so that only atoms of one element change places.
    group = np.concatenate(([0], np.cumsum(np.diff(numbers[order].astype(np.int64)) != 0)))
    within = np.lexsort((*inside.T[::-1], group))
    return order[within], inside[within[0]].astype(np.float64)


def random_rotation(rng: Rng) -> np.ndarray:
    """A rotation (3, 3), uniform over all. Ref: Shoemake 1992, uniform random quaternions."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


class Collator:
    """Makes sequences of structures.

    Args:
        vocabulary: of the model.
        layout: of the slots.
        settings: of the model: ``family``, ``max_atoms``, ``properties``, ``drop_source``,
            ``show_property``, ``show_template``.
    """

    def __init__(self, vocabulary: Vocabulary, layout: Layout, settings: Mapping[str, Any]):
        self.vocabulary, self.layout, self.settings = vocabulary, layout, settings

    def __call__(
        self, structures: Sequence[Any], rng: Rng, extras: Sequence[Any] | None = None
    ) -> Batch:
        """Sequences of structures, each in a random order of its atoms, molecules turned at random.

        Args:
            structures: with ``source``, ``properties``, ``numbers``, ``coordinates`` and
                ``lattice`` or ``smiles``, as rows of a prepared table are.
            rng: of the augmentation.
            extras: for crystals pairs of template and aligned structure, or None each; for
                molecules their graphs.

        Raises:
            UsageError: a structure has more atoms than the model knows.
        """
        extras = [None] * len(structures) if extras is None else extras
        for structure in structures:
            self.check_size(len(structure.numbers), structure.id, TOO_LARGE_TO_LEARN)
        if self.settings["family"] == "molecule":
            return self._molecules(structures, extras, rng)
        pairs = zip(structures, extras, strict=True)
        return stack([self._crystal(structure, pair, rng) for structure, pair in pairs])

    def check_size(self, atoms: int, name: str, remedy: str) -> None:
        """Raise a UsageError with a remedy for more atoms than the model knows."""
        most = self.settings["max_atoms"]
        if atoms > most:
            raise UsageError(f"{name} has {atoms} atoms, this model knows up to {most}", remedy)

    def prompt(self, structure: Any, rng: Rng) -> Prompted:
        """Training set and properties to show of a structure."""
        source = structure.source
        hidden = source not in self.settings["sets"] or rng.random() < self.settings["drop_source"]
        shown = {}
        for name in self.settings["properties"]:
            value = structure.properties.get(name, math.nan)
            if math.isfinite(value) and rng.random() < self.settings["show_property"]:
                shown[name] = self.standardised(name, value)
        return Prompted(None if hidden else source, shown)

    def standardised(self, name: str, value: float) -> float:
        """A property in units of its width from its mean."""
        mean, width = self.settings["properties"][name]
        return (value - mean) / width

    def _crystal(self, structure: Any, pair: Any, rng: Rng) -> Line:
        numbers = np.asarray(structure.numbers, np.int64)
        prompt = self.prompt(structure, rng)
        lattice, fractional, layout = structure.lattice, structure.coordinates, self.layout
        turn = random_rotation(rng) if layout.lattice == "vectors" else None
        slots = {"layout": layout, "rotation": turn}
        if pair is None or rng.random() >= self.settings["show_template"]:
            order, start = arrange(layout, numbers, fractional, rng)
            inside = from_first(fractional[order], start)
            return crystal_line(self.vocabulary, numbers[order], prompt, lattice, inside, **slots)
        # A structure that is not of the template's kind keeps an order of its own.
        order, start = arrange(layout, pair.numbers, pair.template_fractional, rng)
        own, own_start = arrange(layout, numbers, fractional, rng)
        if pair.same:
            lattice, fractional, own, own_start = pair.lattice, pair.fractional, order, start
        template = Ordered(
            np.asarray(pair.source_numbers, np.int64)[order],
            from_first(pair.template_fractional[order], start),
            pair.template_lattice,
        )
        return crystal_line(
            self.vocabulary,
            np.asarray(pair.numbers, np.int64)[order],
            prompt,
            lattice,
            from_first(fractional[own], own_start),
            template,
            bool(pair.same),
            **slots,
        )

    def _molecules(self, structures: Sequence[Any], graphs: Sequence[Any], rng: Rng) -> Batch:
        turned = [
            (s.coordinates - self.layout.centre(s.coordinates))
            @ random_rotation(rng).T.astype(np.float32)
            for s in structures
        ]
        atoms = molecule_batch(graphs, turned)
        local = self.layout.atoms_in_space(atoms.positions, atoms.references).numpy()
        lines, starts = [], []
        for k, (structure, graph) in enumerate(zip(structures, graphs, strict=True)):
            prompt, n = self.prompt(structure, rng), len(graph.numbers)
            pieces = [self.vocabulary.piece(text) for text in tokenize(graph.smiles)]
            line = molecule_line(
                self.vocabulary, pieces, prompt, graph.numbers, local[k, :n], layout=self.layout
            )
            lines.append(line)
            starts.append(line.length - 1 - n)
        return replace(stack(lines), molecule=replace(atoms, start=torch.tensor(starts)))


def molecule_batch(graphs: Sequence[Any], positions: Sequence[np.ndarray]) -> MoleculeBatch:
    """Atoms and bonds of molecules as padded tensors, with ``start`` zero.

    Args:
        graphs: with ``numbers``, ``references``, ``distance``, ``bonds``, ``orders``,
            ``handedness`` and ``side``.
        positions: (N, 3) Angstrom of each.
    """
    rows, most = len(graphs), max(len(graph.numbers) for graph in graphs)
    numbers = np.zeros((rows, most), np.int64)
    where = np.zeros((rows, most, 3), np.float32)
    references = np.full((rows, most, 3), -1, np.int64)
    distance, bond = (np.zeros((rows, most, most), np.uint8) for _ in range(2))
    stereo = np.full((rows, most), 4, np.int64)
    for k, (graph, x) in enumerate(zip(graphs, positions, strict=True)):
        n = len(graph.numbers)
        numbers[k, :n], where[k, :n], references[k, :n] = graph.numbers, x, graph.references
        distance[k, :n, :n] = graph.distance
        stereo[k, :n] = 3 * graph.handedness.astype(int) + graph.side + 4
        i, j = np.asarray(graph.bonds).reshape(-1, 2).T
        order = np.where(np.asarray(graph.orders) == 1.5, 4, graph.orders).astype(np.uint8)
        bond[k, i, j] = bond[k, j, i] = order
    tensors = (torch.from_numpy(a) for a in (numbers, where, references, distance, bond, stereo))
    return MoleculeBatch(*tensors, start=torch.zeros(rows, dtype=torch.long))
