"""Every item under a time limit: late, broken and dying ones, order, reuse."""

import pytest

from gensci.core.errors import UsageError
from gensci.core.worker_pool import timed_map

SLEEP = "__import__('time').sleep(60)"
DIE = "__import__('os')._exit(3)"
PID = "__import__('os').getpid()"


def test_results_stand_in_the_order_of_the_items_for_any_number_of_workers():
    items = [f"{i} ** 2" for i in range(150)]
    expected = [i**2 for i in range(150)]
    for jobs in (1, 3):
        outcomes = timed_map(eval, items, time_limit=30, jobs=jobs)
        assert [outcome.value for outcome in outcomes] == expected
        assert {outcome.status for outcome in outcomes} == {"done"}


def test_one_that_hangs_is_given_up_and_no_other():
    items = ["1", SLEEP, "2", "3", "4", SLEEP, "5", "6"]
    outcomes = timed_map(eval, items, time_limit=1.0, jobs=2)
    assert [outcome.value for outcome in outcomes] == [1, None, 2, 3, 4, None, 5, 6]
    late = [i for i, outcome in enumerate(outcomes) if outcome.status == "timed out"]
    assert late == [1, 5]


def test_errors_and_dead_workers_cost_themselves_alone():
    outcomes = timed_map(eval, ["1", "1 / 0", DIE, "2", "nonsense"], time_limit=30, jobs=1)
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "done", "failed"]
    assert outcomes[1].error == "ZeroDivisionError: division by zero"
    assert outcomes[2].error == "the worker process ended"
    assert "nonsense" in outcomes[4].error


def test_workers_are_used_again():
    outcomes = timed_map(eval, [PID] * 100, time_limit=30, jobs=2)
    assert 1 <= len({outcome.value for outcome in outcomes}) <= 2


def test_progress_counts_up_to_what_is_done():
    seen = []
    items = ["0"] * 130
    timed_map(eval, items, time_limit=30, jobs=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 130), (64, 130), (128, 130)]


def test_nothing_to_do():
    assert timed_map(eval, [], time_limit=1) == []


@pytest.mark.parametrize(("limit", "jobs", "named"), [(0, 1, "time_limit=0"), (1, 0, "jobs=0")])
def test_unusable_settings(limit, jobs, named):
    with pytest.raises(UsageError, match=named):
        timed_map(eval, ["0"], time_limit=limit, jobs=jobs)
