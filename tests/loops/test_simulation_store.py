"""The store of simulations: nothing that was told of is lost, failures stay and are counted."""

from types import SimpleNamespace

import pytest
import torch
from loops.doubles import Interrupting

from gensci.core.errors import GensciError
from gensci.io.run_folder import RunFolder
from gensci.loops import simulation_store
from gensci.loops.simulation_store import (
    DONE,
    FAILED,
    PENDING,
    SimulationStore,
    SimulatorError,
    check_failures,
)
from gensci.samplers.base import MemoryStore


class Sums:
    """Data are the sum of the parameters; some rows fail, and the process may die at one."""

    dim = 1

    def __init__(self, fail=(), die_at=None):
        self.fail, self.die_at, self.calls, self.asked = set(fail), die_at, 0, []

    def run(self, theta, seeds, report):
        for row, point in enumerate(theta):
            self.calls += 1
            value = float(point[0])
            if self.die_at is not None and value == self.die_at:
                raise KeyboardInterrupt
            self.asked.append(value)
            failed = value in self.fail
            x = torch.full((1, 1), torch.nan if failed else float(point.sum())).double()
            report([row], x, [FAILED if failed else DONE], "ValueError: no" if failed else "")


def points(n):
    theta = torch.stack([torch.arange(n).double(), torch.ones(n).double()], 1)
    return theta, torch.arange(n) * 7


def fresh(tmp_path):
    path = tmp_path / "run"
    path.mkdir(exist_ok=True)
    return RunFolder(path, {"command": "infer", "settings": {}, "seed": 1})


def test_a_round_is_kept_whole_with_its_failures(tmp_path):
    theta, seeds = points(5)
    store = SimulationStore(fresh(tmp_path), [5])
    rows = store.complete(0, theta, seeds, Sums(fail=[1, 3]))
    again = SimulationStore(fresh(tmp_path), [5]).load(0)
    for each in (rows, again):
        assert torch.equal(each.theta, theta) and torch.equal(each.seed, seeds)
        assert each.status.tolist() == [DONE, FAILED, DONE, FAILED, DONE]
        assert each.x[each.usable].squeeze(1).tolist() == [1.0, 3.0, 5.0]
        assert each.x[~each.usable].isnan().all()
        assert each.counts == {"done": 3, "failed": 2}
        assert each.errors == {"ValueError: no": 2}
    assert not (tmp_path / "run" / "state" / "simulating-0000.safetensors").exists()


def test_a_complete_round_asks_the_simulator_nothing(tmp_path):
    theta, seeds = points(4)
    SimulationStore(fresh(tmp_path), [4]).complete(0, theta, seeds, Sums())
    simulator = Sums()
    SimulationStore(fresh(tmp_path), [4]).complete(0, theta, seeds, simulator)
    assert simulator.calls == 0


def test_an_interrupted_round_goes_on_with_what_is_missing(tmp_path):
    theta, seeds = points(6)
    with pytest.raises(KeyboardInterrupt):
        SimulationStore(fresh(tmp_path), [6]).complete(0, theta, seeds, Sums(die_at=4))
    partial = SimulationStore(fresh(tmp_path), [6]).load(0)
    assert partial.status.tolist() == [DONE] * 4 + [PENDING] * 2
    simulator = Sums()
    rows = SimulationStore(fresh(tmp_path), [6]).complete(0, theta, seeds, simulator)
    assert simulator.asked == [4.0, 5.0]
    whole = SimulationStore(MemoryStore(), [6]).complete(0, theta, seeds, Sums())
    assert torch.equal(rows.x, whole.x) and torch.equal(rows.status, whole.status)


def test_what_the_progress_told_of_survives_a_kill_at_every_write(monkeypatch):
    # a clock that stands still, so that every report is saved however slow the machine is
    monkeypatch.setattr(simulation_store, "time", SimpleNamespace(monotonic=lambda: 0.0))
    theta, seeds = points(6)
    for writes in range(1, 7):
        store, told = Interrupting(writes), []
        with pytest.raises(KeyboardInterrupt):
            SimulationStore(store, [6, 6], save_seconds=0.0).complete(
                0, theta, seeds, Sums(), progress=lambda done, *_, told=told: told.append(done)
            )
        kept = SimulationStore(store, [6, 6]).load(0)
        assert int((kept.status == DONE).sum()) == max(told)


def test_rounds_of_several_shards_stand_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation_store, "_SHARD_ROWS", 4)
    store = SimulationStore(fresh(tmp_path), [6, 9])
    (first, seeds), (second, more) = points(6), points(9)
    second = second + 100
    store.complete(1, second, more, Sums(fail=[100]))
    store.complete(0, first, seeds, Sums(fail=[5]))
    assert len(list((tmp_path / "run" / "shards").iterdir())) == 5
    assert torch.equal(store.load(0).theta, first) and torch.equal(store.load(1).theta, second)
    assert store.load(0).errors == store.load(1).errors == {"ValueError: no": 1}
    # a damaged shard costs its round, which comes out the same
    (tmp_path / "run" / "shards" / "000003.safetensors").write_bytes(b"broken")
    again = SimulationStore(fresh(tmp_path), [6, 9])
    assert again.load(0) is not None and again.load(1) is None


def test_failed_rows_are_tried_again_only_when_asked():
    theta, seeds = points(4)
    store = SimulationStore(MemoryStore(), [4])
    store.complete(0, theta, seeds, Sums(fail=[2]))
    assert store.complete(0, theta, seeds, Sums()).counts == {"done": 3, "failed": 1}
    simulator = Sums()
    rows = store.complete(0, theta, seeds, simulator, retry_failed=True)
    assert simulator.asked == [2.0] and rows.counts == {"done": 4} and rows.errors == {}
    assert store.load(0).counts == {"done": 4}


def test_a_simulator_that_fails_on_everything_stops_the_run_and_leaves_nothing():
    theta, seeds = points(50)
    store = SimulationStore(MemoryStore(), [50])
    simulator = Sums(fail=range(50))
    with pytest.raises(SimulatorError, match=r"first 8 simulations \(ValueError: no\); mend"):
        store.complete(0, theta, seeds, simulator)
    assert simulator.calls == 8 and store.load(0) is None
    assert store.complete(0, theta, seeds, Sums()).usable.all()


def test_too_many_failures_are_refused_with_both_ways_on():
    theta, seeds = points(12)
    rows = SimulationStore(MemoryStore(), [12]).complete(0, theta, seeds, Sums(fail=range(3, 12)))
    check_failures(rows, 0.75)
    with pytest.raises(
        GensciError, match=r"9 of 12 .* round 1 .*ValueError: no.*retry-failed.*0.75"
    ):
        check_failures(rows, 0.5)


def test_data_that_are_not_finite_count_as_failed():
    class Infinite(Sums):
        def run(self, theta, seeds, report):
            x = torch.ones(len(theta), 1, dtype=torch.float64)
            x[1] = torch.inf
            report(list(range(len(theta))), x, [DONE] * len(theta), "")

    rows = SimulationStore(MemoryStore(), [3]).complete(0, *points(3), Infinite())
    assert rows.counts == {"done": 2, "not finite": 1}
    assert rows.errors == {"the data hold NaN or infinity": 1}
