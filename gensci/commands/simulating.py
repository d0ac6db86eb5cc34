"""The simulations of a corpus, one run folder each, with progress and a report of all."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import gensci
from gensci.commands.forecast import Forecast
from gensci.commands.simulable import build, energy_facts, notices
from gensci.core.errors import GensciError, RunFolderError, UsageError
from gensci.data.corpora import Entry
from gensci.data.exclusions import published_splits
from gensci.io.atomic import write_atomic
from gensci.io.progress import ProgressReport
from gensci.io.run_folder import FORMAT, RECORD, RunFolder, check_place, check_same, read_record
from gensci.io.simulation_report import JSON, TEXT, CorpusReport, settling
from gensci.metrics.settling import energy_drift
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.systems.simulation import Simulable, SimulationSettings, SimulationSummary
from gensci.systems.simulation_run import (
    Task,
    shards_are_whole,
    simulate_together,
    stored_snapshots,
)

_PARTIAL = 3
_UNITS = {"positions": "nm", "energy": "kJ/mol", "forces": "kJ/mol/nm", "length": "ps"}


@dataclass(frozen=True)
class Corpus:
    """What one call of `gensci simulate` is to do.

    Attributes:
        entries: The systems.
        out: Folder that gets one folder for each.
        settings: Of every simulation.
        seed: Of every simulation.
        system_settings: Of the force field, as text or values.
        asked: Options that chose the systems, for the record.
        keys: By name of the system, all settings that decide its numbers but the length.
    """

    entries: tuple[Entry, ...]
    out: Path
    settings: SimulationSettings
    seed: int
    system_settings: dict[str, Any]
    asked: dict[str, Any]
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keyed(self) -> Corpus:
        """The same with its keys; reads the files of molecules."""
        own = self.settings.key
        keys = {
            entry.name: {
                "system": entry.name,
                **own,
                **energy_facts(entry, self.settings.coldest, self.system_settings),
            }
            for entry in self.entries
        }
        return dataclasses.replace(self, keys=keys)


def run_corpus(corpus: Corpus, threads: int = 1, batch: int = 1) -> int:
    """Simulate all systems of a corpus, or what is missing of them.

    Args:
        corpus: What to do.
        threads: CPU threads.
        batch: Systems that are simulated side by side; on the CPU no bit depends on it.

    Returns:
        Exit status: 0, 3 where some of several systems failed, 1 where all did.

    Raises:
        UsageError: A setting cannot be used; nothing is written.
        RunFolderError: The folder holds something else, or a run of other settings.
        GensciError: The only system failed.
    """
    if threads < 1:
        raise UsageError(f"--threads is {threads}", "give at least 1")
    if batch < 1:
        raise UsageError(f"--batch is {batch}", "give at least 1")
    torch.set_num_threads(threads)
    refuse_foreign(corpus.out)
    if not corpus.entries:
        print("nothing to do: this --part holds none of the systems", flush=True)
        return 0
    corpus = corpus.keyed()
    held = {}
    for entry in corpus.entries:
        old = earlier_run(corpus, entry)
        held[entry.name] = 0 if old is None else int(old.get("snapshots", 0))
    forecast = Forecast.of(corpus.entries, held, corpus.settings)
    report = CorpusReport(corpus.out)
    with ProgressReport("simulate") as bar:
        for group in _groups(corpus.entries, batch):
            _run_group(corpus, group, _Watch(report, forecast, bar, len(corpus.entries)))
    found = settling(report.rows())
    if found is not None and not found.settled:
        print(
            f"gensci: warning: {found}: not in equilibrium yet; simulate anew with a longer "
            "--equilibration",
            file=sys.stderr,
            flush=True,
        )
    if (corpus.out / TEXT).exists():
        print(f"report in {corpus.out / TEXT}", flush=True)
    if not report.failures:
        return 0
    return 1 if len(report.failures) == len(corpus.entries) else _PARTIAL


def refuse_foreign(out: Path) -> None:
    """Refuse a folder with files in it unless it holds a run of `gensci simulate`; writes nothing.

    Raises:
        RunFolderError: It is such a folder, or no place where files can be made.
    """
    check_place(out)
    if not out.is_dir():
        return
    foreign = []
    for entry in sorted(out.iterdir()):
        if (entry / RECORD).is_file():
            read_record(entry, "simulate")
            return
        if entry.name.startswith(".") or entry.name in (TEXT, JSON):
            continue
        if entry.is_file() or any(entry.glob("[!.]*")):
            foreign.append(entry.name)
    if foreign:
        raise RunFolderError(
            f"--out {out} holds files that are no simulation of gensci (such as {foreign[0]!r})",
            "name a new folder with another --out",
        )


def earlier_run(corpus: Corpus, entry: Entry) -> dict[str, Any] | None:
    """The record of the run that is to be continued, or None.

    Raises:
        RunFolderError: The folder holds something else, a run of other settings, or one of an
            earlier version.
    """
    folder = corpus.out / entry.name
    old = read_record(folder, "simulate")
    if old is None:
        return None
    key = corpus.keys[entry.name]
    # earlier versions knew no rotations about bonds and no GPU
    before = {"pivots": 0, "device": "cpu", **old["settings"], "seed": old["seed"]}
    if "length" in old["settings"]:
        # had peptides only, and recorded no settings of their force field
        before = {**energy_facts(Entry(entry.name), corpus.settings.coldest, {}), **before}
        del before["length"]
    check_same(folder, before, {**key, "seed": corpus.seed})
    if not _can_continue(old) and not _is_there(folder, old, corpus.settings):
        raise RunFolderError(
            f"--out {folder} holds a simulation of an earlier version, which kept nothing to "
            "continue from; name a new folder with another --out"
        )
    return old


def _can_continue(old: dict[str, Any]) -> bool:
    """Whether a run kept its state; earlier versions did not, and held their length in the key."""
    return "length" not in old["settings"]


def _length(old: dict[str, Any]) -> float:
    return old["length"] if _can_continue(old) else old["settings"]["length"]


@dataclass(frozen=True)
class _Watch:
    """What is kept up to date while systems are simulated."""

    report: CorpusReport
    forecast: Forecast
    bar: ProgressReport
    total: int

    def leave(self, out: Path, number: int, name: str, line: str) -> None:
        """Report a system that needs nothing more."""
        self.forecast.leave(name)
        if out.is_dir():
            self.report.write()
        left = f", {self.forecast.text()}" if self.forecast.text() else ""
        print(f"{name}: {line} ({number} of {self.total}{left})", flush=True)


@dataclass(frozen=True)
class _Begun:
    """A system on its way: its task, and the record and clock of its folder."""

    task: Task
    run: RunFolder
    since: float


Group = tuple[tuple[int, Entry], ...]


def _groups(entries: tuple[Entry, ...], size: int) -> list[Group]:
    numbered = tuple(enumerate(entries, start=1))
    return [numbered[k : k + size] for k in range(0, len(numbered), size)]


def _run_group(corpus: Corpus, group: Group, watch: _Watch) -> None:
    """Simulate some systems side by side as far as is asked, and report each."""
    alone = watch.total == 1
    begun: dict[int, _Begun] = {}
    for number, entry in group:
        try:
            ready = _begin(corpus, entry, watch, f"{number} of {watch.total}")
        except RunFolderError:
            raise
        except GensciError as error:
            _fail(corpus, watch, number, entry, error, alone=alone)
            continue
        if isinstance(ready, _Begun):
            begun[number] = ready
        else:
            watch.leave(corpus.out, number, entry.name, ready)
    outcomes = simulate_together([b.task for b in begun.values()], seed=corpus.seed)
    entries = dict(group)
    for (number, ready), outcome in zip(begun.items(), outcomes, strict=True):
        if isinstance(outcome, GensciError):
            ready.run.save(outcome="failed", error=str(outcome))
            _fail(corpus, watch, number, entries[number], outcome, alone=alone)
        else:
            watch.leave(corpus.out, number, entries[number].name, _end(ready, outcome))


def _fail(
    corpus: Corpus, watch: _Watch, number: int, entry: Entry, error: GensciError, *, alone: bool
) -> None:
    watch.report.failures[entry.name] = str(error)
    if not alone:
        watch.leave(corpus.out, number, entry.name, f"failed: {error}")
        return
    if corpus.out.is_dir():
        watch.report.write()
    raise error


def _begin(corpus: Corpus, entry: Entry, watch: _Watch, place: str) -> _Begun | str:
    """Claim the folder of a system and build it; or a line, where nothing is left to do."""
    folder, settings = corpus.out / entry.name, corpus.settings
    old = earlier_run(corpus, entry)
    if old is not None and _is_there(folder, old, settings):
        return f"{old['frames']} frames of {_length(old):g} ps, complete before"
    if old is not None and old["outcome"] == "complete":
        # a finished run is never made shorter, even where it must be made again
        settings = dataclasses.replace(settings, length=max(settings.length, _length(old)))
    system = build(entry, settings.coldest, corpus.system_settings)
    for line in notices(system):
        print(f"gensci: warning: {line}", file=sys.stderr, flush=True)
    record = {**(old or {}), **_record(corpus, entry, settings, system)}
    if old is not None:
        # what is stored bears their hash; settings that a later version added are not among them
        record["settings"] = old["settings"]
    run = RunFolder(folder, record)
    run.claim()
    write_topology(folder / "topology.pdb", system)
    begun, before = time.monotonic(), run.record.get("seconds", 0.0)

    def note(summary: SimulationSummary) -> None:
        seconds = round(before + time.monotonic() - begun, 2)
        run.save(seconds=seconds, **dataclasses.asdict(summary))
        forecast = watch.forecast
        forecast.reach(entry, summary.snapshots)
        watch.bar(forecast.done_frames, forecast.all_frames, f"frames, {entry.name} is {place}, "
                  f"{forecast.text()}")  # fmt: skip

    return _Begun(Task(system, settings, run, note), run, begun)


def _end(begun: _Begun, summary: SimulationSummary) -> str:
    """Close the record of a system; a line on what came of it."""
    begun.task.progress(summary)
    length = summary.snapshots * begun.task.settings.frame_interval
    held = range(begun.task.settings.num_shards)
    shards = (shard for k in held if (shard := begun.run.load_shard(k)) is not None)
    drift = energy_drift(shards, GAS_CONSTANT * begun.task.settings.coldest)
    begun.run.save(outcome="complete", length=length, energy_drift=drift)
    verdict = ": ".join([summary.mixing["verdict"], ", ".join(summary.mixing["reasons"])])
    elapsed = time.monotonic() - begun.since
    return f"{summary.frames} frames in {elapsed:.1f} s; {verdict.rstrip(': ')}"


def _is_there(folder: Path, old: dict[str, Any], settings: SimulationSettings) -> bool:
    """Whether a run is complete, as long as is asked for, and has all its shards, undamaged."""
    if old["outcome"] != "complete" or _length(old) < settings.length - 0.5 * settings.time_step:
        return False
    run, whole = RunFolder(folder, old), dataclasses.replace(settings, length=_length(old))
    if not _can_continue(old):
        return all(run.load_shard(index) is not None for index in range(whole.num_shards))
    held = stored_snapshots(run)
    return held >= whole.snapshots and shards_are_whole(run, whole, held)


def _record(
    corpus: Corpus, entry: Entry, settings: SimulationSettings, system: Simulable
) -> dict[str, Any]:
    return {
        "command": "simulate",
        "format": FORMAT,
        "settings": corpus.keys[entry.name],
        "length": settings.length,
        "seed": corpus.seed,
        "asked": corpus.asked,
        "published_split": published_splits().get(entry.name),
        "outcome": "running",
        "error": None,
        "units": _UNITS,
        "temperature": system.temperature,
        "temperatures": settings.temperatures,
        "force_field": system.force_field_names,
        "versions": {"gensci": gensci.__version__, "torch": str(torch.__version__)},
    }


def write_topology(path: Path, system: Simulable) -> None:
    """Write the atoms and the reference geometry as PDB, atomically."""
    from openmm import app, unit

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as handle:
            app.PDBFile.writeFile(system.topology, system.positions * unit.nanometer, handle)

    write_atomic(path, write)
