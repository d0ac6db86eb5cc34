"""`gensci infer --system lisa:mbhb` with small settings: files, counts, resuming, refusals."""

import json
import math
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gensci
from gensci.__main__ import main
from gensci.commands.infer_lisa import LisaSubject, _verdict, lisa_settings
from gensci.core.results import SampleSet
from gensci.io.run_folder import RunFolder
from gensci.loops.lisa_inference import LisaSettings, usual_settings
from gensci.sims.lisa import PARAMETERS
from gensci.systems.lisa_likelihood import FullLikelihood
from gensci.systems.lisa_observation import Observation, make_observation
from gensci.systems.lisa_problem import load_problem

pytest.importorskip("corner")
pytest.importorskip("h5py")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    arviz = pytest.importorskip("arviz")

SMALL = [
    "--seed", "1", "--threads", "1", "--simulations", "100", "--rounds", "1", "--num-samples",
    "400", "--predictive", "4", "--lisa.nodes", "32", "--lisa.loop.draws", "200",
    "--lisa.tempering.num_walkers", "40", "--lisa.tempering.warmup", "5",
    "--lisa.tempering.thinning", "2", "--lisa.reweight.num_draws", "400",
    "--lisa.reweight.rehearsals", "0", "--lisa.reweight.proposal.steps", "40",
    "--lisa.reweight.proposal.layers", "1", "--lisa.reweight.proposal.hidden", "16",
    "--lisa.reweight.chain.warmup", "5", "--lisa.reweight.chain_rows", "200",
]  # fmt: skip
NOISY = ["infer", "--system", "lisa:mbhb", "--problem", "moderate-noisy", *SMALL]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """The search and the corner plot of eleven parameters take seconds and are tested elsewhere."""
    from gensci.commands import infer_run
    from gensci.loops import lisa_inference

    def found(observation, prior, generator, **sizes):
        return load_problem("moderate-noisy").truth, 100

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lisa_inference, "find_reference", found)
        patch.setattr(infer_run, "corner_plot", lambda path, *rest: path.write_bytes(b"PNG"))
        yield


@pytest.fixture(scope="module")
def finished(quickly, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lisa")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*NOISY, "--out", "run"]) == 0
    return folder / "run"


def test_the_files_and_counts_of_a_run(finished):
    assert {path.name for path in finished.iterdir()} == {
        "run.json", "posterior.nc", "summary.csv", "samples.npz", "corner.png", "diagnostics",
        "shards", "state", "surrogate",
    }  # fmt: skip
    run = json.loads((finished / "run.json").read_text())
    counts = run["counts"]
    assert counts["simulator"] == 100 and counts["predictive"] == 4 and counts["surrogate"] > 0
    parts = ("search", "simulator", "exact", "predictive")
    assert counts["total"] == sum(counts[name] for name in parts)
    assert run["verdict"]["corrected"] and run["outcome"] == "complete"
    assert run["settings"]["setting"]["channels"] == "AE"
    data = arviz.from_netcdf(str(finished / "posterior.nc")).load()
    assert tuple(data.posterior.data_vars) == PARAMETERS
    assert data.observed_data["data_real"].shape[0] == 2


def test_likelihoods_are_those_of_the_whole_grid(finished):
    samples = gensci.load(finished)
    problem = load_problem("moderate-noisy")
    best = samples.x["log_likelihood"].argsort(descending=True)[:5]
    theta = samples.x["theta"][best]
    exact = FullLikelihood(make_observation(problem)).log_likelihood(theta)
    torch.testing.assert_close(samples.x["log_likelihood"][best], exact, rtol=0, atol=0.5)
    problem.prior.check_inside(samples.x["theta"])


def test_the_same_command_again_reads_what_is_there(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parent)
    before = (finished / "samples.npz").read_bytes()
    assert main([*NOISY, "--out", "run"]) == 0
    assert (finished / "samples.npz").read_bytes() == before
    assert "complete before, reading" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_interrupted_on_its_way_ends_with_the_same_bits(tmp_path, finished, monkeypatch):
    write, left = RunFolder._write, [0]

    def interrupting(self, path, tensors):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, path, tensors)

    for writes in (1, 3):  # after the search; after the first round was simulated and trained
        left[0] = writes
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "_write", interrupting)
            assert main([*NOISY, "--out", "cut"]) == 1
    assert main([*NOISY, "--out", "cut"]) == 0
    assert (tmp_path / "cut" / "samples.npz").read_bytes() == (
        finished / "samples.npz"
    ).read_bytes()


def test_injections_are_told_by_what_was_injected_and_files_by_their_data(tmp_path):
    """The last bits of an injection depend on the number of threads."""
    subject = LisaSubject.of("moderate-noisy", None, None)
    data = subject.observation.data * (1 + 2e-16)
    other = replace(subject, observation=replace(subject.observation, data=data))
    assert not torch.equal(other.observation.data, subject.observation.data)
    assert other.facts() == subject.facts()
    assert subject.facts()["truth"] == load_problem("moderate-noisy").truth.tolist()
    for name, own in (("one.h5", subject), ("two.h5", other)):
        own.observation.save(tmp_path / name)
    one, two = (LisaSubject.of("moderate-noisy", name, None) for name in ("one.h5", "two.h5"))
    assert one.facts()["observation_sha256"] != two.facts()["observation_sha256"]


def test_sample_draws_from_the_surrogate_of_a_run(tmp_path, finished, monkeypatch):
    from gensci.commands import lisa_proposals

    monkeypatch.setattr(lisa_proposals, "corner_plot", lambda path, *rest: path.write_bytes(b"PNG"))
    arguments = ["--checkpoint", str(finished / "surrogate"), "--num-samples", "50", "--seed", "1"]
    assert main(["sample", "--system", "lisa:mbhb", *arguments, "--out", "drawn"]) == 0
    run = json.loads((tmp_path / "drawn" / "run.json").read_text())
    assert run["settings"]["system.problem"] == "moderate-noisy"
    with np.load(tmp_path / "drawn" / "samples.npz") as stored:
        assert stored["theta"].shape[1] == 11


def one_error(capsys, status, *parts):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gensci: error: "), lines
    for part in parts:
        assert part in lines[0], lines[0]
    return status


def save_event(path, **changed):
    setting = replace(load_problem("loud").setting, **changed)
    data = torch.zeros(len(setting.channels), setting.num_bins, dtype=torch.complex128)
    Observation(data, setting).save(path)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"f_max": 0.01}, ("f_max = 0.01", "f_max = 0.0135")),
        ({"noise_model": "sangria"}, ("noise_model = 'sangria'", "noise_model = 'SciRDv1'")),
        ({"channels": "EA"}, ("channels = 'EA'", "channels = 'AE'")),
    ],
)
def test_data_taken_otherwise_are_refused_with_both_values(tmp_path, capsys, changed, parts):
    save_event(tmp_path / "event.h5", **changed)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["infer", "--problem", "loud", "--observation", "event.h5", "--out", "run"]
    assert one_error(capsys, main(arguments), *parts) == 2
    assert sorted(tmp_path.rglob("*")) == before


def nan_event(folder):
    import h5py

    save_event(folder / "event.h5")
    with h5py.File(folder / "event.h5", "r+") as file:
        file["data"][0, 3] = complex(np.nan, 0)


def small_prior(folder):
    text = '{"kind": "box", "names": ["a"], "low": [0], "high": [1]}'
    (folder / "prior.json").write_text(text)
    save_event(folder / "event.h5")


def text_event(folder):
    (folder / "event.h5").write_text("no HDF5")


@pytest.mark.parametrize(
    ("prepare", "options", "part", "status"),
    [
        (None, ["--problem", "louder"], "did you mean 'loud'", 2),
        (None, ["--system", "toy:gaussian"], "cannot be inferred", 2),
        (None, ["--observation", "none.h5"], "none.h5 is not a readable LISA observation", 2),
        (text_event, ["--observation", "event.h5"], "is not a readable LISA observation", 2),
        (save_event, ["--observation", "event.h5"], "needs a prior", 2),
        (nan_event, ["--observation", "event.h5"], "NaN or infinite in 1 places, first in", 2),
        (small_prior, ["--observation", "event.h5", "--prior", "prior.json"], "is over a;", 2),
        (None, ["--lisa.node", "3"], "did you mean 'nodes'", 2),
        (None, ["--lisa.reweight.num_draw", "3"], "no setting --lisa.reweight.num_draw", 2),
        (None, ["--lisa.nodes", "many"], "--lisa.nodes 'many' is not usable", 2),
        (None, ["--simulations", "0"], "simulations=0 is not usable", 2),
        (None, ["--loop.draws", "3"], "--loop does not go with --system lisa:mbhb", 2),
        (None, ["--simulator", "a:b"], "--simulator does not go with --system lisa:mbhb", 2),
        (None, ["--calibration", "40"], "--calibration does not go with --system lisa:mbhb", 2),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tmp_path, capsys, prepare, options, part, status
):
    if prepare is save_event:
        save_event(tmp_path / "event.h5")
    elif prepare is not None:
        prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert one_error(capsys, main(["infer", "--system", "lisa:mbhb", *options]), part) == status
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_no_exact_likelihood_corrects_in_noise_with_glitches(tmp_path):
    short = ["--lisa.likelihood.noise-steps", "300"]
    assert main(["infer", "--problem", "glitch", *SMALL, *short, "--out", "run"]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert not run["verdict"]["corrected"] and run["verdict"]["khat"] is None
    assert run["counts"]["exact"] == 0 and not (tmp_path / "run" / "surrogate").exists()


@pytest.mark.slow
def test_an_observation_of_ones_own(tmp_path):
    problem = load_problem("moderate-noisy")
    make_observation(problem).save(tmp_path / "event.h5")
    (tmp_path / "prior.json").write_text(json.dumps(problem.prior.to_json()))
    own = ["--system", "lisa:mbhb", "--observation", "event.h5", "--prior", "prior.json"]
    assert main(["infer", *own, *SMALL]) == 0
    run = json.loads((tmp_path / "results" / "event" / "run.json").read_text())
    assert run["outcome"] == "complete" and run["settings"]["noise"] == "gaussian"
    data = arviz.from_netcdf(str(tmp_path / "results" / "event" / "posterior.nc")).load()
    assert "constant_data" not in data.groups()  # no truth is known


@pytest.mark.parametrize(
    ("moved", "rhat", "told"),
    [
        (30.0, 1.0, "do not trust these draws: the posterior still moved by 30.0 nats"),
        (0.1, 1.8, "no exact likelihood corrects it; the walkers disagree"),
        (0.1, 1.01, "no exact likelihood corrects it"),
    ],
)
def test_draws_that_nothing_corrects_are_judged_by_their_rounds(moved, rhat, told):
    draws = SampleSet({"theta": torch.zeros(4, 11).double()}, torch.zeros(4).double())
    known = {"ess": 4.0, "rhat": rhat, "advice": "the walkers disagree"}
    result = SimpleNamespace(
        posterior=draws.with_meta(verdict=known), khat=math.nan, efficiency=math.nan,
        fallback=None, evidence=None, records=[SimpleNamespace(change=moved)],
    )  # fmt: skip
    verdict = _verdict(result, LisaSettings())
    assert not verdict["corrected"] and told in verdict["advice"]
    assert verdict["advice"].endswith("disagree") == (moved < 1 and rhat > 1.2)


def test_defaults_are_those_of_the_noise_and_what_is_given_wins():
    glitch = load_problem("glitch")
    assert lisa_settings(glitch, {}, {}).nodes == 40
    options = {"nodes": "64", "likelihood.noise-steps": "300"}
    given = lisa_settings(glitch, {"simulations": "500", "rounds": 2}, options)
    assert given.nodes == 64 and given.loop.sizes == (500, 500)
    assert given.likelihood.noise_steps == 300 and given.likelihood.kind == "mixture"
    loud = load_problem("loud")
    assert lisa_settings(loud, {}, {}) == usual_settings(loud)
