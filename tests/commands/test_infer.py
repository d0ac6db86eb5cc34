"""`gensci infer` against a posterior in closed form: files, counts, resuming, bad input."""

import csv
import json
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import infer_doubles
from commands.infer_doubles import OBSERVATION, PRIOR

import gensci
from gensci.__main__ import main
from gensci.io.run_folder import RunFolder

pytest.importorskip("corner")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    arviz = pytest.importorskip("arviz")

DOUBLES = str(Path(infer_doubles.__file__))
SMALL = [
    "--rounds", "2", "--simulations", "300", "--num-samples", "4000", "--seed", "1", "--jobs", "0",
    "--threads", "1", "--predictive", "100", "--loop.draws", "400", "--loop.stop_change", "0",
    "--sampler.num_walkers", "400", "--sampler.warmup", "15", "--model.steps", "250",
]  # fmt: skip
TINY = [
    "--rounds", "2", "--simulations", "60", "--num-samples", "100", "--seed", "1", "--jobs", "0",
    "--threads", "1", "--predictive", "30", "--loop.draws", "100", "--loop.stop_change", "0",
    "--sampler.num_walkers", "50", "--sampler.warmup", "3", "--model.steps", "10",
]  # fmt: skip
USUAL = ["--prior", "prior.json", "--observation", "x.csv"]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    before = list(sys.path)
    yield
    sys.path[:] = before
    torch.set_num_threads(threads)


def write_inputs(folder):
    (folder / "prior.json").write_text(json.dumps(PRIOR))
    (folder / "x.csv").write_text(",".join(map(str, OBSERVATION)))


def command(name="simulate", settings=SMALL, *more):
    return ["infer", "--simulator", f"{DOUBLES}:{name}", *USUAL, *settings, *more]


def moments(folder):
    with np.load(folder / "samples.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    weight = np.exp(arrays["log_weight"] - arrays["log_weight"].max())
    weight /= weight.sum()
    mean = weight @ arrays["theta"]
    centred = arrays["theta"] - mean
    return mean, (centred * weight[:, None]).T @ centred


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with calibration, and what it told."""
    folder = tmp_path_factory.mktemp("infer")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*command(), "--calibration", "40", "--out", "run"]) == 0
    return folder / "run"


def test_the_posterior_of_a_linear_simulator(finished):
    mean, covariance = moments(finished)
    true_mean, true_covariance = infer_doubles.posterior()
    scale = np.sqrt(true_covariance.diagonal())
    assert (np.abs(mean - true_mean) < 0.25 * scale).all()
    np.testing.assert_allclose(covariance, true_covariance, rtol=0.3, atol=0.1 * scale.max() ** 2)


def test_the_files_of_a_run(finished):
    assert {path.name for path in finished.iterdir()} == {
        "run.json", "posterior.nc", "summary.csv", "samples.npz", "corner.png", "diagnostics",
        "shards", "state",
    }  # fmt: skip
    assert {path.name for path in (finished / "diagnostics").iterdir()} == {
        "rounds.png", "predictive.png", "predictive.json", "calibration.json",
        "calibration-coverage.png", "calibration-ranks.png",
    }  # fmt: skip
    data = arviz.from_netcdf(str(finished / "posterior.nc")).load()
    assert {"posterior", "sample_stats", "observed_data"} <= set(data.groups())
    assert list(data.posterior.data_vars) == ["a", "b"]
    np.testing.assert_allclose(data.observed_data["x"], OBSERVATION)
    stats = data.sample_stats
    mean, _ = moments(finished)
    np.testing.assert_allclose(
        [float(data.posterior[name].mean()) for name in "ab"], mean, atol=1e-12
    )
    # the surrogate's log-likelihood is near the true one, but for the constant of its density
    theta = np.stack([data.posterior[name].values.ravel() for name in "ab"], 1)
    true = [infer_doubles.log_likelihood(row) for row in theta]
    assert np.corrcoef(stats["log_likelihood"].values.ravel(), true)[0, 1] > 0.9
    with (finished / "summary.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["parameter"] for row in rows] == ["a", "b"]
    assert [float(row["mean"]) for row in rows] == pytest.approx(mean, abs=1e-5)


def test_the_record_counts_calls_and_time(finished):
    run = json.loads((finished / "run.json").read_text())
    assert (run["command"], run["outcome"], run["seed"]) == ("infer", "complete", 1)
    assert run["counts"]["simulator"] == 300 + 300 + 100 + 40
    assert run["counts"]["exact"] == 0
    assert run["counts"]["surrogate"] > sum(r["surrogate_calls"] for r in run["rounds"])
    assert [r["simulator_calls"] for r in run["rounds"]] == [300, 300]
    assert run["seconds"]["wall"] > 0 and run["seconds"]["cpu"] > 0
    assert run["simulations"] == {"done": 600}
    assert run["kept"] == 4000 and not run["verdict"]["corrected"]
    assert run["calibration"]["calibrated"] and run["calibration"]["runs"] == 40
    assert run["predictive"]["surprising"] == []
    assert run["settings"]["loop.simulations"] == 300


def test_load_reads_a_run_back(finished):
    samples = gensci.load(finished)
    assert samples.x["theta"].shape == (4000, 2)
    assert samples.meta["parameters"] == ["a", "b"]


def test_the_same_command_again_changes_nothing(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.parent)
    before = (finished / "samples.npz").read_bytes()
    calls = json.loads((finished / "run.json").read_text())["counts"]
    assert main([*command(), "--calibration", "40", "--out", "run"]) == 0
    assert (finished / "samples.npz").read_bytes() == before
    assert json.loads((finished / "run.json").read_text())["counts"] == calls
    assert "complete before, reading" in capsys.readouterr().out


def test_a_run_interrupted_at_any_write_ends_with_the_same_bits(tmp_path, monkeypatch, capsys):
    assert main(command("simulate", TINY, "--out", "whole")) == 0
    truth = (tmp_path / "whole" / "samples.npz").read_bytes()
    write, left = RunFolder._write, [0]

    def interrupting(self, path, tensors):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, path, tensors)

    monkeypatch.setattr(RunFolder, "_write", interrupting)
    times = 0
    for writes in range(1, 40):
        left[0] = 1  # every call of the command gets one step further
        status = main(command("simulate", TINY, "--out", "cut"))
        run = json.loads((tmp_path / "cut" / "run.json").read_text())
        if status == 0:
            break
        times += 1
        assert (status, run["outcome"]) == (1, "interrupted"), writes
        assert not (tmp_path / "cut" / "samples.npz").exists()
    assert times >= 6
    assert (tmp_path / "cut" / "samples.npz").read_bytes() == truth
    assert run["outcome"] == "complete" and "error" not in run
    state = [
        {path.name for path in (tmp_path / run / "state").iterdir()} for run in ("whole", "cut")
    ]
    assert state[0] == state[1]
    assert run["counts"]["simulator"] == 60 + 60 + 30
    assert "the same command again continues" in capsys.readouterr().err


EXACT = [
    "--log-likelihood", f"{DOUBLES}:log_likelihood", "--exact.num_draws", "2000",
    "--exact.fit_draws", "1000", "--exact.rehearsals", "0", "--exact.proposal.steps", "150",
    "--exact.proposal.layers", "1", "--exact.proposal.hidden", "16",
]  # fmt: skip


def test_an_exact_likelihood_corrects_the_posterior(tmp_path, capsys, monkeypatch):
    # a surrogate that has hardly been trained, and on few simulations
    arguments = [*command("simulate", TINY, *EXACT), "--num-samples", "1000", "--out", "run"]
    assert main(arguments) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    verdict = run["verdict"]
    assert verdict["corrected"] and verdict["khat"] < 0.7 and run["counts"]["exact"] == 2000
    mean, covariance = moments(tmp_path / "run")
    true_mean, true_covariance = infer_doubles.posterior()
    error = np.sqrt(true_covariance.diagonal() / verdict["ess"])
    assert (np.abs(mean - true_mean) < 5 * error).all()
    np.testing.assert_allclose(covariance, true_covariance, atol=0.02)
    difference = verdict["log_z"] - infer_doubles.log_evidence()
    assert abs(difference) < 5 * verdict["log_z_error"]
    assert "k-hat" in capsys.readouterr().out
    before = (tmp_path / "run" / "samples.npz").read_bytes()
    monkeypatch.setattr(infer_doubles, "log_likelihood", infer_doubles.raising_likelihood)
    assert main(arguments) == 0  # all of it is kept
    assert (tmp_path / "run" / "samples.npz").read_bytes() == before


def test_a_likelihood_that_fails_is_one_line_and_loses_nothing(tmp_path, capsys):
    bad = [*EXACT[:1], f"{DOUBLES}:raising_likelihood", *EXACT[2:]]
    assert main([*command("simulate", TINY, *bad), "--out", "run"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "ValueError: no such binary) at theta = [" in error[0]
    assert {path.name for path in (tmp_path / "run" / "shards").iterdir()} == {
        "000000.safetensors", "000001.safetensors",
    }  # fmt: skip


def test_failed_simulations_are_kept_and_counted(tmp_path, capsys):
    assert main(command("picky", TINY, "--out", "run")) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    failed = run["simulations"]["failed"]
    assert failed > 0 and failed + run["simulations"]["done"] == 120
    assert run["errors"] == {"ValueError: the star exploded": failed}
    assert f"({run['rounds'][0]['failed']['failed']} failed)" in capsys.readouterr().out


def test_too_many_failures_end_the_run_and_lose_nothing(tmp_path, capsys):
    arguments = command("picky", TINY, "--out", "run")
    assert main([*arguments, "--max-failed", "0.01"]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "--max-failed" in error[0] and "the star exploded" in error[0]
    shards = {path.name: path.read_bytes() for path in (tmp_path / "run" / "shards").iterdir()}
    assert shards
    assert main(arguments) == 0
    for name, content in shards.items():
        assert (tmp_path / "run" / "shards" / name).read_bytes() == content


def one_error(capsys, status, *parts):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gensci: error: "), lines
    for part in parts:
        assert part in lines[0]
    return status


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("raising", "ValueError: the star exploded"),
        ("other_shape", "returned shape (5,), expected (3,)"),
        ("of_nan", "the data hold NaN or infinity"),
        ("hanging", "no answer within the time limit of 0.01 s"),
    ],
)
def test_a_hopeless_simulator_is_one_line(tmp_path, capsys, name, part):
    status = main(command(name, TINY, "--out", "run", "--time-limit", "0.01"))
    assert one_error(capsys, status, part) == 1
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["outcome"] == "failed" and part in run["error"]
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["run.json"]


@pytest.mark.slow
def test_workers_that_crash_cost_their_rows_only(tmp_path, capsys):
    jobs = [*TINY, "--jobs", "1"]
    status = main(command("crashing", jobs, "--out", "run"))
    assert one_error(capsys, status, "the worker process ended") == 1


def nan_observation(folder):
    np.save(folder / "bad.npy", np.array([1.0, np.nan, 2.0]))


def text_observation(folder):
    (folder / "bad.csv").write_text("a,b\nc,d\n")


def complex_observation(folder):
    np.save(folder / "bad.npy", np.array([1.0 + 1j]))


def pickled_observation(folder):
    np.save(folder / "bad.npy", np.array([{}]), allow_pickle=True)


def unnamed_arrays(folder):
    np.savez(folder / "bad.npz", first=np.zeros(3), second=np.zeros(3))


def broken_module(folder):
    (folder / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")


def strange_prior(folder):
    (folder / "odd.json").write_text('{"kind": "boxx", "names": ["a"]}')


def foreign_folder(folder):
    (folder / "results").mkdir()
    (folder / "results" / "mine.txt").write_text("precious")


@pytest.mark.parametrize(
    ("prepare", "options", "part", "status"),
    [
        (None, ["--simulator", "nowhere:f"], "no module 'nowhere'", 2),
        (None, ["--simulator", "simulate"], "names no module and function", 2),
        (None, ["--simulator", "nowhere.py:f"], "no such file", 2),
        (None, ["--simulator", f"{DOUBLES}:simulat"], "did you mean 'simulate'", 2),
        (None, ["--simulator", f"{DOUBLES}:RANGE"], "is a int, no function", 2),
        (broken_module, ["--simulator", "broken:f"], "RuntimeError: two lines", 2),
        (None, ["--observation", "none.npy"], "no such file", 2),
        (None, ["--observation", "prior.json"], "unknown kind of file", 2),
        (nan_observation, ["--observation", "bad.npy"], "NaN or infinity (1 of 3 values, first", 2),
        (text_observation, ["--observation", "bad.csv"], "cannot be read", 2),
        (complex_observation, ["--observation", "bad.npy"], "complex numbers", 2),
        (pickled_observation, ["--observation", "bad.npy"], "cannot be read", 2),
        (unnamed_arrays, ["--observation", "bad.npz"], "first, second, but no array 'x'", 2),
        (None, ["--prior", "none.json"], "no such file", 2),
        (None, ["--prior", "x.csv"], "not readable JSON", 2),
        (strange_prior, ["--prior", "odd.json"], "did you mean 'box'", 2),
        (None, ["--prior", f"{DOUBLES}:no_prior"], "is a int, no prior", 2),
        (None, ["--simulations", "many"], "give a whole number", 2),
        (None, ["--simulations", "0"], "simulations=0 is not usable", 2),
        (None, ["--simulations", "10,20,30"], "for 2 rounds", 2),
        (None, ["--rounds", "0"], "rounds=0 is not usable", 2),
        (None, ["--rounds", "x"], "--rounds: give a whole number", 2),
        (None, ["--time-limit", "-1"], "time_limit=-1", 2),
        (None, ["--jobs", "-2"], "jobs=-2 is not usable", 2),
        (None, ["--array", "jax"], "give numpy or torch", 2),
        (None, ["--calibration", "3"], "--calibration 3; give 20 or more", 2),
        (None, ["--predictive", "-3"], "--predictive -3; give 0 or more", 2),
        (None, ["--loop.draw", "3"], "did you mean 'draws'", 2),
        (None, ["--loop.draws", "few"], "--loop.draws 'few' is not usable; give a whole number", 2),
        (None, ["--model.layer", "3"], "no setting --model.layer", 2),
        (None, ["--sampler.num_walkers", "1"], "num_walkers=1 is not usable", 2),
        (None, ["--lisa.nodes", "3"], "is a setting of --system lisa:mbhb", 2),
        (None, ["--log-likelihood", f"{DOUBLES}:nothing"], "has no 'nothing'", 2),
        (None, ["--out", "x.csv"], "is not a folder", 1),
        (foreign_folder, ["--out", "results"], "holds files that are no run of gensci", 1),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path, capsys, prepare, options, part, status
):
    if prepare is not None:
        prepare(tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    found = main(command("simulate", TINY, *options))
    assert one_error(capsys, found, part) == status
    after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    after = {path: content for path, content in after.items() if "__pycache__" not in path.parts}
    assert after == before


@pytest.mark.parametrize("left_out", ["--simulator", "--prior", "--observation"])
def test_what_is_missing_is_named(capsys, left_out):
    arguments = command("simulate", TINY)
    place = arguments.index(left_out)
    del arguments[place : place + 2]
    assert one_error(capsys, main(arguments), f"{left_out} must be given") == 2


def test_another_observation_or_seed_is_another_run(tmp_path, capsys):
    assert main(command("simulate", TINY, "--out", "run")) == 0
    capsys.readouterr()
    before = (tmp_path / "run" / "run.json").read_bytes()
    (tmp_path / "x.csv").write_text("1,2,3")
    assert one_error(capsys, main(command("simulate", TINY, "--out", "run")), "observation_") == 1
    write_inputs(tmp_path)
    again = command("simulate", TINY, "--out", "run", "--seed", "2")
    assert one_error(capsys, main(again), "holds a run with seed 1, not 2") == 1
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: np.save(folder / "y.npy", OBSERVATION),
        lambda folder: np.savez(folder / "y.npz", x=OBSERVATION, other=np.zeros(2)),
        lambda folder: (folder / "y.csv").write_text("p,q,r\n0.7,0.1,0.4\n"),
        lambda folder: (folder / "y.txt").write_text("# three data\n0.7\n0.1\n0.4\n"),
    ],
)
def test_every_kind_of_file_holds_the_same_observation(tmp_path, write):
    from gensci.commands.infer_inputs import load_observation

    write(tmp_path)
    (path,) = tmp_path.glob("y.*")
    np.testing.assert_array_equal(load_observation(path), OBSERVATION)


def test_the_python_call_gives_what_the_command_writes(tmp_path):
    assert main(command("simulate", TINY, "--out", "run")) == 0
    samples = gensci.infer(
        infer_doubles.simulate, PRIOR, OBSERVATION, rounds=2, simulations=60, num_samples=100,
        seed=1, predictive=30, loop_settings={"draws": 100, "stop_change": 0},
        sampler_settings={"num_walkers": 50, "warmup": 3}, model_settings={"steps": 10},
    )  # fmt: skip
    with np.load(tmp_path / "run" / "samples.npz") as stored:
        np.testing.assert_array_equal(samples.x["theta"].numpy(), stored["theta"])
    assert samples.meta["counts"]["simulator"] == 150
    assert samples.meta["parameters"] == ["a", "b"]


def test_the_script_of_the_readme(monkeypatch, capsys):
    """Run as it stands but for fewer simulations and steps, against the posterior on a grid."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    (script,) = [block for block in blocks if "gensci.infer(" in block]
    assert len([line for line in script.splitlines() if line]) <= 20
    whole = "rounds=3, simulations=1000"
    assert whole in script
    small = 'rounds=3, simulations=500, predictive=0, model_settings={"steps": 300}'
    names = {}
    exec(script.replace(whole, small), names)
    frequency, damping = np.meshgrid(
        np.linspace(1, 6, 401), np.linspace(0, 2, 401), indexing="ij"
    )  # fmt: skip
    times = names["TIMES"]
    signal = np.exp(-damping[..., None] * times) * np.cos(frequency[..., None] * times)
    log = -0.5 * ((signal - names["observed"]) ** 2).sum(-1) / 0.01
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    theta = names["posterior"].x["theta"].numpy()
    for column, values in enumerate((frequency, damping)):
        mean = (weight * values).sum()
        sd = np.sqrt((weight * (values - mean) ** 2).sum())
        assert abs(theta[:, column].mean() - mean) < 0.5 * sd
        assert 0.6 * sd < theta[:, column].std() < 1.6 * sd
    assert "frequency: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_killed_at_any_instant_ends_with_the_same_bits(tmp_path):
    arguments = [sys.executable, "-m", "gensci", *command("simulate", TINY)]
    arguments = [*arguments, "--jobs", "1", "--simulations", "200"]

    def run(out, seconds=None):
        process = subprocess.Popen([*arguments, "--out", out], stdout=subprocess.DEVNULL)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    begun = time.monotonic()
    assert run("whole") == 0
    duration = time.monotonic() - begun
    delays = random.Random(5)
    ends = [run("killed", delays.uniform(0.3, 0.95) * duration) for _ in range(6)]
    assert -signal.SIGKILL in ends
    assert run("killed") == 0
    bits = [(tmp_path / name / "samples.npz").read_bytes() for name in ("whole", "killed")]
    assert bits[0] == bits[1]


@pytest.mark.slow
def test_local_tests_of_many_runs(tmp_path):
    assert (
        main([*command(), "--calibration", "100", "--local-calibration", "40", "--out", "r"]) == 0
    )
    run = json.loads((tmp_path / "r" / "run.json").read_text())
    assert run["calibration"]["local_c2st_pvalue"] > 0.01
    assert run["local_calibration"]["runs"] == 40
