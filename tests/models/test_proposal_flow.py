"""Proposals fitted to draws: normalised, exact in both directions, and close to what they saw."""

import math

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.priors import BoxPrior, NormalPrior
from gensci.core.protocols import DensityProposal
from gensci.core.random import stream
from gensci.models.mode_folding import Folding
from gensci.models.proposal_flow import ProposalFlow, ProposalSettings

pytest.importorskip("normflows", reason="flows are built from normflows")
pytest.importorskip("pytorch_lightning", reason="Lightning trains the flows")

SMALL = ProposalSettings(layers=2, hidden=24, bins=6, steps=250, batch=256, prior_share=0.05)
CIRCLE = BoxPrior(["x", "angle"], [-1.0, 0.0], [1.0, math.tau], [None, math.tau])


def normal(n, dim, name):
    return torch.randn(n, dim, generator=stream(0, name), dtype=torch.float64)


def wrapped_draws(n=4000):
    """x cut off at one; the angle about zero, across the join, follows x."""
    x = 0.8 + 0.3 * normal(3 * n, 1, "x")[:, 0]
    x = x[x.abs() < 1][:n]
    return CIRCLE.wrap(torch.stack([x, 0.5 * x + 0.3 * normal(len(x), 1, "angle")[:, 0]], 1))


def wrapped_log_density(theta):
    """Normalised: a cut normal times a (hardly) wrapped one."""
    x, angle = theta.unbind(1)
    law = torch.distributions.Normal(torch.tensor(0.8).double(), 0.3)
    inside = law.cdf(torch.tensor(1.0).double()) - law.cdf(torch.tensor(-1.0).double())
    apart = torch.remainder(angle - 0.5 * x + math.pi, math.tau) - math.pi
    return law.log_prob(x) - inside.log() + torch.distributions.Normal(0.0, 0.3).log_prob(apart)


@pytest.fixture(scope="module")
def fitted():
    return ProposalFlow.fit(wrapped_draws(), CIRCLE, settings=SMALL, seed=1)


def test_it_is_a_density_proposal(fitted):
    assert isinstance(fitted, DensityProposal)
    x, log_prob = fitted.sample_and_log_prob(500, stream(1, "draws"))
    assert CIRCLE.inside(x["theta"]).all()
    torch.testing.assert_close(fitted.log_prob(x), log_prob)


def test_density_is_normalised(fitted):
    # midpoints, dense towards the bounds, where the broad share has an integrable singularity
    turn = (torch.arange(600, dtype=torch.float64) + 0.5) * (math.pi / 600)
    x = -torch.cos(turn)
    angle = torch.linspace(0, math.tau, 601, dtype=torch.float64)[:-1]
    theta = torch.cartesian_prod(x, angle)
    density = fitted.log_prob({"theta": theta}).exp().reshape(600, 600)
    total = (density.mean(1) * math.tau * turn.sin()).mean() * math.pi
    assert total.item() == pytest.approx(1, abs=5e-3)
    assert fitted.log_prob({"theta": torch.tensor([[1.5, 0.0]])}).item() == -math.inf


def test_weights_towards_the_truth_are_even(fitted):
    x, log_prob = fitted.sample_and_log_prob(5000, stream(2, "draws"))
    weight = (wrapped_log_density(x["theta"]) - log_prob).exp()
    assert weight.mean().item() == pytest.approx(1, abs=0.05)
    assert weight.mean() ** 2 / weight.square().mean() > 0.8


def test_weights_of_draws_are_heeded():
    """Broad draws with the weights of a narrower law."""
    prior = NormalPrior([0.0], [[100.0]])
    theta = 2 * normal(4000, 1, "theta")
    weights = torch.exp(-0.5 * theta[:, 0] ** 2 + 0.5 * (theta[:, 0] / 2) ** 2)
    found = ProposalFlow.fit(theta, prior, weights=weights, settings=SMALL)
    draws = found.sample(4000, stream(3, "draws"))["theta"]
    inner = draws[draws.abs() < 4]
    assert inner.std().item() == pytest.approx(1.06, abs=0.12)


def images(theta):
    """Reflection of x with half a turn: two images, each its own inverse."""
    x, angle = theta.unbind(1)
    return torch.stack([theta, torch.stack([-x, torch.remainder(angle + math.pi, math.tau)], 1)])


def turns(theta):
    """Four turns of the angle: the inverse of one is three."""
    x, angle = theta.unbind(1)
    each = [torch.remainder(angle + k * math.pi / 2, math.tau) for k in range(4)]
    return torch.stack([torch.stack([x, a], 1) for a in each])


def test_modes_are_folded_and_given_back_with_their_weights():
    theta = wrapped_draws(3000)
    turned = torch.rand(len(theta), generator=stream(4, "mode")) < 0.3
    theta = torch.where(turned[:, None], images(theta)[1], theta)
    found = ProposalFlow.fit(theta, CIRCLE, images=images, settings=SMALL)
    assert sorted(found.mode_weights.tolist()) == pytest.approx([0.3, 0.7], abs=0.03)
    x, log_prob = found.sample_and_log_prob(5000, stream(5, "draws"))
    torch.testing.assert_close(found.log_prob(x), log_prob)
    both = torch.stack([wrapped_log_density(t) for t in images(x["theta"])])
    truth = torch.logaddexp(both[0] + math.log(0.7), both[1] + math.log(0.3))
    weight = (truth - log_prob).exp()
    assert weight.mean().item() == pytest.approx(1, abs=0.05)
    assert weight.mean() ** 2 / weight.square().mean() > 0.75


def test_folding_undoes_each_image():
    theta = wrapped_draws(400)
    mode = torch.randint(4, (len(theta),), generator=stream(6, "mode"))
    spread = turns(theta)[mode, torch.arange(len(theta))]
    folding = Folding(turns, CIRCLE.bounds, CIRCLE.periods, spread)
    assert folding.inverse.tolist() == [0, 3, 2, 1]
    folded, pick = folding.fold(spread)
    torch.testing.assert_close(turns(folded)[pick, torch.arange(len(theta))], spread)
    angle = torch.remainder(folded[:, 1] - folded[0, 1] + math.pi, math.tau) - math.pi
    assert angle.std() < 0.5
    with pytest.raises(UsageError, match="image 1 of the symmetries has no inverse"):
        Folding(lambda t: turns(t)[:2], CIRCLE.bounds, CIRCLE.periods, theta)


def test_same_seed_same_bits_and_checkpoint(tmp_path):
    theta, settings = wrapped_draws(300), ProposalSettings(layers=1, hidden=8, steps=20)
    one, two = (
        ProposalFlow.fit(theta, CIRCLE, images=turns, settings=settings, seed=5) for _ in range(2)
    )
    one.save(tmp_path / "proposal")
    again = ProposalFlow.load(tmp_path / "proposal", images=turns)
    expected = one.sample_and_log_prob(50, stream(7, "draws"))
    for other in (two, again):
        found = other.sample_and_log_prob(50, stream(7, "draws"))
        assert torch.equal(found[0]["theta"], expected[0]["theta"])
        assert torch.equal(found[1], expected[1])
    with pytest.raises(UsageError, match="give the images"):
        ProposalFlow.load(tmp_path / "proposal")


@pytest.mark.parametrize(
    ("theta", "options", "text"),
    [
        (torch.zeros(200, 3), {}, "theta has shape .200, 3."),
        (torch.full((200, 2), 2.0), {}, "outside its prior"),
        (torch.zeros(20, 2), {}, "20 draws"),
        (torch.zeros(200, 2), {"weights": -torch.ones(200)}, "weights of 200 draws"),
        (torch.zeros(200, 2), {"blocks": torch.zeros(200)}, "one block"),
    ],
)
def test_what_cannot_be_used_is_refused(theta, options, text):
    with pytest.raises(UsageError, match=text):
        ProposalFlow.fit(theta, CIRCLE, **options)
