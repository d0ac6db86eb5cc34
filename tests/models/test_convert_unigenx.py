"""Released UniGenX weights: parity with the official network, and refusals."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import types
from pathlib import PurePosixPath

import pytest
import torch
from named_peptides import shared_fixture
from safetensors.torch import load_file, save_file

from gensci.__main__ import main
from gensci.core.errors import CheckpointError, UsageError
from gensci.io.trajectories import load_run
from gensci.models.checkpoint import load_network
from gensci.models.convert_unigenx import convert_unigenx, unigenx_names
from gensci.models.structure_proposal import closes
from gensci.nn.published_unigenx import UniGenX
from gensci.nn.published_vocabulary import PublishedVocabulary

SMALL = {
    "hidden": 16, "intermediate": 24, "num_layers": 2, "num_heads": 2, "head_width": 8,
    "head_depth": 1,
}  # fmt: skip
ARGS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "diff_depth": 1}


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """The converted fixture and its tensors."""
    torch.set_num_threads(1)
    path = shared_fixture("unigenx_parity.safetensors")
    folder = convert_unigenx(path, tmp_path_factory.mktemp("unigenx") / "out")
    network, meta = load_network(folder)
    assert meta["converted_from"] == "unigenx"
    return network, load_file(path), json.loads(path.with_suffix(".json").read_text())


def test_outputs_are_the_published_ones(parity):
    network, tensors, _ = parity
    continuous = tensors["batch.coordinates_mask"] == 1
    with torch.no_grad():
        hidden, logits = network(
            tensors["batch.input_ids"], continuous, tensors["batch.input_coordinates"]
        )
        out = network.head(tensors["head.x"], tensors["head.t"], tensors["head.z"])
    torch.testing.assert_close(hidden, tensors["out.hidden"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, tensors["out.logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out, tensors["head.out"], atol=1e-5, rtol=0)


def test_vocabulary_of_crystals_is_the_published_one(parity):
    network, tensors, description = parity
    tokens = PublishedVocabulary.material()
    assert list(tokens.tokens) == description["vocabulary"]
    network.check_vocabulary(tokens.sha256)
    row = tensors["batch.input_ids"][0].tolist()
    prompt = row[: row.index(tokens.coordinates) + 1]
    numbers = [token - 3 for token in prompt[1:-1]]
    assert tokens.crystal_prompt(numbers) == prompt


def released(seed: int = 0, vocabulary: PublishedVocabulary | None = None):
    """A small network and its weights in the released layout."""
    torch.manual_seed(seed)
    network = UniGenX((vocabulary or PublishedVocabulary.material()).tokens, **SMALL)
    module = {}
    for name, value in network.state_dict().items():
        names = unigenx_names(name)
        module |= {
            f"net.{key}": part.clone()
            for key, part in zip(names, value.chunk(len(names)), strict=True)
        }
    return network, module


@pytest.mark.parametrize("kind", [dict, lambda d: argparse.Namespace(**d)], ids=["dict", "args"])
def test_released_layout_comes_back_exactly(tmp_path, kind):
    network, module = released()
    torch.save({"module": module, "args": kind({**ARGS, "target": "material"})}, tmp_path / "w.pt")
    assert (
        main(["convert", "--from", "unigenx", str(tmp_path / "w.pt"), "--out", str(tmp_path / "o")])
        == 0
    )
    back, meta = load_network(tmp_path / "o")
    assert meta["target"] == "material"
    assert back.settings == json.loads(json.dumps(network.settings))
    for name, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_settings_of_the_published_class_are_read_without_its_code(tmp_path, monkeypatch):
    module = types.ModuleType("unigenx.config")

    class Config:
        def __init__(self):
            self.__dict__.update(ARGS, target="cond_mat")

        def __setstate__(self, state):
            raise AssertionError("code of the file ran")

    Config.__module__, Config.__qualname__, module.Config = module.__name__, "Config", Config
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "unigenx", types.ModuleType("unigenx"))
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"module": released()[1], "args": Config()}, tmp_path / "w.pt")
    network, meta = load_network(convert_unigenx(tmp_path / "w.pt", tmp_path / "out"))
    assert meta["target"] == "cond_mat" and network.size.num_heads == 2


def test_wrong_vocabulary_is_refused(tmp_path):
    _, module = released()
    weights = tmp_path / "w.pt"
    entries = PublishedVocabulary.material().tokens[4:-3]

    def attempt(target, lines=None):
        torch.save({"module": module, "args": {**ARGS, "target": target}}, weights)
        path = None
        if lines is not None:
            path = tmp_path / "dict.txt"
            path.write_text("\n".join(lines))
        return convert_unigenx(weights, tmp_path / "out", path)

    with pytest.raises(UsageError, match=r"task 'mol'.*--vocabulary"):
        attempt("mol")
    with pytest.raises(CheckpointError, match="354 tokens, the weights have 355"):
        attempt("mol", entries[1:])
    with pytest.raises(CheckpointError, match="a token twice"):
        attempt("mol", [*entries[:-1], "H"])
    with pytest.raises(
        CheckpointError, match=r"not that of the task 'cond_mat'.*dict_cond_mat.txt"
    ):
        attempt("cond_mat", entries)
    with pytest.raises(CheckpointError, match=r"not that of the task 'material'.*dict_mat.txt"):
        attempt("material", PublishedVocabulary.conditional_material().tokens)
    with pytest.raises(UsageError, match=r"dictionary .* not readable"):
        convert_unigenx(weights, tmp_path / "out", tmp_path / "absent.txt")
    attempt("cond_mat")
    network, _ = load_network(tmp_path / "out")
    assert network.vocabulary.tokens[122:124] == ("<band>", "<bulk>")
    with pytest.raises(CheckpointError, match="not that of the model"):
        network.check_vocabulary(PublishedVocabulary.material().sha256)


def test_dictionary_must_agree_with_the_listed_one(tmp_path):
    source = shared_fixture("unigenx_parity.safetensors")
    for path in (source, source.with_suffix(".json")):
        shutil.copy(path, tmp_path / path.name)
    other = tmp_path / "dict.txt"
    other.write_text("\n".join(PublishedVocabulary.conditional_material().tokens))
    with pytest.raises(CheckpointError, match=r"not the dictionary that the \.json"):
        convert_unigenx(tmp_path / source.name, tmp_path / "out", other)


def test_edited_settings_are_refused(tmp_path):
    network, _ = released()
    settings = network.settings
    settings["vocabulary"][4:6] = ["He", "H"]
    with pytest.raises(CheckpointError, match="is not that of the model"):
        UniGenX(**settings)


def test_truncated_and_foreign_files_have_one_clear_line(tmp_path, capsys):
    _, module = released()
    weights = tmp_path / "w.pt"
    torch.save({"module": module, "args": ARGS}, weights)
    whole = weights.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 100):
        weights.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            convert_unigenx(weights, tmp_path / "out")
    safe = tmp_path / "w.safetensors"
    save_file({"state.model.norm.weight": torch.ones(3)}, safe)
    safe.write_bytes(safe.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        convert_unigenx(safe, tmp_path / "out")
    torch.save({"module": module, "args": {"path": PurePosixPath("x")}}, weights)
    assert main(["convert", "--from", "unigenx", str(weights), "--out", str(tmp_path / "o")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pickles pathlib.PurePosixPath" in line and "plain dict" in line
    with pytest.raises(UsageError, match="does not exist"):
        convert_unigenx(tmp_path / "absent.pt", tmp_path / "out")


def test_other_architectures_are_refused(tmp_path):
    _, module = released()
    weights = tmp_path / "w.pt"

    def attempt(changes, **args):
        state = {k: v for k, v in {**module, **changes}.items() if v is not None}
        torch.save({"module": state, "args": {**ARGS, **args}}, weights)
        return convert_unigenx(weights, tmp_path / "out")

    with pytest.raises(
        CheckpointError, match=r"'model.layers.1.self_attn.k_proj.weight' is \(8, 16\)"
    ):
        attempt({"net.model.layers.1.self_attn.k_proj.weight": torch.ones(8, 16)})
    with pytest.raises(CheckpointError, match=r"'extra.weight' is \(2,\), expected absent"):
        attempt({"net.extra.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' is absent"):
        attempt({"net.model.norm.weight": None})
    with pytest.raises(CheckpointError, match="num_layers 2, their settings say 3"):
        attempt({}, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="hidden 'wide'"):
        attempt({}, hidden_size="wide")
    with pytest.raises(UsageError, match="nothing tells the attention heads"):
        attempt({}, num_attention_heads=None)
    torch.save(torch.ones(3), weights)
    with pytest.raises(CheckpointError, match="no 'module'"):
        convert_unigenx(weights, tmp_path / "out")


def test_options_of_the_other_format_are_refused(capsys):
    assert main(["convert", "--from", "unigenx", "x.pt", "--head_dim", "8"]) == 2
    assert "--head-dim has no meaning for unigenx" in capsys.readouterr().err
    assert main(["convert", "--from", "prose", "x.pt", "--vocabulary", "d.txt"]) == 2
    assert "--vocabulary has no meaning for prose" in capsys.readouterr().err


def test_converted_models_are_sampled_by_composition(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ase")
    torch.save({"module": released()[1], "args": {**ARGS, "target": "material"}}, tmp_path / "w.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--from", "unigenx", "w.pt", "--out", "published"]) == 0
    sample = ["sample", "--checkpoint", "published", "--num-samples", "3", "--out", "run"]
    steps = ["--proposal.solver", "ddpm", "--proposal.num_steps", "5"]
    for refused in (["crystal:*"], ["crystal:TiO2", "--system.style", "mp-20"]):
        assert main([*sample, "--system", *refused]) != 0
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "draw crystals of a composition" in line
        assert not (tmp_path / "run").exists()
    assert main([*sample, *steps, "--system", "crystal:Ti2O4"]) == 0
    x = load_run(tmp_path / "run").x
    assert x["numbers"].tolist() == [[22, 22, 8, 8, 8, 8]] * 3
    assert torch.isfinite(x["fractional"]).all() and closes(x["lattice"]).all()
