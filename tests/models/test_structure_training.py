"""`gensci train` of structures: configurations learn, resume, export, and can be sampled."""

import numpy as np
import pytest
import torch
from model_training import LIGHTNING, STRUCTURES

from gensci.__main__ import main
from gensci.core.prompts import StructurePrompt
from gensci.data.structure_table import Structure, StructureTable
from gensci.models.checkpoint import load_checkpoint

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING]
SETS = {
    "crystal-csp": ("crystals", "perov-5"),
    "crystal-denovo": ("crystal-denovo", "mp-20"),
    "molecule-conformer": ("molecules", "qm7"),
    "molecule-denovo": ("molecule-denovo", "qm7"),
}
SMALL = [
    "hidden=32", "intermediate=48", "num_layers=1", "num_heads=2", "head_width=32", "head_depth=1",
]  # fmt: skip


def perovskite(k, rng, source):
    """A cubic ABO3 with some disorder."""
    inside = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
    length = 3.8 + 0.3 * rng.random()
    return Structure(
        kind="crystal",
        id=f"row {k}",
        source=source,
        numbers=np.array([56 - (k % 2), 22 + k % 3, 8, 8, 8], np.uint8),
        coordinates=((inside + 0.01 * rng.normal(size=(5, 3))) % 1.0).astype(np.float32),
        lattice=np.array([length, length, length, 90, 90, 90], np.float32),
        properties={"formation_energy": -2.0 - 0.1 * (k % 3)},
    )


def alcohol(k, rng, source):
    """Methanol from RDKit, with some disorder."""
    from gensci.data.molecule_conformers import conformer

    numbers, positions = conformer("CO", 7)
    return Structure(
        kind="molecule",
        id=f"row {k}",
        source=source,
        numbers=numbers.astype(np.uint8),
        coordinates=(positions + 0.01 * rng.normal(size=positions.shape)).astype(np.float32),
        smiles="CO",
    )


def prepared(folder, make, source):
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 16)):
        rows = [make(k, rng, source) for k in range(count)]
        StructureTable.from_structures(rows, rows[0].kind).save(folder / split)
    return folder


def arguments(config, root, folder, steps):
    network = [f"--model.init_args.network.init_args.{text}" for text in SMALL]
    return [
        "train", "fit", "--config", config, *network,
        "--data.roots", f"[{root}]", "--data.tokens_per_batch", "400",
        "--data.templates", "false", "--data.set_weights", "null",
        "--model.learning_rate", "5e-3", "--model.warmup_steps", "3", "--model.decay_steps", "5",
        "--model.ema_decay", "0.8",
        "--trainer.max_steps", str(steps), "--trainer.default_root_dir", str(folder),
        "--trainer.val_check_interval", "10", "--trainer.accelerator", "cpu",
        "--trainer.enable_progress_bar", "false",
        "--trainer.logger.init_args.save_dir", str(folder),
    ]  # fmt: skip


def draw(checkpoint, config):
    from gensci.commands.structure_proposals import load_structure_proposal

    prompts = {
        "crystal-csp": StructurePrompt("crystal", numbers=(56, 22, 8, 8, 8)),
        "crystal-denovo": StructurePrompt("crystal", num_atoms=5),
        "molecule-conformer": StructurePrompt("molecule", smiles="CO"),
        "molecule-denovo": StructurePrompt("molecule", max_heavy_atoms=4),
    }
    settings = {"solver": "ddim", "num_steps": "3"}
    proposal, _ = load_structure_proposal(
        str(checkpoint), prompts[config], torch.device("cpu"), **settings
    )
    return proposal.sample(4, torch.Generator().manual_seed(0))


def test_a_stopped_training_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    """Ten steps and six more are sixteen steps, in the middle of an epoch."""
    root = prepared(tmp_path / "data", perovskite, "perov-5")
    weights = {}
    for name, stops in (("whole", (16,)), ("parts", (10, 16))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for steps in stops:
            steady = ["--model.decay_steps", "0", "--data.tokens_per_batch", "120"]
            assert main(arguments("crystal-csp", root, tmp_path / name, steps) + steady) == 0
        last = tmp_path / name / "runs/crystals/resume/last.ckpt"
        weights[name] = torch.load(last, weights_only=False)["state_dict"]
    for name, value in weights["whole"].items():
        assert torch.equal(value, weights["parts"][name]), name


@pytest.mark.parametrize("config", STRUCTURES)
def test_training_learns_resumes_exports_and_samples(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, source = SETS[config]
    molecule = config.startswith("molecule")
    if molecule:
        pytest.importorskip("rdkit")
    root = prepared(tmp_path / "data", alcohol if molecule else perovskite, source)
    assert main(arguments(config, root, tmp_path, 10)) == 0
    folder = tmp_path / "runs" / run / "checkpoint"
    first, _, meta = load_checkpoint(folder)
    assert meta["step"] == 10 and set(first)
    assert main(arguments(config, root, tmp_path, 60)) == 0
    second, described, later = load_checkpoint(folder)
    assert later["step"] == 60
    assert later["metrics"]["val_token"] < 0.7 * meta["metrics"]["val_token"]
    assert later["metrics"]["val_slot"] < 0.97 * meta["metrics"]["val_slot"]
    assert all(value.dtype == torch.float16 for value in second.values())
    assert described["settings"]["vocabulary_sha256"]
    x = draw(folder, config)
    assert len(x["numbers"]) == 4 and (x["numbers"] > 0).any(1).all()
