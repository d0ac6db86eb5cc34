import json
import os
import signal
import subprocess
import sys
import time
from itertools import product

import openmm
import pytest
import torch
from openmm import app, unit
from safetensors.torch import load_file

from gensci.__main__ import main
from gensci.commands.simulate import (
    duration,
    read_excluded,
    select_part,
    select_peptides,
    simulate,
)
from gensci.core.errors import RunFolderError, SystemTextError, UsageError
from gensci.sims.peptide import create_system
from gensci.systems.peptide import PeptideSystem
from gensci.systems.peptide_dynamics import SimulationSettings, simulate_peptide

TINY = {
    "length": "0.06ps",
    "frame_interval": "0.01ps",
    "ladders": 2,
    "temperatures": 2,
    "equilibration": "0.02ps",
}
SETTINGS = SimulationSettings(
    length=0.06,
    frame_interval=0.01,
    ladders=2,
    num_temperatures=2,
    equilibration=0.02,
    frames_per_shard=4,
)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class MemoryStore:
    """A store that dies at its `deadline`-th write, before or after the write."""

    def __init__(self, deadline=None, before=True):
        self.shards, self.states = {}, {}
        self.deadline, self.before = deadline, before

    def _write(self, where, key, tensors):
        dying = self.deadline == 0
        self.deadline = None if self.deadline is None else self.deadline - 1
        if dying and self.before:
            raise Killed
        where[key] = {name: value.clone() for name, value in tensors.items()}
        if dying:
            raise Killed

    def load_shard(self, index):
        return self.shards.get(index)

    def save_shard(self, index, tensors):
        self._write(self.shards, index, tensors)

    def load_state(self, name):
        return self.states.get(name)

    def save_state(self, name, tensors):
        self._write(self.states, name, tensors)

    def drop_state(self, name):
        self.states.pop(name, None)


@pytest.fixture(scope="module")
def system():
    return PeptideSystem.from_text("Ace-G-Nme")


@pytest.fixture(scope="module")
def uninterrupted(system):
    store = MemoryStore()
    summary = simulate_peptide(system, SETTINGS, seed=3, store=store)
    return store.shards, summary


def assert_same(shards, expected):
    assert shards.keys() == expected.keys()
    for index, shard in expected.items():
        for name, value in shard.items():
            assert torch.equal(shards[index][name], value)


@pytest.mark.parametrize(("deadline", "before"), [*product(range(7), (True, False))])
def test_killed_at_any_write_and_continued_gives_the_same_bits(
    system, uninterrupted, deadline, before
):
    store = MemoryStore(deadline, before)
    with pytest.raises(Killed):
        simulate_peptide(system, SETTINGS, seed=3, store=store)
    store.deadline = None
    summary = simulate_peptide(system, SETTINGS, seed=3, store=store)
    assert_same(store.shards, uninterrupted[0])
    assert summary == uninterrupted[1]


def test_a_lost_shard_is_made_again(system, uninterrupted):
    store = MemoryStore()
    simulate_peptide(system, SETTINGS, seed=3, store=store)
    del store.shards[1]
    simulate_peptide(system, SETTINGS, seed=3, store=store)
    assert_same(store.shards, uninterrupted[0])


def test_another_seed_gives_other_frames(system, uninterrupted):
    store = MemoryStore()
    simulate_peptide(system, SETTINGS, seed=4, store=store)
    assert not torch.equal(store.shards[0]["positions"], uninterrupted[0][0]["positions"])


def test_files_hold_centred_frames_with_the_energies_of_openmm(tmp_path):
    assert simulate("Ace-G-Nme,GG", tmp_path, **TINY) == 0
    for name in ("Ace-G-Nme", "GG"):
        folder = tmp_path / name
        (shard,) = (folder / "shards").glob("*.safetensors")
        data = load_file(shard)
        x, energy = data["positions"], data["energy"]
        assert (x.dtype, energy.dtype) == (torch.float32, torch.float32)
        assert len(x) == len(energy) == 12
        assert x.mean(dim=1).abs().max() < 1e-5
        pdb = app.PDBFile(str(folder / "topology.pdb"))
        platform = openmm.Platform.getPlatformByName("Reference")
        reference = openmm.Context(
            create_system(pdb.topology), openmm.VerletIntegrator(0.001), platform
        )
        for row, value in zip(x[:3].double(), energy, strict=False):
            reference.setPositions(row.numpy())
            found = reference.getState(getEnergy=True).getPotentialEnergy()
            expected = found.value_in_unit(unit.kilojoule_per_mole)
            assert value.item() == pytest.approx(expected, abs=0.02)
        record = json.loads((folder / "run.json").read_text())
        assert (record["outcome"], record["frames"]) == ("complete", 12)
        assert record["settings"]["coldest"] == 310.0


def test_the_same_command_again_changes_nothing(tmp_path, capsys):
    simulate("GG", tmp_path, **TINY)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    simulate("GG", tmp_path, **TINY)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "complete before" in capsys.readouterr().out


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    simulate("GG", tmp_path, **TINY)
    with pytest.raises(RunFolderError, match="friction"):
        simulate("GG", tmp_path, **TINY, friction=2.0)
    with pytest.raises(RunFolderError, match="seed"):
        simulate("GG", tmp_path, **TINY, seed=1)


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
    shards = sorted((tmp_path / "whole" / "GG" / "shards").iterdir())
    assert len(shards) == 4
    for shard in shards:
        assert (killed / "GG" / "shards" / shard.name).read_bytes() == shard.read_bytes()


def test_scattered_starts_visit_both_sides_of_the_backbone_barriers():
    import mdtraj

    system = PeptideSystem.from_text("Ace-A-Nme")
    settings = SimulationSettings(
        length=1.5, frame_interval=0.3, time_step=0.003, masses="uniform", equilibration=0.6
    )
    store = MemoryStore()
    summary = simulate_peptide(system, settings, seed=0, store=store)
    x = torch.cat([shard["positions"] for shard in store.shards.values()])
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(system.topology))
    _, phi = mdtraj.compute_phi(trajectory)
    _, psi = mdtraj.compute_psi(trajectory)
    extended = (psi > 1.0).mean()
    assert 0.1 < extended < 0.95
    # the barriers of phi at 0 and about 120 degrees: both sides, and the natural one more often
    left_handed = ((phi > 0.0) & (phi < 2.3)).mean()
    assert 0.02 < left_handed < 0.5
    assert all(0.2 < rate < 0.9 for rate in summary.acceptance)
    assert summary.frames == 80


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


def test_all_dipeptides_without_the_excluded_ones(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"source": "x", "val": ["AL", "CAVQ"], "test": ["AA", "GG"]}))
    names = select_peptides("dipeptides-train", str(path))
    everything = select_peptides("dipeptides", None)
    assert len(everything) == len(set(everything)) == 400
    assert set(everything) - set(names) == {"AL", "AA", "GG"}
    assert read_excluded("AA, ace-A-nme") == {"AA", "Ace-A-Nme"}
    assert select_peptides("AA,GS,peptide:AA", "GS") == ["AA"]
    parts = [select_part(names, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(names)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--system=AX"], "unknown residue 'X'"),
        (["--system="], "no residues"),
        (["--system=toy:ring"], "not a peptide"),
        (["--system=dipeptides-train"], "--exclude"),
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
