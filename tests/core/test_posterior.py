"""Posteriors, their free coordinates and the diagnostics of chains, against what is known."""

import math

import pytest
import torch
from posterior_cases import Banana, BoxedGaussian

from gensci.core.bijections import Bijection
from gensci.core.chains import bulk_ess, chain_ess, rank_normal, rank_rhat, split_rhat
from gensci.core.errors import UsageError
from gensci.core.posterior import (
    PosteriorTarget,
    PriorProposal,
    UnconstrainedProposal,
    UnconstrainedTarget,
    free_coordinates,
)
from gensci.core.priors import BoxPrior, NormalPrior
from gensci.core.random import stream
from gensci.core.results import SampleSet


def free(posterior):
    return free_coordinates(posterior, PriorProposal(posterior.prior))


def places(n, dim, spread=1.0):
    return spread * torch.randn(n, dim, generator=stream(0, "u"), dtype=torch.float64)


def test_the_likelihood_is_asked_only_within_the_prior():
    seen = []

    def log_likelihood(theta):
        seen.append(theta)
        return theta.sum(1)

    target = PosteriorTarget(BoxPrior(["a", "b"], [0.0, 0.0], [1.0, 2.0]), log_likelihood)
    theta = torch.tensor([[0.5, 0.5], [1.5, 0.5], [math.nan, 0.0], [0.2, 2.0]]).double()
    value = target.log_prob({"theta": theta})
    expected = [1.0 - math.log(2), -math.inf, -math.inf, 2.2 - math.log(2)]
    assert value.tolist() == pytest.approx(expected)
    assert torch.equal(torch.cat(seen), theta[[0, 3]])
    assert target.calls == 2
    assert target.log_prob({"theta": theta[1:2]}).item() == -math.inf
    assert target.calls == 2


def test_values_of_another_shape_are_refused():
    target = PosteriorTarget(BoxPrior(["a"], [0.0], [1.0]), lambda theta: theta)
    with pytest.raises(UsageError, match=r"gave \(4, 1\) numbers for 4 points"):
        target.log_prob({"theta": torch.full((4, 1), 0.5).double()})


def test_a_likelihood_without_gradient_is_refused_where_one_is_needed():
    prior = BoxPrior(["a"], [0.0], [1.0])
    target = PosteriorTarget(prior, lambda theta: theta.detach().sum(1))
    x = {"theta": torch.full((2, 1), 0.5).double()}
    assert target.log_prob(x).tolist() == [0.5, 0.5]
    with pytest.raises(UsageError, match="has no gradient") as caught:
        target.log_prob_and_grad(x)
    assert "slice" in caught.value.remedy


def test_gradients_within_and_outside_the_prior():
    posterior = BoxedGaussian()
    theta = torch.tensor([[0.3, 0.2, -0.1], [20.0, 0.0, 0.0]], dtype=torch.float64)
    value, grads = posterior.log_prob_and_grad({"theta": theta})
    assert value[1] == -math.inf
    assert torch.equal(grads["theta"][1], torch.zeros(3).double())
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    ahead = posterior.log_prob({"theta": theta[:1] + step})
    behind = posterior.log_prob({"theta": theta[:1] - step})
    torch.testing.assert_close(grads["theta"][0], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_free_gradients_agree_with_differences():
    target, _, _ = free(Banana())
    u = places(1, 3)
    value, grads = target.log_prob_and_grad({"theta": u})
    torch.testing.assert_close(value, target.log_prob({"theta": u}))
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    ahead, behind = target.log_prob({"theta": u + step}), target.log_prob({"theta": u - step})
    torch.testing.assert_close(grads["theta"][0], (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def test_a_fused_gradient_is_used_through_the_bijection():
    class Fused:
        def log_prob(self, x):
            return -0.5 * x["theta"].square().sum(1)

        def log_prob_and_grad(self, x):
            self.asked = True
            return self.log_prob(x), {"theta": -x["theta"]}

    class Plain:
        log_prob = Fused.log_prob

    bijection = Bijection(torch.tensor([[-2.0, 3.0], [0.0, math.inf]], dtype=torch.float64))
    fused, x = Fused(), {"theta": places(5, 2)}
    value, grads = UnconstrainedTarget(fused, bijection).log_prob_and_grad(x)
    expected, slopes = UnconstrainedTarget(Plain(), bijection).log_prob_and_grad(x)
    assert fused.asked
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads["theta"], slopes["theta"])


def test_the_evidence_is_that_of_the_original_coordinates():
    posterior = BoxedGaussian(dim=1, side=6.0)
    target, proposal, _ = free(posterior)
    u = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    x = {"theta": u[:, None]}
    density = target.log_prob(x).exp()
    assert torch.trapezoid(density, u).log().item() == pytest.approx(posterior.log_z, abs=1e-6)
    # a uniform prior is a standard normal there
    normal = -0.5 * u.square() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(proposal.log_prob(x), normal)


def test_samples_come_back_with_their_densities():
    posterior = Banana()
    target, proposal, constrain = free(posterior)
    x, log_proposal = proposal.sample_and_log_prob(50, stream(3))
    assert torch.allclose(proposal.log_prob(x), log_proposal)
    value = target.log_prob(x)
    back = constrain(SampleSet(x, value - log_proposal, value, log_proposal))
    assert posterior.prior.inside(back.x["theta"]).all()
    torch.testing.assert_close(back.log_target, posterior.log_prob(back.x))
    torch.testing.assert_close(back.log_proposal, posterior.log_prior(back.x))
    torch.testing.assert_close(back.log_weight, back.log_target - back.log_proposal)


def test_only_angles_are_wrapped():
    target, _, _ = free(Banana())
    u = places(6, 3, 9.0)
    around = target.wrap({"theta": u})["theta"]
    assert torch.equal(around[:, :2], u[:, :2])
    turns = (u[:, 2] - around[:, 2]) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round())
    assert ((around[:, 2] >= 1.0) & (around[:, 2] <= 1.0 + 2 * math.pi)).all()
    torch.testing.assert_close(
        target.log_prob({"theta": u}), target.log_prob({"theta": around}), rtol=1e-9, atol=1e-9
    )


def test_targets_without_bounds_stay_as_they_are():
    target = PosteriorTarget(NormalPrior([0.0], [1.0]), lambda theta: theta[:, 0])
    proposal = PriorProposal(target.prior)
    assert free_coordinates(target, proposal)[:2] == (target, proposal)
    plain = object()
    assert free_coordinates(plain, proposal)[:2] == (plain, proposal)


def test_a_proposal_that_only_gives_both_is_enough():
    class Both:
        def sample_and_log_prob(self, n, generator):
            return {"theta": torch.full((n, 1), 0.5).double()}, torch.zeros(n).double()

    bijection = Bijection(torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    drawn = UnconstrainedProposal(Both(), bijection).sample(3, stream(0))
    assert torch.equal(drawn["theta"], torch.zeros(3, 1).double())


def autoregression(rho, draws, chains, seed=0):
    noise = torch.randn(draws, chains, generator=stream(seed, "ar"), dtype=torch.float64)
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(rows)


def test_ranks_do_not_care_for_units_or_tails():
    draws = autoregression(0.6, 2000, 4)
    heavy = torch.tan(math.pi * (torch.special.ndtr(draws) - 0.5))  # no moments
    assert bulk_ess(heavy) == pytest.approx(bulk_ess(draws))
    assert bulk_ess(draws) == pytest.approx(8000 * 0.4 / 1.6, rel=0.15)
    assert rank_rhat(draws) < 1.02


def test_ranks_tell_chains_of_other_widths():
    draws = autoregression(0.2, 1000, 4) * torch.tensor([1.0, 1.0, 1.0, 5.0])
    assert split_rhat(draws) < 1.02
    assert rank_rhat(draws) > 1.1


def test_normal_scores_share_ties():
    scores = rank_normal(torch.tensor([[3.0, 1.0], [3.0, 2.0]]))
    assert scores[0, 0] == scores[1, 0] > scores[1, 1] > scores[0, 1]
    assert torch.equal(rank_normal(torch.ones(3, 2)), torch.zeros(3, 2).double())
    assert math.isnan(bulk_ess(torch.ones(10, 2)))


def test_numbers_are_those_of_arviz():
    arviz = pytest.importorskip("arviz")
    draws = autoregression(0.7, 500, 4, seed=1) + 0.3 * torch.arange(4)
    table = draws.T.numpy()
    assert rank_rhat(draws) == pytest.approx(float(arviz.rhat(table)), rel=2e-3)
    assert bulk_ess(draws) == pytest.approx(float(arviz.ess(table, method="bulk")), rel=0.03)
    mean = float(arviz.ess(table, method="mean"))
    assert chain_ess(draws) == pytest.approx(mean, rel=0.03)
