import json
import os
from types import SimpleNamespace

import pytest
import torch
from named_peptides import named_peptide, shared_fixture
from safetensors.torch import load_file, save_file

from gensci.__main__ import main
from gensci.core.errors import CheckpointError, UsageError
from gensci.models.checkpoint import load_network
from gensci.models.convert import convert_prose, match_prose, prose_name, read_prose_state
from gensci.models.proposal import load_proposal
from gensci.nn.tarflow import TarFlowPeptide
from gensci.sims.peptide import build_peptide


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """The converted fixture: network, tensors and description."""
    path = shared_fixture("prose_parity.safetensors")
    folder = convert_prose(path, tmp_path_factory.mktemp("prose") / "out", sigma_data=1.0)
    network, meta = load_network(folder)
    assert meta["converted_from"] == "prose"
    return network, load_file(path), json.loads(path.with_suffix(".json").read_text())


def fixture_condition(rows, tensors, sequence):
    """Condition from the listed names."""
    return TarFlowPeptide.encode(
        SimpleNamespace(
            residue_names=[residue for residue, _ in rows],
            atom_names=[name for _, name in rows],
            residue_index=(tensors[f"{sequence}.enc.aa_pos"] - 1).tolist(),
        )
    )


@pytest.mark.parametrize("sequence", ["AA", "FID"])
def test_encodings_and_permutations_are_the_published_ones(parity, sequence):
    _, tensors, description = parity
    rows = description["sequences"][sequence]
    cond = fixture_condition(rows, tensors, sequence)
    ours = {"atom_type": "atom_type", "aa_type": "aa_type", "aa_pos": "residue_index"}
    for theirs, key in ours.items():
        assert torch.equal(tensors[f"{sequence}.enc.{theirs}"], cond[key])
    assert cond["length"].unique().tolist() == tensors[f"{sequence}.enc.seq_len"].tolist()
    for column, key in enumerate(description["config"]["permutation_keys"]):
        assert torch.equal(tensors[f"{sequence}.perm.{key}"], cond["permutations"][:, column])
    for own in (named_peptide(sequence), build_peptide(sequence)):
        made = TarFlowPeptide.encode(own)
        assert all(torch.equal(made[key], value) for key, value in cond.items())


@pytest.mark.parametrize("sequence", ["AA", "FID"])
def test_outputs_are_the_published_ones(parity, sequence):
    network, tensors, description = parity
    cond = fixture_condition(description["sequences"][sequence], tensors, sequence)
    x, expected = tensors[f"{sequence}.x"], tensors[f"{sequence}.z"]
    with torch.no_grad():
        z, log_det = network(x, cond)
        log_q = network.log_prob(x, cond)
    back, log_det_back = network.inverse(expected, cond)
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det, tensors[f"{sequence}.logdet"], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(log_det_back, tensors[f"{sequence}.logdet"], atol=1e-5, rtol=1e-6)
    # float32 near 300 has steps of 3e-5
    torch.testing.assert_close(log_q, tensors[f"{sequence}.logq"], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=0)


def published(prefix="net.", **settings):
    """A small network and its weights under published names."""
    torch.manual_seed(1)
    size = {"channels": 16, "num_blocks": 2, "layers_per_block": 2, "head_dim": 8, **settings}
    network = TarFlowPeptide(**size)
    weights = {prefix + prose_name(k): v for k, v in network.state_dict().items()}
    for block in range(2):
        weights[f"{prefix}blocks.{block}.attn_mask"] = torch.ones(4, 4).tril()
    return network, weights


@pytest.mark.parametrize("transition", [True, False])
def test_a_released_pth_is_read_from_the_command_line(tmp_path, capsys, transition):
    network, weights = published(transition=transition)
    torch.save(weights, tmp_path / "weights.pth")
    out = tmp_path / "out"
    options = ["--from", "prose", "--out", str(out), "--head-dim", "8"]
    assert main(["convert", str(tmp_path / "weights.pth"), *options]) == 0
    assert str(out) in capsys.readouterr().out
    twin, meta = load_network(out)
    assert meta["num_parameters"] == sum(p.numel() for p in network.parameters())
    cond = network.encode(named_peptide("G"))
    x = torch.randn(2, 10, 3)
    assert torch.equal(twin.log_prob(x, cond), network.log_prob(x, cond))


def test_another_architecture_is_refused_by_its_first_differing_key(tmp_path):
    _, weights = published(prefix="", lookahead_conditioning=False)
    save_file({f"state.{k}": v for k, v in weights.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"'blocks.0.proj_cond.0.bias' is absent, expected"):
        convert_prose(tmp_path / "w.safetensors", tmp_path / "out", head_dim=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.proj_in.bias": torch.zeros(5)}, r"'blocks.1.proj_in.bias' is \(5,\), expected"),
        ({"blocks.0.rotary": torch.zeros(2)}, r"'blocks.0.rotary' is \(2,\), expected absent"),
    ],
)
def test_a_changed_shape_or_extra_key_is_named(tmp_path, change, message):
    _, weights = published(prefix="")
    torch.save({**weights, **change}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        convert_prose(tmp_path / "w.pth", tmp_path / "out", head_dim=8)


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not weights of Prose: 'blocks.0.proj_in.weight'"):
        convert_prose(tmp_path / "w.pth", tmp_path / "out")


class Trap:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"net.x": Trap(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_prose_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_file_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_prose_state(tmp_path / name)


def test_bad_arguments_are_usage_errors(tmp_path, capsys):
    with pytest.raises(UsageError, match="no weights file"):
        read_prose_state(tmp_path / "absent.pth")
    _, weights = published(prefix="")
    with pytest.raises(UsageError, match="head_dim 64 does not divide the 16 channels"):
        match_prose(read_prose_state(_saved(tmp_path, weights)))
    assert main(["convert", str(tmp_path / "w.pth"), "--from", "boltz"]) == 2
    assert "choose from: prose" in capsys.readouterr().err


def _saved(folder, weights):
    """The path of weights written as a .pth."""
    torch.save(weights, folder / "w.pth")
    return folder / "w.pth"


def test_equal_atoms_of_released_weights_are_named_as_the_target_counts_them(
    parity, tmp_path, monkeypatch
):
    """Their data number the hydrogens of methyls the other way round, as tleap does."""
    folder = convert_prose(shared_fixture("prose_parity.safetensors"), tmp_path / "out")
    peptide = build_peptide("AV")
    foreign = torch.as_tensor(peptide.positions).float().clone()
    for fork in peptide.forks:
        if len(fork.swaps) == 1:
            a, b = fork.swaps[0]
            foreign[[a, b]] = foreign[[b, a]]
    order = TarFlowPeptide.encode(peptide)["permutations"][:, 3]

    def draws(self, n, cond, generator, **_):
        """Atoms in the order of their names, whatever index each name has."""
        x = torch.empty(n, len(foreign), 3)
        x[:, cond["permutations"][:, 3]] = foreign[order]
        return x, torch.zeros(n)

    assert not peptide.counted(foreign[None]).any()
    monkeypatch.setattr(TarFlowPeptide, "sample_and_log_prob", draws)
    proposal = load_proposal(str(folder), peptide, "cpu")
    x = proposal.sample(5, torch.Generator().manual_seed(0))["positions"]
    assert peptide.counted(x).all()
