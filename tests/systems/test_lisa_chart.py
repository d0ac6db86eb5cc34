"""The chart of face-on binaries: inverse, volume, and that the prior is flat in it."""

import math

import pytest
import torch

from gensci.core.random import stream
from gensci.models.proposal_flow import ProposalFlow, ProposalSettings
from gensci.systems.lisa_chart import SmoothChart
from gensci.systems.lisa_coordinates import (
    SimplePrior,
    circular_amplitudes,
    first_spin,
    skies,
    to_simple,
)
from gensci.systems.lisa_problem import load_problem

INCLINATION, DISTANCE, SINE, LONGITUDE = 5, 4, 8, 7


@pytest.fixture(scope="module")
def problem():
    return load_problem("loud")


@pytest.fixture(scope="module")
def simple(problem):
    theta = problem.prior.sample(400, torch.Generator().manual_seed(1))
    return to_simple(theta, problem.setting)


CHARTS = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
"""First spin or reduced one; sky charted or not."""


@pytest.mark.parametrize("parts", CHARTS)
@pytest.mark.parametrize("hand", [1.0, -1.0])
def test_chart_is_undone(simple, hand, parts):
    chart = SmoothChart(hand, 2.0, 0.4, *parts)
    charted, _ = chart.forward(simple)
    torch.testing.assert_close(chart.inverse(charted), simple, rtol=1e-8, atol=1e-8)
    again, _ = chart.forward(chart.inverse(3 * charted))
    torch.testing.assert_close(again[:, 9:], 3 * charted[:, 9:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", CHARTS)
@pytest.mark.parametrize("hand", [1.0, -1.0])
def test_volume_is_that_of_autograd(simple, hand, parts):
    chart = SmoothChart(hand, 2.0, 0.4, *parts)
    slopes = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: chart.forward(x[None])[0][0], row)
         for row in simple[:20]]
    )  # fmt: skip
    torch.testing.assert_close(
        chart.forward(simple[:20])[1], torch.linalg.slogdet(slopes)[1], rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("hand", [1.0, -1.0])
@pytest.mark.parametrize("sky", range(8))
def test_middle_is_the_face_on_sky(problem, hand, sky):
    """Also of the skies alike, each with the chart fitted to it; mirrors see the other face."""
    theta = problem.truth.repeat(50, 1)
    spread = torch.rand(50, 11, generator=stream(0, "spread"), dtype=torch.float64)
    theta[:, SINE] += 0.02 * spread[:, SINE]
    theta[:, LONGITUDE] += 0.02 * spread[:, LONGITUDE]
    theta[:, INCLINATION] = hand * (1 - 1e-4 * spread[:, INCLINATION])
    points = skies(to_simple(theta, problem.setting))[sky]
    chart = SmoothChart().fitted(points)
    assert chart.hand == (hand if sky < 4 else -hand)
    charted, _ = SmoothChart(chart.hand, chart.branch).forward(points)
    # the weak wave has an amplitude of 2e-9 or less of the strong one; |V| is its fourth root
    assert float(charted[:, 9:].norm(dim=1).max()) < 0.02
    right, left = circular_amplitudes(points)
    weak = left if chart.hand > 0 else right
    ratio = (weak / right.where(weak == left, left)).abs()
    exponent = charted[:, 9:].norm(dim=1).log() / ratio.log()
    assert float(exponent.min()) > 0.2 and float(exponent.max()) < 0.3


def test_prior_has_no_spike_over_charted_points(problem):
    """It rises as |L|^(-3/2) towards face-on, and not at all over V."""
    prior = SimplePrior(problem.prior, problem.setting)
    centre = to_simple(problem.truth[None], problem.setting)
    chart = SmoothChart(1.0, SmoothChart().fitted(centre).branch)
    charted = chart.forward(centre)[0].repeat(5, 1)
    charted[:, 9] = torch.tensor([0.3, 0.1, 0.03, 0.01, 0.003])
    charted[:, 10] = 0.0
    points = chart.inverse(charted)
    density = prior.log_prob(points)
    assert float(density[-1] - density[0]) > 20
    flat = density - chart.forward(points)[1]
    # what is left is smooth: the distance changes with |V|^2
    assert float(flat.max() - flat.min()) < 0.3
    assert float(flat[2:].max() - flat[2:].min()) < 0.005


def test_flow_finds_the_posterior_at_face_on(problem):
    """Amplitudes known well, the sky not: weights against the prior's law are equal in the chart.

    Without it they are not: the flow spreads over the spike.
    """
    prior = SimplePrior(problem.prior, problem.setting)
    truth = to_simple(problem.truth[None], problem.setting)
    found = SmoothChart().fitted(truth)
    chart = SmoothChart(found.hand, found.branch, found.size)
    middle = chart.forward(truth)[0]
    generator = stream(0, "face-on")
    width = torch.tensor([1e-3] * 9 + [0.3, 0.3]).double()

    def log_density(theta):
        """Normal in all but V, and there, about face-on, too."""
        points, log_det = chart.forward(theta)
        apart = torch.cat([points[:, :9] - middle[:, :9], points[:, 9:]], 1)
        return -0.5 * (apart / width).square().sum(1) + log_det

    draws = width * torch.randn(6000, 11, generator=generator, dtype=torch.float64)
    draws[:, :9] += middle[:, :9]
    theta = prior.wrap(chart.inverse(draws))
    theta = theta[prior.inside(theta)]
    settings = ProposalSettings(layers=2, hidden=24, bins=6, steps=300, prior_share=0.0)
    share = {}
    for name, shape in (("charted", SmoothChart()), ("plain", None)):
        flow = ProposalFlow.fit(theta, prior, chart=shape, settings=settings, seed=1)
        x, log_prob = flow.sample_and_log_prob(4000, stream(1, name))
        weight = (log_density(x["theta"]) - log_prob).double()
        weight = torch.where(weight.isfinite(), weight, -math.inf)
        share[name] = float((2 * weight.logsumexp(0) - (2 * weight).logsumexp(0)).exp() / 4000)
    assert share["charted"] > 0.85
    assert share["plain"] < 0.5


def test_charted_flow_comes_back_from_its_checkpoint(problem, simple, tmp_path):
    from gensci.core.errors import UsageError

    prior = SimplePrior(problem.prior, problem.setting)
    settings = ProposalSettings(layers=1, hidden=8, steps=5)
    flow = ProposalFlow.fit(simple, prior, chart=SmoothChart(), settings=settings)
    flow.save(tmp_path / "flow")
    again = ProposalFlow.load(tmp_path / "flow", prior=prior, chart=SmoothChart())
    assert torch.equal(again.log_prob({"theta": simple}), flow.log_prob({"theta": simple}))
    with pytest.raises(UsageError, match="charted"):
        ProposalFlow.load(tmp_path / "flow", prior=prior)


def test_reduced_spin_is_that_of_its_definition(problem, simple):
    theta = problem.prior.sample(400, torch.Generator().manual_seed(1))
    q, chi1, chi2 = theta[:, 1], theta[:, 2], theta[:, 3]
    effective = (q * chi1 + chi2) / (1 + q)
    expected = effective - 38 / 113 * q / (1 + q) ** 2 * (chi1 + chi2)
    torch.testing.assert_close(simple[:, 2], expected)
    torch.testing.assert_close(first_spin(simple), chi1)


def test_signals_bend_less_along_the_reduced_spin(problem):
    """Nearly the same waveforms over a wide range of spins lie in a plane only if told by it.

    Binaries with the mass ratio off by up to 8 % are given the spins whose waveforms are closest to
    that of the truth; the reduced one is nearly a line over the symmetric mass ratio.
    """
    setting, truth = problem.setting, problem.truth
    f = setting.frequencies()[::200]
    psd = setting.psd(f)

    def signal(rows):
        return torch.view_as_real(setting.strain(rows, f) / psd.sqrt()).flatten(1)

    rows = truth.repeat(17, 1)
    rows[:, 1] = truth[1] * torch.linspace(0.92, 1.08, 17).double()
    target = signal(truth[None])[0]
    free = [0, 2, 3, 6, 10]  # chirp mass, spins, phase, time
    for _ in range(12):  # Gauss-Newton, all rows at once
        steps = torch.diag(torch.tensor([1e-6, 1e-4, 1e-4, 1e-3, 1e-2]).double())
        moved = rows[:, None].repeat(1, 5, 1)
        moved[:, :, free] += steps
        base = signal(rows)
        slope = (signal(moved.reshape(-1, 11)).reshape(17, 5, -1) - base[:, None]) / (
            steps.diagonal()[None, :, None]
        )
        step = torch.linalg.lstsq(slope.mT, (target - base)[..., None]).solution[..., 0]
        rows[:, free] += 0.7 * step
    left = {}
    points = to_simple(rows, setting)
    others = torch.cat([torch.ones(17, 1), points[:, [1]]], 1)
    for name, spin in (("chi1", rows[:, 2:3]), ("reduced", points[:, 2:3])):
        left[name] = float((spin - others @ torch.linalg.lstsq(others, spin).solution).std())
    assert float(rows[:, 3].amax() - rows[:, 3].amin()) > 0.5  # far along the other direction
    assert left["reduced"] < 0.3 * left["chi1"]


def test_the_first_spin_is_taken_where_points_are_at_the_end_of_its_range(problem, simple):
    """A box in chi1 is none in the reduced spin: its slanted ends would be cut out of a flow."""
    prior = SimplePrior(problem.prior, problem.setting)
    everywhere = SmoothChart.of(prior).fitted(simple)
    theta = problem.prior.sample(400, torch.Generator().manual_seed(1))
    theta[:, 2] = 0.3 + 0.1 * theta[:, 2]
    local = SmoothChart.of(prior).fitted(to_simple(theta, problem.setting))
    assert (everywhere.first, local.first) == (1.0, 0.0)
    assert everywhere.limits(prior.bounds, prior.periods)[0][2].tolist() == [-1.0, 1.0]
    assert not local.limits(prior.bounds, prior.periods)[0][2].isfinite().any()
    narrow = SmoothChart(spins=(0.2, 0.4)).fitted(to_simple(theta, problem.setting))
    assert narrow.first == 1.0
    assert narrow.limits(prior.bounds, prior.periods)[0][2].tolist() == [0.2, 0.4]
    assert SmoothChart().restored(local.numbers()).numbers() == local.numbers()


@pytest.mark.parametrize(("cosine", "charted"), [(0.5, 0.0), (0.97, 1.0), (-0.97, 1.0)])
def test_the_sky_is_charted_where_points_are_near_face_on(problem, cosine, charted):
    prior = SimplePrior(problem.prior, problem.setting)
    theta = problem.truth.repeat(100, 1)
    theta[:, INCLINATION] = cosine
    chart = SmoothChart().fitted(to_simple(theta, problem.setting))
    assert chart.sky == charted
    bounds, periods = chart.limits(prior.bounds, prior.periods)
    assert bounds[9:].isfinite().all() != bool(charted)
    assert (periods[10] is None) == bool(charted)
