"""The tool that makes reference ensembles, and the ensembles it made."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import make_reference_ensembles as tool
from gensci.metrics.ensembles import all_torsions, backbone_torsions
from gensci.metrics.references import EnsembleError, load_reference_ensemble

LADDERS, SNAPSHOTS = 4, 30
COMMITTED = sorted(tool.ENSEMBLES.glob("*.npz"))


@pytest.fixture
def simulation(tmp_path):
    """A folder as `gensci simulate` leaves it, of wobbling AA with true energies."""
    from openmm.app import PDBFile

    from gensci.systems.peptide import PeptideSystem

    system = PeptideSystem.from_text("AA")
    folder = tmp_path / "data" / "AA"
    (folder / "shards").mkdir(parents=True)
    with open(folder / "topology.pdb", "w") as file:
        PDBFile.writeFile(system.peptide.topology, 10 * system.peptide.positions, file)
    rng = np.random.default_rng(0)
    frames = LADDERS * SNAPSHOTS
    start = np.asarray(system.peptide.positions)
    x = torch.as_tensor(start + 2e-3 * rng.normal(size=(frames, *start.shape))).float()
    everything = {
        "positions": x,
        "energy": system.force_field.energy(x.double()).float(),
        "ladder": torch.arange(frames) % LADDERS,
        "snapshot": torch.arange(frames) // LADDERS,
    }
    write_shards(folder, everything)
    run = {
        "outcome": "complete",
        "settings": {"system": "AA", "ladders": LADDERS, "length": 15.0},
        "seed": 1,
        "temperature": 310.0,
        "force_field": ["amber14-all.xml", "implicit/obc1.xml"],
        "versions": {"gensci": "0"},
        "dropped": 0,
        "round_trips": 5,
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder, everything, run


def write_shards(folder, everything):
    for index, rows in enumerate(torch.arange(len(everything["energy"])).split(50)):
        shard = {key: value[rows].contiguous() for key, value in everything.items()}
        save_file(shard, folder / "shards" / f"{index:06d}.safetensors")


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "ENSEMBLES", tmp_path / "ensembles")
    monkeypatch.setattr(tool, "FRAMES", 80)
    monkeypatch.setattr(tool, "POINTS", 20)
    (tmp_path / "ensembles").mkdir()
    return tmp_path / "ensembles"


def test_frames_stay_what_they_were(simulation, out, capsys):
    folder, everything, _ = simulation
    agree = tool.renew("AA", folder, force=False)
    found = load_reference_ensemble(out / "AA.npz")
    assert agree == (not found.meta["agreement"]["complaints"])
    rows = found.snapshot * LADDERS + found.ladder
    assert len(np.unique(rows)) == len(rows) == 80
    assert np.bincount(found.ladder).tolist() == [20] * LADDERS
    np.testing.assert_array_equal(found.energy, everything["energy"].numpy()[rows])
    truth = all_torsions(folder / "topology.pdb", everything["positions"].numpy()[rows])
    assert found.torsion_names == ("phi2", "psi1", "omega1")
    for name, value in truth.items():
        assert np.abs(np.angle(np.exp(1j * (found.torsion(name) - value)))).max() < 1e-3
    assert len(found.positions) == 16
    again = backbone_torsions(folder / "topology.pdb", found.positions)
    turned = again["phi2"] - found.torsion("phi2")[found.position_rows]
    assert np.abs(np.angle(np.exp(1j * turned))).max() < 5e-3
    assert 0 < found.meta["rounding_error"] < 5.0
    assert found.meta["recipe"]["seed"] == 1
    before = (out / "AA.npz").read_bytes()
    tool.renew("AA", folder, force=False)
    assert "AA: up to date" in capsys.readouterr().out
    assert (out / "AA.npz").read_bytes() == before


def test_frames_without_a_record_of_ladders_come_snapshot_by_snapshot(simulation):
    folder, everything, run = simulation
    write_shards(folder, {key: everything[key] for key in ("positions", "energy")})
    found = tool.read_simulation(folder)
    np.testing.assert_array_equal(found.ladder, everything["ladder"])
    np.testing.assert_array_equal(found.snapshot, everything["snapshot"])
    (folder / "run.json").write_text(json.dumps({**run, "dropped": 2}))
    with pytest.raises(EnsembleError, match="frames were dropped"):
        tool.read_simulation(folder)


def test_ladders_may_have_lost_frames(simulation, out):
    folder, everything, run = simulation
    keep = torch.ones(LADDERS * SNAPSHOTS, dtype=torch.bool)
    keep[[1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49]] = False  # all of ladder 1
    write_shards(folder, {key: value[keep] for key, value in everything.items()})
    (folder / "shards" / "000002.safetensors").unlink()
    (folder / "run.json").write_text(json.dumps({**run, "dropped": 13}))
    found = tool.distil("AA", folder)
    assert len(set(np.bincount(found.ladder))) == 1
    rows = found.snapshot * LADDERS + found.ladder
    np.testing.assert_array_equal(found.energy, everything["energy"].numpy()[rows])


def test_unfinished_and_absent_simulations_are_refused(simulation, tmp_path):
    folder, _, run = simulation
    (folder / "run.json").write_text(json.dumps({**run, "outcome": "running"}))
    with pytest.raises(EnsembleError, match="unfinished; run the same gensci simulate again"):
        tool.renew("AA", folder, force=False)
    with pytest.raises(EnsembleError, match="holds no simulation"):
        tool.renew("CE", tmp_path / "CE", force=False)


def test_the_first_finished_simulation_counts(simulation, tmp_path):
    folder, _, run = simulation
    begun = tmp_path / "begun" / "AA"
    begun.mkdir(parents=True)
    (begun / "run.json").write_text(json.dumps({**run, "outcome": "running"}))
    roots = [begun.parent, folder.parent]
    assert tool.find_simulation("AA", roots) == folder
    with pytest.raises(EnsembleError, match="unfinished"):
        tool.find_simulation("AA", roots[:1])
    with pytest.raises(EnsembleError, match="CE holds no simulation"):
        tool.find_simulation("CE", roots)


def test_the_length_stands_in_the_settings_or_beside_them(simulation):
    _, _, run = simulation
    assert tool.simulated_length(run) == 15.0
    assert tool.simulated_length({**run, "length": 30.0}) == 30.0


def test_table_and_picture(simulation, out, tmp_path):
    pytest.importorskip("matplotlib")
    folder, _, _ = simulation
    tool.renew("AA", folder, force=False)
    tool.write_readme()
    row = next(line for line in tool.table().splitlines() if line.startswith("| AA"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["AA", "23", "80", "16", "4 x 0.015 ns", "5"]
    assert row in (out / "README.md").read_text()
    ensemble = load_reference_ensemble(out / "AA.npz")
    assert [half.sum() for half in tool.link_halves(ensemble, 1)] == [40, 40]
    tool.plot(tmp_path / "sheet.png")
    from matplotlib.image import imread

    assert imread(tmp_path / "sheet.png").std() > 0


def test_the_published_names():
    names = tool.published_names()
    assert [len(name) for name in names] == [2] * 30 + [4] * 30 + [8] * 4
    assert (names[0], names[29], names[30], names[59]) == ("AA", "YQ", "ARIP", "WNMA")
    assert (names[60], names[63]) == ("ANKSMIEA", "DDRDTEQT")


@pytest.mark.skipif(not COMMITTED, reason="no reference ensembles in this checkout")
def test_committed_ensembles_are_small_and_listed():
    assert sum(path.stat().st_size for path in COMMITTED) < 60e6
    assert {path.stem for path in COMMITTED} <= set(tool.published_names())
    table = (tool.ENSEMBLES / "README.md").read_text()
    for path in COMMITTED:
        assert f"| {path.stem} |" in table


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if number % 8 else [])
        for number, path in enumerate(COMMITTED)
    ],
)
def test_committed_ensembles_are_equilibrium_frames_of_their_peptide(path: Path, tmp_path):
    """Torsions fit the positions, energies those of the force field, ladders count alike."""
    from gensci.systems.peptide import PeptideSystem

    ensemble = load_reference_ensemble(path)
    system = PeptideSystem.from_text(path.stem)
    assert ensemble.name == path.stem
    assert ensemble.positions.shape[1] == system.peptide.num_atoms
    assert len(ensemble.energy) >= 9000
    assert len(set(np.bincount(ensemble.ladder))) == 1
    (tmp_path / "topology.pdb").write_text(ensemble.topology)
    some = slice(None, None, 100)
    torsions = all_torsions(tmp_path / "topology.pdb", ensemble.positions[some])
    rows = ensemble.position_rows[some]
    for name, value in torsions.items():
        turned = value - ensemble.torsion(name)[rows]
        assert np.abs(np.angle(np.exp(1j * turned))).max() < 0.01
    positions = torch.as_tensor(ensemble.positions[some], dtype=torch.float64)
    energy = system.force_field.energy(positions).numpy()
    assert math.sqrt(((energy - ensemble.energy[rows]) ** 2).mean()) < 1.0
    assert system.peptide.chirality(positions).all()
