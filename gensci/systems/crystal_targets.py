"""Physics as a judge of crystals: distances, charges, and energies of CHGNet.

A batch of crystals is ``{"numbers": (n, N) int64 with 0 where there is no atom, "fractional":
(n, N, 3), "lattice": (n, 3, 3) rows in Angstrom}``. Whatever cannot be judged has zero density.

Nothing here bounds a cell, and the measure is that of the model, so these densities weigh draws and
steer them; they are not ``walkable``: a Markov chain would leave for cells without end. Those of
distances and charges are ``relative``: factors on the law of the model, not laws of their own.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gensci.core.elements import SYMBOLS
from gensci.core.errors import UsageError
from gensci.core.periodic import minimum_distances
from gensci.core.protocols import Tensors

CUTOFF = 0.5  # Angstrom
MIN_VOLUME = 0.1  # cubic Angstrom


class DistanceTarget:
    """Crystals without atoms on top of each other; one on all others, not normalised.

    Zero density where two atoms, or an atom and an image of its own, are nearer than ``cutoff``, or
    the cell holds less than 0.1 cubic Angstrom. Pairs nearer than ``scale`` times the sum of their
    covalent radii may cost ``stiffness * (1 - distance / limit)^2`` nats each.

    Args:
        cutoff: Angstrom.
        stiffness: nats; 0 for the hard rule alone.
        scale: of the covalent radii.

    Reference: Xie et al. (2022), CDVAE, arXiv:2110.06197, for the rule; it leaves out the images of
    an atom itself. Radii: Cordero et al. (2008), doi:10.1039/b801115j.
    """

    walkable, relative = False, True

    def __init__(self, cutoff: float = CUTOFF, stiffness: float = 0.0, scale: float = 0.8) -> None:
        for name, value in (("cutoff", cutoff), ("stiffness", stiffness), ("scale", scale)):
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name}={value} is not usable", "give a number from 0")
        self.cutoff, self.stiffness, self.scale = cutoff, stiffness, scale

    def log_prob(self, x: Tensors) -> Tensor:
        """Return (n,) nats, -inf below the cutoff."""
        return self._log_prob(x, x["numbers"] > 0)

    def log_twist(self, x: Tensors, step: int) -> Tensor:
        """Return what :meth:`log_prob` says of the atoms that have a place so far.

        Args:
            x: with ``placed`` (n,), how many of the atoms, the first, have coordinates; without a
                lattice nothing can be wrong yet.
            step: not looked at.
        """
        if "lattice" not in x:
            return torch.zeros(len(x["numbers"]), device=x["numbers"].device)
        numbers = x["numbers"]
        present = numbers > 0
        if "placed" in x:
            order = torch.arange(numbers.shape[1], device=numbers.device)
            present = present & (order < x["placed"].to(numbers.device)[:, None])
        return self._log_prob(x, present)

    def _log_prob(self, x: Tensors, present: Tensor) -> Tensor:
        fractional, lattice = x["fractional"].double(), x["lattice"].double()
        sound = usable_cells(lattice)
        placed = torch.where(present[..., None], fractional, 0.0)
        sound = sound & placed.isfinite().all(-1).all(-1)
        eye = torch.eye(3, dtype=lattice.dtype, device=lattice.device)
        lattice = torch.where(sound[:, None, None], lattice, eye)
        distances = minimum_distances(torch.where(sound[:, None, None], placed, 0.0), lattice)
        pairs = present[:, :, None] & present[:, None]
        nearest = torch.where(pairs, distances, torch.inf).flatten(1).amin(-1)
        soft = self._repulsion(x["numbers"], distances, pairs)
        allowed = sound & (nearest >= self.cutoff)
        return torch.where(allowed, -soft, -torch.inf).to(x["fractional"].dtype)

    def _repulsion(self, numbers: Tensor, distances: Tensor, pairs: Tensor) -> Tensor:
        if not self.stiffness:
            return distances.new_zeros(len(distances))
        radii = covalent_radii().to(distances)[numbers.clamp(0, len(SYMBOLS))]
        limit = self.scale * (radii[:, :, None] + radii[:, None])
        overlap = (1 - distances / limit).clamp_min(0).square()
        return self.stiffness * torch.where(pairs, overlap, 0.0).triu().sum((-2, -1))


class ChargeNeutralTarget:
    """Compositions that can be neutral: one there, zero density elsewhere.

    Some choice of the known oxidation states must add up to zero with every anion more
    electronegative than every cation; pure elements and alloys of metals always count, and an
    element without an electronegativity breaks no rule. The states are the list that smact has used
    since 2014, which published validities rest on.

    Reference: Davies et al. (2019), smact, doi:10.21105/joss.01361; exceptions as in Xie et al.
    (2022), arXiv:2110.06197.
    """

    walkable, relative = False, True

    def log_prob(self, x: Tensors) -> Tensor:
        """Return (n,) nats: 0 or -inf, by ``numbers`` alone."""
        neutral = [is_neutral(_composition(row)) for row in x["numbers"].tolist()]
        allowed = torch.tensor(neutral, dtype=torch.bool, device=x["numbers"].device)
        return torch.where(allowed, 0.0, -torch.inf)

    def log_twist(self, x: Tensors, step: int) -> Tensor:
        """Return the same: all elements are chosen before any is placed."""
        return self.log_prob(x)


class SumTarget:
    """The product of several densities.

    Args:
        targets: at least one; a cheap one first spares the others nothing, each sees every row.
    """

    walkable = False

    def __init__(self, targets: Sequence[Any]) -> None:
        self.targets = tuple(targets)
        self.relative = all(getattr(target, "relative", False) for target in self.targets)

    def log_prob(self, x: Tensors) -> Tensor:
        """Return the (n,) sum of the log-densities."""
        return _sum([target.log_prob(x) for target in self.targets])

    def log_twist(self, x: Tensors, step: int) -> Tensor:
        """Return the (n,) sum over those that can judge unfinished crystals; zeros for none."""
        able = [target for target in self.targets if hasattr(target, "log_twist")]
        if not able:
            return torch.zeros(len(x["numbers"]), device=x["numbers"].device)
        return _sum([target.log_twist(x, step) for target in able])


def usable_cells(lattice: Tensor) -> Tensor:
    """(n,) bool: lattices (n, 3, 3) that are finite and hold more than 0.1 cubic Angstrom."""
    finite = lattice.isfinite().all(-1).all(-1)
    volume = torch.linalg.det(torch.where(finite[:, None, None], lattice.double(), 0.0)).abs()
    return finite & (volume > MIN_VOLUME) & volume.isfinite()


@functools.lru_cache(maxsize=1)
def covalent_radii() -> Tensor:
    """(119,) float64 Angstrom, by atomic number; entry 0 is not used."""
    from ase.data import covalent_radii as radii

    return torch.from_numpy(radii[: len(SYMBOLS) + 1]).double()


@functools.lru_cache(maxsize=100_000)
def is_neutral(composition: tuple[tuple[int, int], ...]) -> bool:
    """Whether a composition obeys the rule of ``ChargeNeutralTarget``.

    Args:
        composition: (atomic number, count), sorted; unknown elements make it False.
    """
    if not composition or not all(1 <= number <= len(SYMBOLS) for number, _ in composition):
        return False
    import smact
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    counts = {SYMBOLS[number - 1]: count for number, count in composition}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without data are simply not neutral
        try:
            known = all(smact.Element(symbol).pauling_eneg is not None for symbol in counts)
            return bool(
                smact_validity(
                    Composition(counts), use_pauling_test=known, oxidation_states_set="smact14"
                )
            )
        except (NameError, KeyError, ValueError, TypeError):  # smact knows 103 elements
            return False


def _composition(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(Counter(number for number in numbers if number).items()))


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum in float64, where minus infinity wins over everything."""
    total = torch.stack([value.double() for value in values])
    return torch.where(total.isfinite().all(0), total.sum(0), -torch.inf)
