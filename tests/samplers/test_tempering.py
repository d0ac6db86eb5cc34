"""Parallel tempering of ensembles against posteriors with known modes, angles and evidence."""

import math

import pytest
import torch
from cases import DrawsOnly, Killed, MortalStore, target
from posterior_cases import Banana, BoxedGaussian, EightModes, farthest_from_uniform

from gensci.core.errors import GensciError, IncompatibleSampler, UsageError
from gensci.core.posterior import PosteriorTarget, PriorProposal
from gensci.core.priors import BoxPrior
from gensci.samplers import make_sampler
from gensci.systems.toy import ToySystem


class NoDensity:
    """Draws of a prior that do not tell their density."""

    def __init__(self, prior):
        self.sample = PriorProposal(prior).sample


def run(posterior, n=2000, proposal=None, seed=1, options=None, **settings):
    proposal = PriorProposal(posterior.prior) if proposal is None else proposal
    sampler = make_sampler("tempering", settings)
    return sampler.run(posterior, proposal, n, seed=seed, **(options or {}))


def check_evidence(samples, log_z):
    verdict = samples.meta["verdict"]
    assert 0.0 < verdict["log_z_error"] < 0.25
    assert abs(verdict["log_z"] - log_z) < 3.5 * verdict["log_z_error"]


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "unequal"])
@pytest.mark.parametrize("jumps", [True, False], ids=["jumps", "no-jumps"])
def test_eight_modes_have_their_weights_and_the_evidence(equal, jumps):
    posterior = EightModes(None if equal else [1.0, 2, 3, 4, 5, 6, 7, 8], jumps)
    samples = run(posterior, 1500, num_walkers=100, max_steps=500)
    shares, truth = posterior.shares(samples), posterior.weights
    ess = samples.meta["verdict"]["ess"]
    assert ess > (400 if jumps else 100)
    assert ((shares - truth).abs() < 4.0 * (truth * (1 - truth) / ess).sqrt()).all(), shares
    check_evidence(samples, posterior.log_z)


@pytest.mark.parametrize("path", ["proposal", "prior"])
def test_angles_and_bounds(path):
    posterior = Banana()
    samples = run(posterior, 2000, path=path, num_walkers=40)
    theta, ess = samples.x["theta"], samples.meta["verdict"]["ess"]
    assert posterior.prior.inside(theta).all()
    assert ess > 400
    # rows are as many as they say
    independent = posterior.scores(theta)[:: -(-len(theta) // int(ess))]
    assert farthest_from_uniform(independent) < 1.95
    check_evidence(samples, posterior.log_z)


def test_without_density_of_the_proposal_the_path_starts_at_the_prior():
    posterior = BoxedGaussian()
    samples = run(posterior, 1500, NoDensity(posterior.prior))
    z = (samples.x["theta"] - posterior.centre) / posterior.std
    ess = samples.meta["verdict"]["ess"]
    assert z.mean(0).abs().max() < 4.5 / ess**0.5
    check_evidence(samples, posterior.log_z)
    assert samples.log_proposal is None


def test_one_temperature_has_no_evidence_and_the_same_law():
    posterior = BoxedGaussian()
    samples = run(posterior, 1500, num_temperatures=1)
    z = (samples.x["theta"] - posterior.centre) / posterior.std
    verdict = samples.meta["verdict"]
    assert verdict["log_z"] is None
    assert verdict["temperatures"] == 1
    assert z.mean(0).abs().max() < 4.5 / verdict["ess"] ** 0.5
    assert (z.square().mean(0) - 1).abs().max() < 4.5 * (2 / verdict["ess"]) ** 0.5


def test_the_effective_size_is_honest_about_autocorrelation():
    posterior = BoxedGaussian(dim=2)
    away, sizes = [], []
    for seed in range(14):
        samples = run(posterior, 640, seed=seed, num_walkers=16, thinning=1, warmup=40)
        ess = samples.meta["verdict"]["ess"]
        z = (samples.x["theta"] - posterior.centre) / posterior.std
        away.append(z.mean(0) * ess**0.5)
        sizes.append(ess)
    assert max(sizes) < 0.7 * 640  # rows next to each other are not independent
    spread = torch.stack(away).square().mean().sqrt()
    assert 0.6 < spread < 1.35


def test_rows_of_automatic_thinning_are_as_good_as_independent():
    posterior = BoxedGaussian(dim=2)
    verdict = run(posterior, 640, num_walkers=16, warmup=40).meta["verdict"]
    assert verdict["ess_fraction"] > 0.8
    assert verdict["rhat"] < 1.05
    assert verdict["advice"] == "the walkers agree"


def test_few_steps_are_told():
    verdict = run(EightModes(), 640, warmup=0, max_steps=1, anneal_moves=1, num_walkers=16).meta[
        "verdict"
    ]
    assert "raise" in verdict["advice"]


def test_a_killed_run_of_a_posterior_ends_with_the_same_bits():
    posterior = Banana()
    options = {"shard_size": 60, "save_seconds": 1e-9}
    settings = {"num_walkers": 12, "warmup": 20, "anneal_moves": 2, "thinning": 3}
    whole = run(posterior, 100, options=options, **settings)
    store, kills = MortalStore(), 0
    while True:
        store.arm(23 + 7 * kills, after=kills % 2 == 0)
        try:
            resumed = run(
                posterior, 100, options={**options, "store": store, "progress": store.progress},
                **settings,
            )  # fmt: skip
            break
        except Killed:
            kills += 1
    assert kills > 3
    left, right = whole.to_tensors(), resumed.to_tensors()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert whole.meta["verdict"] == resumed.meta["verdict"]


def test_a_flow_near_the_posterior_needs_few_temperatures():
    posterior = BoxedGaussian()
    centre, std = posterior.centre, 1.3 * posterior.std

    class Near:
        def sample(self, n, generator):
            noise = torch.randn(n, 3, generator=generator, dtype=torch.float64)
            return {"theta": centre + std * noise}

        def log_prob(self, x):
            z = (x["theta"] - centre) / std
            return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1) - std.log().sum()

        def sample_and_log_prob(self, n, generator):
            x = self.sample(n, generator)
            return x, self.log_prob(x)

    near = run(posterior, 1500, Near())
    far = run(posterior, 1500)
    assert near.meta["verdict"]["temperatures"] < far.meta["verdict"]["temperatures"]
    check_evidence(near, posterior.log_z)
    expected = Near().log_prob(near.x)
    torch.testing.assert_close(near.log_proposal, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_walkers": 3}, "num_walkers=3"),
        ({"num_temperatures": 0}, "num_temperatures=0"),
        ({"path": "post"}, "unknown path 'post'"),
        ({"move": "strech"}, "did you mean 'stretch'"),
        ({"ess_target": 1.0}, "ess_target=1.0"),
        ({"anneal_moves": 0}, "anneal_moves=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"thinning": 0}, "thinning=0"),
        ({"max_steps": 0.5}, "max_steps=0.5"),
        ({"walkers": 10}, "did you mean 'num_walkers'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_sampler("tempering", settings)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_few_walkers_for_many_dimensions_are_refused():
    with pytest.raises(UsageError, match="num_walkers=12 are too few for 6 dimensions"):
        run(BoxedGaussian(dim=6), 10, num_walkers=12)


def test_what_does_not_fit_is_refused_with_a_remedy():
    with pytest.raises(
        IncompatibleSampler, match=r"DrawsOnly lacks; use one of: direct, mcmc, hmc, nuts, slice$"
    ):
        make_sampler("tempering").run(target("gaussian"), DrawsOnly(), 10, seed=0)
    posterior = BoxedGaussian()
    with pytest.raises(IncompatibleSampler, match=r"path='proposal' needs .* give path=prior"):
        run(posterior, 10, NoDensity(posterior.prior), path="proposal")
    sampler = make_sampler("tempering", {"path": "prior"})
    with pytest.raises(IncompatibleSampler, match="path='prior' needs log_prior"):
        sampler.run(target("gaussian"), ToySystem.parse("gaussian").proposal(), 10, seed=0)


def test_a_likelihood_that_is_nowhere_is_an_error_with_a_remedy():
    prior = BoxPrior(["a"], [0.0], [1.0])
    nowhere = PosteriorTarget(prior, lambda theta: torch.full((len(theta),), math.nan))
    with pytest.raises(GensciError, match="any target density") as caught:
        run(nowhere, 10)
    assert caught.value.remedy


def test_periods_of_another_number_of_coordinates_are_refused():
    posterior = BoxedGaussian()
    posterior.periods = (None, 1.0)
    with pytest.raises(UsageError, match="2 periods, but its samples have 3"):
        run(posterior, 10)
