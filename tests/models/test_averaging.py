"""Averages of checkpoints: `gensci average`."""

import pytest
import torch

from gensci.__main__ import main
from gensci.models import checkpoint
from gensci.nn.internal import InternalFlow
from gensci.nn.tarflow import TarFlowPeptide

TINY = {"channels": 8, "num_blocks": 1, "layers_per_block": 1, "head_dim": 4}


def put(folder, seed, meta, **settings):
    torch.manual_seed(seed)
    network = TarFlowPeptide(**{**TINY, **settings})
    config = {"class": "tarflow-peptide", "settings": network.settings}
    checkpoint.save_checkpoint(folder, network.state_dict(), config, meta)
    return network


@pytest.fixture
def pair(tmp_path):
    before = {"trained_residues": [2, 2], "training_sequences": ["AA", "GG"], "steps": 10,
              "metrics": {"val_nll": 1.0}}  # fmt: skip
    after = {**before, "trained_residues": [2, 4], "training_sequences": ["AA", "KAAK"],
             "steps": 20}  # fmt: skip
    return put(tmp_path / "a", 0, before), put(tmp_path / "b", 1, after)


def average(tmp_path, sources="a,b", shares="0.3,0.7", out="mean"):
    places = ",".join(str(tmp_path / name) for name in sources.split(","))
    options = ["--checkpoints", places, "--shares", shares, "--out", str(tmp_path / out)]
    return main(["average", *options])


def test_weights_are_the_weighted_mean_and_the_origin_is_told(tmp_path, pair, capsys):
    assert average(tmp_path) == 0
    assert f"--checkpoint {tmp_path / 'mean'}" in capsys.readouterr().out
    network, meta = checkpoint.load_network(tmp_path / "mean")
    for name, value in network.state_dict().items():
        one, other = (held.state_dict()[name] for held in pair)
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.3 * one + 0.7 * other)
            assert value.dtype == one.dtype
    shas = [checkpoint.sha256(tmp_path / k / "model.safetensors") for k in "ab"]
    assert meta["averaged"] == [
        {"weights_sha256": shas[0], "share": 0.3}, {"weights_sha256": shas[1], "share": 0.7},
    ]  # fmt: skip
    assert meta["trained_residues"] == [2, 4]
    assert meta["training_sequences"] == ["AA", "GG", "KAAK"]
    assert meta["steps"] == 20 and "metrics" not in meta
    assert meta["weights_sha256"] == checkpoint.sha256(tmp_path / "mean" / "model.safetensors")


def test_the_meta_data_are_those_of_the_largest_share(tmp_path, pair):
    assert average(tmp_path, shares="0.7,0.3") == 0
    _, meta = checkpoint.load_network(tmp_path / "mean")
    assert meta["steps"] == 10 and meta["trained_residues"] == [2, 4]


def test_a_checkpoint_with_itself_stays_as_it_is(tmp_path, pair):
    assert average(tmp_path, "a,a,a", "0.2,0.5,0.3") == 0
    network, _ = checkpoint.load_network(tmp_path / "mean")
    for name, value in pair[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("sources", "shares", "line"),
    [
        ("a,b", "0.3,0.6", "give positive ones with the sum 1"),
        ("a,b", "1.5,-0.5", "give positive ones with the sum 1"),
        ("a,b", "nan,0.5", "give positive ones with the sum 1"),
        ("a,b", "half,half", "write for example 0.3,0.7"),
        ("a,b", "1", "2 checkpoints and 1 shares"),
        ("a", "1", "name two or more checkpoints"),
        ("a,absent", "0.5,0.5", "no checkpoint"),
        ("a,wide", "0.5,0.5", "is of another network than"),
        ("a,longer", "0.5,0.5", "class or settings differ"),
        ("a,internal", "0.5,0.5", "is of another network than"),
    ],
)
def test_what_has_no_average_is_refused_in_a_line(tmp_path, pair, capsys, sources, shares, line):
    put(tmp_path / "wide", 2, {}, channels=16)
    put(tmp_path / "longer", 2, {}, sigma_data=0.28)
    network = InternalFlow(channels=8, num_layers=1, num_heads=2, pair_channels=4)
    config = {"class": "peptide-internal", "settings": network.settings}
    checkpoint.save_checkpoint(tmp_path / "internal", network.state_dict(), config, {})
    assert average(tmp_path, sources, shares) in (1, 2)
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (tmp_path / "mean").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path, pair, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert average(tmp_path, out="mine") == 1
    assert "notes.txt" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
