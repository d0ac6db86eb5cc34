"""Weighted averages of conformational ensembles with error bars, and their comparison.

A reference simulation has independent blocks (its replica-exchange ladders), whose spread gives
the error; weighted samples have the error of a self-normalised importance-sampling estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Averages of several observables with their standard errors, each of shape (observables,)."""

    mean: Array
    error: Array


def backbone_torsions(topology: Path, positions: Array) -> dict[str, Array]:
    """Backbone torsions in radians, each (n,), named ``psi1``, ``phi2``, ... by residue (from 1).

    Args:
        topology: PDB file that fits the positions.
        positions: (n, atoms, 3) nm.
    """
    return _torsions(topology, positions, _BACKBONE)


def all_torsions(topology: Path, positions: Array) -> dict[str, Array]:
    """Torsions of backbone and side chains in radians, each (n,), those of the backbone first.

    Besides those of ``backbone_torsions`` there are ``omega1`` (of the bond between residues 1 and
    2) and ``chi1_2`` (chi1 of residue 2).

    Args:
        topology: PDB file that fits the positions.
        positions: (n, atoms, 3) nm.
    """
    return _torsions(topology, positions, (*_BACKBONE, *_OTHERS))


# name, mdtraj's function, which of the four atoms lies in the residue that numbers the torsion
_BACKBONE = (("phi{}", "compute_phi", 1), ("psi{}", "compute_psi", 0))
_OTHERS = (
    ("omega{}", "compute_omega", 0),
    *((f"chi{k}_{{}}", f"compute_chi{k}", 0) for k in range(1, 6)),
)


def _torsions(
    topology: Path, positions: Array, kinds: tuple[tuple[str, str, int], ...]
) -> dict[str, Array]:
    import mdtraj

    trajectory = mdtraj.Trajectory(positions, mdtraj.load_pdb(str(topology)).topology)
    named = {}
    for name, function, own_atom in kinds:
        indices, values = getattr(mdtraj, function)(trajectory)
        for atoms, column in zip(indices, values.T, strict=True):
            residue = trajectory.topology.atom(int(atoms[own_atom])).residue.index + 1
            named[name.format(residue)] = column
    return named


def torus_cells(angles: list[Array], bins: int) -> Array:
    """Cell of each row on the torus of these angles (radians): (n,) int64 below bins^k."""
    cell = np.zeros(len(angles[0]), dtype=np.int64)
    for angle in angles:
        column = np.floor((angle + math.pi) / (2 * math.pi) * bins).astype(np.int64)
        cell = cell * bins + np.clip(column, 0, bins - 1)
    return cell


def one_hot(cell: Array, count: int) -> Array:
    """Indicators (n, count) of cells (n,)."""
    return (cell[:, None] == np.arange(count)).astype(np.float64)


def dipeptide_observables(topology: Path, positions: Array, energy: Array, bins: int = 6) -> Array:
    """Energy and indicators of the cells of (psi1, phi2): (n, 1 + bins^2).

    Args:
        topology: PDB file of a peptide with two residues.
        positions: (n, atoms, 3) nm.
        energy: (n,), of any unit.
        bins: in each angle, from -pi.
    """
    torsions = backbone_torsions(topology, positions)
    cell = torus_cells([torsions["psi1"], torsions["phi2"]], bins)
    return np.column_stack([energy, one_hot(cell, bins**2)])


def weighted_estimate(values: Array, log_weight: Array) -> Estimate:
    """Self-normalised averages of values (n, k) under log-weights (n,).

    The error is that of the ratio estimator, ``sqrt(sum w^2 (f - mean)^2)`` with weights that sum
    to one. Ref: Owen 2013, Monte Carlo theory, methods and examples, eq. 9.8.
    """
    w = np.exp(log_weight - log_weight.max())
    w /= w.sum()
    mean = w @ values
    error = np.sqrt((w[:, None] ** 2 * (values - mean) ** 2).sum(0))
    return Estimate(mean, error)


def block_estimate(values: Array, block: Array) -> Estimate:
    """Averages of values (n, k) with errors from independent blocks, numbered (n,).

    Raises:
        ValueError: fewer than two blocks.
    """
    numbers = np.unique(block)
    if len(numbers) < 2:
        raise ValueError("an error bar needs two independent blocks; simulate more ladders")
    means = np.stack([values[block == b].mean(0) for b in numbers])
    return Estimate(means.mean(0), means.std(0, ddof=1) / math.sqrt(len(numbers)))


def z_scores(a: Estimate, b: Estimate, floor: float = 0.0) -> Array:
    """Differences in units of their joint error; ``floor`` is added to it in quadrature."""
    joint = np.sqrt(a.error**2 + b.error**2 + floor**2)
    return np.divide(a.mean - b.mean, joint, out=np.zeros_like(joint), where=joint > 0)


def total_variation(a: Array, b: Array) -> float:
    """Half the sum of absolute differences of two histograms that each sum to one."""
    return 0.5 * float(np.abs(a - b).sum())
