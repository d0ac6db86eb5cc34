"""Coverage of a set of crystals in the space of fingerprints: COV-R and COV-P of CDVAE.

The fingerprints are the published ones: CrystalNN order parameters averaged over the sites, and the
magpie statistics of the composition, standardised with the published constants. They come from
matminer, an optional dependency.

Ref: Xie et al. 2022, arXiv:2110.06197; Zimmermann, Jain 2020, 10.1039/C9RA07755C (fingerprint);
Ward et al. 2016, 10.1038/npjcompumats.2016.28 (magpie).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensci.core.errors import GensciError, UsageError
from gensci.core.worker_pool import timed_map
from gensci.metrics.composition_scale import MAGPIE_MEAN, MAGPIE_SPREAD
from gensci.metrics.crystal_arrays import Crystal, CrystalLike, to_pymatgen

Array = np.ndarray

CUTOFFS = {"mp-20": (0.4, 10.0), "carbon-24": (0.2, 4.0), "perov-5": (0.2, 4.0)}
"""Published cutoffs by set: of the structural and of the compositional fingerprint."""
CUTOFFS["mpts-52"] = CUTOFFS["mp-20"]


@dataclass(frozen=True)
class Fingerprint:
    """Both fingerprints of a crystal.

    Attributes:
        structure: (61,) mean of the order parameters of the sites.
        composition: (132,) standardised magpie statistics.
    """

    structure: Array
    composition: Array


@dataclass(frozen=True)
class Coverage:
    """Coverage and mean distances to the nearest neighbour.

    Attributes:
        recall: share of the reference with a generated crystal near in both fingerprints.
        precision: share of all generated crystals with a reference near in both.
        structure_recall_distance: mean distance of a reference to the nearest generated (AMSD-R).
        structure_precision_distance: mean distance of a generated to the nearest reference.
        composition_recall_distance: likewise of the compositions (AMCD-R).
        composition_precision_distance: likewise.
        cutoffs: of structure and composition.
        without_fingerprint: generated and reference crystals that have none (too late, or no
            neighbours); generated ones count as not covered, reference ones are left out.
    """

    recall: float
    precision: float
    structure_recall_distance: float
    structure_precision_distance: float
    composition_recall_distance: float
    composition_precision_distance: float
    cutoffs: tuple[float, float]
    without_fingerprint: tuple[int, int]


def coverage(
    generated: Sequence[CrystalLike],
    reference: Sequence[CrystalLike],
    cutoffs: tuple[float, float],
    *,
    time_limit: float = 60.0,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Coverage:
    """COV-R and COV-P.

    Args:
        generated: n crystals; the published tables draw 10,000 and give 1,000 to the other
            measures.
        reference: m crystals of the test set.
        cutoffs: such as ``CUTOFFS["mp-20"]``.
        time_limit: wall-clock seconds for the fingerprint of one crystal.
        jobs: worker processes.
        progress: told how many of how many fingerprints are ready.

    Raises:
        UsageError: one of both sets is empty.
        GensciError: matminer is not installed, or no crystal has a fingerprint.
    """
    if not len(generated) or not len(reference):
        raise UsageError("coverage of nothing", "give at least one crystal on both sides")
    settings = {"time_limit": time_limit, "jobs": jobs, "progress": progress}
    found = fingerprints([*generated, *reference], **settings)
    left, right = found[: len(generated)], found[len(generated) :]
    return compare(left, right, cutoffs)


def compare(
    generated: Sequence[Fingerprint | None],
    reference: Sequence[Fingerprint | None],
    cutoffs: tuple[float, float],
) -> Coverage:
    """Coverage of fingerprints; None stands for a crystal without one.

    Raises:
        GensciError: no crystal has a fingerprint on one of both sides.
    """
    left, right = ([f for f in side if f is not None] for side in (generated, reference))
    if not left or not right:
        raise GensciError("no crystal has a fingerprint", "check the structures, or give more time")
    structure = _distances(left, right, "structure")
    composition = _distances(left, right, "composition")
    near_reference = (structure.min(0) <= cutoffs[0]) & (composition.min(0) <= cutoffs[1])
    near_generated = (structure.min(1) <= cutoffs[0]) & (composition.min(1) <= cutoffs[1])
    return Coverage(
        recall=float(near_reference.mean()),
        precision=float(near_generated.sum() / len(generated)),
        structure_recall_distance=float(structure.min(0).mean()),
        structure_precision_distance=float(structure.min(1).mean()),
        composition_recall_distance=float(composition.min(0).mean()),
        composition_precision_distance=float(composition.min(1).mean()),
        cutoffs=cutoffs,
        without_fingerprint=(len(generated) - len(left), len(reference) - len(right)),
    )


def _distances(left: list[Fingerprint], right: list[Fingerprint], name: str) -> Array:
    from scipy.spatial.distance import cdist

    return cdist(*(np.stack([getattr(f, name) for f in side]) for side in (left, right)))


def fingerprints(
    crystals: Sequence[CrystalLike],
    *,
    time_limit: float = 60.0,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Fingerprint | None]:
    """Fingerprints of crystals in parallel, None where one takes too long or has no neighbours.

    Raises:
        GensciError: matminer is not installed.
    """
    require_matminer()
    plain = [Crystal.of(crystal) for crystal in crystals]
    outcomes = timed_map(fingerprint, plain, time_limit=time_limit, jobs=jobs, progress=progress)
    return [outcome.value for outcome in outcomes]


def require_matminer() -> None:
    """Raise ``GensciError`` where matminer cannot be imported."""
    import importlib.util

    if importlib.util.find_spec("matminer") is None:
        raise GensciError(
            "coverage needs matminer, which is not installed", "pip install 'gensci[evaluation]'"
        )


def fingerprint(crystal: CrystalLike) -> Fingerprint | None:
    """Both fingerprints of one crystal, None where it is no cell or a site has no neighbours."""
    if not Crystal.of(crystal).constructible:
        return None
    structure = to_pymatgen(crystal)
    sites, magpie = _featurizers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rows = [sites.featurize(structure, index) for index in range(len(structure))]
        except (ValueError, RuntimeError, IndexError, KeyError, ArithmeticError):
            return None
        values = np.asarray(magpie.featurize(structure.composition), dtype=np.float64)
    scaled = (values - np.array(MAGPIE_MEAN)) / np.array(MAGPIE_SPREAD)
    return Fingerprint(np.mean(rows, axis=0), np.nan_to_num(scaled, nan=0.0))


@functools.lru_cache(maxsize=1)
def _featurizers() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition.composite import ElementProperty
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        return CrystalNNFingerprint.from_preset("ops"), ElementProperty.from_preset("magpie")
