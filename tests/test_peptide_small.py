"""The shipped checkpoint: what it was trained on, and that its weighted samples are right."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from named_peptides import shared_root
from openmm.app import PDBFile

from gensci.metrics.ensembles import (
    Estimate,
    dipeptide_observables,
    weighted_estimate,
    z_scores,
)
from gensci.models.checkpoint import find_checkpoint, load_checkpoint
from gensci.models.proposal import load_proposal
from gensci.samplers import make_sampler
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.systems.peptide import PeptideSystem

REFERENCES = Path(__file__).parents[1] / "benchmarks" / "references"
NAMES = ("AA", "DG", "VF")
SAMPLES = 3000


@cache
def drawn(name):
    """Observables and log-weights of importance samples of one excluded dipeptide."""
    system = PeptideSystem.from_text(name)
    proposal = load_proposal("peptide-small", system.peptide, "cpu")
    target = system.target("cpu", torch.float32)
    samples = make_sampler("importance", None).run(target, proposal, SAMPLES, seed=7)
    positions = samples.x["positions"]
    return system, positions, samples


def estimates(name, folder):
    """Weighted averages, and the same with weights for a system that is 15 K warmer."""
    system, positions, samples = drawn(name)
    topology = folder / "topology.pdb"
    with open(topology, "w") as file:
        PDBFile.writeFile(system.peptide.topology, 10 * system.peptide.positions, file)
    energy = system.force_field.energy(positions).double().numpy()
    values = dipeptide_observables(topology, positions.numpy(), energy)
    log_weight = samples.log_weight.double().numpy()
    warmer = energy / GAS_CONSTANT * (1 / 310 - 1 / 325)
    return weighted_estimate(values, log_weight), weighted_estimate(values, log_weight + warmer)


def reference(name):
    data = json.loads((REFERENCES / f"{name}.json").read_text())
    return Estimate(np.array(data["mean"]), np.array(data["error"]))


@pytest.mark.parametrize("name", NAMES)
def test_weighted_energy_and_backbone_agree_with_a_long_simulation(name, tmp_path):
    weighted, warmer = estimates(name, tmp_path)
    truth = reference(name)
    z = z_scores(weighted, truth, floor=1e-3)
    populated = truth.mean > 0.01
    populated[0] = False
    assert abs(z[0]) < 4, "mean energy"
    assert np.abs(z[populated]).max() < 5, "populations of the backbone torus"
    assert (z[populated] ** 2).mean() < 3
    # The same check must notice a slightly wrong ensemble.
    assert abs(z_scores(warmer, truth, floor=1e-3)[0]) > 4


@pytest.mark.parametrize("name", NAMES)
def test_effective_sample_size_is_what_the_readme_promises(name):
    assert drawn(name)[2].meta["verdict"]["ess_fraction"] > 0.15


def test_checkpoint_is_small_and_knows_where_it_comes_from():
    folder = find_checkpoint("peptide-small")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 16e6
    _, config, meta = load_checkpoint("peptide-small")
    assert config["class"] == "peptide-internal"
    assert len(meta["training_sequences"]) == 360
    assert not set(NAMES) & set(meta["training_sequences"])
    assert "seed" in (folder / "README.md").read_text()


def test_no_excluded_sequence_was_trained_on():
    splits = json.loads((shared_root() / "data/peptides/many_peptides_splits.json").read_text())
    _, _, meta = load_checkpoint("peptide-small")
    assert not set(splits["val"] + splits["test"]) & set(meta["training_sequences"])
