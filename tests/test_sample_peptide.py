"""`gensci sample` of a peptide with a small untrained network: files, weights, refusals."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from gensci.__main__ import main
from gensci.models.checkpoint import save_checkpoint

md = pytest.importorskip("mdtraj")
pytest.importorskip("openmm")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from gensci.nn.internal import InternalFlow

    torch.manual_seed(0)
    network = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4)
    config = {"class": "peptide-internal", "settings": network.settings}
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    return save_checkpoint(folder, network.state_dict(), config, {"trained_residues": [2, 2]})


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(checkpoint, *more, system="AA"):
    return [
        "sample", "--system", system, "--num-samples", "40", "--seed", "2",
        "--checkpoint", str(checkpoint), *more,
    ]  # fmt: skip


def test_a_peptide_run_writes_agreeing_files(checkpoint, work, capsys):
    from gensci.systems.peptide import PeptideSystem

    assert main(command(checkpoint)) == 0
    folder = work / "results" / "AA"
    run = json.loads((folder / "run.json").read_text())
    arrays = np.load(folder / "samples.npz")
    shown = md.load(str(folder / "samples.xtc"), top=str(folder / "topology.pdb"))
    system = PeptideSystem.from_text("AA")
    # the energies of the stored positions give back the stored log-densities
    x = {"positions": torch.from_numpy(arrays["positions"]).double()}
    again = system.target("cpu", torch.float64).log_prob(x).numpy()
    assert np.allclose(arrays["log_target"], again, rtol=1e-4, atol=1e-2)
    difference = arrays["log_target"] - arrays["log_proposal"] - arrays["log_weight"]
    assert np.ptp(difference) < 1e-4  # a constant: the weights are normalised to mean one
    assert shown.n_frames == len(arrays["positions"]) == run["kept"]
    pairs = [[0, 4], [1, 9]]
    found = md.compute_distances(shown, pairs, periodic=False)
    truth = [arrays["positions"][:, a] - arrays["positions"][:, b] for a, b in pairs]
    assert np.allclose(found.T, [np.linalg.norm(step, axis=-1) for step in truth], atol=0.003)
    assert run["kept"] + sum(run["rejected"].values()) == 40
    assert len(run["settings"]["checkpoint_sha256"]) == 64
    assert run["settings"]["system.temperature"] == 310.0
    assert "verdict:" in capsys.readouterr().out


def refused(capsys, arguments, work):
    status = main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert list(work.iterdir()) == []
    return status, lines[0]


def test_peptides_out_of_range_are_refused_at_once(checkpoint, work, capsys):
    for system in ("AAA", "G", "A" * 200):
        status, line = refused(capsys, command(checkpoint, system=system), work)
        assert status == 2
        assert f"{len(system)} residues, the checkpoint was trained on 2" in line
        assert line.endswith("--allow-extrapolation")


def test_with_the_flag_a_longer_peptide_is_sampled_with_one_warning(checkpoint, work, capsys):
    few = command(checkpoint, "--num-samples", "20", "--allow-extrapolation")
    assert main([*few, "--system", "Ace-AGA-Nme", "--out", "long"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "3 residues, the checkpoint was trained on 2" in lines[0]
    assert "smaller effective sample size" in lines[0]
    run = json.loads((work / "long" / "run.json").read_text())
    assert [f"warning: {line}" for line in run["warnings"]] == lines
    assert np.load(work / "long" / "samples.npz")["positions"].shape[1] == 39
    assert main([*few, "--system", "AA", "--out", "known"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert json.loads((work / "known" / "run.json").read_text())["warnings"] == []


def test_even_with_the_flag_the_builder_has_its_limit(checkpoint, work, capsys):
    arguments = command(checkpoint, "--allow-extrapolation", system="A" * 200)
    status, line = refused(capsys, arguments, work)
    assert status == 2
    assert "peptide of 200 residues: at most 64" in line


def test_in_python_the_extrapolation_is_a_warning(checkpoint):
    import gensci

    settings = {"checkpoint": str(checkpoint), "seed": 1, "allow_extrapolation": True}
    with pytest.warns(UserWarning, match="1 residues, the checkpoint was trained on 2"):
        samples = gensci.sample("peptide:A", num_samples=10, **settings)
    assert len(samples.meta["warnings"]) == 1


def test_importance_sampling_takes_energies_from_the_kernel_only(checkpoint, work, monkeypatch):
    from gensci.sims.forcefield import ForceField, kernel_status

    if not kernel_status().startswith("fused"):
        pytest.skip("no C compiler here")

    def slow(self, x):
        raise AssertionError("plain torch was used")

    monkeypatch.setattr(ForceField, "_terms", slow)
    assert main(command(checkpoint)) == 0


def test_sampling_a_peptide_imports_no_training_package(checkpoint, work):
    arguments = command(checkpoint, "--num-samples", "5")
    code = (
        "import sys\nfrom gensci.__main__ import main\n"
        f"status = main({arguments})\n"
        "heavy = {'pytorch_lightning', 'lightning_fabric', 'torchmetrics', 'normflows', 'e3nn'}\n"
        "print(status, sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        (["--system.temperature", "-3"], "--system.temperature"),
        (["--system.temperature", "warm"], "temperature"),
        (["--system.temprature", "300"], "did you mean 'temperature'"),
        (["--system.implicit_solvent", "oil"], "oil"),
        (["--system.cutoff", "0"], "cutoff is 0.0 nm"),
        (["--system.cutoff", "-1"], "cutoff is -1.0 nm"),
    ],
)
def test_bad_settings_of_a_peptide_are_refused(checkpoint, work, capsys, setting, part):
    status, line = refused(capsys, command(checkpoint, *setting), work)
    assert status == 2
    assert part in line


@pytest.mark.parametrize("damage", ["flip", "truncate", "shape", "missing"])
def test_a_damaged_checkpoint_is_refused(checkpoint, work, capsys, tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("damaged")
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    description = json.loads((checkpoint / "model.json").read_text())
    if damage == "flip":
        weights[-1] ^= 1
    elif damage == "truncate":
        weights = weights[:-100]
    elif damage == "shape":
        name = next(iter(description["shapes"]))
        description["shapes"][name] = [7, 7, 7]
    (folder / "model.json").write_text(json.dumps(description))
    if damage != "missing":
        (folder / "model.safetensors").write_bytes(weights)
    status, line = refused(capsys, command(folder), work)
    assert status == 1
    assert "model.safetensors" in line


def test_the_target_takes_the_centroid_of_the_flow(tmp_path_factory, work):
    from gensci.nn.internal import InternalFlow
    from gensci.systems.peptide import PeptideSystem

    torch.manual_seed(0)
    small = {"channels": 16, "num_layers": 1, "num_heads": 2, "pair_channels": 4}
    network = InternalFlow(**small, centroid_scale=0.2)
    config = {"class": "peptide-internal", "settings": network.settings}
    folder = save_checkpoint(
        tmp_path_factory.mktemp("narrow") / "narrow", network.state_dict(), config
    )
    assert main(command(folder, "--out", "run")) == 0
    run = json.loads((work / "run" / "run.json").read_text())
    assert run["settings"]["system.centroid_scale"] == 0.2
    arrays = np.load(work / "run" / "samples.npz")
    x = torch.from_numpy(arrays["positions"]).double()
    energy = PeptideSystem.from_text("AA").target().energy({"positions": x})
    centroid = arrays["log_target"] + energy.numpy() / (8.31446261815324e-3 * 310.0)
    normal = torch.distributions.Normal(0.0, 0.2 / x.shape[1] ** 0.5)
    expected = normal.log_prob(x.mean(1)).sum(-1).numpy()
    # beside a larger energy single precision keeps no digit of the centroid
    tame = arrays["log_target"] > -1e5
    assert tame.sum() > 10
    assert np.allclose(centroid[tame], expected[tame], atol=0.05)


def test_settings_of_the_system_reach_the_target(checkpoint, work):
    hot = ["--system.temperature", "620", "--proposal.temperature", "310"]
    assert main(command(checkpoint, *hot, "--out", "hot")) == 0
    assert main(command(checkpoint, "--out", "body")) == 0
    hot, body = (np.load(work / name / "samples.npz") for name in ("hot", "body"))
    from gensci.systems.peptide import PeptideSystem

    # the same proposals at twice the temperature: half the energy in kT, the same centroid term
    assert np.array_equal(body["positions"], hot["positions"])
    target = PeptideSystem.from_text("AA").target("cpu", torch.float64)
    energy = target.energy({"positions": torch.from_numpy(body["positions"]).double()}).numpy()
    half = energy / (8.31446261815324e-3 * 310.0) / 2
    assert np.allclose(hot["log_target"] - body["log_target"], half, rtol=1e-4, atol=1e-2)
