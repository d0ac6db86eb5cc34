"""`gensci train`: every shipped configuration learns, resumes and exports a usable checkpoint."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from model_training import LIGHTNING, STRUCTURES
from safetensors.torch import load_file, save_file

from gensci.__main__ import main
from gensci.commands.train import config_names, config_path
from gensci.core.errors import CheckpointError, UsageError
from gensci.models.checkpoint import load_checkpoint
from gensci.models.peptide_flow import one_cycle
from gensci.models.proposal import load_proposal
from gensci.models.residual_losses import dispersion, renyi
from gensci.nn.tarflow import VARIANTS, TarFlowPeptide
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide

SMALL = {
    "peptide-internal": ["channels=16", "num_layers=1", "num_heads=2", "pair_channels=4"],
    "peptide": ["channels=16", "num_layers=1", "num_heads=2", "pair_channels=4"],
    "peptide-flow": ["channels=16", "num_blocks=2", "layers_per_block=1", "head_dim=8"],
    "prose-288m": ["channels=16", "num_blocks=2", "layers_per_block=1", "head_dim=8"],
}
PARAMETERS = {
    "prose": 288_117_560,  # counted in the official network
    "no-look-ahead": 288_117_560 - 8 * (384 * 384 * 2 + 384),  # one square layer for the two
    "no-backbone-first": 288_117_560,
    "no-transition": 288_117_560 - 64 * (15 * 384**2 + 4 * 384),  # its matrices, norm and gate
    "tarflow": 115_689_272,  # counted in the official network
}
SIZES = (("small", 10), ("large", 20))
MORE = {
    "prose-288m": ["--trainer.accumulate_grad_batches", "2"],
    # a trained flow has little left to gain
    "peptide": ["--model.start_from", "null", "--model.renyi", "0.1"],
}
pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Frames near the minimum of two small peptides: enough to learn bond lengths from."""
    root = tmp_path_factory.mktemp("data")
    for name in ("G", "GA"):
        peptide = build_peptide(name)
        start = torch.as_tensor(peptide.positions, dtype=torch.float32)
        generator = torch.Generator().manual_seed(0)
        noise = 0.004 * torch.randn(200, *start.shape, generator=generator)
        x = start + noise
        shards = root / name / "shards"
        shards.mkdir(parents=True)
        field = ForceField.from_openmm(peptide.system)
        frames = {"positions": x - x.mean(1, keepdim=True), "energy": field.energy(x)}
        save_file(frames, shards / "000000.safetensors")
        (root / name / "run.json").write_text(json.dumps({"temperature": 310.0}))
    return root


def arguments(config, data, folder, steps, *more):
    network = [f"--model.init_args.network.init_args.{text}" for text in SMALL[config]]
    return [
        "train", "fit", "--config", config, *network,
        "--data.root", str(data), "--data.validation_root", "null",
        "--data.groups_per_batch", "2", "--data.frames_per_group", "8",
        "--data.batches_per_epoch", "10",
        "--model.learning_rate", "3e-3", "--model.warmup_steps", "3", "--model.decay_steps", "5",
        "--model.ema_decay", "0.5", "--model.dispersion", "0.01", "--model.own_samples", "4",
        "--model.energy_after", "6",
        "--trainer.max_steps", str(steps), "--trainer.default_root_dir", str(folder),
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        "--trainer.logger.init_args.save_dir", str(folder), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("config", sorted(SMALL))
def test_training_learns_resumes_and_exports(config, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = MORE.get(config, [])
    assert main(arguments(config, data, tmp_path, 20, *more)) == 0
    folder = tmp_path / "runs" / config / "checkpoint"
    _, first, meta = load_checkpoint(folder)
    assert meta["steps"] == 20
    assert meta["training_sequences"] == ["G", "GA"]
    assert main(arguments(config, data, tmp_path, 60, *more)) == 0
    _, second, later = load_checkpoint(folder)
    assert first == second
    assert later["steps"] == 60, "the second command went on from the first"
    assert later["metrics"]["val_nll"] < meta["metrics"]["val_nll"] - 0.05
    proposal = load_proposal(str(folder), build_peptide("GA"), "cpu")
    x, log_q = proposal.sample_and_log_prob(6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(proposal.log_prob(x), log_q, rtol=1e-4, atol=1e-2)
    longest = {"prose-288m": 8, "peptide": 4}.get(config, 2)
    assert proposal.trained_range == (2, longest)


@pytest.mark.parametrize(("total", "warmup"), [(200, 10), (500, 25), (40, 2)])
def test_the_cosine_schedule_is_the_one_cycle_of_torch(total, warmup):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, total, pct_start=warmup / total, div_factor=500, final_div_factor=1
    )
    rates = []
    for _ in range(total):
        rates.append(cycle.get_last_lr()[0])
        optimiser.step()
        if len(rates) < total:
            cycle.step()
    assert [one_cycle(step, total, warmup) for step in range(total)] == pytest.approx(rates)
    assert [rates[0], rates[-1]] == pytest.approx([1 / 500] * 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_network_is_one_configuration_and_its_ablations_one_setting(variant):
    from jsonargparse import ArgumentParser

    text = yaml.safe_load(Path(config_path("prose-288m")).read_text())["model"]
    settings = text["init_args"]["network"]["init_args"] | {"variant": variant}
    assert text["init_args"]["betas"] == [0.9, 0.95]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TarFlowPeptide, "network")
    chosen = parser.parse_object({"network": settings})
    with torch.device("meta"):
        network = parser.instantiate_classes(chosen).network
    count = sum(value.numel() for value in network.parameters())
    assert count == PARAMETERS[variant]


def test_training_starts_from_a_shipped_flow_with_one_more_layer():
    from gensci.models.checkpoint import load_network
    from gensci.models.peptide_flow import take_weights
    from gensci.nn.internal import InternalFlow

    shipped, _ = load_network("peptide-small")
    deeper = InternalFlow(**shipped.settings | {"num_layers": 4})
    take_weights(deeper, "peptide-small")
    cond = shipped.encode(build_peptide("GA"))
    x, _ = shipped.sample_and_log_prob(4, cond, torch.Generator().manual_seed(0))
    torch.testing.assert_close(deeper.log_prob(x, cond), shipped.log_prob(x, cond))
    other = InternalFlow(**shipped.settings | {"channels": 64})
    with pytest.raises(
        CheckpointError, match=r"'blocks.0.key_value.bias' is \(256,\), expected \(128,\)"
    ):
        take_weights(other, "peptide-small")


def test_a_checkpoint_names_the_sequences_of_the_flow_it_began_with_too(tmp_path):
    from gensci.models.checkpoint import load_network
    from gensci.models.peptide_flow import ExportWeights, PeptideFlow
    from gensci.nn.internal import InternalFlow

    shipped, meta = load_network("peptide-small")
    assert "GEYT" not in meta["training_sequences"]
    module = PeptideFlow(InternalFlow(**shipped.settings), start_from="peptide-small")
    trainer = SimpleNamespace(
        sanity_checking=False, is_global_zero=True, callback_metrics={}, global_step=3,
        datamodule=SimpleNamespace(names=["GEYT", meta["training_sequences"][0]]),
    )  # fmt: skip
    ExportWeights(str(tmp_path)).on_validation_end(trainer, module)
    _, told = load_network(tmp_path)
    assert told["training_sequences"] == sorted([*meta["training_sequences"], "GEYT"])


def test_larger_peptides_are_drawn_more_often():
    from gensci.data.peptides import Group, GroupedFrames

    groups = [Group(n, torch.zeros(2, a, 3), torch.zeros(2), {}, 310.0) for n, a in SIZES]
    drawn = [GroupedFrames(groups, 3000, 1, 1, 0, 2.0)[i][0].name for i in range(3000)]
    share = drawn.count("large") / 3000
    assert share == pytest.approx(0.8, abs=0.03)  # (20 / 10) ** 2 to one


def test_dispersion_is_the_variance_until_clipped():
    residual = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(dispersion(residual, 100.0), residual.var(correction=0))
    assert dispersion(residual + 7.0, 100.0) == dispersion(residual, 100.0)
    far = torch.tensor([0.0, 0.0, 0.0, 0.0, 1e6], requires_grad=True)
    dispersion(far, 10.0).backward()
    assert far.grad.abs().max() < 10.0


def test_renyi_is_the_divergence_of_two_normals_and_its_gradient_that_of_the_formula():
    # Closed form of order a for N(0, 1) from N(m, 1): a m^2 / 2 (Gil et al. 2013).
    order, shift = 1.5, torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residual = 0.5 * x.square() - 0.5 * (x - shift).square()
    found = renyi(residual, order - 1, 50.0)
    (slope,) = torch.autograd.grad(found, shift)
    level = residual.detach().median().item()
    assert found.item() - level == pytest.approx(order * 0.4**2 / 2, abs=2e-3)
    assert slope.item() == pytest.approx(order * 0.4, abs=5e-3)


def test_renyi_of_a_frame_that_cannot_be_learned_is_finite_and_does_not_drown_the_others():
    residual = torch.zeros(32, dtype=torch.float64)
    residual[0] = -1e6
    residual.requires_grad_(True)
    value = renyi(residual, 0.5, 3.0)
    value.backward()
    assert value.isfinite()
    assert residual.grad[0] == pytest.approx(-(math.exp(1.5)) / (31 + math.exp(1.5)))


def test_a_divergence_of_order_one_is_refused_in_one_line(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = [*MORE["peptide"], "--model.renyi_excess", "0"]
    assert main(arguments("peptide", data, tmp_path, 2, *more)) != 0
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--model.renyi_excess 0.0; give it above 0" in told
    assert not (tmp_path / "runs" / "peptide" / "checkpoint").exists()


def test_every_shipped_configuration_is_tested():
    flow_matching = "peptide-ecnf"  # in test_ecnf_training.py
    assert config_names() == sorted([*SMALL, flow_matching, *STRUCTURES])


def test_going_on_with_another_network_is_refused_by_its_first_differing_key(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments("peptide-flow", data, tmp_path, 2)) == 0
    kept = (tmp_path / "runs/peptide-flow/resume/last.ckpt").read_bytes()
    variant = "--model.init_args.network.init_args.variant"
    assert main(arguments("peptide-flow", data, tmp_path, 4, variant, "no-look-ahead")) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'average.module.blocks.0.condition.0.bias' is (16,), expected absent" in told
    assert "--ckpt_path null" in told
    assert (tmp_path / "runs/peptide-flow/resume/last.ckpt").read_bytes() == kept


def test_unknown_configuration_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'peptide-flow'"):
        config_path("peptide-flov")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"test": ["GA"]}, "excluded sequences GA"),
        (["GA"], "excluded sequences GA"),
        (None, "--data.exclude"),
    ],
)
def test_excluded_sequences_cannot_be_trained_on(
    data, tmp_path, monkeypatch, capsys, content, part
):
    monkeypatch.chdir(tmp_path)
    banned = tmp_path / "banned.json"
    if content is not None:
        banned.write_text(json.dumps(content))
    more = ["--data.exclude", str(banned)]
    assert main(arguments("peptide-internal", data, tmp_path, 2, *more)) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_refused_with_a_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments("peptide-internal", tmp_path / "absent", tmp_path, 2)) == 2
    assert "gensci simulate" in capsys.readouterr().err


def test_encodings_are_kept_beside_the_data(data):
    from gensci.data.peptides import encoded, fingerprint
    from gensci.nn.internal import InternalFlow

    first = encoded("GA", data, InternalFlow.encode)
    kept = list((data / ".encodings").glob(f"GA.{fingerprint(InternalFlow.encode)}.safetensors"))
    assert kept
    for name, value in load_file(kept[0]).items():
        assert torch.equal(first[name], value)
    assert all(
        torch.equal(v, first[k]) for k, v in encoded("GA", data, InternalFlow.encode).items()
    )
