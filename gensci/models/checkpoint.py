"""Checkpoints: a folder with weights (safetensors) and a readable description (JSON).

`model.json` names the class in `MODELS` and its settings, the SHA-256 and the tensor shapes of
`model.safetensors`, the versions that wrote it, where the weights come from, and a SHA-256 of its
own class, settings and meta data. Nothing is pickled, and a file that was truncated or changed is
refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import gensci
from gensci.core.errors import CheckpointError
from gensci.core.registry import MODELS, did_you_mean, normalise_name
from gensci.nn import (  # noqa: F401  (register their networks)
    ecnf,
    internal,
    published_unigenx,
    structure_network,
    tarflow,
)

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
DIGEST = "description_sha256"
FORMAT = 1


def save_checkpoint(
    folder: str | Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
    beside: Collection[str] = (),
) -> Path:
    """Write a checkpoint; each file appears complete or not at all.

    Args:
        folder: Made where absent. One that holds other things than a checkpoint is refused.
        state: Weights by name.
        config: `class` (a name in `MODELS`) and `settings` (keyword arguments of that class).
        meta: Provenance and metrics, anything that JSON can hold.
        beside: Names of other things that the folder may hold.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is foreign or cannot be written.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    try:
        _claim(folder, beside)
        weights = folder / f".{WEIGHTS}.{os.getpid()}"
        weights.write_bytes(save(tensors))  # the library's own writer hides files from others
        description = {
            "format": FORMAT,
            "class": config["class"],
            "settings": dict(config["settings"]),
            "weights_sha256": sha256(weights),
            "shapes": {name: list(value.shape) for name, value in sorted(tensors.items())},
            "versions": {"gensci": gensci.__version__, "torch": str(torch.__version__)},
            "meta": dict(meta or {}),
        }
        description[DIGEST] = describing_digest(description)
        text = folder / f".{DESCRIPTION}.{os.getpid()}"
        text.write_text(json.dumps(description, indent=1) + "\n")
        # The weights go first: a crash in between leaves a pair whose hashes disagree, never a
        # pair that loads wrongly.
        for written, name in ((weights, WEIGHTS), (text, DESCRIPTION)):
            _sync(written)
            os.replace(written, folder / name)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {folder}: {error.strerror}", "choose another --out"
        ) from error
    return folder


def load_checkpoint(
    source: str | Path,
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Read and verify a checkpoint.

    Args:
        source: A folder, or the name of a shipped checkpoint.

    Returns:
        Weights by name; `class` and `settings`; and the meta data, with `weights_sha256`, `folder`
        and the `versions` that wrote it added.

    Raises:
        CheckpointError: Absent, truncated, tampered with, or of other shapes than described.
    """
    folder = find_checkpoint(source)
    description = _read_description(folder / DESCRIPTION)
    weights = folder / WEIGHTS
    remedy = "fetch or write the checkpoint again"
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing", remedy)
    if sha256(weights) != description["weights_sha256"]:
        raise CheckpointError(
            f"{weights} is not the file that {DESCRIPTION} describes (SHA-256 differs)", remedy
        )
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is not readable: {error}", remedy) from error
    _check_shapes(weights, state, description["shapes"])
    meta = {
        **description["meta"],
        "weights_sha256": description["weights_sha256"],
        "versions": description["versions"],
        "folder": str(folder),
    }
    return state, {key: description[key] for key in ("class", "settings")}, meta


def load_network(source: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a checkpoint, in evaluation mode, with its meta data.

    Raises:
        CheckpointError: As `load_checkpoint`, or the weights do not fit the class and settings.
    """
    state, config, meta = load_checkpoint(source)
    remedy = "this version of gensci cannot use it; see `versions` in its model.json"
    if config["class"] not in MODELS:
        raise CheckpointError(f"{source}: no model class {config['class']!r} here", remedy)
    try:
        network = MODELS.get(config["class"])(**config["settings"])
        refuse_other_weights(state, network.state_dict(), f"{source}: weights of another network")
        network.load_state_dict(state)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source}: weights and settings disagree: {line}", remedy) from error
    return network.eval(), meta


def refuse_other_weights(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    what: str,
    remedy: str = "the settings in its model.json must be those the weights were trained with",
) -> None:
    """Check names and shapes of weights against those that a network has.

    Raises:
        CheckpointError: They differ; the message is ``what`` and the first name, in alphabetical
            order, that does.
    """
    for name in sorted({*found, *wanted}):
        is_, should = (
            tuple(state[name].shape) if name in state else "absent" for state in (found, wanted)
        )
        if is_ != should:
            raise CheckpointError(f"{what}: {name!r} is {is_}, expected {should}", remedy)


def find_checkpoint(source: str | Path) -> Path:
    """The folder of a checkpoint given by path or by the name of a shipped one.

    Raises:
        CheckpointError: There is none; the message offers the nearest name.
    """
    known = list_checkpoints()
    name = checkpoint_name(source, known)
    if name in known:
        return known[name]
    folder = Path(source)
    if (folder / DESCRIPTION).is_file():
        return folder
    hint = did_you_mean(str(source), list(known))
    choices = ", ".join(known) or "none is shipped"
    raise CheckpointError(
        f"no checkpoint {str(source)!r}", f"{hint}give a folder with {DESCRIPTION}, or: {choices}"
    )


def checkpoint_name(source: str | Path, known: Mapping[str, Path] | None = None) -> str:
    """The name of a shipped checkpoint in its own spelling, or the text of a folder as it is.

    Names are compared as in a registry, without regard to case and with dashes like underscores;
    but the folder of that exact spelling, where there is one, goes before a name of another.

    Args:
        source: A name or a folder.
        known: The shipped checkpoints, where they are at hand.
    """
    names = list_checkpoints() if known is None else known
    text = str(source)
    if text in names or (Path(source) / DESCRIPTION).is_file():
        return text
    spelled = {normalise_name(name): name for name in names}
    return spelled.get(normalise_name(text), text)


def describing_digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of class, settings and meta data as `model.json` holds them, in hexadecimal."""
    parts = [description[key] for key in ("class", "settings", "meta")]
    # Through JSON and back, so that tuples and keys are what a reader of the file finds.
    text = json.dumps(json.loads(json.dumps(parts)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def list_checkpoints() -> dict[str, Path]:
    """Folders of the checkpoints that came with gensci, in the wheel or the checkout, by name."""
    spec = importlib.util.find_spec("gensci.checkpoints")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    roots.append(Path(gensci.__file__).parents[1] / "checkpoints")
    found: dict[str, Path] = {}
    for root in roots:
        for description in sorted(root.glob(f"*/{DESCRIPTION}")):
            found.setdefault(description.parent.name, description.parent)
    return found


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _claim(folder: Path, beside: Collection[str]) -> None:
    """Make the folder, or check that what it holds is a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = {"README.md", *beside}
    foreign = [f.name for f in folder.iterdir() if f.name not in fine and f.name[0] != "."]
    if foreign and DESCRIPTION not in foreign:
        raise CheckpointError(
            f"{folder} holds other files ({sorted(foreign)[0]})", "choose a new or empty --out"
        )


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_description(path: Path) -> dict[str, Any]:
    """The parsed and checked `model.json`."""
    remedy = "fetch or write the checkpoint again"
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON", remedy) from error
    kinds = {
        "class": str,
        "settings": dict,
        "weights_sha256": str,
        "shapes": dict,
        "versions": dict,
        "meta": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(description, dict) or not isinstance(description.get(key), kind):
            raise CheckpointError(f"{path} lacks a proper {key!r}", remedy)
    trained = description["meta"].get("trained_residues")
    if trained is not None and not _is_range(trained):
        raise CheckpointError(f"{path} lacks a proper 'trained_residues'", remedy)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {description.get('format')!r}, this gensci reads {FORMAT}",
            "install a matching version of gensci",
        )
    # Checkpoints of older versions have no digest.
    if description.get(DIGEST, (found := describing_digest(description))) != found:
        raise CheckpointError(
            f"{path}: class, settings or meta data were changed ({DIGEST} differs)", remedy
        )
    return description


def _is_range(value: Any) -> bool:
    """Whether this is a list of two whole numbers, fewest and most."""
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)


def _check_shapes(path: Path, state: dict[str, Tensor], shapes: dict[str, list[int]]) -> None:
    """Raise where the tensors differ from their description."""
    found = {name: list(value.shape) for name, value in state.items()}
    for name in sorted({*found, *shapes}):
        if found.get(name) != shapes.get(name):
            raise CheckpointError(
                f"{path}: {name!r} has shape {found.get(name)}, described as {shapes.get(name)}",
                "fetch or write the checkpoint again",
            )
