"""Files of samples: full precision comes back, viewers get the same atoms superposed."""

import numpy as np
import pytest
import torch

from gensci.core.errors import RunFolderError
from gensci.core.results import SampleSet
from gensci.io.atomic import write_json
from gensci.io.trajectories import load_run, write_arrays, write_trajectory

md = pytest.importorskip("mdtraj")


@pytest.fixture(scope="module")
def peptide():
    pytest.importorskip("openmm")
    from gensci.sims.peptide import build_peptide

    return build_peptide("AA", minimise=False)


def moved_copies(peptide, count):
    """Copies of a peptide, each shaken a little, turned at random and carried away."""
    random = np.random.default_rng(0)
    positions = np.repeat(np.asarray(peptide.positions)[None], count, axis=0)
    positions += random.normal(0.0, 0.003, positions.shape)
    turns = np.linalg.qr(random.normal(size=(count, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    positions = positions @ turns + random.normal(0.0, 5.0, (count, 1, 3))
    return torch.from_numpy(positions.astype(np.float32))


def sample_set(positions):
    n = len(positions)
    log_weight = torch.randn(n, generator=torch.Generator().manual_seed(1)).double()
    info = {"ess": torch.tensor([0.5, 0.25])}
    return SampleSet({"positions": positions}, log_weight, -2 * log_weight, info=info)


def test_arrays_come_back_bit_for_bit(tmp_path, peptide):
    samples = sample_set(moved_copies(peptide, 5))
    write_arrays(tmp_path / "samples.npz", samples, xtc_row=np.arange(5))
    write_json(tmp_path / "run.json", {"seed": 3})
    again = load_run(tmp_path)
    assert torch.equal(again.x["positions"], samples.x["positions"])
    assert torch.equal(again.log_weight, samples.log_weight)
    assert torch.equal(again.log_target, samples.log_target)
    assert torch.equal(again.info["ess"], samples.info["ess"])
    assert again.log_proposal is None
    assert again.meta == {"seed": 3}


def test_an_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run"):
        load_run(tmp_path)
    write_json(tmp_path / "run.json", {})
    (tmp_path / "samples.npz").write_bytes(b"PK half")
    with pytest.raises(RunFolderError, match="no finished run"):
        load_run(tmp_path)


def test_viewer_files_hold_the_same_atoms_and_shapes(tmp_path, peptide):
    positions = moved_copies(peptide, 7)
    rows = write_trajectory(tmp_path, sample_set(positions), peptide.topology, peptide.positions)
    shown = md.load(str(tmp_path / "samples.xtc"), top=str(tmp_path / "topology.pdb"))
    assert rows.tolist() == list(range(7))
    assert [atom.name for atom in shown.topology.atoms] == list(peptide.atom_names)
    truth = torch.cdist(positions.double(), positions.double()).numpy()
    found = torch.cdist(torch.from_numpy(shown.xyz).double(), torch.from_numpy(shown.xyz).double())
    assert np.abs(found.numpy() - truth).max() < 0.003  # each coordinate is rounded to 0.001 nm


def test_frames_are_centred_and_superposed(tmp_path, peptide):
    positions = moved_copies(peptide, 7)
    write_trajectory(tmp_path, sample_set(positions), peptide.topology, peptide.positions)
    shown = md.load(str(tmp_path / "samples.xtc"), top=str(tmp_path / "topology.pdb"))
    start = md.load(str(tmp_path / "topology.pdb"))
    spread = np.sqrt(((shown.xyz - start.xyz) ** 2).sum(-1).mean(-1))
    assert spread.max() < 0.02  # 0.003 nm of noise; without superposition about 0.5 nm
    assert np.abs(shown.xyz.mean(axis=(0, 1))).max() < 0.05


def test_rows_that_cannot_be_shown_are_left_out_and_named(tmp_path, peptide):
    samples = sample_set(moved_copies(peptide, 5))
    samples.x["positions"][1] = float("nan")
    samples.log_weight[3] = -torch.inf
    rows = write_trajectory(tmp_path, samples, peptide.topology, peptide.positions)
    shown = md.load(str(tmp_path / "samples.xtc"), top=str(tmp_path / "topology.pdb"))
    assert rows.tolist() == [0, 2, 4]
    assert shown.n_frames == 3


def test_pieces_join_without_a_seam(tmp_path, peptide, monkeypatch):
    samples = sample_set(moved_copies(peptide, 7))
    for name, size in (("one", 100), ("many", 3)):
        monkeypatch.setattr("gensci.io.trajectories.FRAMES_AT_ONCE", size)
        (tmp_path / name).mkdir()
        write_trajectory(tmp_path / name, samples, peptide.topology, peptide.positions)
    whole, pieces = ((tmp_path / name / "samples.xtc").read_bytes() for name in ("one", "many"))
    assert whole == pieces
