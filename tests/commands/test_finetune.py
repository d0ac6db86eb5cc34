"""`gensci finetune`: a checkpoint that can be sampled, what is refused, kills."""

import contextlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from gensci.__main__ import main
from gensci.models.checkpoint import load_checkpoint, save_checkpoint
from gensci.nn.internal import InternalFlow

pytest.importorskip("openmm")
pytest.importorskip("matplotlib")
SIZES = ["--rounds", "2", "--draws", "60", "--held-out", "150", "--seed", "3", "--threads", "1"]
STEPS = ["--train.steps", "5", "--train.rows", "16", "--least", "10"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A tiny network without training, said to be for one residue and two."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4)
    config = {"class": "peptide-internal", "settings": network.settings}
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    return save_checkpoint(folder, network.state_dict(), config, {"trained_residues": [1, 2]})


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def command(parent, *more, system="G"):
    given = ["--system", system, "--checkpoint", str(parent)]
    return ["finetune", *given, *SIZES, *STEPS, *more]


def refused(capsys, arguments, work):
    before = sorted(work.rglob("*"))
    status = main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert sorted(work.rglob("*")) == before
    return status, lines[0]


@pytest.fixture(scope="module")
def finished(parent, tmp_path_factory):
    """A folder that was finetuned into, and what was said."""
    out = tmp_path_factory.mktemp("finished") / "G"
    threads = torch.get_num_threads()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(command(parent, "--out", str(out))) == 0
    torch.set_num_threads(threads)
    return out, told.getvalue()


@pytest.fixture
def copied(finished, work):
    """The same under the name that is usual for it."""
    shutil.copytree(finished[0], work / "runs" / "G")
    return work / "runs" / "G"


def test_the_new_checkpoint_knows_where_it_comes_from(finished, parent):
    folder, told = finished
    assert {f.name for f in folder.iterdir()} == {
        "run.json", "model.json", "model.safetensors", "ess.png",
    }  # fmt: skip
    run = json.loads((folder / "run.json").read_text())
    _, _, meta = load_checkpoint(folder)
    assert run["outcome"] == "complete"
    assert meta["parent_sha256"] == load_checkpoint(parent)[2]["weights_sha256"]
    assert meta["finetuned_for"] == "peptide:G"
    assert meta["trained_residues"] == [1, 1]
    assert meta["seed"] == 3
    assert meta["settings"]["train.steps"] == 5
    spent = 150 + 2 * 60 + (150 if run["after"] else 0)
    assert meta["metrics"]["energy_evaluations"] == run["energy_evaluations"] == spent
    assert [row["number"] for row in run["rounds"]] == [0, 1, 2]
    assert f"{spent} energies in all" in told
    assert "kept the " in told


def test_the_new_checkpoint_is_sampled(copied, work):
    sample = ["sample", "--system", "G", "--checkpoint", "runs/G", "--num-samples", "50"]
    assert main([*sample, "--seed", "1", "--out", "drawn"]) == 0
    record = json.loads((work / "drawn" / "run.json").read_text())
    weights = load_checkpoint(copied)[2]["weights_sha256"]
    assert record["settings"]["checkpoint_sha256"] == weights
    assert record["warnings"] == []


def test_a_flow_that_was_finetuned_for_another_peptide_is_told(parent, work, capsys):
    folder = work / "for-a"
    state, config, _ = load_checkpoint(parent)
    meta = {"trained_residues": [1, 1], "finetuned_for": "peptide:A"}
    save_checkpoint(folder, state, config, meta)
    sample = ["sample", "--system", "G", "--checkpoint", str(folder), "--num-samples", "20"]
    assert main([*sample, "--out", "drawn"]) == 0
    assert "warning: the checkpoint was finetuned for peptide:A" in capsys.readouterr().out


def test_a_finished_run_is_told_again_and_not_done_again(copied, finished, parent, capsys):
    weights = (copied / "model.safetensors").stat().st_mtime_ns
    assert main(command(parent)) == 0
    again = capsys.readouterr().out.splitlines()
    assert "finetuned before in" in again[0]
    assert again[1:] == finished[1].splitlines()[-len(again[1:]) :]
    assert (copied / "model.safetensors").stat().st_mtime_ns == weights


def start(out, parent, *more):
    arguments = command(parent, "--save-seconds", "0.01", "--out", str(out), *more)
    return subprocess.Popen(
        [sys.executable, "-m", "gensci", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def wait_for(path, process):
    """Until the run first touched the disk; the instant of that."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)
    return time.monotonic()


def check_kills(work, parent, kills, *more):
    whole = start(work / "whole", parent, *more)
    begun = wait_for(work / "whole" / "run.json", whole)
    finish(whole)
    duration, delays, alive = time.monotonic() - begun, random.Random(kills), []
    for _ in range(kills):
        process = start(work / "killed", parent, *more)
        wait_for(work / "killed" / "run.json", process)
        time.sleep(delays.uniform(0.1, 0.7) * duration)
        alive.append(process.poll() is None)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert any(alive), "every run ended before its kill: nothing was tested"
    finish(start(work / "killed", parent, *more))
    for name in ("model.safetensors", "model.json"):
        assert (work / "killed" / name).read_bytes() == (work / "whole" / name).read_bytes()
    left = {path.name for path in (work / "killed").rglob("*")}
    assert left == {path.name for path in (work / "whole").rglob("*")}


def test_a_killed_run_ends_with_the_same_checkpoint(parent, work):
    check_kills(work, parent, 1)


@pytest.mark.slow
def test_many_kills_with_populations_of_smc(parent, work):
    smc = ("--refresh", "smc", "--particles", "40", "--sampler.schedule", "linear")
    check_kills(work, parent, 6, *smc, "--sampler.num_steps", "4")


def test_another_run_in_the_folder_is_refused(copied, parent, capsys):
    assert main(command(parent, "--train.trust", "0.5")) == 1
    assert "holds a run with train.trust 0.01 (now 0.5)" in capsys.readouterr().err
    sample = ["sample", "--system", "G", "--num-samples", "10", "--allow-extrapolation"]
    assert main([*sample, "--out", "runs/G"]) == 1
    assert "holds a run of `gensci finetune`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "told"),
    [
        (["--system", "AGA"], 2, "3 residues, the checkpoint was trained on 1 to 2"),
        (["--system", "crystal:TiO2"], 2, "only flows of peptides are finetuned"),
        (["--checkpoint", "crystals"], 2, "is no model of peptides"),
        (["--checkpoint", "nowhere"], 1, "no checkpoint 'nowhere'"),
        (["--train.speed", "3"], 2, "has no setting 'speed'"),
        (["--train.steps", "none"], 2, "steps=None is not usable"),
        (["--train.ema", "2"], 2, "ema=2 is not usable"),
        (["--rounds", "0"], 2, "rounds=0 is not usable"),
        (["--refresh", "md"], 2, "unknown refresh 'md'"),
        (["--sampler.num_moves", "2"], 2, "no sampler runs with --refresh importance"),
        (["--device", "abacus"], 2, "is no device"),
        (["--save-seconds", "-1"], 2, "save_seconds=-1.0 is not usable"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(more, status, told, parent, work, capsys):
    found, line = refused(capsys, command(parent, *more), work)
    assert found == status
    assert told in line


def test_a_checkpoint_without_a_density_is_refused(parent, work, capsys, monkeypatch):
    monkeypatch.delattr(InternalFlow, "log_prob")
    status, line = refused(capsys, command(parent), work)
    assert status == 2
    assert "does not tell an exact density" in line


@pytest.mark.slow
def test_finetuning_glycine_with_the_shipped_flow_is_better_on_new_draws(work):
    """The real thing: a single residue, outside of what the flow was trained on."""
    from gensci.models.proposal import load_proposal
    from gensci.samplers import make_sampler
    from gensci.systems.peptide import PeptideSystem

    arguments = ["finetune", "--system", "G", "--allow-extrapolation", "--out", "g", "--seed", "1"]
    sizes = ["--rounds", "3", "--draws", "1000", "--held-out", "3000", "--train.steps", "40"]
    assert main([*arguments, *sizes]) == 0
    run = json.loads((work / "g" / "run.json").read_text())
    assert run["kept"] == "finetuned"
    system = PeptideSystem.from_text("G")
    target = system.target("cpu", torch.float32)
    found = {}
    for checkpoint in ("peptide", "g"):
        proposal = load_proposal(checkpoint, system.peptide, "cpu")
        verdict = make_sampler("importance").run(target, proposal, 3000, seed=77).meta["verdict"]
        found[checkpoint] = verdict
    assert found["g"]["ess_fraction"] > 1.3 * found["peptide"]["ess_fraction"]
    error = sum(v["log_z_error"] ** 2 for v in found.values()) ** 0.5
    assert abs(found["g"]["log_z"] - found["peptide"]["log_z"]) < 4 * error


def test_the_temperature_of_the_data_is_handed_on(parent, work):
    few = ["--rounds", "1", "--draws", "20", "--held-out", "60", "--out", "warm"]
    assert main(command(parent, "--system.temperature", "400", *few)) == 0
    _, _, meta = load_checkpoint("warm")
    assert meta["trained_temperature"] == 310.0
    assert meta["settings"]["proposal.temperature"] == 400.0
