"""What `run.json` says of a run whatever the command: versions, machine, seed, how it ended."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gensci import __version__
from gensci.core.errors import GensciError, RunFolderError
from gensci.io.run_folder import FORMAT, RunFolder, check_same

PACKAGES = (
    *("torch", "numpy", "openmm", "mdtraj", "safetensors"),
    *("rdkit", "pymatgen", "smact", "chgnet"),
)


def begin_record(
    path: Path,
    earlier: dict[str, Any] | None,
    command: str,
    settings: dict[str, Any],
    seed: int | None,
    argv: list[str],
    packages: tuple[str, ...] = PACKAGES,
) -> dict[str, Any]:
    """The content of `run.json` at the start; the seed of an earlier call is kept.

    Args:
        path: The run folder, for messages.
        earlier: The record of the call to be continued, or None.
        command: Name of the command.
        settings: All that decides the numbers.
        seed: None for one that varies, or that of the earlier call.
        argv: The command line.
        packages: Whose versions are noted.

    Raises:
        RunFolderError: The earlier call had other settings or another seed.
    """
    around = surroundings(packages)
    if earlier is not None:
        check_same(path, earlier["settings"], settings)
        if seed is not None and seed != earlier["seed"]:
            raise RunFolderError(
                f"--out {path} holds a run with seed {earlier['seed']}, not {seed}",
                "leave --seed out to continue it, or name a new folder with another --out",
            )
        return {**earlier, **around, "argv": argv, "outcome": "running"}
    return {
        "format": FORMAT,
        "command": command,
        "argv": argv,
        "settings": settings,
        "seed": secrets.randbits(32) if seed is None else seed,
        **around,
        "started": now(),
        "outcome": "running",
    }


def surroundings(packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    """Versions and machine, which may differ between the calls of one run."""
    versions = {"gensci": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {"platform": platform.platform(), "threads": torch.get_num_threads()}
    return {"versions": versions, "machine": machine}


def failure(error: BaseException) -> dict[str, str]:
    """What `run.json` says of an error; those that the user cannot act on with their traceback."""
    if isinstance(error, KeyboardInterrupt):
        return {"outcome": "interrupted", "error": str(error)}
    known = {} if isinstance(error, GensciError) else {"traceback": traceback.format_exc()}
    return {"outcome": "failed", "error": str(error), **known}


def forget_failure(folder: RunFolder) -> None:
    """Take the error of an earlier call out of the record."""
    for name in ("error", "traceback"):
        folder.record.pop(name, None)


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")
