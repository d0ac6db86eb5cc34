"""The sequential loop against posteriors in closed form: rounds, records, stop rule, resuming."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from loops.doubles import (
    Interrupting,
    LeastSquares,
    Resampling,
    exact_posterior,
    linear_by_global_numbers,
)

from gensci.core.errors import UsageError
from gensci.core.priors import BoxPrior
from gensci.io.run_folder import RunFolder
from gensci.loops.rounds import InferenceProblem, LoopSettings, posterior_change
from gensci.loops.sequential import run_rounds
from gensci.loops.simulate_rows import SimulationSettings, UserSimulator
from gensci.samplers.base import MemoryStore

PRIOR = BoxPrior(("a", "b"), [-2.0, -2.0], [2.0, 2.0])
OBSERVATION = torch.tensor([0.7, 0.1, 0.4], dtype=torch.float64)
SETTINGS = LoopSettings(
    rounds=3, simulations=200, draws=500, num_samples=4000, stop_change=0.0, defensive=0.1
)


def run(store=None, settings=SETTINGS, function=linear_by_global_numbers, seed=3, **options):
    simulator = UserSimulator(function, (3,), SimulationSettings(jobs=0))
    problem = InferenceProblem(PRIOR, options.pop("observation", OBSERVATION), simulator)
    estimator = options.pop("estimator", LeastSquares(OBSERVATION))
    store = MemoryStore() if store is None else store
    sampler = Resampling(PRIOR)
    result = run_rounds(problem, settings, estimator, sampler, store, seed=seed, **options)
    return result, simulator, estimator


def same(one, other):
    a, b = one.posterior.to_tensors(), other.posterior.to_tensors()
    return (
        a.keys() == b.keys()
        and all(torch.equal(a[name], b[name]) for name in a)
        and torch.equal(one.simulations.x, other.simulations.x)
        and torch.equal(one.simulations.theta, other.simulations.theta)
    )


@pytest.fixture(scope="module")
def uninterrupted():
    return run()[0]


def test_the_posterior_of_a_linear_simulator(uninterrupted):
    mean, covariance = exact_posterior(OBSERVATION)
    theta = uninterrupted.posterior.x["theta"]
    scale = covariance.diagonal().sqrt()
    assert ((theta.mean(0) - mean).abs() < 0.25 * scale).all()
    torch.testing.assert_close(theta.T.cov(), covariance, rtol=0.25, atol=0.1 * float(scale.max()))


def test_counts_and_records(uninterrupted):
    assert len(uninterrupted.simulations) == 600
    assert uninterrupted.simulations.round.unique().tolist() == [0, 1, 2]
    assert [r.simulator_calls for r in uninterrupted.records] == [200] * 3
    first, second, _ = uninterrupted.records
    # 10,000 draws of the prior are weighed; later rounds compare 500 draws under two surrogates
    assert first.surrogate_calls == 10_000 and second.surrogate_calls == 11_000
    assert first.change is None and 0 <= second.change < 1
    assert first.wall_seconds.keys() == {"simulate", "train", "sample"} == first.cpu_seconds.keys()
    assert second.training == {"epochs": 1} and second.verdict["ess"] > 30


def test_later_rounds_lie_in_the_posterior_with_a_share_of_the_prior(uninterrupted):
    mean, covariance = exact_posterior(OBSERVATION)
    theta = uninterrupted.simulations.theta
    rounds = uninterrupted.simulations.round
    far = ((theta - mean).abs() > 5 * covariance.diagonal().sqrt()).any(1)
    assert far[rounds == 0].double().mean() > 0.5
    shares = [float(far[rounds == k].double().mean()) for k in (1, 2)]
    assert max(shares) <= 0.1 and min(shares) > 0.03


def test_a_temperature_widens_the_points_of_later_rounds():
    spreads = []
    for temperature in (1.0, 9.0):
        settings = LoopSettings(
            rounds=2, simulations=300, draws=500, num_samples=500, defensive=0.0,
            temperature=temperature, stop_change=0.0,
        )  # fmt: skip
        rows = run(settings=settings)[0].simulations
        spreads.append(rows.theta[rows.round == 1].std(0))
    torch.testing.assert_close(
        spreads[1] / spreads[0], torch.full((2,), 3.0).double(), rtol=0.2, atol=0
    )


def test_the_stop_rule():
    settings = LoopSettings(rounds=6, simulations=300, draws=500, num_samples=500, stop_change=0.5)
    result = run(settings=settings)[0]
    assert len(result.records) == 2 and result.stopped.startswith("the posterior moved by")
    assert len(result.posterior) == 500


def test_the_change_is_the_divergence_of_two_gaussians():
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    new = -0.5 * draws**2
    old = -0.5 * (draws - 0.5) ** 2 / 1.2**2 + 17.0
    exact = torch.tensor(1.2).log() + (1 + 0.25) / (2 * 1.44) - 0.5  # KL(new || old)
    assert posterior_change(new, old, torch.zeros(200_000)) == pytest.approx(float(exact), abs=0.01)


def test_interrupted_at_every_write_it_ends_with_the_same_bits(uninterrupted):
    for writes in range(0, 14):
        store = Interrupting(writes)
        try:
            result = run(store)[0]
        except KeyboardInterrupt:
            store.left = 10**6
            result = run(store)[0]
        assert same(result, uninterrupted), writes


def test_a_finished_run_is_only_read():
    store = MemoryStore()
    first = run(store)[0]
    again, simulator, estimator = run(store)
    assert same(first, again) and simulator.calls == 0 and estimator.fits == 0
    assert again.records == first.records


def test_failed_simulations_are_counted_and_not_trained_on():
    def picky(theta):
        if theta[0] > 1:
            raise ValueError("too large")
        return linear_by_global_numbers(theta)

    result, simulator, estimator = run(function=picky)
    failed = int((result.simulations.theta[:, 0] > 1).sum())
    assert simulator.calls == 600 == sum(r.simulator_calls for r in result.records)
    assert sum(r.failed.get("failed", 0) for r in result.records) == failed > 20
    assert sum(r.errors["ValueError: too large"] for r in result.records if r.errors) == failed
    assert [len(data.x) for data in estimator.seen][-1] == 600 - failed
    assert estimator.seen[-1].x.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"simulations": 0}, "simulations=0"),
        ({"rounds": 3, "simulations": (5, 5)}, "for 3 rounds"),
        ({"defensive": 1.5}, "defensive=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_unusable_settings_are_named(changed, named):
    with pytest.raises(UsageError, match=named):
        LoopSettings(**changed)


def test_unusable_observations_are_refused():
    with pytest.raises(UsageError, match=r"\(2,\) values, the simulator makes 3"):
        run(observation=torch.zeros(2).double())
    with pytest.raises(UsageError, match=r"NaN or infinity \(value 1\)"):
        run(observation=torch.tensor([0.0, torch.nan, 0.0]).double())


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from loops import test_sequential as t
from loops.doubles import linear_by_global_numbers
def slow(theta):
    time.sleep(0.001)
    return linear_by_global_numbers(theta)
t.run(t.folder(sys.argv[1]), function=slow)
"""


def folder(path):
    Path(path).mkdir(exist_ok=True)
    return RunFolder(Path(path), {"command": "infer", "settings": {}, "seed": 3})


def test_killed_at_random_instants_it_ends_with_the_same_bits(tmp_path, uninterrupted):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    run_path = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(run_path)]
    generator = torch.Generator().manual_seed(int(time.time()))
    for _ in range(2):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not list(run_path.glob("*/*")):
            time.sleep(0.01)  # importing torch takes most of the time, and is not to be killed
        time.sleep(float(torch.rand(1, generator=generator)))
        process.kill()
        process.wait()
    assert same(run(folder(run_path))[0], uninterrupted)
