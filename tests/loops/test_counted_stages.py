"""Evaluations are counted once, whatever kills the run in between."""

import pytest
import torch
from loops.toy_flow import Fragile, Killed, ToyTarget, proposal

from gensci.loops.counted_stages import CountedStage, CountedTarget
from gensci.samplers import make_sampler
from gensci.samplers.base import MemoryStore

SMC = {"schedule": "linear", "num_steps": 3, "num_moves": 2, "num_leapfrog": 2}


def run(store, target):
    counted = CountedTarget(target)
    stage = CountedStage(store, "part", counted)
    samples = make_sampler("smc", SMC).run(
        counted, proposal(), 30, seed=4, store=stage, shard_size=10, save_seconds=1e-9
    )
    assert stage.evaluations == counted.evaluations
    return samples, stage.evaluations


def test_every_row_that_the_target_sees_is_counted():
    target = ToyTarget()
    _, count = run(MemoryStore(), target)
    assert count == target.rows > 300


@pytest.mark.parametrize("life", [1, 3, 5, 8])
def test_a_continued_run_tells_the_count_of_an_uninterrupted_one(life):
    truth, count = run(MemoryStore(), ToyTarget())
    store = Fragile()
    store.life = life
    with pytest.raises(Killed):
        run(store, ToyTarget())
    again, counted = run(store, ToyTarget())
    assert counted == count
    assert torch.equal(again.x["positions"], truth.x["positions"])


def test_all_else_is_that_of_the_target():
    class Plain:
        walkable = False

        def log_prob(self, x):
            return x["positions"].sum((-2, -1))

    counted = CountedTarget(Plain())
    assert counted.walkable is False
    assert not hasattr(counted, "log_prob_and_grad")
