"""LISA's problems, observation files and likelihoods against the whole grid."""

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.systems.lisa_heterodyne import slopes
from gensci.systems.lisa_information import information_lost
from gensci.systems.lisa_likelihood import FullLikelihood, HeterodynedLikelihood, fold, phase_images
from gensci.systems.lisa_observation import Observation, load_observation, make_observation
from gensci.systems.lisa_problem import PROBLEMS, load_problem
from gensci.systems.lisa_summaries import HeterodynedBins, ScoreCompression


def near(problem, observation, n):
    """Points one standard deviation or so from the truth along each axis of the Fisher matrix."""
    likelihood = HeterodynedLikelihood(observation, problem.truth, 128)
    slope = slopes(likelihood.residual, problem.truth)
    scale = slope.norm(dim=0)
    values, vectors = torch.linalg.eigh((slope / scale).T @ (slope / scale))
    draws = torch.randn(n, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = problem.truth + 0.3 * (draws / values.clamp(min=1e-3).sqrt()) @ vectors.T / scale
    return theta[problem.prior.inside(theta)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_snr_of_the_file_is_that_of_the_injection(name):
    problem = load_problem(name)
    f = problem.setting.frequencies()
    h = problem.setting.strain(problem.truth[None], f)[0]
    power = 4 / problem.setting.duration * h.abs().square() / problem.setting.psd(f)
    assert float(power.sum().sqrt()) == pytest.approx(problem.snr, rel=1e-5)


@pytest.mark.parametrize(("nodes", "bound"), [(64, 0.05), (128, 0.01)])
def test_heterodyned_equals_the_whole_grid(nodes, bound):
    problem = load_problem("loud")
    observation = make_observation(problem)
    theta = near(problem, observation, 12)
    assert len(theta) > 5
    assert HeterodynedLikelihood(observation, problem.truth, nodes).error_bound(theta) < bound


def test_exact_symmetries_keep_the_likelihood():
    problem = load_problem("faint")
    likelihood = FullLikelihood(make_observation(problem, 3))
    theta = problem.truth[None]
    rows = torch.cat([phase_images(theta)[:, 0], fold(theta)])
    values = likelihood(rows)
    torch.testing.assert_close(values, values[:1].expand(5), rtol=0, atol=1e-6)
    assert likelihood.calls == 5


def test_observation_comes_back_and_refuses_others(tmp_path):
    pytest.importorskip("h5py")
    problem = load_problem("faint")
    observation = make_observation(problem, 3)
    observation.save(tmp_path / "o.h5")
    assert torch.equal(load_observation(tmp_path / "o.h5").data, observation.data)
    with pytest.raises(UsageError, match=r"f_min = .* has f_min"):
        observation.check(load_problem("loud").setting)
    data = observation.data.clone()
    data[0, 2] = torch.nan
    with pytest.raises(UsageError, match="NaN"):
        Observation(data, observation.setting)


def test_summaries_hold_the_signal_and_scores_keep_the_fisher_information():
    problem = load_problem("faint")
    truth = HeterodynedBins(make_observation(problem), problem.truth, 16)
    quiet = truth.signal(problem.truth[None])[0]
    torch.testing.assert_close(truth.data(), quiet, rtol=0, atol=1e-2)
    ratio, lost = information_lost(ScoreCompression(truth, problem.truth), problem.truth)
    torch.testing.assert_close(ratio, torch.ones(11, dtype=torch.float64), rtol=1e-4, atol=0)
    assert abs(lost) < 1e-4
