"""Slice, HMC and NUTS: their moves against exact laws, their tuning, and what they say."""

import math

import pytest
import torch
from cases import DrawsOnly, target
from posterior_cases import Banana, BoxedGaussian, EightModes, farthest_from_uniform

from gensci.core.errors import IncompatibleSampler, UsageError
from gensci.core.posterior import PosteriorTarget, PriorProposal, free_coordinates
from gensci.core.priors import BoxPrior, LogNormalPrior
from gensci.core.random import stream
from gensci.samplers import make_sampler
from gensci.samplers.chain_report import chains_advice
from gensci.samplers.evaluate import Density, MicroBatch
from gensci.samplers.flat import Layout
from gensci.samplers.free_chains import FlatDensity
from gensci.samplers.no_u_turn import Flow, Node, grow_trees, turned
from gensci.samplers.warmup import averaged, observed, rescaled

NAMES = ["hmc", "nuts", "slice"]
QUICK = {"hmc": {"num_leapfrog": 10}, "nuts": {"max_depth": 5}, "slice": {}}
LIMIT = 1.95  # of Kolmogorov-Smirnov, passed by one exact sample in a thousand
KINDS = [
    ("hmc", {"num_leapfrog": 6}, 0.25),
    ("nuts", {}, 0.3),
    ("nuts", {"max_depth": 2}, 0.5),
    ("slice", {"lines": "coordinates"}, 1.0),
    ("slice", {"lines": "random"}, 3.0),
    ("slice", {"lines": "differences"}, 0.8),
    ("slice", {"lines": "coordinates", "max_expansions": 1}, 0.3),
]
IDS = [f"{name}-{'-'.join(map(str, settings.values()))}" for name, settings, _ in KINDS]


def run(name, posterior, n=1000, seed=1, options=None, **settings):
    return make_sampler(name, {**QUICK[name], **settings}).run(
        posterior, PriorProposal(posterior.prior), n, seed=seed, **(options or {})
    )


class Fixed:
    """A proposal of given points."""

    def __init__(self, theta):
        self.theta = theta

    def sample(self, n, generator):
        return {"theta": self.theta[:n]}


def started(sampler, posterior, theta, step_size):
    """Chains at given points that have no warm-up to go through, and their density."""
    free, _, _ = free_coordinates(posterior, None)
    density = Density(free, MicroBatch(100_000))
    _, proposal, _ = free_coordinates(posterior, Fixed(theta))
    state = sampler.init(density, proposal, len(theta), stream(0))
    scale = torch.tensor([0.3, 0.1, 0.7], dtype=torch.float64)
    fields = {**vars(state), "step_size": step_size, "scale": scale}
    return type(state)(**fields), FlatDensity(density, Layout(state.template))


@pytest.mark.parametrize(("name", "settings", "step_size"), KINDS, ids=IDS)
def test_a_move_leaves_exact_draws_exact(name, settings, step_size):
    posterior, count = Banana(), 5000
    sampler = make_sampler(name, {**settings, "num_chains": count, "warmup": 0})
    theta = posterior.draw(count, stream(1, name))
    state, density = started(sampler, posterior, theta, step_size)
    first = state.place
    for step in range(3):
        state, info = sampler.moved(state, density, stream(2, name, step))
        assert 0.1 < info["acceptance"] < 0.97
    assert ((state.place - first).abs().amax(1) > 0.02).double().mean() > 0.5
    theta, _ = density.density.subject.bijection.inverse(state.place)
    assert farthest_from_uniform(posterior.scores(theta)) < LIMIT
    value = density.log_prob({"u": state.place})
    torch.testing.assert_close(state.log_density, value)


def test_trees_of_a_normal_have_the_lengths_of_half_a_turn():
    class Normal:
        def log_prob(self, x):
            return -0.5 * x["u"].square().sum(1)

        def log_prob_and_grad(self, x):
            return self.log_prob(x), {"u": -x["u"]}

    place, momentum = torch.randn(2, 300, 40, generator=stream(0), dtype=torch.float64)
    root = Node(place, momentum, -place, -0.5 * place.square().sum(1))
    flow = Flow(Normal(), torch.ones(40, dtype=torch.float64))
    grown = grow_trees(root, flow, 0.1, 10, stream(1))
    # a trajectory turns after pi / 0.1 = 31 steps; the last doubling may fail at once or go on
    assert grown.leaves.min() >= 31
    assert grown.leaves.max() <= 63
    assert not grown.divergent.any()
    assert grown.acceptance.min() > 0.97
    short = grow_trees(root, flow, 0.1, 3, stream(1))
    assert (short.leaves == 7).all()


def test_ends_that_approach_have_turned():
    right, left = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.1]])
    assert not turned(right, right, 4 * right)
    assert turned(right, left, 3 * right + left)


@pytest.mark.parametrize("name", NAMES)
def test_a_correlated_gaussian_from_its_box(name):
    posterior = BoxedGaussian(dim=5, correlation=0.7)
    samples = run(name, posterior, 1200, warmup=80, num_chains=60)
    verdict = samples.meta["verdict"]
    z = (samples.x["theta"] - posterior.centre) / posterior.std
    assert verdict["ess"] > 150
    assert verdict["rhat"] < 1.2
    assert z.mean(0).abs().max() < 4.5 / verdict["ess"] ** 0.5
    assert (z.square().mean(0) - 1).abs().max() < 4.5 * (2 / verdict["ess"]) ** 0.5
    together = (z[:, :1] * z[:, 1:]).mean(0)
    assert (together - 0.7).abs().max() < 4.5 * (1.5 / verdict["ess"]) ** 0.5
    torch.testing.assert_close(samples.log_target, posterior.log_prob(samples.x))


@pytest.mark.parametrize("name", NAMES)
def test_angles_and_bounds(name):
    posterior = Banana()
    warmup = 250 if name == "hmc" else 80
    samples = run(name, posterior, 1600, warmup=warmup, num_chains=100)
    theta, ess = samples.x["theta"], samples.meta["verdict"]["ess"]
    assert posterior.prior.inside(theta).all()
    assert ess > 100
    rows = torch.randperm(len(theta), generator=stream(0))[: int(ess)]
    assert farthest_from_uniform(posterior.scores(theta)[rows]) < LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_a_density_that_ends_at_its_bound(name):
    """Uniform prior times exp(-theta): half the draws lie within the last log 2 of the bound."""
    prior = BoxPrior(["a", "b"], [0.0, 0.0], [30.0, 30.0])
    samples = run(name, PosteriorTarget(prior, lambda theta: -theta.sum(1)), 2000, num_chains=40)
    scores = 1.0 - (-samples.x["theta"]).exp()
    rows = torch.randperm(2000, generator=stream(0))[: int(samples.meta["verdict"]["ess"])]
    assert len(rows) > 300
    assert farthest_from_uniform(scores[rows]) < LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_positive_parameters(name):
    """A log-normal prior and a log-normal likelihood make a log-normal posterior."""
    prior = LogNormalPrior([0.0, 1.0], [0.5, 1.0])
    where, width = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    target = PosteriorTarget(
        prior, lambda theta: (-0.5 * ((theta.log() - where) / width).square()).sum(1)
    )
    samples = run(name, target, 1500, num_chains=30, warmup=100)
    precision = torch.tensor([8.0, 5.0])
    mean = torch.tensor([0.5, 0.2])
    z = (samples.x["theta"].log() - mean) * precision.sqrt()
    ess = samples.meta["verdict"]["ess"]
    assert ess > 300
    assert z.mean(0).abs().max() < 4.5 / ess**0.5
    assert (z.square().mean(0) - 1).abs().max() < 4.5 * (2 / ess) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_effective_size_is_honest(name):
    posterior = BoxedGaussian(dim=2)
    away = []
    for seed in range(5):
        samples = run(name, posterior, 400, seed=seed, num_chains=20, warmup=30)
        z = (samples.x["theta"] - posterior.centre) / posterior.std
        away.append(z.mean(0) * samples.meta["verdict"]["ess"] ** 0.5)
    # trajectories that swing to the other side do better than independent draws
    assert 0.2 < torch.stack(away).square().mean().sqrt() < 1.6


@pytest.mark.parametrize(("name", "aim"), [("hmc", 0.9), ("nuts", 0.8)])
def test_acceptance_comes_near_its_aim(name, aim):
    samples = run(name, BoxedGaussian(), 600, num_chains=60, warmup=150, target_acceptance=aim)
    assert samples.meta["verdict"]["acceptance"] == pytest.approx(aim, abs=0.1)


def test_dual_averaging_finds_the_step_of_a_known_acceptance():
    sampler = make_sampler("hmc")
    theta = Banana().draw(4, stream(0))
    state, _ = started(sampler, Banana(), theta, 1.0)
    for _ in range(400):
        state = averaged(state, math.exp(-state.step_size), 0.8)
    assert math.exp(state.mean_log_step) == pytest.approx(-math.log(0.8), rel=0.1)


def test_windows_show_the_scale_of_a_gaussian():
    std = torch.tensor([1e-4, 1.0, 300.0], dtype=torch.float64)
    state, _ = started(make_sampler("hmc"), Banana(), Banana().draw(50, stream(0)), 1.0)
    for step in range(60):
        place = std * torch.randn(50, 3, generator=stream(step), dtype=torch.float64)
        fields = {**vars(state), "place": place + 7.0, "grad": -place / std.square()}
        state = observed(type(state)(**fields))
    state = type(state)(**{**vars(state), "scale": std})
    torch.testing.assert_close(rescaled(state).scale, std, rtol=0.05, atol=0)
    assert rescaled(state).seen == 0


def test_divergences_are_counted_and_told():
    posterior = Banana()
    for name in ("hmc", "nuts"):
        sampler = make_sampler(name, {"num_chains": 20})
        state, density = started(sampler, posterior, posterior.draw(20, stream(0)), 2000.0)
        moved, info = sampler.moved(state, density, stream(1))
        assert info["divergent"] > 10
        assert torch.equal(moved.place[0], state.place[0])
    samples = run("hmc", posterior, 100, num_chains=20, warmup=0)
    counted = int(samples.info["divergent"].sum())
    assert samples.meta["verdict"]["divergences"] == counted
    assert "diverged" in chains_advice(1.01, 500.0, 30, 1000)
    assert "raise target_acceptance" in chains_advice(1.01, 500.0, 30, 1000)


@pytest.mark.parametrize("name", NAMES)
def test_modes_that_chains_cannot_leave_are_told(name):
    verdict = run(name, EightModes(jumps=False), 480, warmup=40, num_chains=16).meta["verdict"]
    assert verdict["rhat"] > 1.5
    assert "tempering" in verdict["advice"]


def test_shards_that_disagree_are_told():
    class Apart:
        def log_prob(self, x):
            return -0.5 * (x["x"].abs() - 50.0).square().sum(1) - 40.0 * (x["x"][:, 0] < 0)

    class OneSide:
        def sample(self, n, generator):
            side = 1.0 if torch.rand((), generator=generator) < 0.5 else -1.0
            return {"x": 50.0 * side + torch.randn(n, 1, generator=generator).double()}

    sampler = make_sampler("hmc", {"num_chains": 4, "warmup": 50})
    samples = sampler.run(Apart(), OneSide(), 1200, seed=2, shard_size=200)
    assert samples.x["x"].sign().unique().tolist() == [-1.0, 1.0]
    assert samples.meta["verdict"]["rhat"] > 1.1
    assert samples.chain.unique().tolist() == list(range(24))


@pytest.mark.parametrize("name", NAMES)
def test_other_tensors_than_theta(name):
    """A structure of three points, in float32, next to a number."""

    class Points:
        def log_prob(self, x):
            square = (x["positions"].double() / 0.1).square().sum((1, 2))
            return -0.5 * (square + (x["size"].double() - 5.0).square())

    class Near:
        def sample(self, n, generator):
            positions = 0.1 * torch.randn(n, 3, 2, generator=generator)
            return {"positions": positions, "size": torch.full((n,), 5.0)}

    settings = {"num_chains": 20, "warmup": 100}
    samples = make_sampler(name, settings).run(Points(), Near(), 1000, seed=0)
    positions = samples.x["positions"]
    assert positions.shape == (1000, 3, 2)
    assert positions.dtype == samples.x["size"].dtype == torch.float32
    assert positions.std().item() == pytest.approx(0.1, rel=0.12)
    assert samples.x["size"].mean().item() == pytest.approx(5.0, abs=0.25)


def test_a_likelihood_without_gradient_is_for_slice_alone():
    prior = BoxPrior(["a"], [-5.0], [5.0])
    target = PosteriorTarget(prior, lambda theta: -0.5 * theta.detach()[:, 0].square())
    for name in ("hmc", "nuts"):
        with pytest.raises(UsageError, match="has no gradient"):
            run(name, target, 10)
    assert run("slice", target, 600).x["theta"].std().item() == pytest.approx(1.0, abs=0.15)


def test_few_chains_still_span_the_space():
    posterior = BoxedGaussian(dim=5, correlation=0.3)
    samples = run("slice", posterior, 600, num_chains=4, warmup=60)
    z = (samples.x["theta"] - posterior.centre) / posterior.std
    assert (z.square().mean(0) - 1).abs().max() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_single_chain_is_possible(name):
    settings = {"lines": "coordinates"} if name == "slice" else {}
    samples = run(name, BoxedGaussian(dim=1), 150, num_chains=1, warmup=60, **settings)
    assert samples.chain.unique().tolist() == [0]
    assert samples.meta["verdict"]["rhat"] < 1.3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hmc", {"num_chains": 0}, "num_chains=0"),
        ("hmc", {"num_leapfrog": 0}, "num_leapfrog=0"),
        ("hmc", {"target_acceptance": 1.0}, "target_acceptance=1.0"),
        ("nuts", {"max_depth": 0}, "max_depth=0"),
        ("nuts", {"target_acceptance": -0.1}, "target_acceptance=-0.1"),
        ("nuts", {"warm_up": 3}, "did you mean 'warmup'"),
        ("slice", {"lines": "cordinates"}, "did you mean 'coordinates'"),
        ("slice", {"num_chains": 3}, "num_chains=3"),
        ("slice", {"max_expansions": 0}, "max_expansions=0"),
        ("slice", {"thinning": 0}, "thinning=0"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(UsageError, match=message):
        make_sampler(name, settings)


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused(name):
    with pytest.raises(IncompatibleSampler, match=r"needs a target .*use one of: direct$"):
        make_sampler(name).run(None, DrawsOnly(), 10, seed=0)

    class Whole:
        def sample(self, n, generator):
            return {"x": torch.zeros(n, 3), "kind": torch.zeros(n, dtype=torch.int64)}

    with pytest.raises(IncompatibleSampler, match="'kind' holds whole numbers"):
        make_sampler(name).run(target("gaussian"), Whole(), 10, seed=0)
