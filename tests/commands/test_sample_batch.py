"""`gensci sample` of a file of systems, of which some fail in a way that nobody foresaw."""

import json

import pytest

from gensci.__main__ import main
from gensci.systems.toy import ToySystem, ToyTarget


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_error_that_nobody_foresaw_stops_its_own_system_only(tmp_path, monkeypatch, capsys):
    density = ToyTarget.log_prob

    def broken(self, x):
        if self.toy is ToySystem.parse("double-well").toy:
            raise ZeroDivisionError("by a\nbug")
        return density(self, x)

    names = ("gaussian", "double-well", "stiff")
    (tmp_path / "toys.txt").write_text("".join(f"toy:{name}\n" for name in names))
    monkeypatch.setattr(ToyTarget, "log_prob", broken)
    arguments = ["sample", "--system", "toys.txt", "--num-samples", "40", "--out", "o"]
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert "failed: toy:double-well" in shown.out
    (line,) = [text for text in shown.err.splitlines() if "error" in text]
    assert "toy:double-well: unexpected ZeroDivisionError: by a bug; traceback in o/batch" in line
    batch = json.loads((tmp_path / "o" / "batch.json").read_text())["systems"]
    assert [batch[name]["outcome"] for name in names] == ["complete", "failed", "complete"]
    run = json.loads((tmp_path / "o" / "double-well" / "run.json").read_text())
    for record in (batch["double-well"], run):
        assert "in broken" in record["traceback"]
    monkeypatch.setattr(ToyTarget, "log_prob", density)
    assert main(arguments) == 0
    run = json.loads((tmp_path / "o" / "double-well" / "run.json").read_text())
    assert run["outcome"] == "complete" and not {"error", "traceback"} & run.keys()


def test_an_error_before_the_folder_is_kept_too(tmp_path, monkeypatch, capsys):
    def broken(*args):
        raise ZeroDivisionError("by a bug")

    (tmp_path / "toys.txt").write_text("toy:gaussian\ntoy:double-well\n")
    monkeypatch.setattr("gensci.commands.draw.prepare", broken)
    assert main(["sample", "--system", "toys.txt", "--num-samples", "40", "--out", "o"]) == 1
    batch = json.loads((tmp_path / "o" / "batch.json").read_text())
    assert batch["outcome"] == "failed"
    assert all("in broken" in entry["traceback"] for entry in batch["systems"].values())
