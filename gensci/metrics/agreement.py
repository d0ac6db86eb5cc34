"""Do two independent halves of a simulation agree? The criterion of the reference ensembles.

The ladders of a simulation start independently, so eight against eight are two simulations. Their
distance W between halves is compared with the floor F: what equally many independent frames of one
ensemble would show, by splitting the same frames at random. The excess ``sqrt(W^2 - F^2)`` is
what slow exchange between basins adds. Squares are averaged over several splits of the ladders,
because a single one passes or fails by luck; the first is lower half against upper half.

The limits, and why:

- Torsions: ``0.2 sqrt(links)`` radian, a link being one psi-phi pair between residues (one in a
  dipeptide, three in a tetrapeptide: 0.35). Two basins are about 2 rad apart and the squared
  distance is moved mass times squared length, so 0.2 rad is one hundredth of the population on the
  wrong side. The best published samplers are at 0.15-0.2 (dipeptides) and 0.57-0.75
  (tetrapeptides), floor included (Tan et al. 2025). Both halves together are nearer to the truth
  than this by a factor between 1.4 and 2.
- Energies: 0.25 kT in excess of the floor, all frames (published: 0.25-0.45, and 0.57-1.3).
- Basins: the share of each phi that is positive, and of each peptide bond that is cis, is known to
  0.02 (standard error over ladders). Before proline cis is real, and turns over slowest of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gensci.core.errors import UsageError
from gensci.metrics.ensembles import block_estimate
from gensci.metrics.wasserstein import energy_wasserstein, torus_wasserstein

Array = np.ndarray

TORUS_LIMIT = 0.2  # radian, for one psi-phi link
ENERGY_LIMIT = 0.25  # kT
BASIN_LIMIT = 0.02


@dataclass(frozen=True)
class HalfDistance:
    """Distance between halves of ladders and between random halves of the same frames.

    Attributes:
        first: lower ladders against upper ladders.
        between: root mean square over all splits of the ladders.
        floor: root mean square over random splits of the frames.
        floor_sd: standard deviation of one random split.
        limit: of the excess.
    """

    first: float
    between: float
    floor: float
    floor_sd: float
    limit: float

    @property
    def excess(self) -> float:
        """What is beyond the floor, in quadrature."""
        return math.sqrt(max(0.0, self.between**2 - self.floor**2))

    @property
    def agree(self) -> bool:
        """Whether the excess is within its limit."""
        return self.excess <= self.limit


@dataclass(frozen=True)
class Agreement:
    """Two halves of a simulation compared.

    Attributes:
        torus: T-W2, radian.
        energy: E-W2, kT.
        basins: share of frames and its standard error: ``phi2 > 0``, ``omega1 cis``, ...
        points: torsions in each half.
    """

    torus: HalfDistance
    energy: HalfDistance
    basins: dict[str, tuple[float, float]] = field(default_factory=dict)
    points: int = 0

    @property
    def complaints(self) -> list[str]:
        """Every limit that is passed, in words; empty where the halves agree."""
        found = [
            f"{name} excess {d.excess:.2f} > {d.limit:.2f} {unit}"
            for name, d, unit in (("T-W2", self.torus, "rad"), ("E-W2", self.energy, "kT"))
            if not d.agree
        ]
        return found + [
            f"P({name}) = {share:.3f} +- {error:.3f}"
            for name, (share, error) in self.basins.items()
            if error > BASIN_LIMIT
        ]


def half_agreement(
    torsions: dict[str, Array],
    energy: Array,
    ladder: Array,
    *,
    points: int = 3000,
    splits: int = 5,
    seed: int = 0,
) -> Agreement:
    """Compare independent halves of a simulation; see the module for the criterion.

    Args:
        torsions: by name, each (frames,) radian. T-W2 is that of all phi and psi.
        energy: (frames,) kT.
        ladder: (frames,) number of the independent ladder of each frame, in order of time.
        points: torsions in each half, evenly spaced in time.
        splits: of the ladders, and as many of the frames at random.
        seed: of the splits.

    Raises:
        UsageError: fewer than two or an odd number of ladders.
    """
    rows = ladder_rows(ladder)
    backbone = np.column_stack([torsions[key] for key in torsions if key[:3] in ("phi", "psi")])
    energies = np.asarray(energy, dtype=np.float64)
    thinned = even_rows(rows, 2 * points // len(rows))
    whole = even_rows(rows, min(map(len, rows)))
    rng = np.random.default_rng(seed)
    halves = ladder_splits(len(rows), splits, rng)
    limit = TORUS_LIMIT * math.sqrt(backbone.shape[1] / 2)
    return Agreement(
        _distances(backbone, thinned, halves, torus_wasserstein, limit, rng),
        _distances(energies, whole, halves, energy_wasserstein, ENERGY_LIMIT, rng),
        _basins(torsions, ladder),
        thinned.size // 2,
    )


def ladder_rows(ladder: Array) -> list[Array]:
    """Row numbers of the frames of each ladder.

    Raises:
        UsageError: fewer than two or an odd number of ladders.
    """
    numbers = np.unique(ladder)
    if len(numbers) < 2 or len(numbers) % 2:
        raise UsageError(f"{len(numbers)} ladders have no two halves", "simulate an even number")
    return [np.flatnonzero(ladder == number) for number in numbers]


def even_rows(rows: list[Array], most: int) -> Array:
    """At most ``most`` rows of each ladder, equally many and evenly spaced: (ladders, count)."""
    count = max(1, min(most, *map(len, rows)))
    middle = (np.arange(count) + 0.5) / count
    return np.stack([own[(middle * len(own)).astype(np.int64)] for own in rows])


def ladder_splits(ladders: int, splits: int, rng: np.random.Generator) -> list[Array]:
    """Orders of the ladders whose first and second half are compared; the first as they stand."""
    return [np.arange(ladders), *(rng.permutation(ladders) for _ in range(splits - 1))]


def _distances(
    values: Array,
    rows: Array,
    halves: list[Array],
    distance: Callable[[Array, Array], float],
    limit: float,
    rng: np.random.Generator,
) -> HalfDistance:
    """Distances of ``values`` at ``rows`` (ladders, count) over all splits."""

    def of(order: Array) -> float:
        a, b = order[: len(order) // 2], order[len(order) // 2 :]
        return distance(values[a], values[b])

    between = np.array([of(rows[order].reshape(-1)) for order in halves])
    floor = np.array([of(rng.permutation(rows.reshape(-1))) for _ in halves])
    spread = float(floor.std(ddof=1)) if len(floor) > 1 else 0.0
    return HalfDistance(float(between[0]), _rms(between), _rms(floor), spread, limit)


def _rms(values: Array) -> float:
    return math.sqrt(float((values**2).mean()))


def _basins(torsions: dict[str, Array], ladder: Array) -> dict[str, tuple[float, float]]:
    inside = {f"{name} > 0": torsions[name] > 0 for name in torsions if name.startswith("phi")}
    inside |= {
        f"{name} cis": np.cos(torsions[name]) > 0 for name in torsions if name.startswith("omega")
    }
    if not inside:
        return {}
    estimate = block_estimate(np.column_stack(list(inside.values())).astype(np.float64), ladder)
    pairs = zip(estimate.mean.tolist(), estimate.error.tolist(), strict=True)
    return dict(zip(inside, pairs, strict=True))
