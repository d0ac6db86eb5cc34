"""Measures of generated crystals that have no single right answer: valid, unique, novel, likely.

Ref: Xie et al. 2022, arXiv:2110.06197 (validity, Wasserstein distances); Zeni et al. 2025,
10.1038/s41586-025-08628-5 (uniqueness and novelty by StructureMatcher).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensci.core.errors import UsageError
from gensci.core.worker_pool import timed_map
from gensci.metrics.crystal_arrays import (
    Crystal,
    CrystalLike,
    composition_key,
    densities,
    to_pymatgen,
)
from gensci.metrics.crystal_validity import Validity, crystal_validity
from gensci.metrics.match_protocol import STRICT, Protocol
from gensci.metrics.match_worker import Bank

Array = np.ndarray

_BLOCK = 64  # comparisons under one time limit
_INVALID = Validity(structural=False, compositional=False)


@dataclass(frozen=True)
class Share:
    """A share of generated structures.

    Attributes:
        rows: (n,) booleans, True where the structure counts.
        undecided: structures of which a comparison took too long; they do not count.
    """

    rows: Array
    undecided: int = 0

    @property
    def value(self) -> float:
        """0 to 1, NaN of nothing."""
        return float(self.rows.mean()) if len(self.rows) else float("nan")


def validity(
    crystals: Sequence[CrystalLike], *, time_limit: float = 20.0, jobs: int | None = None
) -> list[Validity]:
    """Structural and compositional validity of every crystal; one that takes too long is invalid.

    Args:
        crystals: n of them.
        time_limit: wall-clock seconds for each.
        jobs: worker processes.
    """
    plain = [Crystal.of(crystal) for crystal in crystals]
    outcomes = timed_map(crystal_validity, plain, time_limit=time_limit, jobs=jobs)
    return [outcome.value or _INVALID for outcome in outcomes]


def uniqueness(
    crystals: Sequence[CrystalLike], protocol: Protocol = STRICT, *, jobs: int | None = None
) -> Share:
    """Which crystals match none before them.

    Args:
        crystals: n of them; those that are no cell at all do not count.
        protocol: the tolerances; those of pymatgen by default.
        jobs: worker processes.
    """
    earlier: dict[tuple, list[int]] = defaultdict(list)
    wanted: dict[int, tuple[int, ...]] = {}
    for index, crystal in enumerate(map(Crystal.of, crystals)):
        if crystal.constructible:
            group = earlier[composition_key(crystal.numbers)]
            wanted[index] = tuple(group)
            group.append(index)
    return _without_match(list(crystals), wanted, len(crystals), protocol, jobs)


def novelty(
    crystals: Sequence[CrystalLike],
    known: Sequence[CrystalLike],
    protocol: Protocol = STRICT,
    *,
    jobs: int | None = None,
) -> Share:
    """Which crystals match none of the known ones, such as those of the training set.

    Args:
        crystals: n of them; those that are no cell at all do not count.
        known: only those with the composition of a generated one are compared.
        protocol: the tolerances; those of pymatgen by default.
        jobs: worker processes.
    """
    keys = [composition_key(crystal.numbers) for crystal in crystals]
    relevant: dict[tuple, list[int]] = {key: [] for key in keys}
    listed = list(crystals)
    for other in known:
        key = composition_key(other.numbers)
        if key in relevant:
            relevant[key].append(len(listed))
            listed.append(other)
    wanted = {
        index: tuple(relevant[keys[index]])
        for index, crystal in enumerate(crystals)
        if Crystal.of(crystal).constructible
    }
    return _without_match(listed, wanted, len(crystals), protocol, jobs)


def _without_match(
    listed: list[CrystalLike],
    wanted: dict[int, tuple[int, ...]],
    count: int,
    protocol: Protocol,
    jobs: int | None,
) -> Share:
    """Which of the first ``count`` crystals match none of the others named for them."""
    blocks = [
        (index, others[start : start + _BLOCK])
        for index, others in wanted.items()
        for start in range(0, len(others), _BLOCK)
    ]
    bank = Bank.of(listed, protocol)
    outcomes = timed_map(bank.first_match, blocks, time_limit=protocol.time_limit, jobs=jobs)
    rows = np.zeros(count, dtype=bool)
    rows[list(wanted)] = True
    late = set()
    for (index, _), outcome in zip(blocks, outcomes, strict=True):
        if outcome.status != "done":
            late.add(index)
        if outcome.status != "done" or outcome.value is not None:
            rows[index] = False
    return Share(rows, len(late))


def wasserstein(generated: Array, reference: Array) -> float:
    """The distance W1 of two samples of one property, in its unit.

    Args:
        generated: (n,) finite.
        reference: (m,) finite.

    Raises:
        UsageError: a sample is empty or not finite.
    """
    from scipy.stats import wasserstein_distance

    for name, values in (("generated", generated), ("reference", reference)):
        if not len(values) or not np.isfinite(values).all():
            raise UsageError(f"{name} has no values, or some are not finite", "leave those out")
    return float(wasserstein_distance(generated, reference))


def property_distances(
    generated: Sequence[CrystalLike],
    reference: Sequence[CrystalLike],
    energies: tuple[Array, Array] | None = None,
) -> dict[str, float]:
    """Wasserstein distances W1 between generated and reference crystals.

    The published energies come from a network trained for each set, those here from CHGNet, so the
    distance of energies compares with none that is published.

    Args:
        generated: crystals that are cells (``Crystal.constructible``).
        reference: likewise.
        energies: eV per atom of both, where they were computed.

    Returns:
        ``density_g_per_cm3``, ``num_elements`` and, with energies, ``energy_ev_per_atom``.
    """
    both = (generated, reference)
    found = {
        "density_g_per_cm3": wasserstein(*(densities(crystals) for crystals in both)),
        "num_elements": wasserstein(*(num_elements(crystals) for crystals in both)),
    }
    if energies is not None:
        found["energy_ev_per_atom"] = wasserstein(*energies)
    return found


def num_elements(crystals: Sequence[CrystalLike]) -> Array:
    """Different elements in each crystal, (n,)."""
    return np.array([len(np.unique(crystal.numbers)) for crystal in crystals], dtype=np.float64)


def chgnet_energies(
    crystals: Sequence[CrystalLike], batch_size: int = 32, model: Any = None
) -> Array:
    """Energies of CHGNet in eV per atom, (n,), NaN where it makes no graph.

    Args:
        crystals: n of them.
        batch_size: crystals in one pass of the network.
        model: a loaded ``chgnet.model.CHGNet``; the one that its package ships where None.

    Ref: Deng et al. 2023, 10.1038/s42256-023-00716-3.
    """
    from chgnet.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on how chgnet is written
        network = model or CHGNet.load(verbose=False, use_device="cpu")
        return _energies(network, crystals, batch_size)


def _energies(network: Any, crystals: Sequence[CrystalLike], batch_size: int) -> Array:
    energies = np.full(len(crystals), np.nan)
    graphs, rows = [], []
    for row, crystal in enumerate(crystals):
        try:
            graphs.append(network.graph_converter(to_pymatgen(crystal)))
        except (ValueError, RuntimeError, ArithmeticError):
            continue  # an atom without neighbours has no graph
        rows.append(row)
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        found = network.predict_graph(graphs[part], task="e", batch_size=batch_size)
        energies[rows[part]] = [float(one["e"]) for one in found]
    return energies
