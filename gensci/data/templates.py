"""Templates: known structures with other elements put in, the honest baseline of every generator.

A pool is asked with the atoms of a cell. Candidates are its structures with equal counts, their
elements replaced so that the substitution distance is least and their cells rescaled by the room
the atoms take. Looking up needs numpy alone and takes milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.data.structure_table import Structure, StructureTable
from gensci.data.template_elements import LARGEST, ElementSpace
from gensci.data.template_fingerprint import (
    Counts,
    fingerprints,
    prototypes,
    slot_orders,
    slots,
)

Array = np.ndarray
TEMPERATURE = 1.0  # of the votes, in units of the substitution distance
STEPS = 65536  # of a fractional coordinate: 0.0003 Angstrom in a cell of 20 Angstrom


@dataclass(frozen=True)
class Template:
    """A structure of the pool with the wanted elements.

    Attributes:
        id: of the row in the pool.
        numbers: (N,) int64 wanted atomic numbers, in the order of the pool's atoms.
        source_numbers: (N,) int64 the pool's own.
        fractional: (N, 3) float64 in [0, 1).
        lattice: (6,) float64 cell in Angstrom and degrees, rescaled for the wanted elements.
        distance: substitution distance, summed over the elements.
    """

    id: str
    numbers: Array
    source_numbers: Array
    fractional: Array
    lattice: Array
    distance: float


@dataclass(frozen=True)
class _Group:
    """Rows with equal counts: rows (M,), their elements, roles (M, K), orders of slots (P, K)."""

    rows: Array
    elements: Array
    roles: Array
    orders: Array


@dataclass(frozen=True)
class TemplatePool:
    """Structures to copy from, compactly: a few bytes an atom.

    Attributes:
        ids: (n,) of the rows.
        numbers: (atoms,) uint8 of all rows, one after another.
        offsets: (n + 1,) int64; row i has the atoms offsets[i] to offsets[i + 1].
        fractional: (atoms, 3) uint16 in units of 1 / `STEPS`.
        lattice: (n, 6) float32 cells in Angstrom and degrees.
        prototype: (n,) int32 labels of kinds of structure.
        roles: (slots of all rows,) uint8 parts that the elements of a row play in its prototype.
        elements: how alike and how large the elements are.
    """

    ids: tuple[str, ...]
    numbers: Array
    offsets: Array
    fractional: Array
    lattice: Array
    prototype: Array
    roles: Array
    elements: ElementSpace

    @staticmethod
    def from_table(
        table: StructureTable, elements: ElementSpace | None = None, seed: int = 0
    ) -> TemplatePool:
        """Build the pool of a table of crystals: a millisecond a row, and a minute for the fit.

        Args:
            table: crystals.
            elements: of another pool; fitted to this table where absent.
            seed: of the fit.

        Raises:
            UsageError: the table has no crystals.
        """
        if table.kind != "crystal" or not len(table):
            raise UsageError("table holds no crystals", "prepare some with 'gensci data prepare'")
        prints = fingerprints(table)
        labels, roles = prototypes(prints)
        elements = elements or ElementSpace.fit(table, prints, stream(seed, "element-space"))
        fixed = np.rint(np.mod(table.coordinates.astype(np.float64), 1) * STEPS)
        return TemplatePool(
            ids=table.ids,
            numbers=table.numbers.astype(np.uint8),
            offsets=table.offsets.astype(np.int64),
            fractional=(fixed % STEPS).astype(np.uint16),
            lattice=table.lattice.astype(np.float32),
            prototype=labels,
            roles=np.concatenate(roles),
            elements=elements,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def structure(self, row: int) -> Structure:
        """One structure of the pool as it was."""
        atoms = slice(self.offsets[row], self.offsets[row + 1])
        fractional = (self.fractional[atoms] / STEPS).astype(np.float32)
        return Structure(
            "crystal", self.ids[row], "pool", self.numbers[atoms], fractional, self.lattice[row]
        )

    def candidates(
        self,
        numbers: Array,
        k: int = 20,
        exclude: Collection[str] = (),
        vote: bool = True,
        novel: bool = False,
    ) -> list[Template]:
        """The templates that suit the atoms best; none where no row has their counts.

        Args:
            numbers: (N,) atomic numbers of the wanted cell, in any order.
            k: at most that many.
            exclude: ids of rows to leave out.
            vote: near rows vote for their prototypes. The nearest row of each prototype comes
                first, prototypes in the order of their votes; then the rest by distance. False:
                all by distance.
            novel: the wanted crystal is known not to be in the pool, as a test row is not: what
                the rows of exactly its composition look like comes last. Needs `vote`.
        """
        group, distance = self._distances(numbers, exclude)
        if group is None:
            return []
        chosen = list(_voted(group, self.prototype, distance, k, novel)) if vote else []
        chosen = list(dict.fromkeys([*chosen, *_nearest(distance, k + len(chosen))]))[:k]
        elements = slots(np.asarray(numbers))[0]
        return [
            self._template(group.rows[row], elements, group.orders[order], distance[row, order])
            for row, order in chosen
        ]

    def random(
        self, numbers: Array, rng: torch.Generator, exclude: Collection[str] = ()
    ) -> Template | None:
        """A row with the counts of the atoms (N,), each as likely; None where there is none."""
        group, distance = self._distances(numbers, exclude)
        if group is None:
            return None
        allowed = np.flatnonzero(np.isfinite(distance[:, 0]))
        row = allowed[torch.randint(len(allowed), (), generator=rng, device=rng.device)]
        order = distance[row].argmin()
        elements = slots(np.asarray(numbers))[0]
        return self._template(group.rows[row], elements, group.orders[order], distance[row, order])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, complete or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.partial")
        save_file(self.to_arrays(), part)
        part.replace(path)

    @staticmethod
    def load(path: str | Path) -> TemplatePool:
        """Read what `save` has written.

        Raises:
            UsageError: the file is absent or no pool.
        """
        try:
            return TemplatePool.from_arrays(load_file(path))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UsageError(
                f"{path} is no pool of templates ({error})", "build it anew"
            ) from error

    def to_arrays(self) -> dict[str, Array]:
        """Everything as named arrays, to be kept in a file."""
        return {
            "ids": np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8),
            "numbers": self.numbers,
            "atoms": np.diff(self.offsets).astype(np.uint16),
            "fractional": np.ascontiguousarray(self.fractional),
            "lattice": np.ascontiguousarray(self.lattice),
            "prototype": self.prototype,
            "roles": self.roles,
            "embedding": self.elements.embedding,
            "volumes": self.elements.volumes,
        }

    @staticmethod
    def from_arrays(arrays: dict[str, Array]) -> TemplatePool:
        """The pool of `to_arrays`.

        Raises:
            KeyError: an array is missing.
        """
        ends = np.cumsum(arrays["atoms"], dtype=np.int64)
        return TemplatePool(
            ids=tuple(arrays["ids"].tobytes().decode().split("\n")),
            numbers=arrays["numbers"],
            offsets=np.concatenate([np.zeros(1, np.int64), ends]),
            fractional=arrays["fractional"],
            lattice=arrays["lattice"],
            prototype=arrays["prototype"],
            roles=arrays["roles"],
            elements=ElementSpace(arrays["embedding"], arrays["volumes"]),
        )

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def _between(self) -> Array:
        return self.elements.distances()

    @cached_property
    def _groups(self) -> dict[Counts, _Group]:
        found: dict[Counts, list[tuple[int, Array, Array]]] = {}
        first = 0
        for row in range(len(self)):
            elements, counts, _ = slots(self.numbers[self.offsets[row] : self.offsets[row + 1]])
            roles = self.roles[first : first + len(counts)]
            found.setdefault(counts, []).append((row, elements, roles))
            first += len(counts)
        return {
            counts: _Group(*map(np.array, zip(*rows, strict=True)), orders=slot_orders(counts))
            for counts, rows in found.items()
        }

    def _distances(
        self, numbers: Array, exclude: Collection[str]
    ) -> tuple[_Group, Array] | tuple[None, None]:
        """Rows with the counts and their distances (M, P) in each order; infinite if excluded."""
        numbers = np.asarray(numbers)
        if not len(numbers) or numbers.min() < 1 or numbers.max() >= LARGEST:
            raise UsageError(
                "numbers must be atomic numbers from 1 to 118", "leave out the padding"
            )
        elements, counts, _ = slots(numbers)
        group = self._groups.get(counts)
        if group is None:
            return None, None
        distance = self._between[elements, group.elements[:, group.orders]].sum(-1)
        dropped = [self._rows[name] for name in exclude if name in self._rows]
        distance[np.isin(group.rows, dropped)] = np.inf
        return (group, distance) if np.isfinite(distance).any() else (None, None)

    def _template(self, row: int, elements: Array, order: Array, distance: float) -> Template:
        """Row of the pool with the wanted elements (K,), whose slots stand for its own in order."""
        atoms = slice(self.offsets[row], self.offsets[row + 1])
        source = self.numbers[atoms]
        wanted = np.empty(len(order), dtype=np.int64)
        wanted[order] = elements
        numbers = wanted[slots(source)[2]]
        room = self.elements.volumes
        scale = (room[numbers].sum() / room[source].sum()) ** (1 / 3)
        lattice = self.lattice[row].astype(np.float64)
        lattice[:3] *= scale
        return Template(
            id=self.ids[row],
            numbers=numbers,
            source_numbers=source.astype(np.int64),
            fractional=self.fractional[atoms] / STEPS,
            lattice=lattice,
            distance=float(distance),
        )


def _voted(
    group: _Group, prototype: Array, distance: Array, k: int, novel: bool
) -> Iterator[tuple[int, int]]:
    """Row and order of the nearest structure of each prototype, by the votes of all near rows."""
    weight = np.exp((distance.min() - distance) / TEMPERATURE).ravel()
    size = distance.shape[1]
    # A vote is for a prototype and for who plays which role; large cells may share a number.
    roles = group.roles[np.arange(len(group.rows))[:, None, None], group.orders].astype(np.int64)
    base = np.int64(roles.shape[-1] + 1) ** np.arange(roles.shape[-1])
    code = (prototype[group.rows].astype(np.int64)[:, None] << 32) + (roles * base).sum(-1)
    near = np.argsort(distance, axis=None, kind="stable")
    near = near[weight[near] > 0]
    _, first, inverse = np.unique(code.ravel()[near], return_index=True, return_inverse=True)
    votes = np.bincount(inverse, weight[near])
    if novel and weight[near].min() < 1:  # an element alone has nothing but its own composition
        votes[inverse[distance.ravel()[near] == 0]] *= -1
    for choice in np.argsort(-votes, kind="stable")[:k]:
        row, order = divmod(int(near[first[choice]]), size)
        yield row, order


def _nearest(distance: Array, k: int) -> Iterator[tuple[int, int]]:
    """Row and its best order by distance."""
    order = distance.argmin(-1)
    best = distance[np.arange(len(distance)), order]
    for row in np.argsort(best, kind="stable")[:k]:
        if np.isfinite(best[row]):
            yield int(row), int(order[row])
