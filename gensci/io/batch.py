"""`batch.json`: how every system of a file fared, one folder above their run folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensci.core.errors import RunFolderError
from gensci.io.atomic import write_json
from gensci.io.run_folder import RECORD, check_place

BATCH_RECORD = "batch.json"
BATCH_FORMAT = 1


@dataclass(frozen=True)
class BatchRecord:
    """The summary of a call with several systems, written anew after each of them.

    Attributes:
        path: The folder that holds a run folder for every system.
        facts: What holds for the whole call: source, argv, settings.
        systems: Per system, by the name of its folder: `system` (the spelling), `folder`,
            `outcome` (waiting, complete, failed or interrupted), `ess` and the like where
            complete, `error` where not, with `traceback` where nobody foresaw it.
    """

    path: Path
    facts: dict[str, Any]
    systems: dict[str, dict[str, Any]]

    @classmethod
    def begin(cls, path: Path, facts: dict[str, Any], spellings: dict[str, str]) -> BatchRecord:
        """A record of systems that all wait; nothing is written yet.

        Args:
            path: The folder of the call.
            facts: What to record about the call.
            spellings: Every system by the name of its folder.

        Raises:
            RunFolderError: The folder is itself a run, holds a foreign `batch.json`, or cannot be
                written.
        """
        check_place(path)
        another = "name a new folder with another --out"
        if (path / RECORD).exists():
            raise RunFolderError(f"--out {path} holds the run of a single system", another)
        if (path / BATCH_RECORD).exists() and not _is_batch(path / BATCH_RECORD):
            raise RunFolderError(f"{path / BATCH_RECORD} is not a record of gensci", another)
        systems = {
            folder: {"system": system, "folder": str(path / folder), "outcome": "waiting"}
            for folder, system in spellings.items()
        }
        return cls(path, facts, systems)

    @property
    def failed(self) -> list[str]:
        """Spellings of the systems that failed."""
        return [e["system"] for e in self.systems.values() if e["outcome"] == "failed"]

    @property
    def outcome(self) -> str:
        """`complete`, `partial`, `failed`, `interrupted`, or `running` while some wait."""
        found = {entry["outcome"] for entry in self.systems.values()}
        if "interrupted" in found:
            return "interrupted"
        if "waiting" in found:
            return "running"
        return found.pop() if len(found) == 1 else "partial"

    def note(self, folder: str, **facts: Any) -> None:
        """Record facts about the system of a folder, and write the file.

        As long as no run has made the folder of the call, nothing is written.

        Raises:
            RunFolderError: The disk refuses.
        """
        self.systems[folder].update(facts)
        if not self.path.is_dir():
            return
        record = {
            "format": BATCH_FORMAT,
            "command": "sample",
            **self.facts,
            "outcome": self.outcome,
            "systems": self.systems,
        }
        try:
            write_json(self.path / BATCH_RECORD, record)
        except OSError as error:
            raise RunFolderError(
                f"cannot write {self.path / BATCH_RECORD} ({error.strerror or error})",
                "make room and run the same command again",
            ) from error


def _is_batch(path: Path) -> bool:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"format", "command", "systems"} <= record.keys()
