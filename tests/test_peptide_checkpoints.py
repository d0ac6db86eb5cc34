"""The shipped flows: what they were trained on, and that their weighted samples are right."""

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
SHIPPED = {"peptide-small": (2, 2), "peptide": (2, 4)}  # residues


@cache
def drawn(name):
    """Observables and log-weights of importance samples of one excluded dipeptide."""
    system = PeptideSystem.from_text(name)
    proposal = load_proposal("peptide", system.peptide, "cpu")
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


def test_effective_sample_size_of_a_tetrapeptide_is_above_the_first_goal():
    system = PeptideSystem.from_text("CCVH")
    proposal = load_proposal("peptide", system.peptide, "cpu")
    target = system.target("cpu", torch.float32)
    samples = make_sampler("importance", None).run(target, proposal, 2000, seed=7)
    published = samples.log_weight.sort().values[:-4].double()  # without the largest 0.2 %
    weight = (published - published.max()).exp()
    assert weight.sum().square() / weight.square().sum() / 2000 > 0.05


@pytest.mark.parametrize("name", SHIPPED)
def test_checkpoint_is_small_and_knows_where_it_comes_from(name):
    folder = find_checkpoint(name)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 16e6
    _, config, meta = load_checkpoint(name)
    assert config["class"] == "peptide-internal"
    trained = meta["training_sequences"]
    assert sum(len(sequence) == 2 for sequence in trained) == 360
    assert (min(map(len, trained)), max(map(len, trained))) == SHIPPED[name]
    assert tuple(meta["trained_residues"]) == SHIPPED[name]
    assert not set(NAMES) & set(trained)
    assert "seed" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", SHIPPED)
def test_no_excluded_sequence_was_trained_on(name):
    splits = json.loads((shared_root() / "data/peptides/many_peptides_splits.json").read_text())
    _, _, meta = load_checkpoint(name)
    assert not set(splits["val"] + splits["test"]) & set(meta["training_sequences"])
