"""`gensci simulate`: files, continuing, lengthening, adding, reports and refusals."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time

import openmm
import pytest
import torch
from openmm import app, unit
from safetensors.torch import load_file

from gensci.__main__ import main
from gensci.commands.simulate import duration, select_part, simulate
from gensci.core.errors import RunFolderError, SystemTextError, UsageError
from gensci.io.run_folder import RunFolder
from gensci.sims.peptide import build_peptide, create_system
from gensci.systems.peptide import PeptideSystem
from gensci.systems.simulation import SimulationError, SimulationSettings

TINY = {
    "length": "0.06ps",
    "frame_interval": "0.01ps",
    "ladders": 2,
    "temperatures": 2,
    "equilibration": "0.02ps",
}

LATER_SETTINGS = ("pivots", "device")


def files(folder, *ignored):
    """Bytes by path."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ignored
    }


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_files_hold_centred_frames_with_energies_and_forces_of_openmm(tmp_path):
    assert simulate("Ace-G-Nme,GG", tmp_path, **TINY) == 0
    for name in ("Ace-G-Nme", "GG"):
        folder = tmp_path / name
        (shard,) = (folder / "shards").glob("*.safetensors")
        data = load_file(shard)
        x, energy, forces = data["positions"], data["energy"], data["forces"]
        assert (x.dtype, energy.dtype, forces.dtype) == (torch.float32,) * 3
        assert len(x) == len(energy) == len(forces) == 12
        assert x.mean(dim=1).abs().max() < 1e-5
        pdb = app.PDBFile(str(folder / "topology.pdb"))
        platform = openmm.Platform.getPlatformByName("Reference")
        reference = openmm.Context(
            create_system(pdb.topology), openmm.VerletIntegrator(0.001), platform
        )
        kj = unit.kilojoule_per_mole
        for row in range(3):
            reference.setPositions(x[row].double().numpy())
            state = reference.getState(getEnergy=True, getForces=True)
            expected = state.getPotentialEnergy().value_in_unit(kj)
            assert energy[row].item() == pytest.approx(expected, abs=0.02)
            exact = state.getForces(asNumpy=True).value_in_unit(kj / unit.nanometer)
            assert (forces[row].double() - torch.from_numpy(exact)).abs().max() < 0.5
        run = record(folder)
        assert (run["outcome"], run["frames"], run["length"]) == ("complete", 12, 0.06)
        assert run["settings"]["coldest"] == 310.0
        assert run["published_split"] is None


def test_the_same_command_again_changes_nothing(tmp_path, capsys):
    simulate("GG", tmp_path, **TINY)
    before = files(tmp_path)
    simulate("GG", tmp_path, **TINY)
    simulate("GG", tmp_path, **{**TINY, "length": "0.03ps"})  # less is there already
    assert files(tmp_path) == before
    assert capsys.readouterr().out.count("12 frames of 0.06 ps, complete before") == 2


def test_a_longer_length_appends_to_the_bits_of_a_long_run(tmp_path):
    short, long = tmp_path / "short", tmp_path / "long"
    simulate("GG", short, **{**TINY, "length": "0.02ps"})
    assert simulate("GG", short, **TINY) == 0
    simulate("GG", long, **TINY)
    kept = files(long / "GG", "run.json")
    assert files(short / "GG", "run.json") == kept
    assert sorted(path.parts[0] for path in kept) == ["shards", "state", "topology.pdb"]
    own, other = record(short / "GG"), record(long / "GG")
    assert own["seconds"] > 0
    assert all(own[key] == other[key] for key in other if key not in ("seconds", "asked"))


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    simulate("GG", tmp_path, **TINY)
    with pytest.raises(RunFolderError, match="friction"):
        simulate("GG", tmp_path, **TINY, friction=2.0)
    with pytest.raises(RunFolderError, match="seed"):
        simulate("GG", tmp_path, **TINY, seed=1)
    with pytest.raises(RunFolderError, match=r"implicit_solvent 'obc1' \(now 'obc2'\)"):
        simulate("GG", tmp_path, **TINY, system_settings={"implicit_solvent": "obc2"})


def test_settings_of_the_force_field_reach_the_energies(tmp_path):
    settings = {"implicit_solvent": "obc2", "cutoff": "1.5"}
    simulate("GG", tmp_path, **TINY, system_settings=settings)
    run = record(tmp_path / "GG")
    assert run["force_field"] == ["amber14-all.xml", "implicit/obc2.xml"]
    assert run["settings"]["system.cutoff"] == 1.5
    data = load_file(tmp_path / "GG" / "shards" / "000000.safetensors")
    system = PeptideSystem.from_text("GG", implicit_solvent="obc2", cutoff=1.5)
    expected = system.force_field.energy(data["positions"].double())
    assert torch.allclose(data["energy"].double(), expected, atol=0.02)


def test_a_molecule_from_a_file_is_simulated(tmp_path):
    peptide = build_peptide("Ace-G-Nme", implicit_solvent=None)
    path = tmp_path / "capped.xml"
    path.write_text(openmm.XmlSerializer.serialize(peptide.system))
    with (tmp_path / "capped.pdb").open("w") as handle:
        app.PDBFile.writeFile(peptide.topology, peptide.positions * unit.nanometer, handle)
    out = tmp_path / "out"
    assert simulate(str(path), out, **TINY) == 0
    data = load_file(out / "capped" / "shards" / "000000.safetensors")
    system = PeptideSystem.from_text("Ace-G-Nme", implicit_solvent=None)
    expected = system.force_field.energy(data["positions"].double())
    assert torch.allclose(data["energy"].double(), expected, atol=0.02)
    assert "psi2" in record(out / "capped")["mixing"]["torsions"]
    before = files(out)
    simulate(str(path), out, **TINY)
    assert files(out) == before
    path.write_text(path.read_text() + "\n")  # another file is another system
    with pytest.raises(RunFolderError, match="sha256"):
        simulate(str(path), out, **TINY)


def test_a_corpus_can_be_enlarged_and_its_report_names_all(tmp_path, capsys):
    assert simulate("dipeptides:2", tmp_path, **TINY, part="2/2") == 0
    first = files(tmp_path, "report.txt", "report.json")
    assert simulate("dipeptides:3", tmp_path, **TINY) == 0
    assert "complete before (2 of 3" in capsys.readouterr().out
    after = files(tmp_path, "report.txt", "report.json")
    assert {path: after[path] for path in first} == first
    report = json.loads((tmp_path / "report.json").read_text())
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert {row["name"] for row in report["systems"]} == folders
    assert len(folders) == 3
    text = (tmp_path / "report.txt").read_text()
    assert all(name in text for name in folders)
    assert "0 round trips of" in text
    run = record(tmp_path / sorted(folders)[0])
    assert run["asked"]["system"] in ("dipeptides:2", "dipeptides:3")
    assert set(run["mixing"]["torsions"]) == {"psi1", "omega2", "phi2"}


def test_a_system_that_fails_is_reported_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    def starts(self, n, generator):
        if self.name == "AG":
            raise SimulationError("peptide AG: no starts", "use fewer --ladders")
        return original(self, n, generator)

    original = PeptideSystem.starts
    monkeypatch.setattr(PeptideSystem, "starts", starts)
    assert simulate("AG,GG", tmp_path, **TINY) == 3
    assert "AG: failed: peptide AG: no starts; use fewer --ladders (1 of 2" in (
        capsys.readouterr().out
    )
    assert (record(tmp_path / "AG")["outcome"], record(tmp_path / "GG")["outcome"]) == (
        "failed", "complete",
    )  # fmt: skip
    worst = (tmp_path / "report.txt").read_text().splitlines()[-2]
    assert worst.startswith("AG")
    assert "failed: peptide AG: no starts" in worst
    with pytest.raises(SimulationError):
        simulate("AG", tmp_path, **TINY)
    monkeypatch.undo()
    assert simulate("AG,GG", tmp_path, **TINY) == 0
    assert (record(tmp_path / "AG")["outcome"], record(tmp_path / "AG")["error"]) == (
        "complete", None,
    )  # fmt: skip


@pytest.fixture
def earlier(tmp_path):
    """A finished simulation as the first version left it: length in the settings, no state."""
    simulate("GG", tmp_path, **TINY)
    folder = tmp_path / "GG"
    run = record(folder)
    for name in ("length", "mixing", "snapshots"):
        run.pop(name)
    run["settings"] = {
        name: value for name, value in run["settings"].items() if "system." not in name
    } | {"length": 0.06}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "state" / "replicas.safetensors").unlink()
    (folder / "state").rmdir()
    shard = load_file(folder / "shards" / "000000.safetensors")
    old = {name: shard[name] for name in ("positions", "energy", "dropped")}
    RunFolder(folder, run).save_shard(0, old)
    return tmp_path


def test_a_finished_simulation_of_an_earlier_version_is_kept_but_not_continued(earlier, capsys):
    before = files(earlier, "report.txt", "report.json")
    simulate("GG", earlier, **TINY)
    assert "12 frames of 0.06 ps, complete before" in capsys.readouterr().out
    for more in ({"length": "0.07ps"}, {"system_settings": {"implicit_solvent": "obc2"}}):
        with pytest.raises(RunFolderError, match=r"earlier version|obc2"):
            simulate("GG", earlier, **{**TINY, **more})
    assert files(earlier, "report.txt", "report.json") == before


def test_a_simulation_without_later_settings_is_continued_to_the_same_bits(tmp_path):
    for folder, length in (("old", "0.02ps"), ("whole", "0.06ps")):
        simulate("GG", tmp_path / folder, **{**TINY, "length": length}, pivots=0)
    old = tmp_path / "old" / "GG"
    new, before = RunFolder(old, record(old)), record(old)
    before["settings"] = {
        name: value for name, value in before["settings"].items() if name not in LATER_SETTINGS
    }
    assert len(before["settings"]) == len(new.record["settings"]) - len(LATER_SETTINGS)
    shard, state = new.load_shard(0), new.load_state("replicas")
    run = RunFolder(old, before)
    run.save()
    # a mark in what need not be made again shows whether the simulation was begun anew
    shard["energy"][0] += 1.0
    run.save_shard(0, shard)
    run.save_state("replicas", {name: value for name, value in state.items() if name != "pivots"})
    simulate("GG", tmp_path / "old", **TINY, pivots=0)
    ours, whole = (
        load_file(tmp_path / folder / "GG" / "shards" / "000000.safetensors")
        for folder in ("old", "whole")
    )
    whole["energy"][0] += 1.0
    assert ours.keys() == whole.keys()
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_the_size_of_a_batch_changes_no_bit(tmp_path):
    names = "GG,AG,Ace-G-Nme"
    for batch in (1, 3):
        assert simulate(names, tmp_path / str(batch), **TINY, batch=batch) == 0
    one, three = (files(tmp_path / n, "run.json", "report.json", "report.txt") for n in "13")
    assert one == three
    assert sum(path.suffix == ".safetensors" for path in one) == 6


def test_a_part_without_systems_is_no_failure(tmp_path, capsys):
    assert simulate("AA,GG", tmp_path / "out", **TINY, part="3/3") == 0
    assert "this --part holds none of the systems" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_pivots_are_counted_and_can_be_left_out(tmp_path):
    for pivots in (0, 3):
        simulate("GG", tmp_path / str(pivots), **TINY, pivots=pivots)
    none, some = (record(tmp_path / n / "GG")["pivot_acceptance"] for n in "03")
    assert none == [0, 0]
    assert all(0 < rate < 1 for rate in some)
    with pytest.raises(RunFolderError, match="pivots"):
        simulate("GG", tmp_path / "0", **TINY, pivots=3)


@pytest.mark.parametrize(
    "foreign", ["thesis.tex", "chapters/one.tex", "AA/run.json", "GG/letter.txt"]
)
def test_a_foreign_folder_is_refused_before_any_work(tmp_path, capsys, foreign):
    path = tmp_path / "mine" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert main(["simulate", "--system=AA,GG", f"--out={tmp_path / 'mine'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "another --out" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_simulations_takes_more_of_them_beside_other_files(tmp_path):
    (tmp_path / ".cache").write_text("")
    (tmp_path / "AA").mkdir()  # of a run that was killed at its start
    simulate("GG", tmp_path, **TINY)
    (tmp_path / "notes.txt").write_text("warm")
    simulate("G", tmp_path, **TINY)
    assert (tmp_path / "G" / "topology.pdb").exists()
    with pytest.raises(RunFolderError, match="friction"):
        simulate("A,GG", tmp_path, **TINY, friction=2.0)  # the second would not go on
    assert not (tmp_path / "A").exists()


def test_a_killed_process_continues_to_the_same_bits(tmp_path):
    settings = {**TINY, "length": "4ps", "ladders": 8}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "gensci", "simulate", "--system=GG", *options]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, f"--out={killed}"], stdout=subprocess.DEVNULL)
    state = killed / "GG" / "state" / "replicas.safetensors"
    give_up = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main(["simulate", "--system=GG", *options, f"--out={killed}"]) == 0
    assert main(["simulate", "--system=GG", *options, f"--out={tmp_path / 'whole'}"]) == 0
    whole = files(tmp_path / "whole" / "GG", "run.json")
    assert sum(path.parts[0] == "shards" for path in whole) == 7
    assert files(killed / "GG", "run.json") == whole


@pytest.mark.parametrize(
    ("text", "value"),
    [("10ns", 10000.0), ("50 ps", 50.0), ("2fs", 0.002), ("1.5", 1.5), ("1e2ps", 100.0)],
)
def test_durations_are_in_picoseconds(text, value):
    assert duration("length", text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "ps", "10 m", "1.2.3ps", "-5ps"])
def test_other_durations_are_refused(text):
    with pytest.raises(UsageError, match="--length"):
        duration("length", text)


def test_parts_share_out_all_entries():
    parts = [select_part(list("abcdefgh"), f"{k}/3") for k in (1, 2, 3)]
    assert parts == [["a", "d", "g"], ["b", "e", "h"], ["c", "f"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--system=AX"], "unknown residue 'X'"),
        (["--system="], "no residues"),
        (["--system=toy:ring"], "not a peptide"),
        (["--system=tripeptides:9000"], "there are 8000"),
        (["--system=dipeptide:4"], "did you mean 'dipeptides'"),
        (["--system=absent.prmtop"], "absent.prmtop"),
        (["--system=AA", "--exclude=AA"], "leaves nothing"),
        (["--system=AA", "--exclude=absent.json"], "cannot be read"),
        (["--system=AA", "--length=long"], "no duration"),
        (["--system=AA", "--length=-1ps"], "--length"),
        (["--system=AA", "--length=0.1ps"], "do not nest"),
        (["--system=AA", "--ladders=0"], "--ladders"),
        (["--system=AA", "--temperatures=0"], "--temperatures is 0"),
        (["--system=AA", f"--exclude={__file__}"], "no .json"),
        (["--system=AA", "--hottest=200"], "rising"),
        (["--system=AA", "--masses=light"], "physical, hmr, uniform"),
        (["--system=AA", "--part=3/2"], "--part"),
        (["--system=AA", "--threads=0"], "--threads"),
        (["--system=AA", "--system.temperature=300"], "--coldest"),
        (["--system=AA", "--system.solvent=obc1"], "did you mean 'implicit"),
        (["--system=AA", "--system.cutoff=far"], "cutoff"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(tmp_path, capsys, arguments, says):
    out = tmp_path / "out"
    assert main(["simulate", *arguments, f"--out={out}"]) == 2
    line = capsys.readouterr().err.strip()
    assert says in line
    assert "\n" not in line
    assert not out.exists()


def test_a_system_text_error_is_raised_to_python(tmp_path):
    with pytest.raises(SystemTextError):
        simulate("AX", tmp_path)


def test_a_corpus_whose_energies_fall_is_warned_of(tmp_path, monkeypatch, capsys):
    drifts = iter([2.0, 1.5, 1.8, 2.2, 1.9, 2.1, 1.7, 2.0])
    given = []

    def fallen(shards, kt):
        given.append((sum(len(shard["energy"]) for shard in shards), kt))
        return next(drifts)

    monkeypatch.setattr("gensci.commands.simulating.energy_drift", fallen)
    assert simulate("GG,GA,AG,AA,GS,SG,SA,AS", tmp_path, **TINY) == 0
    assert given == [(12, pytest.approx(310.0 * 8.31446e-3, rel=1e-5))] * 8
    assert record(tmp_path / "GG")["energy_drift"] == 2.0
    warning = capsys.readouterr().err
    assert "1.90 +- 0.08 kT above" in warning and "a longer --equilibration" in warning
    assert "not settled" in (tmp_path / "report.txt").read_text()


def test_without_options_a_simulation_has_the_settings_of_the_library():
    known = SimulationSettings()
    given = {name: row.default for name, row in inspect.signature(simulate).parameters.items()}
    for name in ("length", "frame_interval", "time_step", "equilibration"):
        assert duration(name, given[name]) == getattr(known, name), name
    for name in ("masses", "friction", "ladders", "coldest", "hottest", "pivots"):
        assert given[name] == getattr(known, name), name
    assert known.equilibration == 20.0  # energies of tetrapeptides fall until then
