"""A crystal rewritten in the frame of a template of the same kind: same cell, atoms, origin."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch

from gensci.core.lattice import lattice_matrix, lattice_parameters
from gensci.data.structure_table import Structure
from gensci.data.template_fingerprint import slots
from gensci.data.templates import Template

Array = np.ndarray
LENGTH_TOLERANCE, ANGLE_TOLERANCE, SITE_TOLERANCE = 0.3, 10.0, 0.5  # of published match rates
CERTAIN = 0.1  # a site tolerance below which StructureMatcher need not be asked
LARGEST_RESIDUAL = 0.15
MOST_CELLS, MOST_NUMBERS, BEST = 400, 2_000_000, 6
SECONDS = 4.0


@dataclass(frozen=True)
class Alignment:
    """How a target lies in the frame of a template.

    Attributes:
        same: StructureMatcher takes the two for one, and the target could be rewritten near the
            template; otherwise the rest is the target as it was, its elements in the order of
            the template's.
        fractional: (N, 3) float64 in [0, 1), atoms in the order of the template.
        lattice: (6,) float64 cell.
        residual: root mean square of the wrapped fractional differences; NaN where not the same.
    """

    same: bool
    fractional: Array
    lattice: Array
    residual: float


@dataclass(frozen=True)
class _Placed:
    """A target (N, 3) in one cell of it, moved onto the template; the score is better if lower."""

    score: float
    distance: float
    fractional: Array
    cell: Array


def align(target: Structure, template: Template, seconds: float = SECONDS) -> Alignment:
    """Rewrite a crystal in the frame of a template that has its elements.

    All cells of the target that resemble the template's, and all its atoms of the rarest element
    as origin, are tried; the atoms are assigned by least squares (Kuhn 1955, the Hungarian
    method). A mirror image is allowed, since it has the same energy.

    Args:
        target: crystal.
        template: with equal elements.
        seconds: StructureMatcher's time for one pair; later is no match.

    Raises:
        ModuleNotFoundError: pymatgen is not installed.
    """
    placed = _best_placed(target, template)
    if placed is not None:
        difference = _wrapped(placed.fractional - template.fractional)
        residual = float(np.sqrt(np.square(difference).sum(-1).mean()))
        certain = placed.distance < CERTAIN or matches(target, template, seconds)
        if residual <= LARGEST_RESIDUAL and certain:
            lattice = lattice_parameters(torch.from_numpy(placed.cell)).numpy()
            return Alignment(True, np.mod(placed.fractional, 1), lattice, residual)
    order = np.argsort(target.numbers, kind="stable")
    wanted = np.argsort(np.argsort(template.numbers, kind="stable"), kind="stable")
    return Alignment(
        same=False,
        fractional=np.asarray(target.coordinates, dtype=np.float64)[order][wanted],
        lattice=np.asarray(target.lattice, dtype=np.float64),
        residual=float("nan"),
    )


def matches(target: Structure, template: Template, seconds: float = SECONDS) -> bool:
    """Whether pymatgen's StructureMatcher (stol 0.5, ltol 0.3, angle 10) takes the two for one."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    def crystal(lattice: Array, numbers: Array, fractional: Array) -> Crystal:
        cell = Lattice.from_parameters(*(float(value) for value in lattice))
        return Crystal(cell, np.asarray(numbers, dtype=int), np.asarray(fractional, dtype=float))

    matcher = StructureMatcher(
        stol=SITE_TOLERANCE, ltol=LENGTH_TOLERANCE, angle_tol=ANGLE_TOLERANCE
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements that lack a tabulated property
        here = crystal(target.lattice, target.numbers, target.coordinates)
        there = crystal(template.lattice, template.numbers, template.fractional)
        try:
            with _time_limit(seconds):
                return matcher.get_rms_dist(there, here) is not None
        except _TooSlow:
            return False


@cache
def _changes_of_cell() -> Array:
    """(C, 3, 3) integer matrices of -1, 0, 1 that turn cells into cells, right-handed ones."""
    matrices = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.float64).reshape(-1, 3, 3)
    return matrices[np.linalg.det(matrices).round() == 1]


def _best_placed(target: Structure, template: Template) -> _Placed | None:
    frame = lattice_matrix(torch.from_numpy(template.lattice)).numpy()
    cell = lattice_matrix(torch.from_numpy(target.lattice.astype(np.float64))).numpy()
    changes, strain = _similar_cells(cell, frame, template.lattice)
    if not len(changes):
        return None
    unit = (abs(np.linalg.det(frame)) / len(template.numbers)) ** (1 / 3)
    frame = frame / unit
    rare = slots(target.numbers)[0][-1]
    origins = np.flatnonzero(target.numbers == rare)
    anchor = np.flatnonzero(template.numbers == rare)[0]
    room = MOST_NUMBERS // (2 * len(origins) * len(target.numbers) ** 2)
    changes, strain = changes[: max(room, 4)], strain[: max(room, 4)]
    # The same cell, its vectors reversed, is the mirror image: it comes with the other sign.
    moved = target.coordinates @ np.linalg.inv(changes)
    moved = np.stack([moved, -moved], 1)[:, :, None]
    shift = template.fractional[anchor] - moved[..., 0, origins, :]
    moved = moved + shift[..., None, :]
    moved = moved.reshape(-1, len(target.numbers), 3)
    each = 2 * len(origins)
    strain = np.repeat(strain, each)
    other = template.numbers[:, None] != target.numbers[None]
    bound = _squares(template.fractional, moved, frame, other).min(-1).mean(-1) + strain
    best = np.argsort(bound, kind="stable")[:BEST]
    placed = [
        _assigned(moved[i], template, frame, other, strain[i], changes[i // each] @ cell)
        for i in best
    ]
    found = min(placed, key=lambda item: item.score)
    return found if found.distance <= SITE_TOLERANCE else None


def _similar_cells(cell: Array, frame: Array, parameters: Array) -> tuple[Array, Array]:
    """Changes (C, 3, 3) of a cell that come near the frame, the nearest first, and the strain."""
    changes = _changes_of_cell()
    scale = (abs(np.linalg.det(frame)) / abs(np.linalg.det(cell))) ** (1 / 3)
    found = lattice_parameters(torch.from_numpy(changes @ (cell * scale))).numpy()
    stretch = np.abs(np.log(found[:, :3] / parameters[:3]))
    bend = np.abs(found[:, 3:] - parameters[3:])
    near = (stretch < np.log1p(LENGTH_TOLERANCE)).all(-1) & (bend < ANGLE_TOLERANCE).all(-1)
    strain = np.square(stretch).mean(-1) + np.square(np.radians(bend)).mean(-1)
    chosen = np.flatnonzero(near)
    chosen = chosen[np.argsort(strain[chosen], kind="stable")][:MOST_CELLS]
    return changes[chosen], strain[chosen]


def _assigned(
    moved: Array, template: Template, frame: Array, other: Array, strain: float, cell: Array
) -> _Placed:
    """The target with its atoms in the order of the template's, without drift."""
    from scipy.optimize import linear_sum_assignment

    order = np.arange(len(moved))
    for _ in range(2):  # the shift may change who is nearest
        square = _squares(template.fractional, moved[None], frame, other)[0]
        order = linear_sum_assignment(square)[1]
        moved = moved - _wrapped(moved[order] - template.fractional).mean(0)
    fractional = moved[order]
    difference = _wrapped(fractional - template.fractional)
    fractional = fractional - difference.mean(0)
    distance = np.square((difference - difference.mean(0)) @ frame).sum(-1).mean()
    return _Placed(float(distance + strain), float(np.sqrt(distance)), fractional, cell)


def _squares(fractional: Array, moved: Array, frame: Array, other: Array) -> Array:
    """Squared distances (B, N, N) of template atoms from moved (B, N, 3); large if they differ."""
    difference = _wrapped(
        moved[:, None].astype(np.float32) - fractional[:, None].astype(np.float32)
    )
    square = np.square(difference @ frame.astype(np.float32)).sum(-1)
    return np.where(other, np.float32(1e6), square)


def _wrapped(difference: Array) -> Array:
    return difference - difference.round()


class _TooSlow(Exception):
    """The time is over."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after some time; no limit where signals cannot be had."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
