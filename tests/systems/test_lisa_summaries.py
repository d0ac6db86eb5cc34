"""Summaries of LISA's data: their noise, their signals, and what they know."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.summaries import Summary, WhiteLikelihood, draw_summaries
from gensci.systems.lisa_heterodyne import as_real
from gensci.systems.lisa_information import grid_information, information, information_lost
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_noise import Gap, TimeGrid, stationary
from gensci.systems.lisa_observation import Observation, gaussian_noise, make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_summaries import HeterodynedBins, PrincipalComponents, ScoreCompression

NODES = 24


@functools.cache
def bins(name, nodes=NODES):
    """The bins of a problem about its truth, with the noise of that problem."""
    problem = load_problem(name)
    return HeterodynedBins(make_observation(problem), problem.truth, nodes, problem.noise)


@functools.cache
def nearby(name, n=200):
    """Points of about one standard deviation, and their signals."""
    problem, summary = load_problem(name), bins(name)
    fisher = information(summary, problem.truth)
    known = 12 / (problem.prior.bounds[:, 1] - problem.prior.bounds[:, 0]).square()
    factor = torch.linalg.cholesky(torch.linalg.inv(fisher + known.diag()))
    theta = (
        problem.truth
        + torch.randn(n, 11, generator=stream(0, "near"), dtype=torch.float64) @ factor.T
    )
    theta = theta[problem.prior.inside(theta)]
    return theta, summary.signal(theta)


def plain(summary, data):
    """Summaries of data (c, M) by the sum over the whole grid."""
    return as_real(summary.heterodyne.project(data[None]))[0]


def is_white(draws):
    """Whether (n, dim) draws have mean zero, unit covariance and no excess kurtosis."""
    n, dim = draws.shape
    assert float(draws.mean(0).abs().max()) < 5 / math.sqrt(n)
    values = torch.linalg.eigvalsh(draws.T @ draws / n)
    edge = math.sqrt(dim / n)  # of Marchenko and Pastur's law
    assert (1 - edge) ** 2 * 0.93 < float(values[0])
    assert float(values[-1]) < (1 + edge) ** 2 * 1.07
    excess = (draws.pow(4).mean(0) / draws.square().mean(0).square() - 3).mean()
    assert abs(float(excess)) < 5 * math.sqrt(24 / draws.numel()) + 6 / n


def test_rows_of_the_projection_are_orthonormal_in_the_noise():
    """Exactly, by the sum over all 34,733 frequencies: no draw is needed."""
    problem = load_problem("loud")
    summary = HeterodynedBins(make_observation(problem), problem.truth, 64)
    whitening = summary.observation.whitening
    for channel in (0, 1):
        white = summary.heterodyne.rows(channel) / whitening[channel]
        unit = torch.eye(64, dtype=white.dtype)
        torch.testing.assert_close(white @ white.mH, unit, rtol=0, atol=1e-7)
    noise = gaussian_noise(problem.setting, stream(1, "rows"))
    by_hand = torch.stack([summary.heterodyne.rows(c) @ noise[c] for c in (0, 1)])
    torch.testing.assert_close(summary.heterodyne.project(noise), by_hand, rtol=1e-6, atol=1e-7)


def test_stationary_noise_is_white_through_the_grid_and_as_drawn():
    summary, setting = bins("moderate-noisy"), load_problem("moderate").setting
    psd = setting.psd(setting.frequencies()).expand(50, -1, -1)
    noise = [stationary(psd, setting.duration, stream(k, "white")) for k in range(6)]
    grid = torch.cat([as_real(summary.heterodyne.project(draws)) for draws in noise])
    is_white(grid)
    is_white(summary.noise(2000, stream(0, "drawn")))


@pytest.mark.parametrize("name", ["moderate-noisy", "gap", "glitch"])
def test_signal_and_noise_add_up_to_the_data(name):
    """The noise of the observation, made in its own domain, is what the summary shows beside the
    signal.
    """
    problem, summary = load_problem(name), bins(name)
    setting = problem.setting
    signal = setting.strain(problem.truth[None], setting.frequencies())[0]
    alone = problem.noise.apply(torch.zeros_like(signal), setting, stream(9, "add"))
    both = problem.noise.apply(signal, setting, stream(9, "add"))
    parts = [
        HeterodynedBins(Observation(data, setting), problem.truth, NODES, problem.noise).data()
        for data in (both, alone)
    ]
    # The signal is known to the interpolation error of 24 nodes.
    missed = parts[0] - parts[1] - summary.signal(problem.truth[None])[0]
    assert float(missed.norm()) < 0.3
    assert isinstance(summary, Summary)
    assert summary.data().shape == (summary.dim,)


@pytest.mark.parametrize("name", ["moderate", "gap"])
def test_signals_of_other_binaries_are_those_of_the_grid(name):
    problem = load_problem(name)
    summary = bins(name, 64)
    setting, theta = problem.setting, nearby("moderate")[0][:3]
    strain = setting.strain(theta, setting.frequencies())
    window = problem.noise.window(setting)
    if window is not None:
        grid = TimeGrid.of(setting)
        series = grid.to_time(strain, setting.first_bin) * window
        strain = grid.to_frequency(series, setting.first_bin, setting.num_bins)
    expected = as_real(summary.heterodyne.project(strain))
    if window is not None:
        expected = summary._cut.whiten(expected.unflatten(1, (2, -1))).flatten(1)
    missed = (summary.signal(theta) - expected).norm(dim=1)
    assert float(missed.max()) < 0.05
    assert float(expected.norm(dim=1).min()) > 200


def test_noise_with_a_gap_is_white_where_plain_summaries_are_not():
    """Draws cut in the time domain; the factor that whitens them comes from no draw."""
    problem, summary = load_problem("gap"), bins("gap")
    setting = problem.setting
    zero = torch.zeros(2, setting.num_bins, dtype=torch.complex128)
    raw = torch.stack(
        [plain(summary, problem.noise.apply(zero, setting, stream(k, "cut"))) for k in range(250)]
    )
    values = torch.linalg.eigvalsh(raw.T @ raw / len(raw))
    assert float(values[-1]) > 2.5
    assert float(values[0]) < 0.3
    is_white(summary._cut.whiten(raw.unflatten(1, (2, -1))).flatten(1))
    is_white(summary.noise(2000, stream(0, "drawn")))


def test_the_window_of_the_observation_is_enough():
    problem, summary = load_problem("gap"), bins("gap")
    again = HeterodynedBins(summary.observation, problem.truth, NODES)
    torch.testing.assert_close(again.data(), summary.data())
    theta = problem.truth[None]
    torch.testing.assert_close(again.signal(theta), summary.signal(theta))


def test_glitches_and_a_window_are_refused():
    observation, noise = bins("gap").observation, load_problem("glitch").noise
    with pytest.raises(UsageError, match="has a window and its noise has glitches"):
        HeterodynedBins(observation, load_problem("gap").truth, NODES, noise)


def test_a_gap_that_leaves_nothing_is_refused():
    problem = load_problem("gap")
    gap = Gap(begin=-2e6, end=1e6, taper=900.0)
    with pytest.raises(UsageError, match="leaves nothing"):
        HeterodynedBins(make_observation(problem), problem.truth, NODES, gap)


def test_glitches_of_the_bank_have_the_moments_of_glitches():
    """Sums of powers over random pulses, projected one by one, against the bank's lattice."""
    problem, summary = load_problem("glitch"), bins("glitch")
    kind, setting = problem.noise, problem.setting
    summary.noise(1, stream(0, "make"))
    bank = summary._bank.pulses[:, 0]
    pulses = kind.pulses(800, setting, stream(1, "pulses"))
    rows = summary.heterodyne.rows(0)
    brute = torch.view_as_real(pulses @ rows.T).flatten(1)
    for power in (2, 4):
        sums = [x.pow(power).sum(1) for x in (bank, brute)]
        error = float(sums[1].std()) / math.sqrt(len(brute))
        assert float(sums[0].mean()) == pytest.approx(float(sums[1].mean()), abs=4.5 * error)
    first, second, lattice = (x.T @ x / len(x) for x in (*brute.split(400), bank))
    # Half of the error of two halves comes from each.
    assert float((lattice - first).norm()) < float((first - second).norm())
    assert float(bank.mean(0).abs().max()) < 0.02


def test_noise_with_glitches_has_the_covariance_and_kurtosis_of_the_process():
    """Campbell's theorem: cumulants of a Poisson sum are its rate times the moments of one."""
    problem, summary = load_problem("glitch"), bins("glitch")
    kind = problem.noise
    draws = summary.noise(20_000, stream(3, "glitches"))
    bank = summary._bank.pulses
    a = kind.amplitudes(100_000, problem.setting, stream(4, "amplitudes"))
    second, fourth = a.square().mean(0), a.pow(4).mean(0)
    channels = draws.unflatten(1, (2, -1))
    variance = 1 + kind.expected * second[:, None] * bank.square().mean(0)
    fourth_cumulant = kind.expected * fourth[:, None] * bank.pow(4).mean(0)
    torch.testing.assert_close(channels.var(0).sum(1), variance.sum(1), rtol=0.05, atol=0)
    found = channels.pow(4).mean(0) - 3 * channels.square().mean(0).square()
    torch.testing.assert_close(found.sum(1), fourth_cumulant.sum(1), rtol=0.25, atol=0)
    assert float(draws.mean(0).abs().max()) < 5 * float(draws.std(0).max()) / math.sqrt(20_000)
    assert float((found / channels.var(0).square()).mean()) > 3


def test_noise_is_redrawn_without_a_waveform_and_the_same_for_a_seed():
    summary = bins("glitch")
    before = summary.calls
    signal = torch.ones(5, summary.dim, dtype=torch.float64)
    first, second = (draw_summaries(summary, signal, stream(1, "again")) for _ in range(2))
    assert torch.equal(first, second)
    assert summary.calls == before
    summary.signal(load_problem("glitch").truth.repeat(3, 1))
    assert summary.calls == before + 3


def test_likelihood_of_the_bins_is_the_heterodyned_one_but_for_a_constant():
    problem, theta = load_problem("moderate-noisy"), nearby("moderate")[0][:6]
    observation = make_observation(problem)
    white = WhiteLikelihood(HeterodynedBins(observation, problem.truth, NODES))
    gap = white(theta) - HeterodynedLikelihood(observation, problem.truth, NODES)(theta)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-7)


def test_information_of_the_grid_is_that_of_finite_differences():
    problem = load_problem("faint")
    observation = make_observation(problem)
    width = problem.prior.bounds[:, 1] - problem.prior.bounds[:, 0]
    columns = []
    for column in range(11):
        step = torch.zeros(11, dtype=torch.float64)
        step[column] = 1e-5 * width[column]
        both = torch.stack([problem.truth + step, problem.truth - step])
        up, down = problem.setting.strain(both, observation.frequencies)
        columns.append(observation.whitening * (up - down) / (2 * step[column]))
    slope = torch.view_as_real(torch.stack(columns)).flatten(1)
    found = grid_information(observation, problem.truth)
    scale = found.diagonal().sqrt()
    unit = (scale[:, None] * scale).reciprocal()
    torch.testing.assert_close(slope @ slope.T * unit, found * unit, rtol=0, atol=1e-5)


def test_bins_and_score_keep_the_information_of_the_grid():
    problem = load_problem("moderate")
    whole = grid_information(make_observation(problem), problem.truth)
    summary = bins("moderate", 64)
    for kept in (summary, ScoreCompression(summary, problem.truth)):
        lost = information_lost(kept, problem.truth, whole=whole)
        torch.testing.assert_close(lost.sigma_ratio, torch.ones(11).double(), rtol=2e-3, atol=0)
        assert abs(lost.nats) < 5e-3
    assert ScoreCompression(summary, problem.truth).dim == 11


def test_principal_components_lose_what_they_leave_out():
    problem = load_problem("moderate")
    summary, (_, signals) = bins("moderate"), nearby("moderate")
    lost = [
        information_lost(
            PrincipalComponents(summary, signals, dim), problem.truth, prior=problem.prior
        )
        for dim in (2, 6, 11, 40)
    ]
    nats = [entry.nats for entry in lost]
    assert nats[0] > nats[1] > nats[2] > nats[3] - 1e-9
    assert nats[3] < 0.01 < 3 < nats[0]
    assert float(lost[0].sigma_ratio.max()) > 1.5
    # Without a prior two numbers say nothing of nine directions.
    assert (
        information_lost(PrincipalComponents(summary, signals, 2), problem.truth).nats == math.inf
    )


def test_projections_stay_white_and_centred():
    problem = load_problem("moderate-noisy")
    summary, (_, signals) = bins("moderate-noisy"), nearby("moderate-noisy")
    for kept in (
        PrincipalComponents(summary, signals, 12), ScoreCompression(summary, problem.truth)
    ):  # fmt: skip
        unit = torch.eye(kept.dim, dtype=torch.float64)
        torch.testing.assert_close(kept.directions @ kept.directions.T, unit, rtol=0, atol=1e-9)
        is_white(kept.noise(4000, stream(5, "projected")))
        noise = kept.data() - kept.signal(problem.truth[None])[0]
        assert float(noise.square().sum()) < 60  # chi-square of 12 or 11
        assert isinstance(kept, Summary)


def test_a_gap_costs_information():
    problem = load_problem("gap")
    whole = grid_information(make_observation(problem), problem.truth)
    gap = replace(problem.noise, begin=-3600.0, end=1800.0, taper=600.0)  # over the merger
    wide = HeterodynedBins(make_observation(problem), problem.truth, NODES, gap)
    early, late = (
        information_lost(s, problem.truth, whole=whole).nats for s in (bins("gap"), wide)
    )
    assert 0.05 < early < 1 < late
