"""Simulators of users: every way of failing costs its own row, numbers follow from the seed."""

import numpy as np
import pytest
import torch
from loops.doubles import (
    MATRIX,
    NOISE,
    linear,
    linear_batched,
    linear_by_global_numbers,
    moody,
    moody_batched,
)

from gensci.core.errors import UsageError
from gensci.loops.simulate_rows import SimulationSettings, UserSimulator
from gensci.loops.simulation_store import STATUSES


def simulate(function, theta, shape=(2,), seeds=None, **settings):
    """Data, status by name and lines of error of all rows."""
    theta = torch.as_tensor(theta, dtype=torch.float64)
    n = len(theta)
    seeds = torch.arange(n) + 100 if seeds is None else seeds
    found = {}

    def report(rows, x, status, error):
        for k, row in enumerate(rows):
            assert row not in found
            found[row] = (x[k], STATUSES[status[k]], error)

    with UserSimulator(function, shape, SimulationSettings(**settings)) as simulator:
        simulator.run(theta, seeds, report)
    assert sorted(found) == list(range(n))
    x = torch.stack([found[row][0] for row in range(n)])
    return x, [found[r][1] for r in range(n)], [found[r][2] for r in range(n)], simulator


KINDS = [[0, 1, 2], [1, 0, 0], [3, 0, 0], [4, 7, 7], [0, 3, 4]]
ENDS = ["done", "failed", "wrong shape", "done", "done"]


@pytest.mark.parametrize("jobs", [0, 2])
def test_every_way_of_failing_costs_its_own_row(jobs):
    x, status, errors, simulator = simulate(moody, KINDS, jobs=jobs)
    assert status == ENDS
    assert errors[1] == "ValueError: the star exploded"
    assert errors[2] == "the simulator returned shape (3,), expected (2,)"
    assert simulator.calls == 5
    for row in (0, 4):  # the definition of the simulator, with the row's own seed
        np.random.seed(100 + row)
        np.testing.assert_array_equal(x[row], np.array(KINDS[row][1:]) + np.random.randn(2))


def test_one_that_hangs_or_dies_in_a_worker():
    rows = [[0, 1, 2], [2, 0, 0], [5, 0, 0], [0, 3, 4]]
    _, status, errors, _ = simulate(moody, rows, jobs=1, time_limit=1.0)
    assert status == ["done", "timed out", "failed", "done"]
    assert errors[1] == "no answer within the time limit of 1 s"
    assert errors[2] == "the worker process ended"


def test_one_that_hangs_in_this_process():
    _, status, _, _ = simulate(moody, [[2, 0, 0], [0, 0, 0]], jobs=0, time_limit=0.3)
    assert status == ["timed out", "done"]


def test_a_bad_row_of_a_batch_costs_itself_alone():
    _, status, _, simulator = simulate(
        moody_batched, KINDS * 2, jobs=0, batched=True, rows_per_call=5
    )
    assert status == ENDS * 2
    assert simulator.calls == 20  # two spoilt batches, and each of their rows singly


def test_the_seed_decides_whatever_the_number_of_workers():
    theta = torch.rand(9, 2, dtype=torch.float64)
    function = linear_by_global_numbers
    here, there = (simulate(function, theta, (3,), jobs=jobs)[0] for jobs in (0, 1))
    assert torch.equal(here, there)
    rng = np.random.default_rng(103)
    expected = MATRIX @ theta[3].numpy() + NOISE * rng.standard_normal(3)
    np.testing.assert_array_equal(simulate(linear, theta, (3,), jobs=0)[0][3], expected)


def test_random_numbers_of_the_caller_are_left_alone():
    np.random.seed(1)
    expected = np.random.randn(), torch.rand(1, generator=torch.default_generator.manual_seed(1))
    np.random.seed(1)
    torch.default_generator.manual_seed(1)
    simulate(linear_by_global_numbers, torch.zeros(2, 2), (3,), jobs=0)
    assert (np.random.randn(), torch.rand(1)) == expected


def test_batched_simulators_and_tensors():
    theta = torch.rand(7, 2, dtype=torch.float64)
    x, _, _, _ = simulate(linear_batched, theta, (3,), jobs=0, batched=True, rows_per_call=4)
    second = linear_batched(theta[4:].numpy(), 104)
    np.testing.assert_array_equal(x[4:], second)
    squares, _, _, _ = simulate(torch.square, theta, (2,), jobs=0, array="torch")
    assert torch.equal(squares, theta**2)


def test_scalars_are_data_of_one_value():
    x, status, _, _ = simulate(lambda theta: float(theta[0]), [[0.5], [1.5]], (1,), jobs=0)
    assert x.tolist() == [[0.5], [1.5]] and status == ["done"] * 2


def test_a_lambda_runs_here_unless_workers_are_asked_for():
    x, _, _, _ = simulate(lambda theta: 2 * theta, [[1.0, 2.0]])
    assert x.tolist() == [[2.0, 4.0]]
    with pytest.raises(UsageError, match=r"cannot be sent .*jobs=0"):
        UserSimulator(lambda theta: theta, (2,), SimulationSettings(jobs=2))


@pytest.mark.parametrize(
    "wrong",
    [{"time_limit": 0}, {"jobs": -1}, {"rows_per_call": 0}, {"array": "jax"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_unusable_settings_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SimulationSettings(**wrong)
