"""The report of a corpus: worst first, from the records of all simulations."""

import json

import pytest

from gensci.io.run_folder import FORMAT
from gensci.io.simulation_report import CorpusReport


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


def test_nothing_is_written_where_nothing_was_simulated(tmp_path):
    CorpusReport(tmp_path).write()
    assert list(tmp_path.iterdir()) == []
