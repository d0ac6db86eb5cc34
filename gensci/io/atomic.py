"""Files that are either complete or absent: temporary name, fsync, rename."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    A kill at any instant leaves the old file, the new file, or a file ending in `.partial`, which
    the next run removes. The temporary name keeps the suffix last, since some writers go by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{PARTIAL}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; NaN and infinities become null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: _write_text(temporary, text))


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system lets folders be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what a killed run left half-written in `folder`."""
    for leftover in folder.glob(f".*{PARTIAL}*"):
        leftover.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether this is a temporary file of `write_atomic`."""
    return path.name.startswith(".") and PARTIAL in path.name


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """The value in types of JSON: tuples and paths too, non-finite numbers as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
