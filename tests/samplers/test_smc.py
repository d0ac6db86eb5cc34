"""Tempered SMC: the end of the path, fused forces, waste-free chains and the error of log Z."""

import math
from statistics import mean

import pytest
import torch
from cases import target

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.weights import log_z
from gensci.samplers import make_sampler
from gensci.samplers.islands import cluster_size, spread_variance
from gensci.systems.toy import ToySystem

torch.set_num_threads(1)
SETTINGS = [
    {"move": "random_walk"},
    {"move": "mala", "schedule": "power", "num_steps": 7},
    {"move": "hmc", "schedule": "linear", "num_steps": 1},
    {"move": "hmc", "force": "target"},
    {"move": "mala", "waste_free": True, "num_moves": 3},
    {"move": "hmc", "waste_free": True, "schedule": "linear", "num_steps": 3},
    # an adaptive schedule that would need more steps than it may take
    {"move": "random_walk", "num_steps": 4, "ess_target": 0.999},
]


def run(settings, n=200, seed=0, toy="mixture", **options):
    proposal = ToySystem.parse(toy).proposal(dtype=torch.float64)
    return make_sampler("smc", settings).run(target(toy), proposal, n, seed=seed, **options)


class Counted:
    """A density that counts the rows of which it was asked for values, and for slopes too."""

    def __init__(self, subject, fused):
        self.subject, self.values, self.slopes = subject, 0, 0
        if fused:
            self.log_prob_and_grad = self._fused

    def sample_and_log_prob(self, n, generator):
        return self.subject.sample_and_log_prob(n, generator)

    def log_prob(self, x):
        assert not x["x"].requires_grad
        self.values += len(x["x"])
        return self.subject.log_prob(x)

    def _fused(self, x):
        self.slopes += len(x["x"])
        with torch.enable_grad():
            leaf = x["x"].detach().requires_grad_()
            value = self.subject.log_prob({"x": leaf})
            return value.detach(), {"x": torch.autograd.grad(value.sum(), leaf)[0]}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_path_ends_at_exactly_one_and_moves_are_made_there(settings):
    samples = run(settings)
    temperature = samples.info["temperature"].tolist()
    assert temperature == sorted(temperature)
    assert temperature[-1] == 1.0
    moves = make_sampler("smc", settings).num_moves
    assert temperature.count(1.0) == moves
    assert all(temperature.count(t) == moves for t in temperature)
    assert len(samples) == 200


@pytest.mark.parametrize("force", ["path", "target", None])
@pytest.mark.parametrize("dear", [False, True])
def test_the_targets_force_spares_the_slopes_of_the_proposal(force, dear):
    toy = ToySystem.parse("mixture")
    p = Counted(target("mixture"), True)
    q = Counted(toy.proposal(dtype=torch.float64), True)
    q.dear_slopes = dear
    settings = {"force": force, "num_moves": 2, "num_leapfrog": 4, "schedule": "linear"}
    make_sampler("smc", {**settings, "num_steps": 3}).run(p, q, 50, seed=0)
    # two temperatures below one: a slope of each row, and four for each of two moves
    tempered = 2 * 50 * (1 + 2 * 4)
    assert p.slopes == tempered * 3 // 2
    assert p.values == 50
    path = force == "path" or (force is None and not dear)
    assert q.slopes == (tempered if path else 0)
    # log q of the result, and else one value for each trajectory
    assert q.values == 50 + (0 if path else 2 * 50 * 2)


def test_waste_free_chains_cost_one_move_less_of_each_and_keep_every_state():
    toy = ToySystem.parse("gaussian")
    p = Counted(target("gaussian"), True)
    q = toy.proposal(dtype=torch.float64)
    settings = {"waste_free": True, "num_moves": 4, "move": "mala", "schedule": "linear"}
    samples = make_sampler("smc", {**settings, "num_steps": 2}).run(p, q, 103, seed=0)
    chains = math.ceil(103 / 5)
    # at two temperatures: slopes at the starts of the chains, then one for each new row
    assert p.slopes == 2 * (chains + 103 - chains)
    assert len(samples) == 103
    ancestor = samples.ancestor
    assert torch.equal(ancestor[:82], ancestor[21:])
    assert (samples.log_weight == 0).all()
    assert torch.allclose(samples.log_target, target("gaussian").log_prob(samples.x))
    verdict = samples.meta["verdict"]
    assert verdict["ess"] < 103
    assert verdict["ess_fraction"] == pytest.approx(verdict["ess"] / 103)


@pytest.mark.parametrize(
    ("toy", "settings"),
    [
        ("gaussian", {"waste_free": True}),
        ("mixture", {"waste_free": True}),
        ("mixture", {"waste_free": True, "move": "mala", "num_moves": 7}),
        ("mixture", {"force": "target"}),
    ],
)
def test_the_error_of_log_z_is_what_runs_scatter_by(toy, settings):
    truth = ToySystem.parse(toy).truth.log_z
    verdicts = [run(settings, 300, seed, toy).meta["verdict"] for seed in range(24)]
    ratios = [(v["log_z"] - truth) / v["log_z_error"] for v in verdicts]
    # 24 squares of a standard normal have a mean of 1 with a standard deviation of 0.29
    assert 0.3 < mean(r * r for r in ratios) < 2.2
    assert abs(mean(ratios)) < 4 / 24**0.5


def test_independent_rows_have_the_spread_of_their_weights():
    log_weight = torch.randn(50, generator=stream(0, "weights"), dtype=torch.float64)
    log_weight[3] = -math.inf
    assert spread_variance(log_weight, 50) == pytest.approx(log_z(log_weight).error ** 2)


def test_rows_of_a_chain_that_stands_still_count_once():
    values = torch.randn(40, generator=stream(1, "values"), dtype=torch.float64)
    still = values.repeat(5)
    assert spread_variance(still, 40) == pytest.approx(spread_variance(values, 40))
    assert cluster_size(still, 40) == pytest.approx(39, rel=1e-9)
    fresh = torch.randn(4000, generator=stream(2, "values"), dtype=torch.float64)
    assert 3000 < cluster_size(fresh, 800) <= 4000
    assert spread_variance(still, 1) == math.inf


def test_descendants_that_stand_still_count_as_the_draw_that_they_come_from():
    still = {"schedule": "linear", "num_steps": 1, "num_moves": 1, "step_size": 1e-9}
    samples = run({**still, "move": "random_walk", "resample_threshold": 1.0}, 400)
    verdict = samples.meta["verdict"]
    proposal = ToySystem.parse("mixture").proposal(dtype=torch.float64)
    drawn = make_sampler("importance").run(target("mixture"), proposal, 400, seed=0)
    expected = drawn.meta["verdict"]["ess"]
    assert verdict["ess_if_moves_mix"] == pytest.approx(400)  # resampled: of equal weights
    assert expected < 300
    assert verdict["ess"] == pytest.approx(expected, rel=0.15)
    assert verdict["ess"] == verdict["effective_ancestors"]
    assert verdict["ess_fraction"] == pytest.approx(verdict["ess"] / 400)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"waste_free": "perhaps"}, "waste_free='perhaps'"),
        ({"force": "tarhet"}, "did you mean 'target'"),
    ],
)
def test_bad_settings_name_the_setting(settings, message):
    with pytest.raises(UsageError, match=message):
        make_sampler("smc", settings)


def test_waste_free_needs_rows_to_share():
    with pytest.raises(UsageError, match="waste_free needs more than one sample"):
        run({"waste_free": True}, n=1)
