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
from gensci.io.simulation_report import JSON, TEXT, CorpusReport
from gensci.systems.simulation import Simulable, SimulationSettings, SimulationSummary
from gensci.systems.simulation_run import shards_are_whole, simulate_system, stored_snapshots

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


def run_corpus(corpus: Corpus, threads: int = 1) -> int:
    """Simulate all systems of a corpus, or what is missing of them.

    Returns:
        Exit status: 0, 3 where some of several systems failed, 1 where all did.

    Raises:
        UsageError: A setting cannot be used; nothing is written.
        RunFolderError: The folder holds something else, or a run of other settings.
        GensciError: The only system failed.
    """
    if threads < 1:
        raise UsageError(f"--threads is {threads}", "give at least 1")
    torch.set_num_threads(threads)
    refuse_foreign(corpus.out)
    corpus = corpus.keyed()
    held = {}
    for entry in corpus.entries:
        old = earlier_run(corpus, entry)
        held[entry.name] = 0 if old is None else int(old.get("snapshots", 0))
    forecast = Forecast.of(corpus.entries, held, corpus.settings)
    report = CorpusReport(corpus.out)
    with ProgressReport("simulate") as bar:
        for number, entry in enumerate(corpus.entries, start=1):
            place = f"{number} of {len(corpus.entries)}"
            try:
                line = _run_one(corpus, entry, forecast, bar, place)
            except RunFolderError:
                raise
            except GensciError as error:
                line = f"failed: {error}"
                report.failures[entry.name] = str(error)
                if len(corpus.entries) == 1:
                    raise
            finally:
                forecast.leave(entry.name)
                if corpus.out.is_dir():
                    report.write()
            left = f", {forecast.text()}" if forecast.text() else ""
            print(f"{entry.name}: {line} ({place}{left})", flush=True)
    if (corpus.out / TEXT).exists():
        print(f"report in {corpus.out / TEXT}", flush=True)
    if len(report.failures) == len(corpus.entries):
        return 1
    return _PARTIAL if report.failures else 0


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
    before = {**old["settings"], "seed": old["seed"]}
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


def _run_one(
    corpus: Corpus, entry: Entry, forecast: Forecast, bar: ProgressReport, place: str
) -> str:
    """Simulate one system as far as is asked; a line on what came of it."""
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
    run = RunFolder(folder, {**(old or {}), **_record(corpus, entry, settings, system)})
    run.claim()
    write_topology(folder / "topology.pdb", system)
    begun, before = time.monotonic(), run.record.get("seconds", 0.0)

    def note(summary: SimulationSummary) -> None:
        seconds = round(before + time.monotonic() - begun, 2)
        run.save(seconds=seconds, **dataclasses.asdict(summary))
        forecast.reach(entry, summary.snapshots)
        bar(forecast.done_frames, forecast.all_frames, f"frames, {entry.name} is {place}, "
            f"{forecast.text()}")  # fmt: skip

    try:
        summary = simulate_system(system, settings, seed=corpus.seed, store=run, progress=note)
    except GensciError as error:
        run.save(outcome="failed", error=str(error))
        raise
    note(summary)
    run.save(outcome="complete", length=summary.snapshots * settings.frame_interval)
    verdict = ": ".join([summary.mixing["verdict"], ", ".join(summary.mixing["reasons"])])
    elapsed = time.monotonic() - begun
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
