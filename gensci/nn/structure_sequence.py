"""Crystals and molecules as sequences of tokens and slots of three numbers.

A crystal reads ``<bos> [<set>] (<prop> v)* E1..En [<template> L A t1..tn <same>|<other>] <coord>
L A x1..xn <eos>``: one token for every atom, L the three lengths and A the three angles of the
Niggli cell, x fractional from the first atom on. A molecule reads ``<bos> [<set>] (<prop> v)*
SMILES <coord> x1..xN <eos>`` with every hydrogen, x in the frame of atoms placed before, the first
atom at the origin. After Zhang et al. 2025 (arXiv:2503.06687), whose slots are raw lattice vectors
and Cartesian coordinates; these a :class:`~gensci.nn.structure_layout.Layout` can have as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.nn.structure_layout import FRACTION, LOCAL, PROPERTY, Layout
from gensci.nn.structure_vocabulary import Vocabulary


@dataclass(frozen=True)
class Batch:
    """Sequences of B rows and L places, padded at the end.

    Attributes:
        ids: (B, L) tokens; the slot token where a value stands.
        kind: (B, L) what stands here: a token or which sort of value.
        value: (B, L, 3) the numbers of a slot as the network reads them.
        element: (B, L) atomic number that a place is about, 0 where none.
        source: (B, L) the element that a template has there, 0 where none.
        index: (B, L) 1 + number of the atom, 0 where none.
        learn: (B, L) whether this place is to be predicted from those before it.
        hint: (B, L, 3) the value of the template; ``hinted`` (B, L) tells where there is one.
        template: (B, L) whether the place belongs to the description of a template.
        molecule: atoms and bonds, or None for crystals.
    """

    ids: Tensor
    kind: Tensor
    value: Tensor
    element: Tensor
    source: Tensor
    index: Tensor
    learn: Tensor
    hint: Tensor
    hinted: Tensor
    template: Tensor
    molecule: MoleculeBatch | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Rows and places."""
        return self.ids.shape[0], self.ids.shape[1]

    def to(self, device: torch.device | str) -> Batch:
        """All tensors on a device."""
        return _moved(self, device)

    def rows(self, rows: Tensor) -> Batch:
        """Some rows, repeats allowed."""
        return _selected(self, rows)


@dataclass(frozen=True)
class MoleculeBatch:
    """Atoms of molecules, padded at the end.

    Attributes:
        numbers: (B, N) atomic numbers, 0 for padding.
        positions: (B, N, 3) Angstrom.
        references: (B, N, 3) atoms of the local frames, -1 where missing.
        distance: (B, N, N) bonds between two atoms along the graph, at most 255.
        bond: (B, N, N) 0 none, 1, 2, 3, 4 for aromatic.
        stereo: (B, N) 3 h + s + 4 from the handedness h and side s (-1, 0, 1) that the graph
            demands of the atom in its frame.
        start: (B,) place of the first atom's slot in the sequence.
    """

    numbers: Tensor
    positions: Tensor
    references: Tensor
    distance: Tensor
    bond: Tensor
    stereo: Tensor
    start: Tensor

    def to(self, device: torch.device | str) -> MoleculeBatch:
        """All tensors on a device."""
        return _moved(self, device)


def _moved(batch: Any, device: torch.device | str) -> Any:
    parts = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{k: v if v is None else v.to(device) for k, v in parts.items()})


def _selected(batch: Batch, rows: Tensor) -> Batch:
    parts = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "molecule"}
    molecule = batch.molecule
    if molecule is not None:
        own = {f.name: getattr(molecule, f.name)[rows] for f in fields(molecule)}
        molecule = MoleculeBatch(**own)
    return Batch(**{k: v[rows] for k, v in parts.items()}, molecule=molecule)


class Line:
    """One sequence while it is written, as arrays with room for ``capacity`` places."""

    def __init__(self, vocabulary: Vocabulary, capacity: int):
        self.vocabulary, self.length = vocabulary, 0
        self.ids = np.full(capacity, vocabulary.pad, np.int64)
        names = ("kind", "element", "source", "index")
        self.kind, self.element, self.source, self.index = (
            np.zeros(capacity, np.int64) for _ in names
        )
        self.value, self.hint = (np.zeros((capacity, 3), np.float32) for _ in range(2))
        self.learn, self.hinted, self.template = (np.zeros(capacity, bool) for _ in range(3))

    def _advance(self, count: int) -> slice:
        place = slice(self.length, self.length + count)
        self.length += count
        return place

    def tokens(self, ids: Sequence[int] | np.ndarray, learn: bool, **columns: Any) -> None:
        """Write tokens; ``columns`` set element, index, template."""
        place = self._advance(len(ids))
        self.ids[place], self.learn[place] = ids, learn
        for name, column in columns.items():
            getattr(self, name)[place] = column

    def slots(
        self, kind: int, values: np.ndarray, learn: bool | np.ndarray, **columns: Any
    ) -> None:
        """Write values (count, 3); ``columns`` set any other array."""
        place = self._advance(len(values))
        self.ids[place], self.kind[place] = self.vocabulary.slot, kind
        self.value[place], self.learn[place] = values, learn
        for name, column in columns.items():
            getattr(self, name)[place] = column


def stack(lines: Sequence[Line]) -> Batch:
    """Lines as one batch as long as the longest."""
    length = max(line.length for line in lines)
    columns = {}
    for name in (f.name for f in fields(Batch) if f.name != "molecule"):
        own = [getattr(line, name)[: line.length] for line in lines]
        fill = lines[0].vocabulary.pad if name == "ids" else 0
        joined = np.full((len(lines), length, *own[0].shape[1:]), fill, own[0].dtype)
        for row, column in zip(joined, own, strict=True):
            row[: len(column)] = column
        columns[name] = torch.from_numpy(joined)
    return Batch(**columns)


@dataclass(frozen=True)
class Prompted:
    """What stands before the atoms.

    Attributes:
        source: training set, or None.
        properties: standardised values by name.
    """

    source: str | None = None
    properties: Mapping[str, float] | None = None


def begin(line: Line, prompt: Prompted) -> None:
    """Write the start of a sequence."""
    vocabulary = line.vocabulary
    line.tokens([vocabulary.begin], False)
    if prompt.source is not None:
        line.tokens([vocabulary.set_token(prompt.source)], False)
    for name, value in (prompt.properties or {}).items():
        line.tokens([vocabulary.property_token(name)], False)
        line.slots(PROPERTY, np.full((1, 3), value, np.float32), False)


def crystal_line(
    vocabulary: Vocabulary,
    numbers: np.ndarray,
    prompt: Prompted,
    lattice: np.ndarray | None = None,
    fractional: np.ndarray | None = None,
    template: Any = None,
    same: bool | None = None,
    layout: Layout | None = None,
    rotation: np.ndarray | None = None,
) -> Line:
    """The sequence of a crystal, or its beginning where there is no structure yet.

    Args:
        vocabulary: of the model.
        numbers: (n,) atomic numbers in the order of the sequence, see `element_order`.
        prompt: training set and properties.
        lattice: (6,) Angstrom and degrees; with ``fractional`` (n, 3), the first atom at the
            origin.
        template: has ``source_numbers`` (n,), ``fractional`` (n, 3) and ``lattice`` (6,) in the
            order of ``numbers``; or None.
        same: whether the structure is of the template's kind; None leaves the answer open, and
            the sequence ends before it.
        layout: of the slots.
        rotation: (3, 3) of lattice vectors, those of the template too.
    """
    n, layout = len(numbers), layout or Layout()
    line = Line(vocabulary, 2 * n + 16 + 2 * len(prompt.properties or {}) + n)
    begin(line, prompt)
    order = np.arange(1, n + 1)
    tokens = [vocabulary.element(int(z)) for z in numbers]
    line.tokens(tokens, True, element=numbers, index=order)
    if template is not None:
        cell = layout.cell(template.lattice, n, rotation)
        _write_template(line, numbers, order, template, cell, layout)
        if same is None:
            return line
        line.tokens([vocabulary.same if same else vocabulary.other], True, template=True)
    line.tokens([vocabulary.coordinates], True)
    if fractional is None or lattice is None:
        return line
    slots = [*layout.cell(lattice, n, rotation)[:, None], fractional]
    hints: list[dict[str, Any]] = [{} for _ in slots]
    if template is not None and same:
        values = [*layout.cell(template.lattice, n, rotation)[:, None], template.fractional]
        hints = [{"hint": value, "hinted": True} for value in values]
    for kind, slot, hint in zip(layout.cell_kinds, slots, hints, strict=False):
        line.slots(kind, slot, True, **hint)
    learned = order > layout.fixed_atoms["crystal"]
    line.slots(FRACTION, fractional, learned, element=numbers, index=order, **hints[-1])
    line.tokens([vocabulary.end], False)
    return line


def _write_template(
    line: Line,
    numbers: np.ndarray,
    order: np.ndarray,
    template: Any,
    cell: np.ndarray,
    layout: Layout,
) -> None:
    line.tokens([line.vocabulary.template], False, template=True)
    for kind, slot in zip(layout.cell_kinds, cell, strict=True):
        line.slots(kind, slot[None], False, template=True)
    columns = {"element": numbers, "index": order, "source": template.source_numbers}
    line.slots(FRACTION, template.fractional, False, template=True, **columns)


def molecule_line(
    vocabulary: Vocabulary,
    pieces: Sequence[int],
    prompt: Prompted,
    numbers: np.ndarray | None = None,
    local: np.ndarray | None = None,
    ended: bool = True,
    layout: Layout | None = None,
) -> Line:
    """The sequence of a molecule, or its beginning where there are no coordinates yet.

    Args:
        vocabulary: of the model.
        pieces: tokens of the SMILES.
        prompt: training set and properties.
        numbers: (N,) atomic numbers, with the slots' values ``local`` (N, 3).
        ended: whether the SMILES is complete.
        layout: of the slots.
    """
    atoms = 0 if numbers is None else len(numbers)
    line = Line(vocabulary, len(pieces) + atoms + 5 + 2 * len(prompt.properties or {}))
    begin(line, prompt)
    line.tokens(pieces, True)
    if ended:
        line.tokens([vocabulary.coordinates], True)
    if numbers is None or local is None:
        return line
    order = np.arange(1, atoms + 1)
    learned = order > (layout or Layout()).fixed_atoms["molecule"]
    line.slots(LOCAL, local, learned, element=numbers, index=order)
    line.tokens([vocabulary.end], False)
    return line
