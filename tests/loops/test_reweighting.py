"""Correction of approximate posteriors against posteriors and evidence known in closed form."""

import math
from dataclasses import replace

import pytest
import torch

from gensci.core.posterior import PosteriorTarget
from gensci.core.priors import BoxPrior
from gensci.core.results import SampleSet
from gensci.loops import reweighting
from gensci.loops.reweighting import ReweightSettings, report, reweight
from gensci.models.proposal_flow import ProposalSettings
from gensci.samplers.tempering import Tempering

QUICK = ProposalSettings(layers=1, hidden=16, steps=150, batch=256)
WIDTH = 20.0
PRIOR = BoxPrior(("a", "b"), [-10.0, -10.0], [10.0, 10.0])
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
FACTOR = torch.tensor([[0.5, 0.0], [0.4, 0.3]], dtype=torch.float64)
LOG_Z = -2 * math.log(WIDTH)  # of a normalised likelihood well within the prior


def gaussian(theta, mean=MEAN, scale=1.0):
    white = torch.linalg.solve_triangular(scale * FACTOR, (theta - mean).T, upper=False)
    constant = math.log(2 * math.pi) + 2 * math.log(scale) + float(FACTOR.diagonal().log().sum())
    return -0.5 * white.square().sum(0) - constant


def settings(**changes):
    usual = {
        "num_draws": 4000, "fit_draws": 3000, "rehearsals": 0, "rehearsal_draws": 4000,
        "proposal": QUICK, "chain": Tempering(num_walkers=20, warmup=40, thinning=4),
        "chain_rows": 2000,
    }  # fmt: skip
    return ReweightSettings(**(usual | changes))


def biased_draws(n=3000, shift=0.2, scale=1.2):
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    theta = MEAN + shift + scale * noise @ FACTOR.T
    return SampleSet({"theta": theta}, torch.zeros(n, dtype=torch.float64))


def check_moments(samples, tolerance=5.0):
    theta, ess = samples.x["theta"], max(samples.ess.count, 2.0)
    covariance = FACTOR @ FACTOR.T
    error = covariance.diagonal().sqrt() / math.sqrt(ess)
    assert ((samples.mean(theta) - MEAN).abs() < tolerance * error).all()
    centred = theta - MEAN
    spread = torch.einsum("n,ni,nj->ij", samples.weight, centred, centred)
    assert (spread - covariance).abs().max() < 0.25 * tolerance / math.sqrt(ess)


def test_wrong_draws_give_the_right_posterior_and_evidence():
    target = PosteriorTarget(PRIOR, gaussian)
    lines = []
    result = reweight(biased_draws(), target, settings=settings(), seed=1, say=lines.append)
    assert result.fallback is None and result.khat < 0.7
    assert 0.2 < result.efficiency == pytest.approx(result.samples.ess.fraction)
    check_moments(result.samples)
    assert abs(result.evidence.value - LOG_Z) < 5 * result.evidence.error < 0.1
    inside = int(PRIOR.inside(result.samples.x["theta"]).sum())
    assert result.calls == {"exact": inside, "surrogate": 0} and target.calls == inside
    assert any("exact weights" in line for line in lines)
    told = report(result, 4000)
    assert told["khat"] == result.khat and "can be trusted" in told["advice"]


def test_rows_keep_their_weights():
    target = PosteriorTarget(PRIOR, gaussian)
    samples = reweight(biased_draws(), target, settings=settings(), seed=1).samples
    again = target.log_prob(samples.x)
    torch.testing.assert_close(samples.log_target, again)
    torch.testing.assert_close(samples.log_weight, again - samples.log_proposal)


def test_same_seed_same_bits():
    first, second, other = (
        reweight(biased_draws(), PosteriorTarget(PRIOR, gaussian), settings=settings(), seed=seed)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.samples.log_weight, second.samples.log_weight)
    assert not torch.equal(first.samples.log_weight, other.samples.log_weight)


def test_rehearsal_on_the_surrogate_raises_the_efficiency():
    """Few and far draws; the surrogate, a little off, leads the flow near the exact posterior."""
    draws = biased_draws(300, shift=0.8, scale=1.5)
    target = PosteriorTarget(PRIOR, gaussian)
    surrogate = PosteriorTarget(PRIOR, lambda theta: gaussian(theta, MEAN + 0.02))
    plain = reweight(draws, target, settings=settings(), seed=1)
    rehearsed = reweight(draws, target, surrogate=surrogate, settings=settings(rehearsals=1))
    assert rehearsed.efficiency > plain.efficiency
    assert rehearsed.surrogate_evidence.value == pytest.approx(LOG_Z, abs=0.2)
    assert rehearsed.calls["exact"] <= 4000 and rehearsed.calls["surrogate"] > 3000
    check_moments(rehearsed.samples)


def test_rehearsals_end_when_enough_draws_bear_weight():
    """Far draws are fitted twice, near ones once; each fit is measured."""
    surrogate = PosteriorTarget(PRIOR, gaussian)
    counts = []
    for draws in (biased_draws(300, shift=1.0, scale=1.5), biased_draws()):
        lines = []
        reweight(
            draws, PosteriorTarget(PRIOR, gaussian), surrogate=surrogate, seed=1,
            settings=settings(rehearsals=3, enough=0.5, walk_below=0.0), say=lines.append,
        )  # fmt: skip
        counts.append(sum(line.startswith("rehearsal") for line in lines))
    assert counts[0] > counts[1] == 2


@pytest.mark.parametrize("support", [math.inf, 3.0])
def test_a_flow_that_rehearsals_make_worse_is_not_taken(monkeypatch, support):
    """Its successor is fitted to noise; the exact draws come from the first all the same.

    So too where none of the successor's draws has any weight.
    """
    target, lines = PosteriorTarget(PRIOR, gaussian), []

    def bounded(theta):
        near = (theta - MEAN).norm(dim=1) < support
        return torch.where(near, gaussian(theta), -torch.inf)

    fitted, true_fit = [], reweighting._fitted

    def spoiled(draws, *rest):
        if fitted:
            noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double()
            away = 1.5 if math.isinf(support) else 5.0
            draws = SampleSet({"theta": MEAN + away + 0.1 * noise}, torch.zeros(500).double())
        fitted.append(true_fit(draws, *rest))
        return fitted[-1]

    monkeypatch.setattr(reweighting, "_fitted", spoiled)
    result = reweight(
        biased_draws(),
        target,
        surrogate=PosteriorTarget(PRIOR, bounded),
        seed=1,
        settings=settings(
            rehearsals=3, enough=1.0, walk_below=0.0, proposal=replace(QUICK, prior_share=0.0)
        ),
        say=lines.append,
    )
    told = 2 if math.isinf(support) else 1
    assert len(fitted) == 2 and sum(line.startswith("rehearsal") for line in lines) == told
    assert result.proposal is fitted[0]
    assert result.efficiency > 0.2
    check_moments(result.samples)


def test_a_rehearsal_whose_draws_weigh_nothing_is_walked():
    """The flow is far too narrow; a chain on the surrogate widens it, and exact weights hold."""
    flow = ProposalSettings(layers=1, hidden=16, steps=150, prior_share=0.02, broad_share=0.0)
    changes = {
        "rehearsals": 1, "proposal": flow, "walk_below": 0.3, "walk_rows": 3000,
        "walk": Tempering(num_walkers=60, warmup=40, thinning=4),
    }  # fmt: skip
    target, lines = PosteriorTarget(PRIOR, gaussian), []
    surrogate = PosteriorTarget(PRIOR, lambda theta: gaussian(theta, MEAN + 0.02))
    result = reweight(
        biased_draws(600, shift=0.0, scale=0.2), target, surrogate=surrogate, seed=1,
        settings=settings(**changes), say=lines.append,
    )  # fmt: skip
    assert any(line.startswith("walk 0") for line in lines)
    assert result.fallback is None and result.efficiency > 0.3
    assert result.surrogate_evidence.value == pytest.approx(LOG_Z, abs=0.3)
    check_moments(result.samples)


def test_two_images_are_folded_and_both_weighed():
    """Modes at +-(4, 4) with weights 1 to 3, from draws that have them equally."""
    centre = torch.tensor([4.0, 4.0], dtype=torch.float64)

    def both(theta):
        one, two = gaussian(theta, centre), gaussian(theta, -centre)
        return torch.logaddexp(one + math.log(0.25), two + math.log(0.75))

    generator = torch.Generator().manual_seed(6)
    signs = 1.0 - 2.0 * torch.randint(2, (3000, 1), generator=generator)
    noise = torch.randn(3000, 2, generator=generator, dtype=torch.float64) @ FACTOR.T
    draws = SampleSet({"theta": signs * (centre + noise)}, torch.zeros(3000, dtype=torch.float64))
    result = reweight(
        draws, PosteriorTarget(PRIOR, both), images=lambda x: torch.stack([x, -x]),
        settings=settings(), seed=2,
    )  # fmt: skip
    share = float(result.samples.mean(result.samples.x["theta"][:, 0] > 0))
    assert abs(share - 0.25) < 5 * math.sqrt(0.19 / result.samples.ess.count)
    assert abs(result.evidence.value - LOG_Z) < 5 * result.evidence.error


def test_weights_that_cannot_be_trusted_give_way_to_a_chain_that_says_so():
    """Draws so narrow and so few that the tail of the weights is heavy."""
    draws = biased_draws(400, shift=0.0, scale=0.15)
    flow = ProposalSettings(layers=1, hidden=8, steps=20, prior_share=0.01, broad_share=0.0)
    lines = []
    result = reweight(
        draws, PosteriorTarget(PRIOR, gaussian), seed=1, say=lines.append,
        settings=settings(proposal=flow, num_draws=1000),
    )  # fmt: skip
    assert result.fallback is not None and result.khat > 0.66
    assert any("short exact chain" in line for line in lines)
    assert result.calls["exact"] > 1000
    mean = result.samples.x["theta"].mean(0)
    assert ((mean - MEAN).abs() < 0.15).all()
    assert result.evidence.value == pytest.approx(LOG_Z, abs=0.3)
    assert report(result, 1000)["fallback"] == result.fallback
