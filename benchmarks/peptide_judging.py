"""How weighted samples of a peptide are judged in bench_peptides: weights, then distances."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensci.core.results import SampleSet
from gensci.core.weights import clean, kish_ess, normalise
from gensci.metrics.agreement import even_rows, ladder_rows
from gensci.metrics.ensembles import all_torsions
from gensci.metrics.references import ReferenceEnsemble
from gensci.metrics.slow_modes import SlowModes, agreement_of_halves, fit_slow_modes
from gensci.metrics.wasserstein import (
    energy_wasserstein,
    euclidean_wasserstein,
    torus_wasserstein,
)

Array = np.ndarray

PUBLISHED_SHARE = 0.002  # of the largest weights that the published protocol leaves out
POINTS = 3000  # on each side of an exact transport, as in the halves of the references
PUBLISHED_POINTS = 10_000  # of what is counted as published; takes up to 5 GB and a minute


@dataclass(frozen=True)
class Filtered:
    """Weights as the published protocol counts them.

    Attributes:
        keep: (m,) which of the given rows stay.
        ess: Kish's effective size of those, as a share of the rows that stay.
    """

    keep: torch.Tensor
    ess: float


def published_protocol(
    log_weight: torch.Tensor, n: int, share: float = PUBLISHED_SHARE
) -> Filtered:
    """Leave out the rows of the largest weights, as the published effective sizes do.

    This is no estimate of anything; it is here so that like stands beside like.
    Ref: Tan et al. 2025, arXiv:2508.18175 (their code drops rows before it counts).

    Args:
        log_weight: (m,) of the rows that have a weight.
        n: rows that were drawn, those without weight included.
        share: of the n rows.
    """
    values = clean(log_weight)
    count = min(int(share * n), len(values))
    keep = torch.ones(len(values), dtype=torch.bool)
    keep[torch.argsort(values, descending=True, stable=True)[:count]] = False
    left = n - count
    return Filtered(keep, kish_ess(values[keep], left).fraction if left else 0.0)


@dataclass(frozen=True, eq=False)
class Judge:
    """A reference ensemble, ready to hold samples against.

    Attributes:
        reference: the ensemble.
        points: at most so many on each side of an exact transport.
    """

    reference: ReferenceEnsemble
    points: int = POINTS

    @cached_property
    def rows(self) -> Array:
        """Frames that stand for the reference in a transport, evenly from all ladders."""
        ladders = ladder_rows(self.reference.ladder)
        return even_rows(ladders, self.points // len(ladders)).reshape(-1)

    @cached_property
    def torsions(self) -> dict[str, Array]:
        """Torsions of all frames by name."""
        return {name: self.reference.torsion(name) for name in self.reference.torsion_names}

    @cached_property
    def modes(self) -> SlowModes:
        """The two slowest modes."""
        return fit_slow_modes(self.torsions, self.reference.ladder)

    @cached_property
    def backbone(self) -> Array:
        """Phi and psi of the chosen frames."""
        return self.reference.backbone[self.rows]

    def torus(self, torsions: dict[str, Array], weight: Array | None = None) -> float:
        """T-W2, radian, of torsions (n,) by name."""
        backbone = np.column_stack([torsions[name] for name in self.reference.backbone_names])
        return torus_wasserstein(backbone, self.backbone, weight, max_points=self.points)

    def slow(self, torsions: dict[str, Array], weight: Array | None = None) -> float:
        """W2 in the plane of the slowest modes, in their standard deviations."""
        plane = self.modes(self.torsions)[self.rows]
        return euclidean_wasserstein(self.modes(torsions), plane, weight, max_points=self.points)

    def energy(self, energy: Array, weight: Array | None = None) -> float:
        """E-W2, kT, of energies (n,) kJ/mol."""
        kt = float(self.reference.energy[0] / self.reference.reduced_energy[0])
        return energy_wasserstein(energy / kt, self.reference.reduced_energy, weight)

    def floors(self) -> dict[str, Any]:
        """What halves of the reference itself show: the distances below which nothing is known."""
        agreement = self.reference.meta["agreement"]
        odd = self.reference.ladder % 2 == 1
        plane = self.modes(self.torsions)
        slow = euclidean_wasserstein(plane[odd], plane[~odd], max_points=self.points)
        known = agreement_of_halves(self.torsions, self.reference.ladder)
        return {
            "torus_halves": agreement["torus"]["between"],
            "torus_floor": agreement["torus"]["floor"],
            "energy_halves": agreement["energy"]["between"],
            "slow_modes_halves": slow,
            "slow_modes_known": known.tolist(),
        }


def weight_figures(samples: SampleSet, drawn: int) -> dict[str, Any]:
    """Effective sizes and k-hat; the published protocol only for importance weights."""
    verdict = samples.meta["verdict"]
    row = {"ess": verdict["ess_fraction"], "khat": verdict.get("khat"), "ess_published": None}
    if samples.meta["sampler"] == "importance":
        row["ess_published"] = published_protocol(samples.log_weight, drawn).ess
    return row


def distance_figures(
    judge: Judge, topology: Any, samples: SampleSet, energy: Array, drawn: int
) -> dict[str, Any]:
    """Distances of weighted samples from a reference.

    Args:
        judge: holds the reference.
        topology: OpenMM's, of the peptide.
        samples: with ``positions`` (m, atoms, 3) nm.
        energy: (m,) kJ/mol.
        drawn: rows that were drawn, those without weight included.
    """
    torsions = torsions_of(topology, samples.x["positions"].numpy())
    weight = normalise(samples.log_weight).numpy()
    row: dict[str, Any] = {
        "energy_w2": judge.energy(energy, weight),
        "torus_w2": judge.torus(torsions, weight),
        "slow_modes_w2": judge.slow(torsions, weight),
        **judge.floors(),
    }
    if samples.meta["sampler"] == "importance":
        keep = published_protocol(samples.log_weight, drawn).keep.numpy()
        cut = np.where(keep, weight, 0.0)
        if cut.sum() > 0:
            row["energy_w2_published"] = judge.energy(energy, cut)
            finer = replace(judge, points=PUBLISHED_POINTS)
            row["torus_w2_published"] = finer.torus(torsions, cut)
    return row


def torsions_of(topology: Any, positions: Array) -> dict[str, Array]:
    """Torsions by name, each (n,) radian, of positions (n, atoms, 3) nm."""
    from openmm.app import PDBFile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.pdb"
        with path.open("w") as file:
            PDBFile.writeFile(topology, 10 * positions[0], file)
        return all_torsions(path, positions)
