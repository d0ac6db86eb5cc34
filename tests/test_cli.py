"""The command line: what it accepts, what it refuses, and what it leaves behind."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import gensci
from gensci.__main__ import COMMANDS, load, main, normalise
from gensci.core.weights import kish_ess
from gensci.sims.toys import TOYS

TOY = ["sample", "--system", "toy:double-well", "--seed", "1"]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def refused(capsys, arguments, tmp_path):
    """The one line of error; nothing may be written and the status must not be 0."""
    before = sorted(tmp_path.rglob("*"))
    status = main(arguments)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert status in (1, 2)
    assert len(lines) == 1
    assert lines[0].startswith("gensci: error: ")
    assert sorted(tmp_path.rglob("*")) == before
    return status, lines[0]


def test_samples_of_a_toy_are_right_and_complete(tmp_path, capsys):
    assert main([*TOY, "--num-samples", "3000", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    arrays = np.load(tmp_path / "run" / "samples.npz")
    truth = TOYS["double-well"].truth
    weight = np.exp(arrays["log_weight"] - arrays["log_weight"].max())
    weight /= weight.sum()
    mean = weight @ arrays["x"]
    error = np.sqrt(weight**2 @ (arrays["x"] - mean) ** 2)
    assert np.all(np.abs(mean - truth.mean.numpy()) < 4 * error)
    raw = torch.from_numpy(arrays["log_target"] - arrays["log_proposal"])
    assert run["verdict"]["ess"] == pytest.approx(kish_ess(raw).count, rel=1e-6)
    assert run["kept"] + sum(run["rejected"].values()) == run["requested"] == 3000
    assert (run["outcome"], run["seed"], run["command"]) == ("complete", 1, "sample")
    assert f"effective sample size {run['verdict']['ess']:.1f}" in shown
    assert "seed 1" in shown
    assert "run.json samples.npz" in shown


def test_an_error_that_is_not_known_is_not_told_as_zero(capsys):
    assert main([*TOY, "--num-samples", "1", "--out", "one"]) == 0
    assert "+- an unknown error" in capsys.readouterr().out
    assert main([*TOY, "--num-samples", "50", "--sampler", "direct", "--out", "d"]) == 0
    shown = capsys.readouterr().out
    assert "effective sample size" not in shown
    assert "not corrected" in shown


def test_the_default_seed_varies_and_the_recorded_one_reproduces(tmp_path):
    small = ["sample", "--system", "toy:gaussian", "--num-samples", "50"]
    for name in ("a", "b"):
        assert main([*small, "--out", name]) == 0
    seeds = [json.loads((tmp_path / name / "run.json").read_text())["seed"] for name in "ab"]
    assert seeds[0] != seeds[1]
    assert main([*small, "--out", "c", "--seed", str(seeds[0])]) == 0
    bits = {name: (tmp_path / name / "samples.npz").read_bytes() for name in "abc"}
    assert bits["a"] == bits["c"] != bits["b"]


def test_the_same_command_again_repairs_and_keeps_the_bits(tmp_path, capsys):
    assert main([*TOY, "--num-samples", "600", "--out", "run"]) == 0
    first = (tmp_path / "run" / "samples.npz").read_bytes()
    shard = tmp_path / "run" / "shards" / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    (tmp_path / "run" / "samples.npz").unlink()
    assert main([*TOY, "--num-samples", "600", "--out", "run"]) == 0
    assert (tmp_path / "run" / "samples.npz").read_bytes() == first
    assert json.loads((tmp_path / "run" / "run.json").read_text())["repaired_shards"] == [1]


@pytest.mark.parametrize("sampler", ["direct", "importance", "smc", "mcmc"])
def test_every_sampler_runs_from_the_command_line(tmp_path, sampler):
    assert main([*TOY, "--num-samples", "64", "--sampler", sampler.upper(), "--out", "run"]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["sampler"] == sampler
    assert len(np.load(tmp_path / "run" / "samples.npz")["log_weight"]) == run["kept"] == 64


@pytest.mark.parametrize("spelling", ["--sampler.num-steps", "--sampler.num_steps"])
def test_dashes_and_underscores_name_the_same_setting(tmp_path, spelling):
    smc = [*TOY, "--num_samples", "32", "--sampler", "smc", "--sampler.schedule=linear"]
    assert main([*smc, spelling, "7", "--out", "run"]) == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["sampler.num_steps"] == 7
    assert settings["num_samples"] == 32


def test_a_file_of_systems_gives_a_folder_each(tmp_path):
    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    assert main(["sample", "--system", "toys.txt", "--num-samples", "40", "--seed", "0"]) == 0
    outcomes = {
        path.parent.name: json.loads(path.read_text())["outcome"]
        for path in tmp_path.glob("results/toys/*/run.json")
    }
    assert outcomes == {"gaussian": "complete", "double-well": "complete"}
    batch = json.loads((tmp_path / "results" / "toys" / "batch.json").read_text())
    assert (batch["outcome"], batch["source"]) == ("complete", "toys.txt")
    for name, entry in batch["systems"].items():
        run = json.loads((tmp_path / entry["folder"] / "run.json").read_text())
        assert entry["system"] == run["settings"]["system"] == f"toy:{name}"
        assert entry["outcome"] == "complete"
        assert [entry["ess"], entry["kept"]] == [run["verdict"]["ess"], run["kept"]]


def test_one_failed_system_of_a_file_ends_with_status_3(tmp_path, capsys):
    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    (tmp_path / "out" / "gaussian").mkdir(parents=True)
    (tmp_path / "out" / "gaussian" / "mine.txt").write_text("dear")
    arguments = ["sample", "--system", "toys.txt", "--num-samples", "40", "--out", "out"]
    assert main(arguments) == 3
    assert "failed: toy:gaussian" in capsys.readouterr().out
    assert (tmp_path / "out" / "double-well" / "samples.npz").exists()
    assert [path.name for path in (tmp_path / "out" / "gaussian").iterdir()] == ["mine.txt"]
    batch = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert batch["outcome"] == "partial"
    assert {n: e["outcome"] for n, e in batch["systems"].items()} == {
        "gaussian": "failed", "double-well": "complete",
    }  # fmt: skip
    assert "holds files that are no run" in batch["systems"]["gaussian"]["error"]
    (tmp_path / "out" / "gaussian" / "mine.txt").unlink()
    assert main(arguments) == 0  # what failed is drawn, what was complete is read
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["outcome"] == "complete"


def test_what_is_wrong_with_every_system_of_a_file_is_said_once(tmp_path, capsys):
    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    (tmp_path / "two.fasta").write_text(">a\nAA\n>b\nGG\n")
    arguments = ["sample", "--system", "toys.txt", "--out", "toys.txt/run"]
    assert "another --out" in refused(capsys, arguments, tmp_path)[1]
    arguments = ["sample", "--system", "two.fasta", "--checkpoint", "nope"]
    assert "no checkpoint 'nope'" in refused(capsys, arguments, tmp_path)[1]


def test_systems_that_share_a_text_are_told_apart_by_their_folders(tmp_path):
    (tmp_path / "toys.csv").write_text("name,system\na,toy:gaussian\nb,toy:gaussian\n")
    assert main(["sample", "--system", "toys.csv", "--num-samples", "30", "--out", "o"]) == 0
    assert list(json.loads((tmp_path / "o" / "batch.json").read_text())["systems"]) == ["a", "b"]


def test_an_interrupted_batch_says_which_system_waits(tmp_path, monkeypatch):
    from gensci.systems.toy import ToyTarget

    def stopped(self, x):
        raise KeyboardInterrupt

    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    monkeypatch.setattr(ToyTarget, "log_prob", stopped)
    assert main(["sample", "--system", "toys.txt", "--num-samples", "40", "--out", "o"]) == 1
    batch = json.loads((tmp_path / "o" / "batch.json").read_text())
    assert batch["outcome"] == "interrupted"
    assert [e["outcome"] for e in batch["systems"].values()] == ["interrupted", "waiting"]


def test_a_batch_does_not_settle_in_the_folder_of_another_run(tmp_path, capsys):
    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    assert main([*TOY, "--num-samples", "40", "--out", "run"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "batch.json").write_text("[]")
    capsys.readouterr()
    for out, part in (("run", "a single system"), ("mine", "not a record of gensci")):
        arguments = ["sample", "--system", "toys.txt", "--num-samples", "40", "--out", out]
        assert part in refused(capsys, arguments, tmp_path)[1]


def test_an_interrupted_run_says_so_and_continues(tmp_path, capsys, monkeypatch):
    from gensci.systems.toy import ToyTarget

    with monkeypatch.context() as patch:
        calls = iter([None, KeyboardInterrupt])  # the second shard does not come through
        density = ToyTarget.log_prob

        def stopped(self, x):
            if next(calls, KeyboardInterrupt):
                raise KeyboardInterrupt
            return density(self, x)

        patch.setattr(ToyTarget, "log_prob", stopped)
        assert main([*TOY, "--num-samples", "600", "--out", "run"]) == 1
    assert "the same command again continues" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["outcome"] == "interrupted"
    assert [path.name for path in (tmp_path / "run" / "shards").iterdir()] == ["000000.safetensors"]
    assert main([*TOY, "--num-samples", "600", "--out", "run"]) == 0
    assert "continuing 600" in capsys.readouterr().out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["outcome"] == "complete"
    assert "error" not in record


BAD = {
    "no command of that name": (["smaple"], 2, "did you mean 'sample'"),
    "no system": (["sample"], 2, "--system"),
    "unknown residue": (["sample", "--system", "AXA"], 2, "unknown residue 'X'"),
    "empty system": (["sample", "--system", ""], 2, "--system is empty"),
    "empty peptide": (["sample", "--system", "peptide:"], 2, "no residues"),
    "ambiguous": (["sample", "--system", "CN"], 2, "--system peptide:CN"),
    "no such binary": (["sample", "--system", "lisa:emri"], 2, "write it like lisa:mbhb"),
    "wrong case": (["sample", "--system", "TIO2"], 2, "did you mean TiO2"),
    "not a crystal": (["sample", "--system", "crystal:Xx2"], 2, "unknown element 'Xx'"),
    "two readings of a cell": (
        ["sample", "--system", "Ti4O8", "--formula-units", "2"],
        2,
        "say crystal:TiO2 --system.formula_units 2",
    ),
    "not a molecule": (["sample", "--system", "smiles:C(C)(C)(C)(C)C"], 2, "Explicit valence"),
    "new molecules have no text": (["sample", "--system", "molecule:CCO"], 2, "smiles:CCO"),
    "proposal settings": ([*TOY, "--proposal.num_steps", "3"], 2, "toys have no settings"),
    "unknown sampler": ([*TOY, "--sampler", "smcc"], 2, "did you mean 'smc'"),
    "unknown setting": ([*TOY, "--sampler", "smc", "--sampler.num_step", "3"], 2, "num_steps"),
    "bad setting": ([*TOY, "--sampler", "smc", "--sampler.num_steps", "-3"], 2, "num_steps=-3"),
    "setting without value": ([*TOY, "--sampler.num_steps"], 2, "needs a value"),
    "unknown option": ([*TOY, "--nonsense", "3"], 2, "nonsense"),
    "flag that is no flag": ([*TOY, "--allow-extrapolation", "perhaps"], 2, "extrapolation"),
    "unknown group": ([*TOY, "--smapler.num_steps", "3"], 2, "smapler"),
    "negative count": ([*TOY, "--num-samples", "-5"], 2, "num_samples=-5"),
    "zero count": ([*TOY, "--num-samples", "0"], 2, "num_samples=0"),
    "count in words": ([*TOY, "--num-samples", "many"], 2, "--num-samples: give a whole number"),
    "no such device": ([*TOY, "--device", "tpu9"], 2, "--device"),
    "no float64": ([*TOY, "--device", "mps"], 2, "Apple GPUs lack float64; use --device cpu"),
    "no threads": ([*TOY, "--threads", "0"], 2, "--threads 0"),
    "toy settings": ([*TOY, "--system.temperature", "3"], 2, "toys have no settings"),
    "no such checkpoint": (["sample", "--system", "AA", "--checkpoint", "nope"], 1, "'nope'"),
    "out below a file": ([*TOY, "--out", "file.txt/run"], 1, "another --out"),
    "out is a file": ([*TOY, "--out", "file.txt"], 1, "another --out"),
    "foreign folder": ([*TOY, "--out", "mine"], 1, "another --out"),
    "list of what": (["list", "sampler_s"], 2, "samplers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(case, tmp_path, capsys):
    (tmp_path / "file.txt").write_text("dear")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    arguments, expected, part = BAD[case]
    status, line = refused(capsys, arguments, tmp_path)
    assert status == expected
    assert part in line


def test_a_folder_of_other_settings_seed_or_command_is_refused(tmp_path, capsys):
    assert main([*TOY, "--num-samples", "40", "--out", "run"]) == 0
    capsys.readouterr()
    _, line = refused(capsys, [*TOY, "--num-samples", "50", "--out", "run"], tmp_path)
    assert "num_samples 40 (now 50)" in line
    other = ["sample", "--system", "toy:double-well", "--num-samples", "40", "--out", "run"]
    _, line = refused(capsys, [*other, "--seed", "2"], tmp_path)
    assert "seed 1, not 2" in line
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "command": "simulate"}))
    _, line = refused(capsys, [*TOY, "--num-samples", "40", "--out", "run"], tmp_path)
    assert "`gensci simulate`" in line


def test_an_unfit_sampler_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    from gensci.systems import toy

    monkeypatch.delattr(toy.BroadGaussian, "sample_and_log_prob")
    _, line = refused(capsys, [*TOY, "--sampler", "importance", "--out", "run"], tmp_path)
    assert "use one of: direct" in line


def test_help_is_quick_to_build_because_it_imports_no_torch():
    code = "import sys\nfrom gensci.__main__ import main\n"
    for arguments in (["--help"], ["sample", "--help"], ["--version"]):
        check = f"{code}main({arguments})\nassert 'torch' not in sys.modules, 'torch'"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_command_exists_and_explains_itself(command, capsys):
    assert load(COMMANDS[command][0]).__doc__
    assert main([command, "--help"]) == 0
    assert "usage:" in capsys.readouterr().out


def test_lists_name_what_the_options_accept(capsys):
    assert main(["list", "samplers"]) == 0
    assert "--sampler.num_steps" in capsys.readouterr().out
    assert main(["list", "decoders"]) == 0
    assert " --proposal.decoder.temperature 1.0" in capsys.readouterr().out
    assert main(["list", "solver"]) == 0
    assert " --proposal.solver.num_steps 20" in capsys.readouterr().out
    assert main(["list", "systems"]) == 0
    assert "toy:double-well" in capsys.readouterr().out


def test_the_doctor_names_device_and_kernel(capsys):
    status = main(["doctor"])
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert "device" in shown
    assert "force field" in shown
    assert "flow inverse" in shown
    assert status == (1 if "problem" in shown else 0)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (None, "all well"),
        ("missing", "problem           the default checkpoint peptide is missing"),
        ("changed", "SHA-256 differs"),
    ],
)
def test_the_doctor_fails_without_a_sound_default_checkpoint(
    tmp_path, capsys, monkeypatch, damage, part
):
    from gensci.models import checkpoint
    from gensci.nn.internal import InternalFlow

    pytest.importorskip("openmm")
    pytest.importorskip("mdtraj")
    network = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4)
    config = {"class": "peptide-internal", "settings": network.settings}
    name = "another" if damage == "missing" else "peptide"
    folder = checkpoint.save_checkpoint(tmp_path / name, network.state_dict(), config)
    if damage == "changed":
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
    found = {**checkpoint.list_checkpoints(), name: folder}
    if damage == "missing":
        del found["peptide"]
    monkeypatch.setattr(checkpoint, "list_checkpoints", lambda: found)
    assert main(["doctor"]) == (1 if damage else 0)
    assert part in capsys.readouterr().out


def test_the_python_call_gives_what_the_command_writes(tmp_path):
    assert main([*TOY, "--num-samples", "300", "--out", "run"]) == 0
    drawn = gensci.sample("toy:double-well", num_samples=300, seed=1)
    stored = gensci.load("run")
    assert torch.equal(drawn.x["x"], stored.x["x"])
    assert torch.equal(drawn.log_weight, stored.log_weight)
    assert stored.meta["seed"] == drawn.meta["seed"] == 1


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--num-samples", "--num_samples"),
        ("--out=my-run", "--out=my-run"),
        ("--sampler.num-steps=3", "--sampler.num_steps=3"),
        ("my-run", "my-run"),
        ("--from", "--source_format"),
    ],
)
def test_option_names_are_normalised_and_values_are_not(typed, read):
    assert normalise(typed) == read
