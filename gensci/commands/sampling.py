"""Samples of every system that a `--system` text names, and what the user is told about them."""

from __future__ import annotations

import contextlib
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gensci.commands.draw import Request, draw, draw_into
from gensci.core.errors import GensciError
from gensci.core.registry import SYSTEMS
from gensci.core.results import SampleSet
from gensci.io.batch import BATCH_RECORD, BatchRecord
from gensci.io.run_folder import files_for_users
from gensci.models.checkpoint import find_checkpoint
from gensci.systems.resolve import Resolved, SystemChoice, resolve, resolve_one

PARTIAL = 3


def sample_text(system: str, request: Request, out: str | None) -> int:
    """Sample what `system` names into `out`, or `results/NAME`; return the exit status.

    Raises:
        GensciError: See `gensci.commands.draw.draw_into`; for a file only before the first system.
    """
    resolved = resolve(system)
    for family in dict.fromkeys(choice.family for choice in resolved.choices):
        request.for_family(family).check()
    if resolved.source is None:
        choice = resolved.choices[0]
        _sample_one(Path(out) if out else Path("results", choice.folder), choice, request)
        return 0
    folder = Path(out) if out else Path("results", resolved.source.stem)
    return _sample_all(folder, resolved, request)


def sample_system(system: str, num_samples: int | None = None, **settings: Any) -> SampleSet:
    """Draw samples of one system in memory; the Python counterpart of `gensci sample`.

    Args:
        system: As for the command, but no file.
        num_samples: How many.
        **settings: `sampler`, `checkpoint`, `seed`, `device`, `allow_extrapolation`,
            `sampler_settings`, `system_settings`, `proposal_settings` as for the command.

    Raises:
        GensciError: Bad input, an unusable checkpoint, or no sample with any weight.
    """
    return draw(resolve_one(system.strip()), Request(num_samples=num_samples, **settings))


def _sample_one(path: Path, choice: SystemChoice, request: Request) -> SampleSet:
    samples = draw_into(path, choice, request, sys.argv[1:], print)
    for line in summary(samples, path):
        print(line)
    return samples


def summary(samples: SampleSet, path: Path) -> list[str]:
    """What to tell the user at the end: counts, the verdict on the weights, the files."""
    meta, verdict = samples.meta, samples.meta["verdict"]
    kept = f"kept {meta['kept']} of {meta['requested']} samples"
    reasons = ", ".join(f"{reason} ({count})" for reason, count in meta["rejected"].items())
    short = meta["requested"] - meta["kept"] - sum(meta["rejected"].values())
    if short > 0:  # decoders whose rows differ may find no more
        reasons = ", ".join(filter(None, (reasons, f"not found by the proposal ({short})")))
    numbers = f"effective sample size {verdict['ess']:.1f} ({verdict['ess_fraction']:.1%})"
    if meta["sampler"] == "direct":
        numbers = "equally weighted, not corrected by the target"
    if verdict.get("khat") is not None:
        numbers += f", k-hat {verdict['khat']:.2f}"
    if verdict.get("log_z") is not None:
        error = verdict["log_z_error"]  # None where it is not finite
        spread = "an unknown error" if error is None else f"{error:.3f}"
        numbers += f", log Z {verdict['log_z']:.3f} +- {spread}"
    return [
        f"  {kept}" + (f"; left out: {reasons}" if reasons else ""),
        f"  {numbers}",
        f"  verdict: {verdict['advice']}",
        f"  files in {path}: {' '.join(files_for_users(path))}",
    ]


def _sample_all(path: Path, resolved: Resolved, request: Request) -> int:
    """Sample every system of a file into a folder of its own; one that fails stops no other."""
    spellings = {choice.folder: choice.spelled for choice in resolved.choices}
    facts = {"source": str(resolved.source), "argv": sys.argv[1:], "request": asdict(request)}
    record = BatchRecord.begin(path, facts, spellings)
    families = dict.fromkeys(choice.family for choice in resolved.choices)
    for name in {request.for_family(f).checkpoint for f in families if _needs_checkpoint(f)}:
        find_checkpoint(str(name))
    for choice in resolved.choices:
        _sample_noted(record, choice, request)
    return _conclude(record)


def _needs_checkpoint(family: str) -> bool:
    return SYSTEMS.metadata(family)["proposal"] in ("checkpoint", "structures")


def _sample_noted(record: BatchRecord, choice: SystemChoice, request: Request) -> None:
    """Sample one system of several and note in the record how it ended."""
    try:
        samples = _sample_one(record.path / choice.folder, choice, request)
    except GensciError as error:
        print(f"gensci: error: {choice.spelled}: {error}", file=sys.stderr)
        record.note(choice.folder, outcome="failed", error=" ".join(str(error).split()))
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
            _note_fault(record, choice, error)
            return
        outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.note(choice.folder, outcome=outcome, error=" ".join(str(error).split()))
        raise
    else:
        verdict = samples.meta["verdict"]
        numbers = {name: verdict.get(name) for name in ("ess", "ess_fraction", "khat", "advice")}
        record.note(choice.folder, outcome="complete", kept=samples.meta["kept"], **numbers)


def _note_fault(record: BatchRecord, choice: SystemChoice, error: Exception) -> None:
    """Note an error that nobody foresaw, with its traceback, so that the other systems go on."""
    line = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    kept = record.path / BATCH_RECORD
    print(f"gensci: error: {choice.spelled}: {line}; traceback in {kept}", file=sys.stderr)
    with contextlib.suppress(OSError):  # the system may have failed before its folder was made
        record.path.mkdir(parents=True, exist_ok=True)
    told = "".join(traceback.format_exception(error))
    record.note(choice.folder, outcome="failed", error=line, traceback=told)


def _conclude(record: BatchRecord) -> int:
    """Print the last lines of a call with several systems and return its exit status."""
    count, failed = len(record.systems), record.failed
    print(f"{count - len(failed)} of {count} systems complete in {record.path}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    if (record.path / BATCH_RECORD).exists():
        print(f"summary: {record.path / BATCH_RECORD}")
    if not failed:
        return 0
    return 1 if len(failed) == count else PARTIAL
