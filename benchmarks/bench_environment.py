"""What every benchmark records beside its numbers: hardware, commit, versions."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str:
    """Commit of the working tree, marked where it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def environment(threads: int, *packages: str) -> dict[str, Any]:
    """Hardware, threads, commit and versions of torch and of the packages named."""
    from importlib.metadata import version

    return {
        "hardware": processor(),
        "threads": threads,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", *packages)},
    }


def write_results(name: str, record: dict[str, Any]) -> Path:
    """Write results/<name>.json and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")
    return path
