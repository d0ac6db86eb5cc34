"""What a crystal looks like apart from its elements: to tell prototypes from one another quickly.

Elements become slots: the most frequent first, then by atomic number. A fingerprint holds, for
every pair of slots, how many neighbours an atom has at each distance, in units of the cube root of
the volume per atom. A mismatch of `SAME` is where pymatgen's StructureMatcher (stol 0.5, ltol 0.3,
angle 10) says yes as often as no, measured on 697 pairs of MP-20; it costs a thousandth of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product

import numpy as np
import torch

from gensci.core.lattice import lattice_matrix
from gensci.data.structure_table import StructureTable

Array = np.ndarray
Counts = tuple[int, ...]
NEAREST, FARTHEST, BINS = 0.5, 2.2, 22
MOST_IMAGES = 6  # along one axis, in cells that are thin beyond reason
SAME, SOFTNESS, SAME_PROTOTYPE = 3.3, 0.5, 2.5
MOST_ORDERS = 5040


@dataclass(frozen=True)
class Fingerprint:
    """Neighbours by distance, of a structure whose K elements stand in slots.

    Attributes:
        elements: (K,) uint8 atomic numbers, the most frequent first, then in rising order.
        counts: atoms of each slot.
        density: (K, K, BINS) float32 neighbours in slot j of an atom in slot i, over r squared.
    """

    elements: Array
    counts: Counts
    density: Array


def slots(numbers: Array) -> tuple[Array, Counts, Array]:
    """Elements (K,) of atomic numbers (N,), their counts, and the slot (N,) of each atom."""
    elements, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    order = np.lexsort((elements, -counts))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return elements[order].astype(np.uint8), tuple(counts[order].tolist()), rank[inverse]


def slot_orders(counts: Counts) -> Array:
    """The orders (P, K) of slots that keep the counts; the first `MOST_ORDERS` of very many."""
    blocks = [[k for k, c in enumerate(counts) if c == count] for count in dict.fromkeys(counts)]
    orders = product(*(permutations(block) for block in blocks))
    return np.array([sum(order, ()) for order in islice(orders, MOST_ORDERS)], dtype=np.int64)


def fingerprint(numbers: Array, fractional: Array, lattice: Array) -> Fingerprint:
    """The fingerprint of a crystal.

    Args:
        numbers: (N,) atomic numbers.
        fractional: (N, 3) coordinates.
        lattice: (6,) a, b, c in Angstrom, alpha, beta, gamma in degrees.
    """
    elements, counts, slot = slots(numbers)
    matrix = lattice_matrix(torch.from_numpy(np.asarray(lattice, dtype=np.float64))).numpy()
    matrix = matrix / (abs(np.linalg.det(matrix)) / len(numbers)) ** (1 / 3)
    first, second, distance = _neighbours(np.asarray(fractional, dtype=np.float64), matrix)
    place = (np.maximum(distance, NEAREST) - NEAREST) / (FARTHEST - NEAREST) * (BINS - 1)
    low = np.minimum(place.astype(np.int64), BINS - 2)
    channel = (slot[first] * len(counts) + slot[second]) * BINS + low
    size = len(counts) ** 2 * BINS
    density = np.bincount(channel, 1 + low - place, size)
    density += np.bincount(channel + 1, place - low, size)
    density = _smooth(density.reshape(len(counts), len(counts), BINS))
    radius = np.linspace(NEAREST, FARTHEST, BINS)
    density /= np.array(counts)[:, None, None] * radius**2
    return Fingerprint(elements, counts, density.astype(np.float32))


def fingerprints(table: StructureTable) -> list[Fingerprint]:
    """Those of all rows of a table of crystals, about a millisecond each."""
    rows = (table.row(i) for i in range(len(table)))
    return [fingerprint(row.numbers, row.coordinates, row.lattice) for row in rows]


def mismatch(first: Array, second: Array) -> Array:
    """Mean difference (...) of densities (..., K, K, BINS): 0 where equal, about `SAME` between."""
    return np.abs(first - second).sum(-1).mean((-1, -2))


def reordered(density: Array, orders: Array) -> Array:
    """Densities (..., P, K, K, BINS) of (..., K, K, BINS) with the slots in the orders (P, K)."""
    return density[..., orders[:, :, None], orders[:, None, :], :]


def by_counts(prints: Sequence[Fingerprint]) -> dict[Counts, Array]:
    """Rows with equal counts."""
    groups: dict[Counts, list[int]] = {}
    for row, item in enumerate(prints):
        groups.setdefault(item.counts, []).append(row)
    return {counts: np.array(rows) for counts, rows in groups.items()}


def prototypes(prints: Sequence[Fingerprint]) -> tuple[Array, list[Array]]:
    """Prototypes of structures, found one after another: a row joins the nearest or founds one.

    Returns:
        labels (n,) int32 of the prototypes; and for each row the roles (K,) uint8 of its slots in
        its prototype: slots that may be exchanged without a change of structure share a role.
    """
    labels = np.zeros(len(prints), dtype=np.int32)
    roles: list[Array] = [np.zeros(0, dtype=np.uint8)] * len(prints)
    found = 0
    for counts, rows in by_counts(prints).items():
        orders = slot_orders(counts)[:24]  # five and more alike are so rare that one will do
        leaders: list[Array] = []
        for row, leader, order in _assigned(prints, rows, orders, leaders):
            labels[row] = found + leader
            own = np.empty(len(counts), dtype=np.uint8)
            own[order] = _interchangeable(leaders[leader], counts)
            roles[row] = own
        found += len(leaders)
    return labels, roles


def _assigned(
    prints: Sequence[Fingerprint], rows: Array, orders: Array, leaders: list[Array]
) -> Iterator[tuple[int, int, Array]]:
    """Row, its leader and the order of its slots that fits; `leaders` grows on the way."""
    known = np.zeros((64, *prints[rows[0]].density.shape), dtype=np.float32)
    for row in rows:
        tried = reordered(prints[row].density, orders)
        if leaders:
            far = mismatch(known[: len(leaders), None], tried[None])
            leader, order = np.unravel_index(far.argmin(), far.shape)
            if far[leader, order] < SAME_PROTOTYPE:
                yield int(row), int(leader), orders[order]
                continue
        if len(leaders) == len(known):
            known = np.concatenate([known, np.zeros_like(known)])
        known[len(leaders)] = tried[0]
        leaders.append(tried[0])
        yield int(row), len(leaders) - 1, orders[0]


def _interchangeable(density: Array, counts: Counts) -> Array:
    """Roles (K,): the first slot with which each may be exchanged."""
    roles = np.arange(len(counts), dtype=np.uint8)
    for first in range(len(counts)):
        for second in range(first + 1, len(counts)):
            if counts[first] != counts[second] or roles[second] != second:
                continue
            order = np.arange(len(counts))
            order[[first, second]] = second, first
            if mismatch(density, density[order][:, order]) < SAME_PROTOTYPE:
                roles[second] = roles[first]
    return roles


def _neighbours(fractional: Array, matrix: Array) -> tuple[Array, Array, Array]:
    """Pairs of atoms nearer than `FARTHEST` in the lattice of rows `matrix`, and their distance."""
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=0)
    reach = np.minimum(np.ceil(FARTHEST / heights + 0.5).astype(int), MOST_IMAGES)
    images = np.array(list(product(*(range(-n, n + 1) for n in reach)))) @ matrix
    difference = fractional[None] - fractional[:, None]
    difference = (difference - difference.round()) @ matrix
    distance = np.linalg.norm(difference[:, :, None] + images, axis=-1)
    first, second, image = np.nonzero((distance < FARTHEST) & (distance > 1e-3))
    return first, second, distance[first, second, image]


def _smooth(density: Array) -> Array:
    """A narrow average along the last axis, so that a small shift makes a small difference."""
    padded = np.pad(density, ((0, 0), (0, 0), (1, 1)))
    return 0.25 * padded[..., :-2] + 0.5 * padded[..., 1:-1] + 0.25 * padded[..., 2:]
