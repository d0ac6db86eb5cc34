"""How alike elements are as parts of a crystal, and how much room an atom takes: from a pool.

Two structures with equal counts are either of one prototype or not. An embedding of the elements
is fitted so that, for a row of the pool, the rows that lie near it by their elements are those
of its prototype: neighbourhood components analysis (Goldberger et al. 2004, NIPS 17), started from
electronegativity, radius, period and group.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gensci.data.structure_table import StructureTable
from gensci.data.template_fingerprint import (
    SAME,
    SOFTNESS,
    Counts,
    Fingerprint,
    by_counts,
    mismatch,
    reordered,
    slot_orders,
)

Array = np.ndarray
LARGEST = 119  # one above the atomic number of the last element
DIMENSION, PASSES, LEARNING_RATE, DECAY = 8, 3, 0.02, 0.5
MOST_ROWS, MOST_CANDIDATES, MOST_ORDERS, BATCH = 25_000, 200, 6, 32
PRIOR = 1.0  # structures that the radii count for in the fit of an element's volume


@dataclass(frozen=True)
class ElementSpace:
    """What the pool says of elements.

    Attributes:
        embedding: (LARGEST, D) float32 places of the elements by atomic number.
        volumes: (LARGEST,) float32 room of an atom in cubic Angstrom.
    """

    embedding: Array
    volumes: Array

    def distances(self) -> Array:
        """Substitution distances (LARGEST, LARGEST) of the elements."""
        difference = self.embedding[:, None] - self.embedding[None]
        return np.sqrt(np.square(difference).sum(-1))

    @staticmethod
    def fit(
        table: StructureTable, prints: Sequence[Fingerprint], generator: torch.Generator
    ) -> ElementSpace:
        """Fit to a table of crystals with these fingerprints; half a minute for 10,000 rows.

        Raises:
            ModuleNotFoundError: pymatgen is not installed.
        """
        features, radii = element_features()
        start = torch.zeros(LARGEST, DIMENSION)
        start[:, : features.shape[1]] = 0.7 * torch.from_numpy(features)
        noise = torch.randn(start[:, features.shape[1] :].shape, generator=generator)
        start[:, features.shape[1] :] = 0.05 * noise
        embedding = _fit_embedding(prints, start, generator)
        volumes = fit_volumes(table, radii)
        return ElementSpace(embedding.numpy().astype(np.float32), volumes)


def element_features() -> tuple[Array, Array]:
    """Standardised electronegativity, radius, period, group (LARGEST, 4); radii (LARGEST,)."""
    from ase.data import covalent_radii
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without an electronegativity
        rows = [(e.X, float(e.atomic_radius or "nan"), e.row, e.group)
                for e in map(Element.from_Z, range(1, LARGEST))]  # fmt: skip
    features = np.array([(np.nan,) * 4, *rows], dtype=np.float64)
    features = (features - np.nanmean(features, 0)) / np.nanstd(features, 0)
    radii = np.full(LARGEST, 1.5)
    radii[: len(covalent_radii)] = covalent_radii[:LARGEST]
    return np.nan_to_num(features).astype(np.float32), radii


def fit_volumes(table: StructureTable, radii: Array) -> Array:
    """Room (LARGEST,) of an atom of each element, by least squares of relative volumes.

    The cubes of the radii (LARGEST,), scaled to the table, stand for elements that it lacks.
    """
    counts = np.zeros((len(table), LARGEST))
    row = np.repeat(np.arange(len(table)), table.num_atoms)
    np.add.at(counts, (row, table.numbers), 1)
    volumes = cell_volume(table.lattice)
    cubes = radii**3
    cubes *= np.median(volumes / (counts @ cubes))
    # Unknown is the factor on the cube; one row is one equation, the prior a few more.
    design = counts * cubes / volumes[:, None]
    factors = np.linalg.solve(
        design.T @ design + PRIOR * np.eye(LARGEST), design.sum(0) + PRIOR * np.ones(LARGEST)
    )
    return (cubes * np.clip(factors, 0.2, 5)).astype(np.float32)


def cell_volume(lattice: Array) -> Array:
    """Volumes (...) in cubic Angstrom of cells (..., 6)."""
    lattice = np.asarray(lattice, dtype=np.float64)
    x, y, z = np.moveaxis(np.cos(np.radians(lattice[..., 3:])), -1, 0)
    return lattice[..., :3].prod(-1) * np.sqrt(1 - x * x - y * y - z * z + 2 * x * y * z)


def _fit_embedding(
    prints: Sequence[Fingerprint], start: Tensor, generator: torch.Generator
) -> Tensor:
    groups = by_counts(prints)
    rows = [i for rows in groups.values() if _teaches(prints, rows) for i in rows]
    if not rows:
        return start
    embedding = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([embedding], lr=LEARNING_RATE)
    for _ in range(PASSES):
        shuffled = torch.randperm(len(rows), generator=generator)[:MOST_ROWS].tolist()
        for first in range(0, len(shuffled), BATCH):
            batch = [rows[i] for i in shuffled[first : first + BATCH]]
            losses = [_row_loss(prints, row, groups, embedding, generator) for row in batch]
            losses = [loss for loss in losses if loss is not None]
            if losses:
                optimiser.zero_grad()
                (torch.stack(losses).sum() / BATCH).backward()
                optimiser.step()
        optimiser.param_groups[0]["lr"] *= DECAY
    return embedding.detach()


def _teaches(prints: Sequence[Fingerprint], rows: Array) -> bool:
    """Whether rows of equal counts tell elements apart: several, of different elements."""
    if len(rows) < 4 or len(prints[rows[0]].counts) > 5:
        return False
    return any((prints[row].elements != prints[rows[0]].elements).any() for row in rows)


def _row_loss(
    prints: Sequence[Fingerprint],
    row: int,
    groups: dict[Counts, Array],
    embedding: Tensor,
    generator: torch.Generator,
) -> Tensor | None:
    """Minus the log-probability that a neighbour of the row, drawn by distance, is of its kind."""
    own = prints[row]
    others = groups[own.counts]
    others = others[others != row]
    chosen = torch.randperm(len(others), generator=generator)[:MOST_CANDIDATES].numpy()
    orders = slot_orders(own.counts)
    if len(orders) > MOST_ORDERS:
        orders = orders[torch.randperm(len(orders), generator=generator)[:MOST_ORDERS].numpy()]
    density = np.stack([prints[i].density for i in others[chosen]])
    elements = np.stack([prints[i].elements for i in others[chosen]])
    far = mismatch(own.density, reordered(density, orders))
    same = 1 / (1 + np.exp(np.clip((far - SAME) / SOFTNESS, -30, 30)))
    if same.max() < 0.5:
        return None
    other = embedding[torch.from_numpy(elements[:, orders].astype(np.int64))]
    difference = other - embedding[torch.from_numpy(own.elements.astype(np.int64))]
    # The small number keeps the slope finite where the elements are equal.
    distance = (difference.square().sum(-1) + 1e-4).sqrt().sum(-1).flatten()
    drawn = torch.softmax(-distance, 0)
    return -(drawn @ torch.from_numpy(same).to(drawn.dtype).flatten() + 1e-6).log()
