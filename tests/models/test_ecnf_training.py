"""`gensci train --config peptide-ecnf`: it learns, resumes, exports."""

import json

import pytest
import torch
from model_training import LIGHTNING
from safetensors.torch import save_file

from gensci.__main__ import main
from gensci.models.checkpoint import load_checkpoint
from gensci.models.proposal import load_proposal
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide

pytest.importorskip("pytorch_lightning")
pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Frames near the minimum of a small peptide."""
    root = tmp_path_factory.mktemp("data")
    peptide = build_peptide("G")
    start = torch.as_tensor(peptide.positions, dtype=torch.float32)
    noise = torch.randn(200, *start.shape, generator=torch.Generator().manual_seed(0))
    x = start + 0.004 * noise
    (root / "G" / "shards").mkdir(parents=True)
    field = ForceField.from_openmm(peptide.system)
    frames = {"positions": x - x.mean(1, keepdim=True), "energy": field.energy(x)}
    save_file(frames, root / "G" / "shards" / "000000.safetensors")
    (root / "G" / "run.json").write_text(json.dumps({"temperature": 310.0}))
    return root


def arguments(data, folder, steps):
    return [
        "train", "fit", "--config", "peptide-ecnf",
        "--model.init_args.network.init_args.channels=16",
        "--model.init_args.network.init_args.num_steps=32",
        "--data.root", str(data), "--data.validation_root", "null",
        "--data.groups_per_batch", "1", "--data.frames_per_group", "16",
        "--data.batches_per_epoch", "20",
        "--model.warmup_steps", "3", "--model.decay_steps", "20", "--model.ema_decay", "0.8",
        "--trainer.max_steps", str(steps), "--trainer.default_root_dir", str(folder),
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.logger.init_args.save_dir", str(folder),
    ]  # fmt: skip


def test_training_learns_resumes_and_exports(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments(data, tmp_path, 20)) == 0
    folder = tmp_path / "runs" / "peptide-ecnf" / "checkpoint"
    _, first, meta = load_checkpoint(folder)
    assert first["class"] == "ecnf"
    assert meta["steps"] == 20
    assert meta["training_sequences"] == ["G"]
    assert main(arguments(data, tmp_path, 80)) == 0
    _, second, later = load_checkpoint(folder)
    assert first == second
    assert later["steps"] == 80, "the second command went on from the first"
    assert later["metrics"]["val_loss"] < 0.8 * meta["metrics"]["val_loss"]
    proposal = load_proposal(str(folder), build_peptide("G"), "cpu")
    x, log_q = proposal.sample_and_log_prob(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(proposal.log_prob(x), log_q, rtol=0, atol=0.1)
    assert proposal.centroid_scale == 0.35
    value, grad = proposal.log_prob_and_grad({"positions": x["positions"][:1]})
    torch.testing.assert_close(value, log_q[:1], rtol=0, atol=0.1)
    assert grad["positions"].isfinite().all() and grad["positions"].abs().max() > 1


def test_a_peptide_it_has_no_types_for_is_refused(data):
    from gensci.core.errors import UsageError
    from gensci.nn.ecnf import ContinuousFlow

    with pytest.raises(UsageError, match="cap ACE"):
        ContinuousFlow.encode(build_peptide("Ace-A-Nme"))


def test_settings_that_need_log_q_are_refused(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("dispersion", "renyi"):
        assert main([*arguments(data, tmp_path, 20), f"--model.{name}", "0.1"]) == 2
        assert f"--model.{name}: flow matching knows no log q" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "peptide-ecnf" / "checkpoint").exists()
