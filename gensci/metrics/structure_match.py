"""The distance of two crystals as pymatgen's StructureMatcher defines it, several times faster.

The search is that of ``StructureMatcher.get_rms_dist`` (primitive cells, scaled to one volume):
every basis of the first lattice close to the second cell, every translation that brings an atom of
the rarest element onto the second's, then the best assignment of atoms and a last shift. Here all
bases and translations run through one array, and a translation is given up at the first atom
without a partner. Tests hold it against pymatgen.

Ref: Ong et al. 2013, 10.1016/j.commatsci.2012.10.028 (pymatgen).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from gensci.metrics.crystal_arrays import ReducedCrystal, cell_parameters, cell_vectors, cell_volume

Array = np.ndarray

# one of each two opposite neighbours of a cell
_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3))[14:], dtype=np.float64)
_FAR = 1e20
_ROWS = 400_000  # pairs of atoms in one array, which bounds the memory


@dataclass(frozen=True)
class Tolerances:
    """The three numbers of StructureMatcher.

    Attributes:
        stol: root mean square distance allowed, in units of (volume per atom)^(1/3).
        ltol: relative difference of cell lengths allowed.
        angle_tol: difference of cell angles allowed, degrees.
    """

    stol: float = 0.5
    ltol: float = 0.3
    angle_tol: float = 10.0


@dataclass(frozen=True)
class _Bases:
    """Bases of the first lattice that are close to the second cell.

    Attributes:
        fractional: (bases, atoms, 3) of the first crystal's atoms.
        matrix: (bases, 3, 3) of the mean of both cells.
        spacing: (bases, 3) reciprocal lengths of it, per Angstrom, without 2 pi.
        scale: (bases,) (atoms / volume)^(1/3).
    """

    fractional: Array
    matrix: Array
    spacing: Array
    scale: Array


def rms_distance(
    first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances
) -> float | None:
    """Root mean square distance of matched atoms, divided by (volume per atom)^(1/3).

    Args:
        first: mostly the prediction; its cell is brought to the other's.
        second: mostly the reference.
        tolerances: what still counts as a match.

    Returns:
        The least distance over all matches; None where nothing matches.
    """
    if not same_atoms(first, second):
        return None
    bases = _close_bases(first, second, tolerances)
    if bases is None:
        return None
    partners = _Partners.of(first.numbers, second.numbers)
    shifts = _surviving_shifts(bases, second.coordinates, partners, tolerances.stol)
    best = math.inf
    step = max(1, _ROWS // len(partners.ours))
    for first_row in range(0, len(shifts[0]), step):
        rows = tuple(part[first_row : first_row + step] for part in shifts)
        best = min(best, _best_assignment(bases, second.coordinates, partners, rows, tolerances))
    return best if best < tolerances.stol else None


def same_atoms(first: ReducedCrystal, second: ReducedCrystal) -> bool:
    """Whether both cells hold the same numbers of the same elements."""
    return len(first.numbers) == len(second.numbers) and bool(
        (np.sort(first.numbers) == np.sort(second.numbers)).all()
    )


def _close_bases(
    first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances
) -> _Bases | None:
    ratio = abs(np.linalg.det(second.matrix) / np.linalg.det(first.matrix)) ** (1 / 6)
    target = second.parameters.copy()
    target[:3] /= ratio
    matrix = first.matrix * ratio
    # The lengths of a Niggli cell are the least that any basis can have, so no basis of the first
    # lattice comes down to lengths of the second that are shorter than these.
    shortest = np.sort(first.parameters[:3]) * ratio
    if (shortest > np.sort(target[:3]) * (1 + tolerances.ltol) * (1 + 1e-6)).any():
        return None
    whole = _whole_bases(matrix, target, tolerances)
    if not len(whole):
        return None
    determinant = np.rint(np.linalg.det(whole))
    inverse = (
        np.rint(np.linalg.inv(whole) * determinant[:, None, None]) * determinant[:, None, None]
    )
    fractional = first.coordinates @ inverse
    mean = (cell_parameters(whole @ matrix) + target) / 2
    vectors = cell_vectors(mean)
    spacing = np.sqrt((np.linalg.inv(vectors) ** 2).sum(-2))
    scale = (len(first.numbers) / cell_volume(mean)) ** (1 / 3)
    return _Bases(fractional - np.floor(fractional), vectors, spacing, scale)


def _whole_bases(matrix: Array, target: Array, tolerances: Tolerances) -> Array:
    """Whole-number matrices of determinant +-1 that bring a lattice near target cell: (n, 3, 3)."""
    reach = target[:3].max() * (1 + tolerances.ltol)
    most = np.floor(reach * np.sqrt((np.linalg.inv(matrix) ** 2).sum(0)) + 1e-9).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), -1).reshape(
        -1, 3
    )
    vectors = grid @ matrix
    length = np.sqrt((vectors**2).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = vectors / length[:, None]
    wide = 1 + tolerances.ltol
    close = [np.flatnonzero((length < edge * wide) & (length > edge / wide)) for edge in target[:3]]
    a, b, c = close

    def fits(left: Array, right: Array, angle: float) -> Array:
        found = np.rad2deg(np.arccos((unit[left] @ unit[right].T).clip(-1, 1)))
        return np.abs(found - angle) <= tolerances.angle_tol

    alpha, beta, gamma = fits(b, c, target[3]), fits(a, c, target[4]), fits(a, b, target[5])
    i, j = np.nonzero(gamma)
    pair, k = np.nonzero(beta[i] & alpha[j])
    whole = np.stack([grid[a[i[pair]]], grid[b[j[pair]]], grid[c[k]]], -2)
    return whole[np.abs(_whole_determinant(whole)) == 1].astype(np.float64)


def _whole_determinant(m: Array) -> Array:
    (a, b, c), (d, e, f), (g, h, i) = (m[:, row].T for row in range(3))
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@dataclass(frozen=True)
class _Partners:
    """Which atoms may be matched: the pairs of one element.

    Attributes:
        ours: (pairs,) atoms of the second crystal, grouped.
        theirs: (pairs,) atoms of the first.
        anchor: the atom of the second crystal that has the fewest partners.
        order: the other atoms of the second, those with few partners first.
        choices: by atom of the second, its partners.
    """

    ours: Array
    theirs: Array
    anchor: int
    order: list[int]
    choices: list[Array]

    @classmethod
    def of(cls, first: Array, second: Array) -> _Partners:
        choices = [np.flatnonzero(first == number) for number in second]
        counts = np.array([len(choice) for choice in choices])
        anchor = int(counts.argmin())
        order = [int(i) for i in np.argsort(counts, kind="stable") if i != anchor]
        ours = np.repeat(np.arange(len(second)), counts)
        return cls(ours, np.concatenate(choices), anchor, order, choices)


def _surviving_shifts(
    bases: _Bases, second: Array, partners: _Partners, stol: float
) -> tuple[Array, Array]:
    """Bases (n,) and translations (n, 3) that leave no atom of the second without a partner."""
    start = partners.choices[partners.anchor]
    base = np.repeat(np.arange(len(bases.matrix)), len(start))
    shift = (bases.fractional[:, start] - second[partners.anchor]).reshape(-1, 3)
    reach = 2 * stol * bases.spacing / bases.scale[:, None]
    for atom in partners.order:
        if not len(base):
            break
        off = (second[atom] + shift)[:, None] - bases.fractional[base][:, partners.choices[atom]]
        near = (np.abs(off - np.round(off)) <= reach[base, None]).all(-1).any(-1)
        base, shift = base[near], shift[near]
    return base, shift


def _best_assignment(
    bases: _Bases,
    second: Array,
    partners: _Partners,
    rows: tuple[Array, Array],
    tolerances: Tolerances,
) -> float:
    """The least normalised distance over these bases and translations; infinite without any."""
    base, shift = rows
    used, inside = np.unique(base, return_inverse=True)
    short, inverse = _lll(bases.matrix[used])
    off = bases.fractional[base][:, partners.theirs] - second[partners.ours] - shift[:, None]
    off = off @ inverse[inside]
    off -= np.round(off)
    spacing = np.sqrt((np.linalg.inv(short) ** 2).sum(-2))
    reach = 2 * tolerances.stol * spacing / bases.scale[used][:, None]
    row, pair = np.nonzero((np.abs(off) <= reach[inside, None]).all(-1))
    vectors = _shortest(off[row, pair], short, inside[row])
    atoms = len(second)
    squared = np.full((len(base), atoms, atoms), _FAR)
    steps = np.zeros((len(base), atoms, atoms, 3))
    squared[row, partners.ours[pair], partners.theirs[pair]] = (vectors**2).sum(-1)
    steps[row, partners.ours[pair], partners.theirs[pair]] = vectors
    partner = _assign(squared)
    index = (np.arange(len(base))[:, None], np.arange(atoms)[None], partner)
    complete = (squared[index] < _FAR).all(-1)
    moved = steps[index]
    moved -= moved.mean(1, keepdims=True)
    rms = np.sqrt((moved**2).sum((-1, -2)) / atoms) * bases.scale[base]
    return float(rms[complete].min(initial=math.inf))


def _shortest(off: Array, matrix: Array, lattice: Array) -> Array:
    """Shortest periodic images, Cartesian (n, 3), of wrapped fractional steps (n, 3).

    Args:
        off: steps in the reduced bases.
        matrix: (bases, 3, 3) reduced bases.
        lattice: (n,) the basis of each step.
    """
    images = _IMAGES @ matrix
    squared = (images**2).sum(-1)
    vectors = (off[:, None] @ matrix[lattice])[:, 0]
    # A step shorter than half of the shortest lattice vector has no shorter image.
    reach = squared.min(-1) / 4
    open_ = np.flatnonzero((vectors**2).sum(-1) > reach[lattice])
    which = lattice[open_]
    along = (images[which] @ vectors[open_, :, None])[..., 0]
    gain = 2 * np.abs(along) - squared[which]  # of going by the image or by its opposite
    best = gain.argmax(-1)
    rows = np.arange(len(open_))
    step = np.sign(along[rows, best]) * (gain[rows, best] > 0)
    vectors[open_] -= step[:, None] * images[which, best]
    return vectors


def _assign(squared: Array) -> Array:
    """The cheapest one-to-one partners (n, atoms) under costs (n, atoms, atoms)."""
    from scipy.optimize import linear_sum_assignment

    partner = squared.argmin(-1)
    # Where every atom can have its nearest partner, that is the cheapest assignment.
    ordered = np.sort(partner, -1)
    clash = (ordered[:, 1:] == ordered[:, :-1]).any(-1)
    for row in np.flatnonzero(clash):
        partner[row] = linear_sum_assignment(squared[row])[1]
    return partner


def _lll(matrix: Array) -> tuple[Array, Array]:
    """LLL-reduced bases (n, 3, 3) and what takes fractional coordinates to them (n, 3, 3).

    Most cells here are reduced already, which is checked for all at once.

    Ref: Lenstra, Lenstra, Lovasz 1982, 10.1007/BF01457454.
    """
    a, b, c = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    aa = (a * a).sum(-1)
    ab, ac = (a * b).sum(-1) / aa, (a * c).sum(-1) / aa
    b_rest = b - ab[:, None] * a
    bb = (b_rest * b_rest).sum(-1)
    bc = (b_rest * c).sum(-1) / bb
    c_rest = c - ac[:, None] * a - bc[:, None] * b_rest
    cc = (c_rest * c_rest).sum(-1)
    half = 0.5 + 1e-12
    size = (np.abs(ab) <= half) & (np.abs(ac) <= half) & (np.abs(bc) <= half)
    swap = (bb >= (0.75 - ab**2) * aa) & (cc >= (0.75 - bc**2) * bb)
    short, inverse = matrix.copy(), np.tile(np.eye(3), (len(matrix), 1, 1))
    for row in np.flatnonzero(~(size & swap)):
        from pymatgen.core import Lattice

        lattice = Lattice(matrix[row])
        short[row], inverse[row] = lattice.lll_matrix, lattice.lll_inverse
    return short, inverse
