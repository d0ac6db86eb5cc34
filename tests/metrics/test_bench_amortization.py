"""The race of bench_amortization: its clock, its verdicts and its contestants."""

import importlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPE = {
    **{"seed": 21, "system": "AA", "length": 700.0, "frame_interval": 0.5, "time_step": 0.0025},
    **{"friction": 1.0, "masses": "uniform", "ladders": 3, "num_temperatures": 2},
    **{"coldest": 310.0, "hottest": 400.0, "equilibration": 20.0, "pivots": 2},
    "system.implicit_solvent": "obc1",
}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_amortization")


@pytest.fixture
def contestants(bench):
    return importlib.import_module("amortization_contestants")


class Steady:
    """A contestant whose pieces take a tenth of a second each, on a clock of its own."""

    def __init__(self):
        self.now, self.pieces, self.closed = 100.0, 0, False

    def run(self):
        try:
            while True:
                self.now += 0.1
                self.pieces += 1
                yield
        finally:
            self.closed = True

    def found(self):
        self.now += 50.0  # a look takes long, and must not count
        if self.pieces < 20:
            return None
        return SimpleNamespace(
            positions=np.zeros((self.pieces, 1, 3)), weight=None, energies=7 * self.pieces
        )


@pytest.fixture
def steady(bench, monkeypatch):
    runner = Steady()
    clock = SimpleNamespace(process_time=lambda: runner.now, perf_counter=lambda: 2 * runner.now)
    monkeypatch.setattr(bench, "time", clock)
    return runner


def test_a_race_ends_two_looks_below_the_level(bench, steady):
    outcome = bench.race(steady, lambda found: 10.0 / len(found.positions), 0.2, 60.0)
    times = [entry["cpu_seconds"] for entry in outcome["series"]]
    assert times[0] == pytest.approx(1.0, abs=0.11)
    assert all(1.45 < b / a < 1.65 for a, b in itertools.pairwise(times))
    # 10 / pieces is below 0.2 from 50 pieces on, which is 5 s
    found = outcome["reached"]
    assert found["after_cpu_seconds"] < 5.0 <= found["cpu_seconds"] == times[-2]
    assert found["seconds"] == pytest.approx(2 * found["cpu_seconds"])
    assert found["energies"] == pytest.approx(70 * found["cpu_seconds"])
    assert outcome["series"][0]["torus_w2"] is None and outcome["series"][0]["samples"] == 0
    assert steady.closed
    assert bench.verdict(outcome) == f"{times[-3]:.1f} to {times[-2]:.1f}"


def test_a_race_is_cut_off_at_its_budget(bench, steady):
    outcome = bench.race(steady, lambda found: 1.0, 0.2, 7.0)
    assert outcome["reached"] is None and steady.closed
    assert outcome["series"][-1]["cpu_seconds"] == pytest.approx(7.0, abs=0.11)
    assert bench.verdict(outcome) == "not reached in 7 s"


@pytest.mark.parametrize(
    ("distances", "first"),
    [
        ([0.9, 0.5, 0.4], 1),
        ([0.5, 0.9, 0.4, 0.4], 2),
        ([0.4, 0.3], 0),
        ([0.9, 0.4], None),
        ([None, 0.4, 0.9, 0.4], None),
        ([], None),
    ],
)
def test_one_lucky_look_does_not_count(bench, distances, first):
    series = [
        {"torus_w2": d, "cpu_seconds": 10.0 * k, "seconds": 0.0, "energies": 0}
        for k, d in enumerate(distances)
    ]
    found = bench.reached(series, 0.5)
    assert (found is None) == (first is None)
    if first is not None:
        assert found["cpu_seconds"] == 10.0 * first


def entry(method, seconds, name="ARIP", label=None):
    reached = None if seconds is None else {"cpu_seconds": seconds, "after_cpu_seconds": 1.0}
    series = [{"cpu_seconds": 3.0, "torus_w2": 0.7, "energies": 1234}]
    own = {"name": name, "method": method, "label": label or method, "reached": reached}
    numbers = {"level": 0.56, "budget": 240.0, "multiple": 1.25, "halves": 0.449, "floor": 0.404}
    return {**own, **numbers, "series": series}


def test_break_even(bench):
    races = [entry("gensci", 10.0), entry("replicas", 100.0), entry("openmm", None)]
    (line,) = bench.break_even(races, 0.5)
    assert "after 20 such peptides" in line
    (line,) = bench.break_even([races[0], entry("replicas", None)], 0.5)
    assert "after 8 or fewer such peptides" in line
    assert bench.break_even([entry("gensci", None), races[1]], 0.5) == []
    text = bench.table(races, 0.5)
    assert "1.0 to 100.0" in text and "not reached in 240 s" in text and "1.25 x 0.449" in text


def test_a_race_that_is_run_again_replaces_its_own(bench):
    races = [entry("gensci", 1.0, label="gensci, a"), entry("openmm", 2.0)]
    beside = bench.with_race(races, entry("gensci", 3.0, label="gensci, b"))
    assert [r["label"] for r in beside] == ["gensci, a", "openmm", "gensci, b"]
    again = bench.with_race(beside, entry("openmm", 9.0))
    assert len(again) == 3 and again[-1]["reached"]["cpu_seconds"] == 9.0


def pieces(contestant, count):
    work = contestant.run()
    for _ in range(count):
        next(work)
    work.close()
    return contestant.found()


def test_weights_of_the_flow_are_target_over_proposal(contestants, bench):
    from gensci.commands.prepare import prepare
    from gensci.systems.resolve import resolve_one

    found = pieces(contestants.FlowContestant("AA", "peptide-small", seed=0, piece=24), 2)
    assert found.energies == 48 and len(found.positions) == len(found.weight) <= 48
    ready = prepare(resolve_one("peptide:AA"), "peptide-small", torch.device("cpu"), {})
    x = {"positions": torch.as_tensor(found.positions)}
    log_weight = (ready.target.log_prob(x) - ready.proposal.log_prob(x)).double().numpy()
    assert np.log(found.weight) - log_weight == pytest.approx(
        np.log(found.weight[0]) - log_weight[0], abs=0.02
    )


def test_replica_exchange_gives_frames_of_the_coldest(contestants):
    runner = contestants.ReplicaContestant("AA", RECIPE, equilibration=0.5, seed=3)
    found = pieces(runner, 20)
    assert found.weight is None and found.positions.shape == (18 * 3, 23, 3)
    assert found.energies == 6 * (20 * 200 + 3 * 200)
    assert runner.settings.masses == "uniform" and runner.settings.equilibration == 0.5
    assert_thermal(found.positions)
    with pytest.raises(ValueError, match="seed 21 is that of the reference"):
        contestants.ReplicaContestant("AA", RECIPE, equilibration=0.5, seed=21)


def test_openmm_simulates_the_same_peptide(contestants):
    found = pieces(contestants.OpenMMContestant("AA", seed=0, threads=1), 40)
    assert found.weight is None and found.positions.shape == (36, 23, 3)
    assert found.energies == 4000
    assert_thermal(found.positions)


def assert_thermal(positions):
    """The mean energy is that of long replica exchange (its frames spread by some 15 kJ/mol)."""
    from gensci.systems.peptide import PeptideSystem

    known = json.loads((BENCHMARKS / "references" / "AA.json").read_text())["mean"][0]
    field = PeptideSystem.from_text("AA").force_field
    energy = field.energy(torch.as_tensor(positions).double()).mean().item()
    assert energy == pytest.approx(known, abs=20.0)


def test_the_picture_has_a_curve_for_each_race(bench, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawing = importlib.import_module("amortization_figure")
    kept = []
    monkeypatch.setattr(drawing, "save_figure", lambda figure, path: kept.append(figure))
    races = [entry("gensci", 1.0), entry("openmm", None)]
    races += [entry("openmm", None, name="CCVH"), entry("gensci", 2.0, name="CCVH")]
    races[0]["series"] = [
        {"cpu_seconds": 1.0, "torus_w2": None},
        {"cpu_seconds": 2.0, "torus_w2": 0.9},
        {"cpu_seconds": 4.0, "torus_w2": 0.5},
    ]
    drawing.draw_races(races, tmp_path / "a.png")
    first, second = kept[0].axes
    curves = [line.get_xydata().tolist() for line in first.lines]
    assert [[2.0, 0.9], [4.0, 0.5]] in curves and [[3.0, 0.7]] in curves
    assert first.get_title() == "ARIP" and len(second.lines) == 3
    drawn = [
        {line.get_label(): line.get_color() for line in axes.lines} for axes in (first, second)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0].values())) == 3
    monkeypatch.undo()
    bench.draw_races(races, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
