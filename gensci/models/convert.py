"""Released weights of other packages, turned into checkpoints of this one.

Prose: Tan et al. 2025, arXiv:2508.18175. Its weights come as a `.pth` whose names carry the prefix
`net.`; a safetensors file with names `state.*` is read as well.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gensci.core.errors import CheckpointError, UsageError
from gensci.models.checkpoint import refuse_other_weights, save_checkpoint, sha256
from gensci.nn.peptide_encoding import ORDERS
from gensci.nn.tarflow import TarFlowPeptide

PUBLISHED_HEAD_DIM = 64

# Our names on the left, the published ones on the right; applied to whole dotted parts.
PROSE_NAMES = (
    (r"^embedding\.atom\.", "cond_embed.atom_embed."),
    (r"^embedding\.residue\.", "cond_embed.residue_embed."),
    (r"^embedding\.mlp\.", "cond_embed.mlp."),
    (r"\.layers\.", ".attn_blocks."),
    (r"\.enter\.", ".proj_in."),
    (r"\.leave\.", ".proj_out."),
    (r"\.condition\.", ".proj_cond."),
    (r"\.position_scale$", ".pos_embed_scale"),
    (r"\.transition\.value_gate\.", ".transition.transition.swish_linear.0."),
    (r"\.transition\.out\.", ".transition.transition.linear_out."),
    (r"\.attention_branch\.", ".mha."),
    (r"\.transition_branch\.", ".transition."),
    (r"\.(mha|transition)\.norm\.", r".\1.adaln.norm_cond."),
    (r"\.(mha|transition)\.scale\.", r".\1.adaln.to_gamma.0."),
    (r"\.(mha|transition)\.shift\.", r".\1.adaln.to_beta."),
    (r"\.(mha|transition)\.gate\.", r".\1.scale_output.to_adaln_zero_gamma.0."),
    (r"\.attention\.q_norm\.", ".mha.mha.attention.q_layer_norm."),
    (r"\.attention\.k_norm\.", ".mha.mha.attention.k_layer_norm."),
    (r"(?<!mha)\.attention\.out\.", ".mha.mha.attention.proj."),
    (r"(?<!mha)\.attention\.(norm|qkv)\.", r".mha.mha.attention.\1."),
    (r"(\.attn_blocks\.\d+)\.mlp\.0\.", r"\1.mha.mha.mlp.norm."),
    (r"(\.attn_blocks\.\d+)\.mlp\.1\.", r"\1.mha.mha.mlp.main.0."),
    (r"(\.attn_blocks\.\d+)\.mlp\.3\.", r"\1.mha.mha.mlp.main.2."),
)


@dataclass(frozen=True)
class ProseSettings:
    """What the weights of Prose cannot tell.

    Attributes:
        head_dim: Width of one attention head.
        permutations: Atom orders of the blocks, from `ORDERS`.
        sigma_data: Length scale of the data, nm.
    """

    head_dim: int = PUBLISHED_HEAD_DIM
    permutations: tuple[str, ...] = ORDERS
    sigma_data: float = 0.35


def convert_prose(
    weights: str | Path,
    out: str | Path,
    head_dim: int | None = None,
    sigma_data: float = 0.35,
) -> Path:
    """Write released Prose weights as a checkpoint.

    Args:
        weights: A `.pth` (read without running pickled code) or `.safetensors` file. A `.json` of
            the same name with a `config` may state `head_dim` and `permutation_keys`.
        out: Folder of the checkpoint.
        head_dim: Width of one attention head; by default from the `.json`, or 64 as published.
        sigma_data: Length scale of the data that the network was trained on, nm.

    Returns:
        The folder.

    Raises:
        UsageError: No such file, or a head width that does not fit.
        CheckpointError: The file is unreadable or holds another architecture; the message names the
            first differing key.
    """
    weights = Path(weights)
    published = read_prose_state(weights)
    settings = _beside(weights, head_dim, sigma_data)
    network, state = match_prose(published, settings)
    config = {"class": "tarflow-peptide", "settings": network.settings}
    source = {
        "converted_from": "prose",
        "file": weights.name,
        "file_sha256": sha256(weights),
        "reference": "arXiv:2508.18175",
        "num_parameters": sum(value.numel() for value in state.values()),
    }
    return save_checkpoint(out, state, config, source)


def prose_name(name: str) -> str:
    """The published name of one of our weights."""
    for pattern, replacement in PROSE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def read_prose_state(path: Path) -> dict[str, Tensor]:
    """Weights of a Prose file under their published names, without prefix and without masks.

    Raises:
        UsageError: No such file, or of another kind.
        CheckpointError: The file is damaged or holds something else than weights.
    """
    if not path.is_file():
        raise UsageError(f"no weights file {str(path)!r}", "give a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif path.suffix in (".pth", ".pt", ".ckpt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise UsageError(f"{path.name} is no weights file", "give a .pth or .safetensors file")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as weights ({type(error).__name__})", "fetch the file again"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in ("state.", "net."):
        chosen = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        state = chosen or state
    return {key: value for key, value in state.items() if not key.endswith(".attn_mask")}


def match_prose(
    published: Mapping[str, Tensor], settings: ProseSettings | None = None
) -> tuple[TarFlowPeptide, dict[str, Tensor]]:
    """The network that published weights belong to, and the weights under our names.

    Args:
        published: Result of `read_prose_state`.
        settings: What shapes cannot tell; as published by default.

    Returns:
        A network without storage (on the meta device) and its state.

    Raises:
        CheckpointError: The weights are of another architecture.
    """
    config = infer_config(published, settings or ProseSettings())
    with torch.device("meta"):
        network = TarFlowPeptide(**config)
    names = {prose_name(name): name for name in network.state_dict()}
    wanted = {prose_name(name): value for name, value in network.state_dict().items()}
    refuse_other_weights(
        published,
        wanted,
        "these are not weights of Prose",
        "only the published architecture is converted",
    )
    return network, {names[key]: value.contiguous() for key, value in published.items()}


def infer_config(published: Mapping[str, Tensor], settings: ProseSettings) -> dict[str, Any]:
    """Settings of `TarFlowPeptide` from the shapes of published weights.

    Raises:
        CheckpointError: A key that fixes the size is absent.
        UsageError: The head width does not divide the channels.
    """
    hidden = "blocks.0.attn_blocks.0.mha.mha.mlp.main.0.weight"
    for key in ("blocks.0.proj_in.weight", hidden):
        if key not in published or published[key].dim() != 2:
            raise CheckpointError(
                f"these are not weights of Prose: {key!r} is absent or no matrix",
                "only the published architecture is converted",
            )
    channels = published["blocks.0.proj_in.weight"].shape[0]
    if settings.head_dim < 1 or channels % settings.head_dim:
        raise UsageError(
            f"head_dim {settings.head_dim} does not divide the {channels} channels",
            "give the --head-dim that the network was trained with",
        )
    return {
        "channels": channels,
        "num_blocks": _count(published, r"^blocks\.(\d+)\."),
        "layers_per_block": _count(published, r"^blocks\.0\.attn_blocks\.(\d+)\."),
        "head_dim": settings.head_dim,
        "expansion": published[hidden].shape[0] // channels,
        "permutations": list(settings.permutations),
        "transition": any(".transition." in key for key in published),
        "sigma_data": settings.sigma_data,
    }


def _count(published: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest index that the pattern finds in the names."""
    matches = (re.match(pattern, key) for key in published)
    return 1 + max(int(match[1]) for match in matches if match)


def _beside(weights: Path, head_dim: int | None, sigma_data: float) -> ProseSettings:
    """Settings from a `.json` next to the weights, where there is one."""
    described: dict[str, Any] = {}
    beside = weights.with_suffix(".json")
    if beside.is_file():
        try:
            described = json.loads(beside.read_text())["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{beside} holds no readable 'config'", "repair it or move it away"
            ) from error
    orders = tuple(_order(key) for key in described.get("permutation_keys", ())) or ORDERS
    width = head_dim or described.get("head_dim", PUBLISHED_HEAD_DIM)
    return ProseSettings(width, orders, sigma_data)


def _order(key: str) -> str:
    """Our name of a published permutation."""
    name = key.removeprefix("n2c_").replace("_standard", "")
    if name not in ORDERS:
        raise CheckpointError(
            f"these are not weights of Prose: permutation {key!r} is not used by it",
            "only the published architecture is converted",
        )
    return name
