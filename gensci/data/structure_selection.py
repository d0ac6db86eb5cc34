"""Which rows are the same structure, and which go to training, validation and test."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gensci.data.crystal_cells import cell_rows, nearest_distances
from gensci.data.structure_table import Structure, StructureTable

Array = np.ndarray
_SAME_DISTANCE = 0.01  # Angstrom, between the sorted distances of copies
_SAME_VOLUME = 0.002
TIGHT = {"ltol": 0.1, "stol": 0.1, "angle_tol": 3.0}  # of StructureMatcher


def rank(seed: int, name: str) -> bytes:
    """Orders names at random: by a hash, so that adding a row moves no other."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def composition_key(numbers: Array) -> bytes:
    """Equal for rows with the same elements and numbers of atoms."""
    return np.sort(numbers).tobytes()


def formula_key(numbers: Array) -> bytes:
    """Equal for rows with the same elements in the same ratio."""
    elements, counts = np.unique(numbers, return_counts=True)
    return elements.tobytes() + (counts // math.gcd(*counts.tolist())).tobytes()


def volume(row: Structure) -> float:
    """Of a crystal's cell, cubic Angstrom; 0 for molecules."""
    return 0.0 if row.lattice is None else float(abs(np.linalg.det(cell_rows(row.lattice))))


def fingerprint(row: Structure) -> Array:
    """Sorted interatomic distances, Angstrom, by pair of elements; copies have equal ones."""
    order = np.argsort(row.numbers, kind="stable")
    numbers, points = row.numbers[order].astype(np.int64), row.coordinates[order].astype(float)
    if row.lattice is None:
        distances = np.linalg.norm(points[:, None] - points[None, :], axis=-1)
    else:
        distances = nearest_distances(cell_rows(row.lattice), points)
    first, second = np.triu_indices(len(numbers))
    pair, value = numbers[first] * 128 + numbers[second], distances[first, second]
    sizes = np.zeros(0) if row.lattice is None else row.lattice[:3]
    return np.concatenate([value[np.lexsort((value, pair))], sizes])


def duplicates(table: StructureTable) -> dict[int, int]:
    """Rows that are copies of an earlier row, with that row; rounding does not matter."""
    groups = defaultdict(list)
    for index in range(len(table)):
        atoms = slice(table.offsets[index], table.offsets[index + 1])
        groups[composition_key(table.numbers[atoms])].append(index)
    found: dict[int, int] = {}
    for rows in groups.values():
        if len(rows) > 1:
            found |= _copies(table, rows)
    return found


def _copies(table: StructureTable, rows: list[int]) -> dict[int, int]:
    volumes = {index: volume(table.row(index)) for index in rows}
    prints: dict[int, Array] = {}
    by_volume = sorted(rows, key=lambda index: (volumes[index], index))
    found: dict[int, int] = {}
    for place, index in enumerate(by_volume):
        for other in reversed(by_volume[:place]):
            if volumes[index] - volumes[other] > _SAME_VOLUME * volumes[index]:
                break
            for k in (index, other):
                if k not in prints:
                    prints[k] = fingerprint(table.row(k))
            if np.abs(prints[index] - prints[other]).max() < _SAME_DISTANCE:
                found[index] = other
                break
    return _earliest(found)


def _earliest(found: dict[int, int]) -> dict[int, int]:
    """Of every chain of copies the first row stays."""
    clusters = defaultdict(list)
    for index in found:
        root = index
        while root in found:
            root = found[root]
        clusters[root].append(index)
    renamed = {}
    for root, members in clusters.items():
        first, *rest = sorted([root, *members])
        renamed |= dict.fromkeys(rest, first)
    return renamed


def matching_rows(table: StructureTable, reference: StructureTable) -> dict[int, int]:
    """Rows that are also in ``reference``, with its row.

    Crystals: the same id and formula, or the same atoms and a match by pymatgen's StructureMatcher
    at tight tolerances (which lets polymorphs stay). Molecules: equal SMILES.
    """
    if table.kind == "molecule":
        known = {smiles: row for row, smiles in enumerate(reference.smiles)}
        return {i: known[smiles] for i, smiles in enumerate(table.smiles) if smiles in known}
    ids = {name: row for row, name in enumerate(reference.ids)}
    groups = defaultdict(list)
    for row in range(len(reference)):
        groups[composition_key(reference.row(row).numbers)].append(row)
    matches = _Matcher(table, reference)
    found = {}
    for index, name in enumerate(table.ids):
        numbers = table.row(index).numbers
        named = ids.get(name)
        if named is not None and formula_key(reference.row(named).numbers) == formula_key(numbers):
            found[index] = named
            continue
        candidates = groups.get(composition_key(numbers), [])
        match = next((row for row in candidates if matches(index, row)), None)
        if match is not None:
            found[index] = match
    return found


class _Matcher:
    """Compares rows of two tables of crystals; converts each reference row once."""

    def __init__(self, table: StructureTable, reference: StructureTable):
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self.tables = (table, reference)
        self.matcher = StructureMatcher(**TIGHT)
        self.known: dict[tuple[int, int], object] = {}

    def _structure(self, which: int, row: int) -> object:
        if (which, row) not in self.known:
            self.known[which, row] = pymatgen_structure(self.tables[which].row(row))
        return self.known[which, row]

    def __call__(self, index: int, row: int) -> bool:
        return bool(self.matcher.fit(self._structure(0, index), self._structure(1, row)))


def pymatgen_structure(row: Structure) -> object:
    """A crystal as pymatgen has it."""
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    lattice = Lattice(cell_rows(row.lattice))
    return Crystal(lattice, row.numbers.tolist(), row.coordinates.astype(float))


def hold_out(groups: Sequence[str], counts: dict[str, int], rest: str, seed: int) -> list[str]:
    """Split of every row: groups in random order fill each split in turn, the others are ``rest``.

    Args:
        groups: (n,) names; rows of one group stay together.
        counts: rows of each split; a group that would overfill one is the first of the next.
        rest: the last split.
        seed: of the order.
    """
    members = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    splits = [rest] * len(groups)
    queue = iter(counts.items())
    name, room = next(queue, (rest, len(groups)))
    for group in sorted(members, key=lambda group: rank(seed, group)):
        while name != rest and len(members[group]) > room:
            name, room = next(queue, (rest, len(groups)))
        for row in members[group]:
            splits[row] = name
        room -= len(members[group])
    return splits
