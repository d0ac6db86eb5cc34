"""The report of a corpus: worst first, from the records of all simulations."""

import json

import pytest

from gensci.io.run_folder import FORMAT
from gensci.io.simulation_report import CorpusReport, settling


def torsion(round_trips, disagreement=1.0, judged=True):
    return {"judged": judged, "round_trips": round_trips, "disagreement": disagreement}


def record(verdict="well mixed", reasons=(), outcome="complete", **torsions):
    mixing = {"verdict": verdict, "reasons": list(reasons), "torsions": torsions}
    return {
        "command": "simulate",
        "format": FORMAT,
        "settings": {},
        "seed": 0,
        "outcome": outcome,
        "length": 50.0,
        "frames": 100,
        "dropped": 0,
        "seconds": 1.5,
        "acceptance": [0.4, 0.2],
        "round_trips": 30,
        "mixing": mixing,
    }


def put(out, name, content):
    (out / name).mkdir(exist_ok=True)
    (out / name / "run.json").write_text(json.dumps(content))


@pytest.fixture
def corpus(tmp_path):
    put(tmp_path, "AA", record(phi2=torsion(40, 1.02), omega2=torsion(0, judged=False)))
    put(tmp_path, "WW", record("poorly mixed", ["3 round trips of phi2"], phi2=torsion(3),
                               psi1=torsion(9, 1.4)))  # fmt: skip
    put(tmp_path, "VV", record("poorly mixed", ["1 round trip of psi1"], psi1=torsion(1, None)))
    put(tmp_path, "GP", record("not judged"))
    return tmp_path


def test_the_worst_stand_first(corpus):
    report = CorpusReport(corpus, {"KK": "it does not relax"})
    report.write()
    content = json.loads((corpus / "report.json").read_text())
    assert [row["name"] for row in content["systems"]] == ["KK", "VV", "WW", "GP", "AA"]
    assert content["verdicts"] == {
        "failed": 1, "poorly mixed": 2, "not judged": 1, "well mixed": 1,
    }  # fmt: skip
    row = next(row for row in content["systems"] if row["name"] == "WW")
    assert (row["worst_torsion"], row["round_trips"], row["disagreement"]) == ("phi2", 3, 1.4)
    assert (row["temperature_round_trips"], row["lowest_acceptance"]) == (30, 0.2)
    lines = (corpus / "report.txt").read_text().splitlines()
    assert "5, 1 failed, 2 poorly mixed, 1 not judged, 1 well mixed" in lines[0]
    assert lines[-5].endswith("failed: it does not relax")
    assert lines[-3].split() == (
        "WW 50 100 3 phi2 1.40 30 0.20 poorly mixed: 3 round trips of phi2".split()
    )


def test_changes_are_seen_and_other_folders_are_not(corpus):
    report = CorpusReport(corpus)
    report.write()
    put(corpus, "VV", record("well mixed", phi2=torsion(50), outcome="running") | {"seconds": 99})
    put(corpus, "GG", record("well mixed", phi2=torsion(20)))
    put(corpus, "sampled", {"command": "sample", "outcome": "complete"})
    (corpus / "torn").mkdir()
    (corpus / "torn" / "run.json").write_text('{"command": "simul')
    report.write()
    names = [row["name"] for row in json.loads((corpus / "report.json").read_text())["systems"]]
    assert names == ["WW", "GP", "GG", "AA", "VV"]
    assert (corpus / "report.txt").read_text().splitlines()[-1].endswith("well mixed (running)")


def test_a_simulation_that_has_only_begun_or_is_of_an_earlier_version_has_no_verdict(tmp_path):
    begun = {k: v for k, v in record().items() if k in ("command", "outcome", "settings")}
    put(tmp_path, "AA", begun | {"outcome": "running"})
    put(tmp_path, "GG", begun | {"settings": {"length": 48.0}, "frames": 9})
    CorpusReport(tmp_path).write()
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert lines[-2].endswith("no verdict yet (running)")
    assert lines[-1].split()[:3] == ["GG", "48", "9"]


@pytest.mark.parametrize(
    ("drifts", "says"),
    [
        ([2.0, 1.0, 1.5, 0.5, 2.5, 1.0, 1.2, 1.1], "not settled, use a longer --equilibration"),
        ([2.0, -1.0, 1.5, -0.5, 2.5, -1.0, 1.2, -1.1], "settled"),
        ([0.21, 0.2, 0.2, 0.21, 0.2, 0.22, 0.2, 0.2], "settled"),  # surely falling, but by little
        ([2.0, 1.0, 1.5, 0.5, 2.5, 1.0, 1.2], None),  # too few to say
    ],
)
def test_energies_that_fall_all_over_a_corpus_are_told(tmp_path, drifts, says):
    for number, drift in enumerate(drifts):
        put(tmp_path, f"A{number}", record() | {"energy_drift": drift})
    put(tmp_path, "older", record())
    put(tmp_path, "one", record() | {"energy_drift": None})
    CorpusReport(tmp_path).write()
    head, second = (tmp_path / "report.txt").read_text().splitlines()[:2]
    rows = json.loads((tmp_path / "report.json").read_text())["systems"]
    found = settling(rows)
    if says is None:
        assert found is None and "settled" not in head
        return
    assert head.endswith(f"; {says}:")
    assert (found.drift, found.systems) == (pytest.approx(sum(drifts) / 8), 8)
    assert f"{found.drift:.2f} +- {found.error:.2f} kT" in second


def test_nothing_is_written_where_nothing_was_simulated(tmp_path):
    CorpusReport(tmp_path).write()
    assert list(tmp_path.iterdir()) == []
