"""Ensemble averages and error bars against cases with known answers."""

import math

import numpy as np
import pytest

from gensci.metrics.ensembles import (
    backbone_torsions,
    block_estimate,
    one_hot,
    torus_cells,
    total_variation,
    weighted_estimate,
    z_scores,
)


def test_weighted_error_bar_covers_the_truth():
    """Normal target, wider normal proposal: z-scores of the mean and variance are standard."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(300):
        x = 1.5 * rng.normal(size=500)
        log_weight = -0.5 * x**2 + 0.5 * (x / 1.5) ** 2
        estimate = weighted_estimate(np.stack([x, x**2], 1), log_weight)
        scores.append((estimate.mean - [0.0, 1.0]) / estimate.error)
    scores = np.array(scores)
    assert np.abs(scores.mean(0)).max() < 0.3
    assert np.abs(scores.std(0) - 1).max() < 0.15


def test_block_error_bar_covers_the_truth():
    rng = np.random.default_rng(1)
    block = np.arange(640) % 16
    scores = []
    for _ in range(300):
        x = (rng.normal(size=16)[block] + rng.normal(size=640))[:, None]
        estimate = block_estimate(x, block)
        scores.append(estimate.mean[0] / estimate.error[0])
    assert abs(np.mean(scores)) < 0.2
    assert abs(np.std(scores) - math.sqrt(15 / 13)) < 0.15  # Student's t with 15 degrees


def test_one_block_has_no_error_bar():
    with pytest.raises(ValueError, match="two independent blocks"):
        block_estimate(np.ones((4, 1)), np.zeros(4))


def test_cells_and_scores():
    angles = [np.array([-math.pi, 0.0, math.pi]), np.array([0.0, 3.0, -3.0])]
    cells = torus_cells(angles, 4)
    assert cells.tolist() == [0 * 4 + 2, 2 * 4 + 3, 3 * 4 + 0]
    assert one_hot(cells, 16).sum(1).tolist() == [1, 1, 1]
    a = weighted_estimate(one_hot(cells, 16), np.zeros(3))
    assert (z_scores(a, a) == 0).all()
    assert total_variation(np.array([1.0, 0.0]), np.array([0.25, 0.75])) == 0.75


def test_torsions_are_named_by_residue(tmp_path):
    from openmm.app import PDBFile

    from gensci.sims.peptide import build_peptide

    peptide = build_peptide("GAV")
    with open(tmp_path / "topology.pdb", "w") as file:
        PDBFile.writeFile(peptide.topology, 10 * peptide.positions, file)
    torsions = backbone_torsions(tmp_path / "topology.pdb", peptide.positions[None])
    assert sorted(torsions) == ["phi2", "phi3", "psi1", "psi2"]
    atom = {
        (r, n): x
        for r, n, x in zip(
            peptide.residue_index, peptide.atom_names, peptide.positions, strict=True
        )
    }
    p = [atom[0, "C"], atom[1, "N"], atom[1, "CA"], atom[1, "C"]]
    b = np.diff(p, axis=0)
    n1, n2 = np.cross(b[0], b[1]), np.cross(b[1], b[2])
    phi = math.atan2(np.linalg.norm(b[1]) * b[0] @ n2, n1 @ n2)
    assert abs(torsions["phi2"][0] - phi) < 1e-4
