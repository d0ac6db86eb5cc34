"""SMC, importance and mcmc on posteriors: evidence, bounds, angles, flows as proposals."""

import math

import pytest
import torch
from posterior_cases import Banana, BoxedGaussian, farthest_from_uniform

from gensci.core.posterior import PosteriorTarget, PriorProposal
from gensci.core.priors import BoxPrior
from gensci.core.random import stream
from gensci.core.weights import kish_ess
from gensci.samplers import make_sampler

LIMIT = 1.95  # of Kolmogorov-Smirnov, passed by one exact sample in a thousand


def run(name, posterior, n, proposal=None, **settings):
    proposal = PriorProposal(posterior.prior) if proposal is None else proposal
    return make_sampler(name, settings).run(posterior, proposal, n, seed=3)


def check_evidence(samples, log_z, widest=0.2):
    verdict = samples.meta["verdict"]
    assert 0.0 < verdict["log_z_error"] < widest
    assert abs(verdict["log_z"] - log_z) < 3.5 * verdict["log_z_error"]


def independent(samples):
    """Rows of equal weight, about as many as the samples are worth."""
    verdict = samples.meta["verdict"]
    worth = min(verdict["ess"], verdict.get("effective_ancestors", math.inf))
    return samples.resample("systematic", stream(0)).x["theta"][:: -(-len(samples) // int(worth))]


class Flow:
    """A normal in the free coordinates of a posterior's box, as a trained flow would be."""

    def __init__(self, posterior, widths):
        self.posterior, self.widths = posterior, widths

    def sample(self, n, generator):
        noise = torch.randn(n, len(self.widths), generator=generator, dtype=torch.float64)
        return {"theta": self.posterior.centre + self.widths * noise}

    def log_prob(self, x):
        z = (x["theta"] - self.posterior.centre) / self.widths
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) - self.widths.log().sum()

    def sample_and_log_prob(self, n, generator):
        x = self.sample(n, generator)
        return x, self.log_prob(x)


@pytest.mark.parametrize(
    ("name", "settings", "n"),
    [
        ("smc", {"move": "hmc"}, 1000),
        ("smc", {"move": "random_walk", "num_moves": 6}, 1000),
        ("importance", {}, 60_000),
    ],
    ids=["smc-hmc", "smc-random-walk", "importance"],
)
@pytest.mark.parametrize("make", [BoxedGaussian, Banana])
def test_evidence_from_the_prior(name, settings, n, make):
    posterior = make()
    samples = run(name, posterior, n, **settings)
    check_evidence(samples, posterior.log_z)
    assert posterior.prior.inside(samples.x["theta"]).all()
    torch.testing.assert_close(samples.log_target, posterior.log_prob(samples.x))
    torch.testing.assert_close(samples.log_proposal, posterior.log_prior(samples.x))


@pytest.mark.parametrize("name", ["smc", "importance"])
def test_angles_have_their_law(name):
    posterior = Banana()
    samples = run(name, posterior, 1000 if name == "smc" else 60_000)
    assert farthest_from_uniform(posterior.scores(independent(samples))) < LIMIT


@pytest.mark.parametrize("name", ["smc", "importance"])
def test_a_flow_proposes(name):
    posterior = BoxedGaussian(correlation=0.3)
    samples = run(name, posterior, 1500, Flow(posterior, 1.3 * posterior.std))
    check_evidence(samples, posterior.log_z, 0.08)
    z = (samples.x["theta"] - posterior.centre) / posterior.std
    ess = samples.meta["verdict"]["ess"]
    assert samples.mean(z).abs().max() < 4.5 / ess**0.5
    expected = Flow(posterior, 1.3 * posterior.std).log_prob(samples.x)
    torch.testing.assert_close(samples.log_proposal, expected)


def test_a_posterior_that_leans_on_its_bounds():
    """exp(-3 theta) over a unit box: the density is largest at the bounds."""
    prior = BoxPrior(["a", "b"], [0.0, 0.0], [1.0, 1.0])
    target = PosteriorTarget(prior, lambda theta: -3.0 * theta.sum(1))
    log_z = 2 * math.log((1 - math.exp(-3.0)) / 3.0)
    samples = run("smc", target, 1000)
    check_evidence(samples, log_z)
    scores = (1 - (-3.0 * independent(samples)).exp()) / (1 - math.exp(-3.0))
    assert farthest_from_uniform(scores) < LIMIT


def test_an_angle_alone_whose_mode_is_at_the_seam():
    prior = BoxPrior(["angle"], [0.0], [2 * math.pi], [2 * math.pi])
    target = PosteriorTarget(prior, lambda theta: 8.0 * theta[:, 0].cos())
    log_z = math.log(torch.special.i0(torch.tensor(8.0, dtype=torch.float64)).item())
    for name, n in (("smc", 800), ("importance", 4000)):
        samples = run(name, target, n)
        check_evidence(samples, log_z)
        theta = samples.x["theta"][:, 0]
        assert kish_ess(samples.log_weight).count > 300
        assert samples.mean((theta < math.pi).double()).item() == pytest.approx(0.5, abs=0.1)
    chains = run("mcmc", target, 1000, num_chains=20, warmup=60, thinning=2)
    left = (chains.x["theta"][:, 0] < math.pi).double().mean().item()
    assert left == pytest.approx(0.5, abs=0.1)
    assert prior.inside(chains.x["theta"]).all()
