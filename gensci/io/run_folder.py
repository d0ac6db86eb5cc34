"""The run folder `results/<NAME>/`: shards, state for resuming, and `run.json`."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gensci.core.errors import RunFolderError
from gensci.io.atomic import is_partial, remove_partial, write_json
from gensci.io.shards import Tensors, load_tensors, save_tensors

RECORD = "run.json"
FORMAT = 1


@dataclass
class RunFolder:
    """One run on disk; the `Store` that samplers save to and resume from.

    Attributes:
        path: The folder, made by `claim`.
        record: What `run.json` holds; `save` writes it.
        repaired: Shards that were damaged and are drawn again.
    """

    path: Path
    record: dict[str, Any]
    repaired: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Hash of everything that decides the numbers: command, settings and seed."""
        basis = {name: self.record[name] for name in ("command", "settings", "seed")}
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()

    def claim(self) -> None:
        """Make the folder and write `run.json`; the first thing of a run that touches the disk.

        Raises:
            RunFolderError: The folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.path / "shards", self.path / "state"):
                remove_partial(folder)
            self.save()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def save(self, **changes: Any) -> None:
        """Update the record and write `run.json`."""
        self.record.update(changes)
        write_json(self.path / RECORD, self.record)

    def load_shard(self, index: int) -> Tensors | None:
        """Shard `index`, or None where it is still to be drawn (absent or damaged)."""
        path = self._shard(index)
        tensors = load_tensors(path, self.key)
        if tensors is None and path.exists() and index not in self.repaired:
            self.repaired.append(index)
        return tensors

    def save_shard(self, index: int, tensors: Tensors) -> None:
        """Write shard `index`: either complete on disk after the call, or not there at all."""
        self._write(self._shard(index), tensors)

    def load_state(self, name: str) -> Tensors | None:
        """State saved in the middle of a shard, or None."""
        return load_tensors(self._state(name), self.key)

    def save_state(self, name: str, tensors: Tensors) -> None:
        """Replace the state `name`."""
        self._write(self._state(name), tensors)

    def drop_state(self, name: str) -> None:
        """Forget the state `name`, if there is one."""
        self._state(name).unlink(missing_ok=True)

    def clear_states(self) -> None:
        """Remove the state folder once the run needs it no more."""
        folder = self.path / "state"
        if folder.is_dir():
            for leftover in folder.iterdir():
                leftover.unlink()
            folder.rmdir()

    def _write(self, path: Path, tensors: Tensors) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            save_tensors(path, tensors, self.key)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _shard(self, index: int) -> Path:
        return self.path / "shards" / f"{index:06d}.safetensors"

    def _state(self, name: str) -> Path:
        return self.path / "state" / f"{name.replace('/', '-')}.safetensors"


def read_record(path: Path, command: str) -> dict[str, Any] | None:
    """The record of an earlier run of `command` in `path`, or None where the folder is free.

    Nothing is written. A folder is free when it is absent, empty, or holds only the temporary file
    of a run that was killed while it made the folder.

    Raises:
        RunFolderError: A file, a folder with other things in it, an unreadable `run.json`, the run
            of another command, or a place where nothing can be written.
    """
    check_place(path)
    if not path.is_dir():
        return None
    if not (path / RECORD).exists():
        foreign = [entry.name for entry in path.iterdir() if not is_partial(entry)]
        if foreign:
            raise RunFolderError(
                f"--out {path} holds files that are no run of gensci (such as "
                f"{sorted(foreign)[0]!r}); name a new folder with another --out"
            )
        return None
    return _parse_record(path, command)


def _parse_record(path: Path, command: str) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        found, version = record["command"], record["format"]
        complete = {"seed", "outcome"} <= record.keys() and isinstance(record["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        complete, found, version = False, "", FORMAT
    if not complete:
        raise RunFolderError(
            f"{path / RECORD} is not a record of gensci; name a new folder with another --out"
        )
    if found != command:
        raise RunFolderError(
            f"--out {path} holds a run of `gensci {found}`, not of `gensci {command}`; "
            "name a new folder with another --out"
        )
    if version != FORMAT:
        raise RunFolderError(
            f"{path / RECORD} has format {version}, this version writes {FORMAT}; "
            "name a new folder with another --out"
        )
    return record


def check_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Args:
        path: The run folder, for the message.
        old: Settings in `run.json`.
        new: Settings of this call.

    Raises:
        RunFolderError: Some setting differs; the message lists them.
    """
    old, new = _json_like(old), _json_like(new)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if names:
        changes = ", ".join(f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in names)
        raise RunFolderError(
            f"--out {path} holds a run with {changes}; repeat its settings to continue it, "
            "or name a new folder with another --out"
        )


def check_place(path: Path) -> None:
    """Check that files can be made in the folder `path`, which need not exist yet.

    Raises:
        RunFolderError: It is a file, lies below one, or cannot be written. Nothing is left behind.
    """
    place = path.absolute()
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if not place.is_dir():
        raise RunFolderError(
            f"--out {path}: {place} is not a folder", "name a folder with another --out"
        )
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _unwritable(place, error) from error


def _json_like(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a JSON file, so that tuples equal lists."""
    return json.loads(json.dumps(value, default=str))


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return RunFolderError(
        f"cannot write in {path} ({reason}); choose a folder you may write to with --out"
    )


def files_for_users(path: Path) -> list[str]:
    """Names of the files a user opens, in the order of the README."""
    known = ("run.json", "samples.npz", "topology.pdb", "samples.xtc")
    known += ("samples.extxyz", "cif", "samples.sdf")
    known += ("posterior.nc", "summary.csv", "corner.png", "diagnostics")
    return [name for name in known if (path / name).exists()]
