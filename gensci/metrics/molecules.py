"""Measures of generated molecules: stability of atoms and molecules, validity, uniqueness, novelty.

Bonds are read from distances alone, as EDM does it, so that every generator is judged alike.

Ref: Hoogeboom et al. 2022, arXiv:2203.17003.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensci.core.errors import UsageError
from gensci.core.worker_pool import timed_map
from gensci.metrics.bond_tables import allowed_valences, bond_limits
from gensci.metrics.crystals import wasserstein

Array = np.ndarray

_PM = 1000.0  # pm in a nm
_PAIRS = 1_000_000  # pairs of atoms in one array


@dataclass(frozen=True)
class Stability:
    """Which atoms have a valence that is allowed.

    Attributes:
        atoms: (n, atoms) booleans, False at padding.
        present: (n, atoms) booleans, False at padding.
        molecules: (n,) booleans: every atom is stable.
    """

    atoms: Array
    present: Array
    molecules: Array

    @property
    def atom_share(self) -> float:
        """Stable atoms among all atoms, 0 to 1."""
        return float(self.atoms.sum() / max(1, self.present.sum()))

    @property
    def molecule_share(self) -> float:
        """Stable molecules among all molecules, 0 to 1."""
        return float(self.molecules.mean()) if len(self.molecules) else float("nan")


def bond_orders(numbers: Array, positions: Array) -> Array:
    """Orders 0 to 3 of the bonds between all atoms, from their distances.

    Args:
        numbers: (n, atoms) atomic numbers, 0 at padding.
        positions: (n, atoms, 3) nm.

    Returns:
        (n, atoms, atoms) int8, symmetric, zero on the diagonal.

    Raises:
        UsageError: the shapes do not belong together.
    """
    if positions.shape != (*numbers.shape, 3):
        raise UsageError(
            f"positions have shape {positions.shape}, numbers {numbers.shape}",
            "give (n, atoms, 3) and (n, atoms)",
        )
    n, atoms = numbers.shape
    orders = np.zeros((n, atoms, atoms), dtype=np.int8)
    step = max(1, _PAIRS // max(1, atoms * atoms))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        orders[rows] = _orders(np.asarray(numbers[rows], dtype=np.int64), positions[rows])
    return orders


def _orders(numbers: Array, positions: Array) -> Array:
    x = np.asarray(positions, dtype=np.float64) * _PM
    distance = np.sqrt(((x[:, :, None] - x[:, None]) ** 2).sum(-1))
    limits = bond_limits()
    # an order counts only within the limits of all lower ones, as in the published code
    below = [distance < table[numbers[:, :, None], numbers[:, None]] for table in limits]
    orders = below[0] * (1 + below[1] * (1 + below[2].astype(np.int8)))
    orders[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = 0
    return orders


def stability(numbers: Array, positions: Array) -> Stability:
    """Atoms whose bond orders sum to an allowed valence, and molecules with no other atoms.

    Args:
        numbers: (n, atoms) atomic numbers, 0 at padding.
        positions: (n, atoms, 3) nm; not finite ones make their atom unstable.
    """
    with np.errstate(invalid="ignore"):
        valence = bond_orders(numbers, positions).sum(-1, dtype=np.int64)
    table = allowed_valences()
    present = np.asarray(numbers) > 0
    fits = table[np.asarray(numbers), np.minimum(valence, table.shape[1] - 1)]
    atoms = fits & present
    return Stability(atoms, present, (atoms == present).all(1) & present.any(1))


@dataclass(frozen=True)
class ValidMolecules:
    """What RDKit makes of generated molecules.

    Attributes:
        smiles: (n,) canonical SMILES of the largest fragment, None where RDKit refuses.
        connected: (n,) booleans: one fragment only.
        timed_out: molecules that took too long; they are not valid.
    """

    smiles: tuple[str | None, ...]
    connected: Array
    timed_out: int = 0

    @property
    def valid(self) -> Array:
        """(n,) booleans."""
        return np.array([one is not None for one in self.smiles], dtype=bool)

    @property
    def validity(self) -> float:
        """Valid molecules among all."""
        return float(self.valid.mean()) if len(self.smiles) else float("nan")

    @property
    def uniqueness(self) -> float:
        """Different molecules among the valid ones."""
        found = [one for one in self.smiles if one is not None]
        return len(set(found)) / len(found) if found else float("nan")

    def novelty(self, known: Sequence[str]) -> float:
        """Share of the different valid molecules that are not among known ones.

        Args:
            known: SMILES of any writing; hydrogens need not be explicit.
        """
        mine = {plain for one in set(self.smiles) - {None} if (plain := _heavy_smiles(one))}
        theirs = {plain for one in known if (plain := _heavy_smiles(one))}
        return len(mine - theirs) / len(mine) if mine else float("nan")


def valid_molecules(
    numbers: Array, positions: Array, *, time_limit: float = 10.0, jobs: int | None = None
) -> ValidMolecules:
    """Which molecules RDKit can sanitise with the bonds of ``bond_orders``.

    Args:
        numbers: (n, atoms) atomic numbers, 0 at padding.
        positions: (n, atoms, 3) nm.
        time_limit: wall-clock seconds for one molecule.
        jobs: worker processes.
    """
    orders = bond_orders(numbers, positions)
    finite = np.isfinite(positions).all((1, 2)) & (np.asarray(numbers) > 0).any(1)
    items = [_bonded(numbers[row], orders[row]) for row in np.flatnonzero(finite)]
    outcomes = timed_map(_sanitised, items, time_limit=time_limit, jobs=jobs)
    smiles: list[str | None] = [None] * len(numbers)
    connected = np.zeros(len(numbers), dtype=bool)
    for row, outcome in zip(np.flatnonzero(finite), outcomes, strict=True):
        if outcome.value is not None:
            smiles[row], connected[row] = outcome.value
    late = sum(outcome.status == "timed out" for outcome in outcomes)
    return ValidMolecules(tuple(smiles), connected, late)


def _bonded(numbers: Array, orders: Array) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Atoms and bonds of one molecule without padding."""
    atoms = np.flatnonzero(numbers)
    first, second = np.nonzero(np.triu(orders[np.ix_(atoms, atoms)]))
    kinds = orders[np.ix_(atoms, atoms)][first, second]
    bonds = list(zip(first.tolist(), second.tolist(), kinds.tolist(), strict=True))
    return np.asarray(numbers)[atoms].tolist(), bonds


def _sanitised(item: tuple[list[int], list[tuple[int, int, int]]]) -> tuple[str, bool] | None:
    """SMILES of the largest fragment and whether it is the only one; None where that fails."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    numbers, bonds = item
    kinds = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    molecule = Chem.RWMol()
    for number in numbers:
        molecule.AddAtom(Chem.Atom(number))
    for first, second, order in bonds:
        molecule.AddBond(first, second, kinds[order])
    try:
        Chem.SanitizeMol(molecule)
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        largest = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
        return Chem.MolToSmiles(largest), len(fragments) == 1
    except (ValueError, RuntimeError):
        return None


@functools.lru_cache(maxsize=200_000)
def _heavy_smiles(smiles: str) -> str | None:
    """Canonical SMILES without stereo and explicit hydrogens, None where it does not parse."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    molecule: Any = Chem.MolFromSmiles(smiles)
    return None if molecule is None else Chem.MolToSmiles(molecule, isomericSmiles=False)


def molecule_properties(numbers: Array, positions: Array) -> dict[str, Array]:
    """Numbers that describe a molecule, each (n,).

    Args:
        numbers: (n, atoms) atomic numbers, 0 at padding.
        positions: (n, atoms, 3) nm.

    Returns:
        ``num_atoms``, ``num_heavy_atoms`` and ``radius_of_gyration_nm`` (all atoms weigh alike).
    """
    present = np.asarray(numbers) > 0
    count = np.maximum(present.sum(1), 1)
    x = np.where(present[..., None], positions, 0.0)
    centre = x.sum(1) / count[:, None]
    spread = (np.where(present[..., None], x - centre[:, None], 0.0) ** 2).sum((1, 2)) / count
    return {
        "num_atoms": present.sum(1).astype(np.float64),
        "num_heavy_atoms": (np.asarray(numbers) > 1).sum(1).astype(np.float64),
        "radius_of_gyration_nm": np.sqrt(spread),
    }


def molecule_distances(
    generated: tuple[Array, Array], reference: tuple[Array, Array]
) -> dict[str, float]:
    """Wasserstein distances W1 of ``molecule_properties``, by name.

    Args:
        generated: numbers and positions.
        reference: likewise, of any padding.
    """
    left, right = molecule_properties(*generated), molecule_properties(*reference)
    finite = {name: value[np.isfinite(value)] for name, value in left.items()}
    return {name: wasserstein(finite[name], right[name]) for name in right}
