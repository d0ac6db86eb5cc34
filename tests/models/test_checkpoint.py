import json

import pytest
import torch

from gensci.core.errors import CheckpointError
from gensci.models import checkpoint
from gensci.nn.tarflow import TarFlowPeptide

TINY = {"channels": 8, "num_blocks": 1, "layers_per_block": 1, "head_dim": 4}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = TarFlowPeptide(**TINY)
    config = {"class": "tarflow-peptide", "settings": network.settings}
    folder = checkpoint.save_checkpoint(
        tmp_path / "tiny", network.state_dict(), config, {"seed": 7}
    )
    return folder, network


def edit(folder, **changes):
    """Change the description, and its digest where none is given."""
    path = folder / "model.json"
    description = {**json.loads(path.read_text()), **changes}
    if checkpoint.DIGEST not in changes and isinstance(description["meta"], dict):
        description[checkpoint.DIGEST] = checkpoint.describing_digest(description)
    path.write_text(json.dumps(description))


def test_weights_settings_and_meta_come_back(saved):
    folder, network = saved
    state, config, meta = checkpoint.load_checkpoint(folder)
    assert config == {"class": "tarflow-peptide", "settings": network.settings}
    assert meta["seed"] == 7
    assert meta["weights_sha256"] == checkpoint.sha256(folder / "model.safetensors")
    assert state.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(state[name], value), name
    twin, _ = checkpoint.load_network(folder)
    assert not twin.training
    assert all(
        torch.equal(a, b) for a, b in zip(twin.parameters(), network.parameters(), strict=True)
    )
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_files_are_as_readable_as_any_other(saved, tmp_path):
    folder, _ = saved
    (tmp_path / "plain").write_text("")
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_saving_again_replaces(saved):
    folder, network = saved
    state = {name: value + 1 for name, value in network.state_dict().items()}
    config = {"class": "tarflow-peptide", "settings": network.settings}
    checkpoint.save_checkpoint(folder, state, config)
    loaded = checkpoint.load_checkpoint(folder)[0]
    assert torch.equal(loaded["embedding.atom.weight"], state["embedding.atom.weight"])


def test_one_changed_byte_is_refused(saved):
    folder, _ = saved
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        checkpoint.load_checkpoint(folder)


@pytest.mark.parametrize("left", [0, 4, 300, -1])
def test_truncated_weights_are_refused_even_with_a_matching_hash(saved, left):
    folder, _ = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        checkpoint.load_checkpoint(folder)
    edit(folder, weights_sha256=checkpoint.sha256(path))
    with pytest.raises(CheckpointError, match="not readable"):
        checkpoint.load_checkpoint(folder)


def test_other_shapes_are_refused(saved):
    folder, _ = saved
    shapes = json.loads((folder / "model.json").read_text())["shapes"]
    edit(folder, shapes={**shapes, "blocks.0.enter.bias": [9]})
    with pytest.raises(CheckpointError, match=r"'blocks.0.enter.bias' has shape \[8\]"):
        checkpoint.load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": {**TINY, "channels": 12}},
            r"another network: 'blocks.0.condition.0.bias' is \(8,\), expected \(12,\)",
        ),
        (
            {"settings": {**TINY, "variant": "no-transition"}},
            r"'blocks.0.layers.0.transition.out.weight' is \(8, 32\), expected absent",
        ),
        (
            {"settings": {**TINY, "layers_per_block": 2}},
            r"'blocks.0.layers.1.attention.k_norm.bias' is absent, expected \(8,\)",
        ),
        ({"settings": {"depth": 3}}, "weights and settings disagree"),
        ({"settings": {**TINY, "head_dim": 0}}, "weights and settings disagree"),
        ({"meta": {"trained_residues": "2"}}, "lacks a proper 'trained_residues'"),
        ({"meta": {"trained_residues": [2]}}, "lacks a proper 'trained_residues'"),
        ({"class": "oracle"}, "no model class 'oracle'"),
        ({"format": 99}, "format 99"),
        ({"weights_sha256": None}, "lacks a proper 'weights_sha256'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, changes, message):
    folder, _ = saved
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_network(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": {"seed": 7, "trained_residues": [1, 64]}},
        {"meta": {}},
        {"settings": {**TINY, "sigma_data": 0.2}},
        {"class": "peptide-internal"},
    ],
)
def test_a_description_changed_by_hand_is_noticed(saved, changes):
    folder, _ = saved
    path = folder / "model.json"
    digest = json.loads(path.read_text())[checkpoint.DIGEST]
    edit(folder, **changes, **{checkpoint.DIGEST: digest})
    with pytest.raises(CheckpointError, match="class, settings or meta data were changed"):
        checkpoint.load_checkpoint(folder)


def test_the_digest_minds_neither_order_nor_layout_nor_absence(saved):
    folder, _ = saved
    path = folder / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(description.items())), indent=7))
    assert checkpoint.load_checkpoint(folder)[2]["seed"] == 7
    del description[checkpoint.DIGEST]  # as older versions wrote it
    path.write_text(json.dumps(description))
    assert checkpoint.load_checkpoint(folder)[2]["seed"] == 7


def test_tuples_and_numbers_of_the_meta_data_come_back_with_the_same_digest(tmp_path):
    meta = {"pair": (1, 2), "ess": 0.1 + 0.2, "by_length": {2: "x"}, "none": None}
    config = {"class": "tarflow-peptide", "settings": {"sizes": (3, 4)}}
    folder = checkpoint.save_checkpoint(tmp_path / "made", {"w": torch.ones(1)}, config, meta)
    loaded = checkpoint.load_checkpoint(folder)[2]
    assert loaded["pair"] == [1, 2]
    assert loaded["by_length"] == {"2": "x"}


def test_missing_parts_are_named(saved, tmp_path):
    folder, _ = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        checkpoint.load_checkpoint(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        checkpoint.load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "nothing")


def test_shipped_names_are_found_and_near_misses_offered(saved, monkeypatch):
    folder, _ = saved
    monkeypatch.setattr(checkpoint, "list_checkpoints", lambda: {"tiny": folder})
    for text in ("tiny", "Tiny", " TINY "):
        assert checkpoint.find_checkpoint(text) == folder
        assert checkpoint.checkpoint_name(text) == "tiny"
    assert checkpoint.checkpoint_name("tinny") == "tinny"
    with pytest.raises(CheckpointError, match="did you mean 'tiny'"):
        checkpoint.find_checkpoint("tinny")


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(CheckpointError, match=r"holds other files \(thesis.tex\)"):
        checkpoint.save_checkpoint(tmp_path, {}, {"class": "tarflow-peptide", "settings": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        checkpoint.save_checkpoint(tmp_path / "file", {}, {"class": "x", "settings": {}})
