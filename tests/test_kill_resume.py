"""A run killed at any instant and started again ends with the bits of an uninterrupted one."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

SMC = [
    "--system", "toy:double-well", "--seed", "5", "--threads", "1", "--save-seconds", "0",
    "--sampler", "smc", "--num-samples", "1500",
]  # fmt: skip
IMPORTANCE = [
    "--system", "toy:mixture", "--seed", "6", "--threads", "1", "--num-samples", "20000",
]  # fmt: skip
PEPTIDE = [
    "--system", "peptide:AG", "--seed", "7", "--threads", "1", "--save-seconds", "0",
    "--sampler", "smc", "--sampler.schedule", "linear", "--sampler.num_steps", "4",
    "--num-samples", "24",
]  # fmt: skip


def start(out, arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "gensci", "sample", *arguments, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(out, arguments):
    process = start(out, arguments)
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return shown


def wait_for(path, process):
    """The instant at which the run first touched the disk."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)
    return time.monotonic()


def uninterrupted(out, arguments):
    """Bits of the result, and the seconds between the first write and the end."""
    process = start(out, arguments)
    begun = wait_for(out, process)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return (out / "samples.npz").read_bytes(), time.monotonic() - begun


def kill_after(out, arguments, delay):
    """Start the run, SIGKILL it `delay` seconds after its first write; whether it was alive."""
    process = start(out, arguments)
    wait_for(out, process)
    time.sleep(delay)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def check(tmp_path, arguments, kills, seed):
    truth, duration = uninterrupted(tmp_path / "whole", arguments)
    delays = random.Random(seed)
    alive = [
        kill_after(tmp_path / "killed", arguments, delays.uniform(0.0, 0.6 * duration))
        for _ in range(kills)
    ]
    assert any(alive), "every run ended before its kill: nothing was tested"
    finish(tmp_path / "killed", arguments)
    assert (tmp_path / "killed" / "samples.npz").read_bytes() == truth
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert record["outcome"] == "complete"
    left = {path.name for path in (tmp_path / "killed").rglob("*") if path.is_file()}
    assert left == {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}


def test_a_killed_smc_run_resumes_to_the_same_bits(tmp_path):
    check(tmp_path, SMC, kills=3, seed=0)


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny network without training, as a user would export it."""
    from gensci.models.checkpoint import save_checkpoint
    from gensci.nn.internal import InternalFlow

    pytest.importorskip("openmm")
    pytest.importorskip("mdtraj")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4)
    config = {"class": "peptide-internal", "settings": network.settings}
    return str(save_checkpoint(tmp_path / "untrained", network.state_dict(), config))


def test_a_killed_run_of_a_peptide_resumes_to_the_same_bits(tmp_path, checkpoint):
    check(tmp_path, [*PEPTIDE, "--checkpoint", checkpoint], kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("arguments", [SMC, IMPORTANCE], ids=["smc", "importance"])
def test_many_kills(tmp_path, arguments, seed):
    check(tmp_path, arguments, kills=6, seed=seed)


def test_a_finished_run_is_recognised_and_its_files_keep_their_bits(tmp_path):
    arguments = [*IMPORTANCE[:-1], "600"]
    first = finish(tmp_path / "run", arguments)
    bits = (tmp_path / "run" / "samples.npz").read_bytes()
    again = finish(tmp_path / "run", arguments)
    assert "drawing 600" in first
    assert "complete before, reading 600" in again
    assert (tmp_path / "run" / "samples.npz").read_bytes() == bits
