"""The benchmark of published test peptides: its weights, distances, tables and what it keeps."""

import importlib
import json
import math
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.results import SampleSet
from gensci.metrics.references import load_reference_ensemble

pytest.importorskip("deeptime")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED = Path(__file__).parents[3] / "shared" / "reference" / "peptides.md"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_peptides")


@pytest.fixture
def judging(bench):
    return bench.judging


@pytest.fixture
def table(bench):
    return importlib.import_module("peptide_table")


@pytest.mark.parametrize("without", [0, 400])
def test_published_protocol_drops_the_largest_and_counts_the_rest(judging, without):
    rng = np.random.default_rng(0)
    log_weight = rng.normal(0, 2, 1000 - without)
    found = judging.published_protocol(torch.as_tensor(log_weight), 1000, share=0.01)
    left = np.sort(np.exp(log_weight))[:-10]
    assert found.ess == pytest.approx(left.sum() ** 2 / (left**2).sum() / 990, rel=1e-9)
    dropped = np.flatnonzero(~found.keep.numpy())
    assert set(dropped) == set(np.argsort(log_weight)[-10:])


def test_published_protocol_of_few_or_no_rows(judging):
    equal = judging.published_protocol(torch.zeros(300), 400)
    assert equal.keep.all() and equal.ess == pytest.approx(300 / 400)
    assert judging.published_protocol(torch.zeros(1), 1000).ess == 0.0
    assert judging.published_protocol(torch.zeros(0), 1000).ess == 0.0


def test_a_reference_is_next_to_itself_and_far_from_its_mirror_image(judging):
    judge = judging.Judge(load_reference_ensemble("AA"), points=320)
    torsions = judge.torsions
    mirrored = {name: -value for name, value in torsions.items()}
    near, far = judge.torus(torsions), judge.torus(mirrored)
    assert near < 0.4 and far > 1.5
    assert judge.slow(torsions) < 1.5 < judge.slow(mirrored)
    energy = judge.reference.energy.astype(float)
    kt = 8.31446261815324e-3 * 310.0
    assert judge.energy(energy) == pytest.approx(0.0, abs=1e-9)
    assert judge.energy(energy + 2 * kt) == pytest.approx(2.0, rel=1e-6)
    # all the weight on those frames that the transport compares with: nothing has to move
    weight = np.zeros(len(energy))
    weight[judge.rows] = 1.0
    assert judge.torus(torsions, weight) == pytest.approx(0.0, abs=1e-6)
    assert judge.slow(torsions, weight) == pytest.approx(0.0, abs=1e-6)


def test_weighted_frames_of_the_reference_are_judged_by_their_weights(judging):
    """Half of the rows have phi mirrored and no weight to speak of."""
    from gensci.systems.peptide import PeptideSystem

    reference = load_reference_ensemble("AA")
    judge = judging.Judge(reference, points=320)
    right = torch.as_tensor(reference.positions[:400])
    positions = torch.cat([right, -right])
    log_weight = torch.cat([torch.zeros(400), torch.full((400,), -30.0)]).double()
    meta = {"sampler": "importance", "verdict": {"ess_fraction": 0.5, "khat": 0.1}}
    samples = SampleSet({"positions": positions}, log_weight, meta=meta)
    energy = np.tile(reference.energy[reference.position_rows[:400]], 2).astype(float)
    topology = PeptideSystem.from_text("AA").topology
    row = judging.distance_figures(judge, topology, samples, energy, 800)
    torsions = {k: v[reference.position_rows[:400]] for k, v in judge.torsions.items()}
    assert row["torus_w2"] == pytest.approx(judge.torus(torsions), abs=0.02)
    assert row["torus_w2"] < 0.5
    finer = replace(judge, points=10_000)  # as published; its lower floor tells that it was taken
    cut = {name: values[1:] for name, values in torsions.items()}
    assert row["torus_w2_published"] == pytest.approx(finer.torus(cut), abs=1e-3)
    assert abs(finer.torus(cut) - judge.torus(cut)) > 1e-2
    own = energy[:400]
    assert row["energy_w2"] == pytest.approx(judge.energy(own), rel=1e-6)
    assert row["energy_w2_published"] == pytest.approx(judge.energy(own[1:]), rel=1e-6)
    assert judging.weight_figures(samples, 800)["ess_published"] == pytest.approx(399 / 799)
    samples.meta["sampler"] = "smc"
    assert judging.weight_figures(samples, 800)["ess_published"] is None


def test_published_rows_are_those_of_the_reference_text(table):
    if not SHARED.is_file():
        pytest.skip(f"{SHARED} is not here")
    text = SHARED.read_text()
    for length, column in ((2, 0), (4, 1), (8, 2)):
        rows = {row["model"]: row for row in table.published_rows(length)}
        assert all("arXiv:" in row["source"] for row in rows.values())
        for model in ("Prose", "TarFlow"):
            pattern = rf"\|\s*\W*{model}\W"
            first = next(line for line in text.splitlines() if re.match(pattern, line))
            cells = first.replace("*", "").split("|")[2:5]
            numbers = [float(word) for word in cells[column].split()]
            keys = ("ess", "energy_w2", "torus_w2", "tica_w2")
            assert [rows[model][key] for key in keys[: len(numbers)]] == numbers


def test_summary_and_table_leave_blank_what_is_not_known(table):
    rows = [
        {"name": "AA", "ess": 0.2, "torus_w2": 0.1, "ess_published": 0.3, "khat": 0.5},
        {"name": "CE", "ess": 0.4, "torus_w2": None, "ess_published": 0.5, "khat": None},
        {"name": "CL", "ess": 0.0, "ess_published": 0.0, "error": "no draw had a weight"},
    ]
    found = table.summary(rows)
    assert found["ess"]["mean"] == pytest.approx(0.2) and found["ess"]["peptides"] == 3
    assert found["ess"]["sd"] == pytest.approx(0.2)
    assert found["torus_w2"] == {"mean": 0.1, "sd": None, "peptides": 1}
    lines = table.peptide_table(rows)
    assert "3 peptides, 1 with a reference ensemble, 1 without any weight" in lines[-1]
    assert "CL: no draw had a weight" in lines
    assert len({len(line) for line in lines[:4]}) == 1
    run = {"model": "m", "sampler": "importance", "num_samples": 9, "summary": found}
    beside = table.comparison([{**run, "published_points": 77}], 2)
    assert "0.267" in beside[1] and " 1 of  3" in beside[1] and " 77 " in beside[1]
    assert any("Prose" in line and "0.191" in line and "2508.18175" in line for line in beside)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "      "),
        (0.1234, " 0.123"),
        (12.345, " 12.35"),
        (345.67, " 345.7"),
        (2e9, " 2e+09"),
        (10000, " 10000"),
    ],
)
def test_cells_have_their_width(table, value, text):
    assert table.cell(value, 6) == text


def test_runs_are_joined_and_replaced(bench):
    def run(sha, names, model="m"):
        rows = [{"name": name, "ess": 0.1} for name in names]
        own = {"model": model, "checkpoint_sha256": sha, "sampler": "importance"}
        return {**own, "num_samples": 10, "seed": 0, "rows": rows}

    def names(record):
        return [[row["name"] for row in own["rows"]] for own in record["runs"]]

    first = bench.merged(None, run("a", ["CE", "AA"]), 2)
    assert names(first) == [["AA", "CE"]] and first["runs"][0]["summary"]["peptides"] == 2
    joined = bench.merged(first, run("a", ["CE", "YQ"]), 2)
    assert names(joined) == [["AA", "CE", "YQ"]]
    beside = bench.merged(joined, run("b", ["AA"], model="other"), 2)
    assert names(beside) == [["AA", "CE", "YQ"], ["AA"]]
    retrained = bench.merged(beside, run("c", ["CL"]), 2)
    assert names(retrained) == [["AA"], ["CL"]]


def test_names_are_the_published_ones(bench):
    assert [len(bench.published_names(length)) for length in bench.LENGTHS] == [30, 30, 30]
    assert bench.chosen_names("YQ, AA", 2) == ["YQ", "AA"]
    with pytest.raises(UsageError, match="ARIP is no test peptide of length 2"):
        bench.chosen_names("ARIP", 2)


@pytest.fixture
def arguments(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "KEPT", tmp_path)
    monkeypatch.setattr(bench, "judge_of", lambda name: None)
    settings = {"model": "peptide-small", "sampler": "importance", "num_samples": 40, "seed": 0}
    return Namespace(**settings, threads=1)


def test_a_row_is_measured_once(bench, arguments, monkeypatch, tmp_path):
    row, _ = bench.kept_or_measured("AA", arguments)
    assert 0.2 < row["ess"] <= 1 and row["evaluations"] == 40
    assert math.isfinite(row["samples_per_cpu_second"])
    monkeypatch.setattr(bench, "measure", lambda *given: pytest.fail("measured again"))
    assert bench.kept_or_measured("AA", arguments)[0] == row
    (path,) = tmp_path.glob("*/AA.json")
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "settings": {**kept["settings"], "points": 7}}))
    monkeypatch.setattr(bench, "measure", lambda *given: {"name": "again"})
    assert bench.kept_or_measured("AA", arguments)[0] == {"name": "again"}


def test_no_weight_at_all_is_a_result(bench, arguments, monkeypatch):
    ready = bench.prepared("AA", "peptide-small")
    monkeypatch.setattr(
        ready.target, "log_prob", lambda x: torch.full((len(x["positions"]),), -math.inf)
    )
    row = bench.measure("AA", ready, arguments)
    assert row["ess"] == row["ess_published"] == 0.0 and row["evaluations"] == 40
    assert "no sample with any weight" in row["error"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (
            "tarflow-peptide",
            {"channels": 16, "num_blocks": 2, "layers_per_block": 1, "head_dim": 8},
        ),
        ("ecnf", {"channels": 8, "num_steps": 2}),
    ],
)
def test_every_network_with_a_density_is_measured(bench, arguments, tmp_path, kind, settings):
    from gensci.core.registry import MODELS
    from gensci.models.checkpoint import save_checkpoint

    if kind not in MODELS:
        pytest.skip(f"this version has no {kind}")
    torch.manual_seed(0)
    state = MODELS.get(kind)(**settings).state_dict()
    arguments.model = str(
        save_checkpoint(tmp_path / "new", state, {"class": kind, "settings": settings})
    )
    arguments.num_samples = 8
    row, ready = bench.kept_or_measured("AA", arguments)
    assert ready.settings["checkpoint"].endswith("new") and row["evaluations"] == 8
    # nothing is trained: either no draw is of the right handedness, or one takes all the weight
    assert ("no sample with any weight" in row["error"]) if "error" in row else row["ess"] < 0.5
