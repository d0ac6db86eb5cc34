"""The slowest modes of a reference ensemble, to hold samples against in a plane (TICA-W2).

Time-lagged independent component analysis finds the combinations of features that forget their
past most slowly. Here the features are sines and cosines of phi and psi, and time runs along the
frames of the coldest temperature of each replica-exchange ladder. Exchanges move conformations in
and out of that temperature, so the lag is no physical time and these are the slow modes of the
replica exchange: what its ladders mix last. The TICA-W2 of the literature is fitted on plain
dynamics with distances and omega among its features; numbers in these modes must not be compared
with it.

Distances are left out because an ensemble has positions of every fifth frame only, too few for
hundreds of features: half of the ladders then finds other modes than the other half. Omega is left
out because it hardly moves, and one cis bond would lie a hundred standard deviations away.
``agreement_of_halves`` tells how well the modes of an ensemble are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gensci.core.errors import GensciError, UsageError

Array = np.ndarray

_KINDS = ("phi", "psi")


@dataclass(frozen=True, eq=False)
class SlowModes:
    """A linear map from torsions to the slowest modes; each has unit variance in the reference.

    Attributes:
        names: torsions that it takes, in this order.
        centre: (2 torsions,) mean of the features.
        map: (2 torsions, modes).
        correlation: (modes,) of each mode with itself one frame later.
    """

    names: tuple[str, ...]
    centre: Array
    map: Array
    correlation: Array

    def __call__(self, torsions: Mapping[str, Array]) -> Array:
        """Modes (n, modes) of torsions by name, each (n,) radian.

        Raises:
            UsageError: a torsion is missing.
        """
        return (_features(torsions, self.names) - self.centre) @ self.map


def fit_slow_modes(torsions: Mapping[str, Array], ladder: Array, modes: int = 2) -> SlowModes:
    """Fit the slowest modes of ladders, with a lag of one frame.

    Ref: Perez-Hernandez et al. 2013, doi:10.1063/1.4811489.

    Args:
        torsions: by name, each (frames,) radian; phi and psi are used.
        ladder: (frames,) number of the ladder; the frames of each stand in order of time.
        modes: how many.

    Raises:
        UsageError: no torsion of the backbone, or ladders of a single frame.
        GensciError: deeptime is not installed.
    """
    try:
        from deeptime.decomposition import TICA
    except ImportError as error:
        raise GensciError(
            "slow modes need deeptime, which is not installed", "pip install 'gensci[evaluation]'"
        ) from error
    names = tuple(name for name in torsions if name.startswith(_KINDS))
    if not names:
        raise UsageError("there is no torsion of the backbone", "give phi and psi by name")
    features = _features(torsions, names)
    parts = [features[ladder == number] for number in np.unique(ladder)]
    if min(map(len, parts)) < 2:
        raise UsageError("a ladder has a single frame", "give at least two of each")
    model = TICA(lagtime=1, dim=modes, scaling=None).fit(parts).fetch_model()
    centre = model.mean_0
    found = model.transform(np.vstack([centre, centre + np.eye(len(centre))]))
    return SlowModes(names, centre, found[1:] - found[0], model.singular_values[:modes])


def agreement_of_halves(torsions: Mapping[str, Array], ladder: Array, modes: int = 2) -> Array:
    """Canonical correlations (modes,) of the modes of every second ladder with those of the others.

    One where both span the same plane, falling order; near zero where a direction is noise.

    Args:
        torsions, ladder, modes: as in ``fit_slow_modes``.
    """
    rank = np.unique(ladder, return_inverse=True)[1]
    planes = []
    for half in (0, 1):
        own = rank % 2 == half
        fitted = fit_slow_modes({k: v[own] for k, v in torsions.items()}, ladder[own], modes)
        values = fitted(torsions)
        planes.append(np.linalg.qr(values - values.mean(0))[0])
    return np.linalg.svd(planes[0].T @ planes[1])[1]


def _features(torsions: Mapping[str, Array], names: tuple[str, ...]) -> Array:
    missing = [name for name in names if name not in torsions]
    if missing:
        raise UsageError(f"there is no torsion {missing[0]!r}", f"give {', '.join(names)}")
    angles = np.column_stack([torsions[name] for name in names]).astype(np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
