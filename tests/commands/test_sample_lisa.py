"""`gensci sample --system lisa:mbhb` from a small surrogate: weights, files, refusals."""

import json
import warnings

import numpy as np
import pytest
import torch
from commands.lisa_doubles import make_surrogate

import gensci
from gensci.__main__ import main
from gensci.loops import lisa_surrogate
from gensci.loops.lisa_surrogate import load_surrogate
from gensci.sims.lisa import PARAMETERS
from gensci.systems.lisa_likelihood import FullLikelihood
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem

pytest.importorskip("corner")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    arviz = pytest.importorskip("arviz")

ARGUMENTS = ["--num-samples", "300", "--seed", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory):
    return make_surrogate(tmp_path_factory.mktemp("surrogate") / "small")


@pytest.fixture
def no_corner(monkeypatch):
    """The corner plot of eleven parameters takes seconds; one test makes it."""
    from gensci.commands import lisa_proposals

    monkeypatch.setattr(lisa_proposals, "corner_plot", lambda path, *rest: path.write_bytes(b"PNG"))


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def sample(surrogate, *more):
    return main(
        ["sample", "--system", "lisa:mbhb", "--checkpoint", str(surrogate), *ARGUMENTS, *more]
    )


def test_a_surrogate_over_other_coordinates_is_refused(tmp_path, surrogate, monkeypatch, capsys):
    monkeypatch.setattr(lisa_surrogate, "SIMPLE", ("ln_chirp_mass", "chi1"))
    assert sample(surrogate, "--out", "run") == 2
    assert "other coordinates" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_are_those_of_the_exact_likelihood(tmp_path, surrogate, capsys):
    assert sample(surrogate, "--out", "run") == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json", "samples.npz", "posterior.nc", "summary.csv", "corner.png", "shards",
    }  # fmt: skip
    samples = gensci.load(tmp_path / "run")
    problem = load_problem("loud")
    theta = samples.x["theta"][:20]
    exact = FullLikelihood(make_observation(problem)).log_likelihood(theta)
    expected = exact + problem.prior.log_prob(theta)
    torch.testing.assert_close(samples.log_target[:20], expected, rtol=1e-4, atol=0.05)
    proposal = load_surrogate(surrogate).proposal
    torch.testing.assert_close(samples.log_proposal, proposal.log_prob(samples.x))
    ratio = samples.log_target - samples.log_proposal
    torch.testing.assert_close(samples.log_weight - ratio, torch.full_like(ratio, float(
        (samples.log_weight - ratio)[0]
    )))  # fmt: skip
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["sampler"] == "importance"
    assert run["settings"]["system.problem"] == "loud"
    assert "posterior.nc" in capsys.readouterr().out


def test_the_surrogate_weighs_where_it_is_asked_to(tmp_path, surrogate, no_corner):
    assert sample(surrogate, "--out", "run", "--system.likelihood", "surrogate") == 0
    samples = gensci.load(tmp_path / "run")
    expected = load_surrogate(surrogate).target.log_prob(samples.x)
    torch.testing.assert_close(samples.log_target, expected)


def test_arviz_reads_the_posterior(tmp_path, surrogate, no_corner):
    assert sample(surrogate, "--out", "run", "--sampler", "direct") == 0
    data = arviz.from_netcdf(str(tmp_path / "run" / "posterior.nc")).load()
    assert tuple(data.posterior.data_vars) == PARAMETERS
    assert data.posterior["distance"].attrs["units"] == "Mpc"
    truth = load_problem("loud").truth
    assert float(data.constant_data["mass_ratio"]) == truth[1]
    with np.load(tmp_path / "run" / "samples.npz") as stored:
        assert stored["theta"].shape == (300, 11) and (stored["log_weight"] == 0).all()


def test_the_shipped_surrogate_is_efficient(tmp_path, no_corner):
    assert main(["sample", "--system", "lisa:mbhb", *ARGUMENTS, "--num-samples", "2000"]) == 0
    run = json.loads((tmp_path / "results" / "mbhb" / "run.json").read_text())
    assert run["settings"]["checkpoint"] == "lisa-loud"
    assert run["verdict"]["ess_fraction"] > 0.05 and run["verdict"]["khat"] < 0.7
    samples = gensci.load(tmp_path / "results" / "mbhb")
    problem = load_problem("loud")
    # what the channels hold best, and no symmetry exchanges: masses, spins
    theta = samples.x["theta"][:, :4]
    mean = samples.mean(theta)
    sd = samples.mean((theta - mean) ** 2).sqrt()
    assert ((problem.truth[:4] - mean).abs() < 3 * sd).all()


def one_error(capsys, status, *parts):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gensci: error: "), lines
    for part in parts:
        assert part in lines[0], lines[0]
    return status


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"duration": 1_000_000.0}, ("duration = 1000000.0", "duration = 2592000.0")),
        ({"noise_model": "proposal"}, ("noise_model = 'proposal'", "noise_model = 'SciRDv1'")),
        ({"channels": "EA"}, ("channels = 'EA'", "channels = 'AE'")),
    ],
)
def test_data_taken_otherwise_are_refused_with_both_values(
    tmp_path, surrogate, capsys, changed, parts
):
    pytest.importorskip("h5py")
    from dataclasses import replace

    from gensci.systems.lisa_observation import Observation

    setting = replace(load_problem("loud").setting, **changed)
    data = torch.zeros(len(setting.channels), setting.num_bins, dtype=torch.complex128)
    Observation(data, setting).save(tmp_path / "event.h5")
    before = sorted(tmp_path.rglob("*"))
    status = sample(surrogate, "--out", "run", "--system.observation", "event.h5")
    assert one_error(capsys, status, *parts) == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--system.problem", "louder"], "did you mean 'loud'"),
        (["--system.nodes", "2"], "give 8 or more"),
        (["--system.likelihood", "exakt"], "did you mean 'exact'"),
        (["--system.temperature", "3"], "no setting --system.temperature"),
        (["--system.observation", "none.h5"], "none.h5 is not a readable LISA observation"),
        (["--checkpoint", "crystals"], "is no surrogate of a LISA binary"),
        (["--proposal.steps", "3"], "have no settings"),
    ],
)
def test_bad_input_is_one_line(tmp_path, surrogate, capsys, options, part):
    assert one_error(capsys, sample(surrogate, "--out", "run", *options), part) == 2
    assert list(tmp_path.iterdir()) == []
