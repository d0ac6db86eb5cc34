"""The learned embedding is exact where the best answer is linear, and better where it bends."""

from dataclasses import dataclass, replace

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.summaries import NonlinearSummary, draw_summaries
from gensci.models.learned_summary import (
    EmbeddingNetwork,
    EmbeddingSettings,
    LearnedSummary,
    learn_summary,
)
from gensci.systems.lisa_information import information_lost
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_summaries import HeterodynedBins, PrincipalComponents

QUICK = EmbeddingSettings(hidden=32, steps=400, patience=4)


@dataclass
class Mixed:
    """A summary of two parameters in white noise: mixed linearly, or through a square."""

    bent: float
    dim: int = 6
    calls: int = 0

    def signal(self, theta):
        self.calls += len(theta)
        columns = [theta[:, 0], theta[:, 1], theta.sum(1), self.bent * theta[:, 0].square()]
        columns += [0 * theta[:, 0], 2 * theta[:, 1]]
        return 3 * torch.stack(columns, 1)

    def noise(self, n, generator):
        return torch.randn(n, self.dim, generator=generator, dtype=torch.float64)

    def data(self):
        return self.signal(torch.zeros(1, 2, dtype=torch.float64))[0]


def points(n, seed=0):
    return torch.randn(n, 2, generator=stream(seed, "points"), dtype=torch.float64)


def regressed(predictions, target):
    """Share of the target's variance that a linear map of the predictions leaves."""
    design = torch.cat([predictions, torch.ones(len(predictions), 1).double()], 1)
    rest = target - design @ torch.linalg.lstsq(design, target).solution
    return float(rest.var() / target.var())


def test_linear_gaussian_data_give_the_posterior_mean():
    """Prior and noise are normal, so that the mean of the posterior is known."""
    raw, theta = Mixed(0.0), points(4000)
    summary = learn_summary(raw, theta, raw.signal(theta), settings=QUICK)
    fresh = points(3000, 1)
    x = raw.signal(fresh) + raw.noise(3000, stream(2, "noise"))
    matrix = raw.signal(torch.eye(2, dtype=torch.float64)).T
    mean = x @ torch.linalg.solve(matrix @ matrix.T + torch.eye(6).double(), matrix)
    got = summary.compress(x)[:, [0, 2]]
    scale, shift = theta.std(0), theta.mean(0)
    missed = (got * scale + shift - mean).std(0) / (fresh - mean).std(0)
    assert float(missed.max()) < 0.2


def test_it_learns_what_bends():
    """The square of a parameter is in the data linearly and in a cross-check only by the net."""
    raw, theta = Mixed(1.0), points(4000)
    signals = raw.signal(theta)
    straight, bent = (
        learn_summary(raw, theta, signals, settings=replace(QUICK, steps=steps))
        for steps in (1, 1500)
    )
    fresh = points(3000, 1)
    x = raw.signal(fresh) + raw.noise(3000, stream(2, "noise"))
    square = fresh[:, 1].square()[:, None]  # of the second parameter, which data hold linearly
    assert regressed(bent.compress(x), square) < 0.5 * regressed(straight.compress(x), square)


def test_it_is_a_nonlinear_summary_and_noise_costs_no_calls():
    raw, theta = Mixed(1.0), points(500)
    signals = raw.signal(theta)
    before = raw.calls
    summary = learn_summary(raw, theta, signals, settings=replace(QUICK, steps=40))
    assert isinstance(summary, NonlinearSummary)
    assert summary.calls == before
    assert (summary.dim, summary.raw_dim) == (4, 6)
    drawn = draw_summaries(summary, summary.signal(theta[:7]), stream(3, "draw"))
    assert drawn.shape == (7, 4)
    assert summary.calls == before + 7
    assert summary.data().shape == (4,)


def test_the_same_seed_gives_the_same_bits():
    raw, theta = Mixed(1.0), points(300)
    settings = replace(QUICK, steps=60)
    first, second = (
        learn_summary(raw, theta, raw.signal(theta), settings=settings, seed=4) for _ in range(2)
    )
    x = raw.signal(points(9, 5))
    assert torch.equal(first.compress(x), second.compress(x))


def test_angles_are_predicted_by_cosine_and_sine():
    """Points either side of the seam of a circle get predictions that are near each other."""
    raw = Mixed(0.0)
    theta = points(2000)
    theta[:, 0] = torch.remainder(0.3 * theta[:, 0], 1.0)  # about zero, on a circle of period one
    around = torch.where(theta[:, :1] > 0.5, theta[:, :1] - 1, theta[:, :1])
    signals = raw.signal(torch.cat([around, theta[:, 1:]], 1))
    summary = learn_summary(raw, theta, signals, periods=(1.0, None), settings=QUICK)
    ends = raw.signal(torch.tensor([[-0.02, 0.0], [0.02, 0.0], [0.3, 0.0]], dtype=torch.float64))
    out = summary.compress(ends)
    assert float((out[0] - out[1]).norm()) < 0.3 * float((out[1] - out[2]).norm())


def test_shapes_that_do_not_fit_are_refused():
    raw, theta = Mixed(0.0), points(30)
    with pytest.raises(UsageError, match=r"signals of shape \(30, 5\)"):
        learn_summary(raw, theta, raw.signal(theta)[:, :5])
    with pytest.raises(UsageError, match="reads 9 numbers, the summary has 6"):
        LearnedSummary(raw, EmbeddingNetwork(9, 4, 8))


def test_embedding_of_lisa_keeps_most_of_the_information():
    """From 2,000 waveforms about the moderate binary, judged by the Fisher information."""
    problem = load_problem("moderate")
    bins = HeterodynedBins(make_observation(problem), problem.truth, 32)
    derivatives = torch.linalg.inv(_precision(problem, bins))
    theta = problem.truth + points_of(derivatives, 2500)
    theta = theta[problem.prior.inside(theta)][:2000]
    raw = PrincipalComponents(bins, bins.signal(theta), 40)
    summary = learn_summary(raw, theta, raw.signal(theta), settings=replace(QUICK, steps=800))
    lost = information_lost(summary, problem.truth, prior=problem.prior)
    assert float(lost.sigma_ratio.min()) > 0.9
    assert float(lost.sigma_ratio.median()) < 1.2
    assert lost.nats < 4


def _precision(problem, bins):
    """Fisher matrix plus that of the prior."""
    from gensci.systems.lisa_information import information

    width = problem.prior.bounds[:, 1] - problem.prior.bounds[:, 0]
    return information(bins, problem.truth) + (12 / width.square()).diag()


def points_of(covariance, n):
    """(n, 11) draws of twice the width."""
    factor = torch.linalg.cholesky(covariance)
    return 2 * torch.randn(n, 11, generator=stream(6, "near"), dtype=torch.float64) @ factor.T
