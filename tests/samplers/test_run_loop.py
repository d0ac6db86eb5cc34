"""Memory, progress, proposals of other libraries, and the moves on their own."""

import math

import pytest
import torch
from cases import Killed, MortalStore, target

from gensci.core.errors import GensciError
from gensci.core.random import stream
from gensci.samplers import make_sampler
from gensci.samplers.base import split_evenly
from gensci.samplers.evaluate import Density, MicroBatch
from gensci.samplers.moves import MOVES, Point, adapted, local_scale
from gensci.samplers.path import path_evaluator
from gensci.systems.toy import ToySystem

torch.set_num_threads(1)


class SmallMemory:
    """A proposal that runs out of memory above a number of rows."""

    def __init__(self, limit):
        self.limit = limit
        self.inner = ToySystem.parse("gaussian").proposal(dtype=torch.float64)

    def sample_and_log_prob(self, n, generator):
        drawn = self.inner.sample_and_log_prob(n, generator)
        if n > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return drawn


def test_batches_halve_until_they_fit_and_a_resumed_run_remembers():
    whole = make_sampler("importance").run(
        target("gaussian"), SmallMemory(20), 500, seed=0, shard_size=100
    )
    assert whole.meta["batch_size"] == 12
    assert abs(whole.meta["verdict"]["log_z"] - ToySystem.parse("gaussian").truth.log_z) < 0.2
    store = MortalStore()
    store.arm(7, after=True)
    with pytest.raises(Killed):
        make_sampler("importance").run(
            target("gaussian"), SmallMemory(20), 500, seed=0, shard_size=100, store=store
        )
    store.arm(math.inf, after=False)
    resumed = make_sampler("importance").run(
        target("gaussian"), SmallMemory(20), 500, seed=0, shard_size=100, store=store
    )
    assert torch.equal(resumed.x["x"], whole.x["x"])


def test_one_sample_too_large_is_a_clear_error():
    with pytest.raises(GensciError, match="does not fit in memory"):
        make_sampler("importance").run(target("gaussian"), SmallMemory(0), 5, seed=0)


def test_errors_of_the_target_are_not_taken_for_lack_of_memory():
    class Broken:
        def log_prob(self, x):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        make_sampler("importance").run(Broken(), SmallMemory(50), 5, seed=0)


@pytest.mark.parametrize("name", ["direct", "importance", "smc", "mcmc"])
def test_progress_never_runs_backwards_and_ends_at_the_total(name):
    seen = []
    system = ToySystem.parse("gaussian")
    make_sampler(name, {"warmup": 10} if name == "mcmc" else {}).run(
        system.target(),
        system.proposal(),
        70,
        seed=0,
        shard_size=30,
        progress=lambda done, total, message: seen.append((done, total, message)),
    )
    done = [entry[0] for entry in seen]
    assert done == sorted(done)
    assert seen[-1][:2] == (70, 70)


@pytest.mark.parametrize(("n", "size", "rows"), [(10, 4, [4, 3, 3]), (4, 4, [4]), (5, None, [5])])
def test_shards_share_rows_evenly(n, size, rows):
    assert split_evenly(n, size) == rows


@pytest.mark.parametrize("name", list(MOVES))
@pytest.mark.parametrize("first", [1e-5, 1e4])
def test_moves_keep_a_stiff_density_and_adapt_from_any_step(name, first):
    toy, move = ToySystem.parse("stiff"), MOVES.get(name)
    density = Density(toy.target(), MicroBatch(10_000))
    evaluate = path_evaluator(density, None, 1.0, move.needs_grad)
    noise = torch.randn(1500, 6, generator=stream(0, "start"), dtype=torch.float64)
    point = evaluate({"x": noise * toy.truth.std})
    scale = local_scale(point.x, point.grad, torch.ones(1500, dtype=torch.float64) / 1500)
    assert torch.allclose(scale["x"], toy.truth.std, rtol=0.15)
    step, rates = first, []
    for index in range(60):
        moved = move.apply(point, evaluate, scale, step, 4, stream(0, "move", index))
        point = moved.point
        step = adapted(step, moved.acceptance, move.acceptance, 0.2)
        rates.append(moved.acceptance)
    assert abs(sum(rates[-20:]) / 20 - move.acceptance) < 0.05
    z = point.x["x"] / toy.truth.std
    assert z.mean(0).abs().max() < 4.5 / 1500**0.5
    assert (z.square().mean(0) - 1).abs().max() < 4.5 * (2 / 1500) ** 0.5


def test_gradients_of_autograd_equal_those_of_a_fused_target():
    class Fused:
        def log_prob(self, x):
            return -0.5 * x["x"].square().sum(-1)

        def log_prob_and_grad(self, x):
            return self.log_prob(x), {"x": -x["x"]}

    class Plain:
        log_prob = Fused.log_prob

    x = {"x": torch.randn(7, 3, generator=stream(0, "x")), "kind": torch.arange(7)}
    x["x"][2] = math.nan
    fused = Density(Fused(), MicroBatch(3)).log_prob_and_grad(x)
    plain = Density(Plain(), MicroBatch(3)).log_prob_and_grad(x)
    assert torch.equal(fused[0], plain[0])
    assert fused[0][2] == -math.inf
    assert plain[1].keys() == {"x"}
    assert torch.equal(fused[1]["x"], plain[1]["x"])
    assert (plain[1]["x"][2] == 0).all()


def test_a_far_start_is_reached_although_slopes_are_limited():
    toy = ToySystem.parse("stiff")
    density = Density(toy.target(), MicroBatch(100))
    evaluate = path_evaluator(density, None, 1.0, True)
    scale = {"x": toy.truth.std}
    point: Point = evaluate({"x": torch.full((50, 6), 0.5, dtype=torch.float64)})
    for index in range(300):
        point = MOVES.get("hmc").apply(point, evaluate, scale, 0.5, 4, stream(0, index)).point
    assert (point.x["x"] / toy.truth.std).abs().max() < 5.0
