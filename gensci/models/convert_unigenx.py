"""Released weights of UniGenX (Zhang et al. 2025, arXiv:2503.06687) as a checkpoint.

They come as a file of torch with `module` (names that begin with `net.`) and `args` (sizes and
task); a safetensors file with names `state.*` and a `.json` of the same name is read as well.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gensci.core.errors import CheckpointError, UsageError
from gensci.models.checkpoint import save_checkpoint, sha256
from gensci.nn.published_unigenx import PRESETS, UniGenX, UniGenXSize
from gensci.nn.published_vocabulary import MARKERS, PublishedVocabulary

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
REMEDY = "only the published architecture is converted"
MATERIAL, CONDITIONAL = "material", "cond_mat"

# Our names on the left, the published ones on the right. Fused matrices are split before.
UNIGENX_NAMES = (
    (r"^embedding\.", "model.embed_tokens."),
    (r"^coordinate\.0\.", "coordinate_encoder.fc1."),
    (r"^coordinate\.2\.", "coordinate_encoder.fc2."),
    (r"^words\.", "lm_head."),
    (r"^llama\.", "model."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.transition_norm\.", ".post_attention_layernorm."),
    (r"\.attention_out\.", ".self_attn.o_proj."),
    (r"\.transition_out\.", ".mlp.down_proj."),
    (r"^head\.blocks\.(\d+)\.norm\.", r"head.res_blocks.\1.in_ln."),
    (r"^head\.blocks\.", "head.res_blocks."),
    (r"^head\.modulation\.", "head.final_layer.modulation."),
    (r"^head\.(.*)modulation\.", r"head.\1adaLN_modulation.1."),
    (r"^head\.enter\.", "head.input_proj."),
    (r"^head\.time\.", "head.time_embed.mlp."),
    (r"^head\.condition\.", "head.cond_embed."),
    (r"^head\.leave\.", "head.final_layer.linear."),
    (r"^head\.", "diffloss.net."),
)
FUSED = (
    (".qkv.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")),
    (".gate_value.", (".mlp.gate_proj.", ".mlp.up_proj.")),
)
# Field of the size, and what the published settings call it; the fixture's spelling comes last.
ARGUMENTS = {
    "hidden": ("hidden_size",),
    "intermediate": ("intermediate_size",),
    "num_layers": ("num_hidden_layers", "num_layers"),
    "num_heads": ("num_attention_heads", "num_heads"),
    "head_width": ("diff_width", "head_width"),
    "head_depth": ("diff_depth", "head_depth"),
    "rope_theta": ("rope_theta",),
    "eps": ("rms_norm_eps",),
}


class Settings(argparse.Namespace):
    """Stands in for the settings classes of the published package: attributes, and no code."""

    def __init__(self, *values: Any) -> None:
        super().__init__(values=values)


class Released(NamedTuple):
    """What a released file holds.

    Attributes:
        state: Weights under published names without prefix.
        arguments: Sizes and task, as far as they are told.
        vocabulary: The tokens, where a `.json` tells them.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    vocabulary: PublishedVocabulary | None


def convert_unigenx(
    weights: str | Path, out: str | Path, vocabulary: str | Path | None = None
) -> Path:
    """Write released UniGenX weights as a checkpoint.

    Args:
        weights: A `.pt` (read without running pickled code) or `.safetensors` file.
        out: Folder of the checkpoint.
        vocabulary: The dictionary of the weights, one entry on a line. Without it the one of the
            `.json` next to the weights, or that of the task where it is crystals.

    Returns:
        The folder.

    Raises:
        UsageError: No such file, or the dictionary has to be given.
        CheckpointError: The file is unreadable or holds another architecture, or the dictionary
            belongs to other weights; the message names the first differing key.
    """
    weights = Path(weights)
    released = read_unigenx(weights)
    tokens = choose_vocabulary(released, vocabulary)
    network, state = match_unigenx(released, tokens)
    source = {
        "converted_from": "unigenx",
        "file": weights.name,
        "file_sha256": sha256(weights),
        "reference": "arXiv:2503.06687",
        "num_parameters": sum(value.numel() for value in state.values()),
    }
    target = released.arguments.get("target")
    source |= {"target": target} if isinstance(target, str) else {}
    config = {"class": "unigenx-published", "settings": network.settings}
    return save_checkpoint(out, state, config, source)


def read_unigenx(path: Path) -> Released:
    """Weights, sizes and tokens of a released file.

    Raises:
        UsageError: No such file, or of another kind.
        CheckpointError: The file is damaged or holds something else than weights.
    """
    if not path.is_file() or path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        state = "is no weights file" if path.is_file() else "does not exist"
        raise UsageError(f"{str(path)!r} {state}", "give a .pt or .safetensors file")
    content = _load(path)
    arguments = content.get("args", {})
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    described = _beside(path)
    state = content.get("module", content)
    if not isinstance(state, Mapping) or not isinstance(arguments, Mapping):
        raise CheckpointError(f"{path} holds no weights of UniGenX: no 'module'", REMEDY)
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in ("state.", "net."):
        chosen = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        state = chosen or state
    # Tables that older versions of transformers saved follow from the settings.
    state = {key: value for key, value in state.items() if not key.endswith("rotary_emb.inv_freq")}
    tokens = described.get("vocabulary")
    return Released(
        state,
        {**described.get("config", {}), **arguments},
        None if tokens is None else PublishedVocabulary(tokens),
    )


def choose_vocabulary(released: Released, path: str | Path | None) -> PublishedVocabulary:
    """The tokens of released weights; a dictionary that is known to be another is refused.

    Raises:
        UsageError: No such file, or the weights do not tell which dictionary is theirs.
        CheckpointError: The dictionary has another size, or is that of another task.
    """
    size = _rows(released.state, "model.embed_tokens.weight")
    target = released.arguments.get("target", MATERIAL)
    known = {
        MATERIAL: PublishedVocabulary.material,
        CONDITIONAL: PublishedVocabulary.conditional_material,
    }
    beside = released.vocabulary
    if path is not None:
        tokens = _read_dictionary(Path(path))
        if beside is not None and beside.sha256 != tokens.sha256:
            raise CheckpointError(
                f"{path} is not the dictionary that the .json next to the weights lists",
                "give the matching file, or none",
            )
    elif beside is not None:
        tokens = beside
    elif target in known:
        tokens = known[target]()
    else:
        raise UsageError(
            f"the weights are for the task {target!r}, whose dictionary gensci does not have",
            "give the dictionary file of these weights with --vocabulary",
        )
    if len(tokens) != size:
        raise CheckpointError(
            f"the vocabulary has {len(tokens)} tokens, the weights have {size}",
            "give the dictionary file of these weights with --vocabulary",
        )
    # Both have 355 tokens: the size alone lets one pass for the other.
    markers = MARKERS[0] in tokens.tokens
    if released.arguments.get("target") in known and markers != (target == CONDITIONAL):
        raise CheckpointError(
            f"the vocabulary is not that of the task {target!r} of these weights",
            f"give dict_{'cond_mat' if target == CONDITIONAL else 'mat'}.txt, or none",
        )
    return tokens


def unigenx_names(name: str) -> tuple[str, ...]:
    """The published names of one of our weights: several where it is a fused matrix."""
    for pattern, replacement in UNIGENX_NAMES:
        name = re.sub(pattern, replacement, name)
    for fused, parts in FUSED:
        if fused in name:
            return tuple(name.replace(fused, part) for part in parts)
    return (name,)


def match_unigenx(
    released: Released, vocabulary: PublishedVocabulary
) -> tuple[UniGenX, dict[str, Tensor]]:
    """The network that released weights belong to, and the weights under our names.

    Returns:
        A network without storage (on the meta device) and its state.

    Raises:
        CheckpointError: The weights are of another architecture.
    """
    size = infer_size(released)
    with torch.device("meta"):
        network = UniGenX(vocabulary.tokens, **asdict(size))
    expected: dict[str, tuple[int, ...]] = {}
    for name, value in network.state_dict().items():
        parts = unigenx_names(name)
        shape = (value.shape[0] // len(parts), *value.shape[1:])
        expected |= dict.fromkeys(parts, shape)
    published = released.state
    for key in sorted({*expected, *published}):
        found = tuple(published[key].shape) if key in published else "absent"
        if found != (wanted := expected.get(key, "absent")):
            raise CheckpointError(
                f"these are not weights of UniGenX: {key!r} is {found}, expected {wanted}", REMEDY
            )
    state = {
        name: torch.cat([published[key].float() for key in unigenx_names(name)])
        for name in network.state_dict()
    }
    return network, state


def infer_size(released: Released) -> UniGenXSize:
    """Size of the network from the shapes; what shapes cannot tell from the settings.

    Raises:
        CheckpointError: A key that fixes the size is absent, or the settings contradict it.
        UsageError: Nothing tells the number of attention heads.
    """
    state, arguments = released.state, released.arguments
    head = "diffloss.net."
    seen = {
        "hidden": _rows(state, "model.norm.weight"),
        "intermediate": _rows(state, "model.layers.0.mlp.gate_proj.weight"),
        "num_layers": _count(state, r"^model\.layers\.(\d+)\."),
        "head_width": _rows(state, head + "input_proj.weight"),
        "head_depth": _count(state, r"^diffloss\.net\.res_blocks\.(\d+)\."),
    }
    told = _told(arguments)
    for field, value in seen.items():
        if told.get(field, value) != value:
            raise CheckpointError(
                f"the weights have {field} {value}, their settings say {told[field]}",
                "these do not belong together; fetch the file again",
            )
    heads = next((size.num_heads for size in PRESETS.values() if size.hidden == seen["hidden"]), 0)
    if not (heads := told.get("num_heads", heads)):
        raise UsageError(
            f"nothing tells the attention heads of {seen['hidden']} channels, no published size",
            "put a .json with config: {num_attention_heads: ...} next to the weights",
        )
    learn_sigma = _rows(state, head + "final_layer.linear.weight") == 6
    return UniGenXSize(**{**told, **seen, "num_heads": heads, "learn_sigma": learn_sigma})


def _told(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the size that the settings of the weights tell."""
    told = {}
    for field, names in ARGUMENTS.items():
        value = next((arguments[name] for name in names if arguments.get(name) is not None), None)
        if value is None:
            continue
        try:
            told[field] = type(getattr(UniGenXSize(), field))(value)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"the settings of the weights say {field} {value!r}", "that should be a number"
            ) from error
    return told


def _rows(state: Mapping[str, Tensor], key: str) -> int:
    """Length of a published tensor."""
    if key not in state or state[key].dim() == 0:
        raise CheckpointError(f"these are not weights of UniGenX: {key!r} is absent", REMEDY)
    return len(state[key])


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest index that the pattern finds in the names."""
    matches = (re.match(pattern, key) for key in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _load(path: Path) -> dict[str, Any]:
    """Content of a file, read without running pickled code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        inert = [(Settings, name) for name in named if name.startswith("unigenx.")]
        with torch.serialization.safe_globals([argparse.Namespace, *inert]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        told = f"it pickles {named[1]}, which is not run" if named else "it is damaged"
        raise CheckpointError(
            f"{path} cannot be read as weights: {told}",
            "save it again with 'args' as a plain dict, or fetch it again",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as weights ({type(error).__name__})", "fetch the file again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no weights of UniGenX: no 'module'", REMEDY)
    return content


def _beside(weights: Path) -> dict[str, Any]:
    """`config` and `vocabulary` of a `.json` next to the weights, where there is one."""
    beside = weights.with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        described = json.loads(beside.read_text())
        config, tokens = dict(described["config"]), described.get("vocabulary")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{beside} holds no readable 'config'", "repair it or move it away"
        ) from error
    listed = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    return {"config": config} | ({"vocabulary": tokens} if listed else {})


def _read_dictionary(path: Path) -> PublishedVocabulary:
    """The vocabulary of a dictionary file."""
    try:
        entries = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the dictionary {str(path)!r} is not readable", "give a text file, one entry a line"
        ) from error
    return PublishedVocabulary.of_dictionary([entry for entry in entries if entry])
