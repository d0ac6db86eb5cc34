"""`gensci simulate`: molecular dynamics of peptides, to train on or to compare with."""

from __future__ import annotations

import dataclasses
import re
import time
from itertools import product
from pathlib import Path
from typing import Any

from gensci.core.errors import GensciError, RunFolderError, UsageError
from gensci.core.protocols import Progress
from gensci.core.registry import normalise_name
from gensci.data.exclusions import canonical_name, read_excluded
from gensci.sims.peptide.parse import LETTERS

_UNITS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6}
_DURATION = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(fs|ps|ns|us)?\s*")
_PARTIAL = 3


def simulate(
    system: str,
    out: Path,
    length: str = "100ps",
    frame_interval: str = "0.5ps",
    time_step: str = "1fs",
    masses: str = "physical",
    friction: float = 1.0,
    ladders: int = 16,
    temperatures: int = 6,
    coldest: float = 310.0,
    hottest: float = 800.0,
    equilibration: str = "2ps",
    exclude: str | None = None,
    part: str = "1/1",
    seed: int = 0,
    threads: int = 1,
) -> int:
    """Simulate peptides by Langevin dynamics with temperature replica exchange.

    Starts are random backbone and side-chain torsions; frames are those of the coldest temperature.
    OUT/NAME/ gets run.json, topology.pdb and shards of positions (nm) and energies (kJ/mol). The
    same command again continues, to the same bits. Exit status 3: some of several peptides failed.

    Args:
        system: AA, or AA,Ace-A-Nme, `dipeptides` (all 400), `dipeptides-train` (not the excluded).
        out: Folder that gets one folder for each peptide.
        length: Simulated time of every replica, such as 50ps or 10ns.
        frame_interval: Time between frames.
        time_step: 1fs suits physical masses, 2fs hmr, 3fs uniform.
        masses: physical, hmr (hydrogens of 3 Da) or uniform (12 Da); averages do not depend on it.
        friction: Of the Langevin dynamics, 1/ps.
        ladders: Independent replica-exchange ladders in one batch.
        temperatures: Replicas of each ladder.
        coldest: Temperature of the frames, K.
        hottest: Temperature at the other end of the ladder, K.
        equilibration: Time before the first frame, once hot and once in the ladder.
        exclude: JSON file with lists of sequences, or sequences with commas, that are left out.
        part: "2/3" does every third peptide beginning with the second, for several processes.
        seed: Of the starts, the noise and the exchanges.
        threads: CPU threads.
    """
    from gensci.systems.peptide_dynamics import SimulationSettings

    settings = SimulationSettings(
        length=duration("length", length),
        frame_interval=duration("frame-interval", frame_interval),
        time_step=duration("time-step", time_step),
        friction=friction,
        masses=masses,
        ladders=ladders,
        num_temperatures=temperatures,
        coldest=coldest,
        hottest=hottest,
        equilibration=duration("equilibration", equilibration),
    )
    names = select_part(select_peptides(system, exclude), part)
    return _run_all(names, Path(out), settings, seed, threads)


def duration(option: str, text: str) -> float:
    """Picoseconds of a text such as `10ns`; a number alone is in ps.

    Raises:
        UsageError: not a duration.
    """
    match = _DURATION.fullmatch(str(text))
    try:
        if match is not None:
            return float(match[1]) * _UNITS[match[2] or "ps"]
    except ValueError:
        pass
    raise UsageError(f"--{option} {text!r} is no duration", "write for example 50ps, 10ns or 2fs")


def select_peptides(system: str, exclude: str | None) -> list[str]:
    """Canonical names of the peptides that were asked for, without the excluded ones.

    Raises:
        SystemTextError: a text does not spell a peptide.
        UsageError: nothing is left, or `dipeptides-train` without exclusions.
    """
    banned = read_excluded(exclude)
    key = normalise_name(system)
    if key in ("dipeptides", "dipeptides-train"):
        if key == "dipeptides-train" and not banned:
            raise UsageError(
                "--system dipeptides-train needs the sequences to leave out",
                "give --exclude FILE.json, or use --system dipeptides",
            )
        names = ["".join(pair) for pair in product(LETTERS, repeat=2)]
    else:
        names = list(dict.fromkeys(canonical_name(text) for text in system.split(",")))
    kept = [name for name in names if name not in banned]
    if not kept:
        raise UsageError(f"--exclude leaves nothing of --system {system}", "exclude fewer")
    return kept


def select_part(names: list[str], part: str) -> list[str]:
    """Every n-th name, beginning with the k-th, for a text `k/n`."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", part.strip())
    first, step = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= step:
        raise UsageError(f"--part {part!r} is not k/n with 1 <= k <= n", "write for example 1/2")
    return names[first - 1 :: step]


def _run_all(names: list[str], out: Path, settings: Any, seed: int, threads: int) -> int:
    import torch

    from gensci.io.progress import ProgressReport

    if threads < 1:
        raise UsageError(f"--threads is {threads}", "give at least 1")
    torch.set_num_threads(threads)
    refuse_foreign(out)
    for name in names:
        earlier_run(name, out / name, settings, seed)
    failures: dict[str, str] = {}
    with ProgressReport("simulate") as report:
        for done, name in enumerate(names):
            try:
                inner = report if len(names) == 1 else None
                line = _run_one(name, out / name, settings, seed, inner)
                print(f"{name}: {line} ({done + 1} of {len(names)})", flush=True)
            except RunFolderError:
                raise
            except GensciError as error:
                if len(names) == 1:
                    raise
                failures[name] = str(error)
                print(f"{name}: failed: {error}", flush=True)
            if len(names) > 1:
                report(done + 1, len(names), name)
    return _PARTIAL if failures else 0


def refuse_foreign(out: Path) -> None:
    """Refuse a folder with files in it unless it holds a run of `gensci simulate`; writes nothing.

    Raises:
        RunFolderError: It is such a folder, or no place where files can be made.
    """
    from gensci.io.run_folder import RECORD, check_place, read_record

    check_place(out)
    if not out.is_dir():
        return
    foreign = []
    for entry in sorted(out.iterdir()):
        if (entry / RECORD).is_file():
            read_record(entry, "simulate")
            return
        if not entry.name.startswith(".") and (entry.is_file() or any(entry.glob("[!.]*"))):
            foreign.append(entry.name)
    if foreign:
        raise RunFolderError(
            f"--out {out} holds files that are no simulation of gensci (such as {foreign[0]!r})",
            "name a new folder with another --out",
        )


def earlier_run(name: str, folder: Path, settings: Any, seed: int) -> dict[str, Any] | None:
    """The record of the run that is to be continued, or None.

    Raises:
        RunFolderError: The folder holds something else, or a run of other settings.
    """
    from gensci.io.run_folder import check_same, read_record

    old = read_record(folder, "simulate")
    if old is not None:
        before = {**old["settings"], "seed": old["seed"]}
        check_same(folder, before, {**_settings(name, settings), "seed": seed})
    return old


def _settings(name: str, settings: Any) -> dict[str, Any]:
    return {"system": name, **dataclasses.asdict(settings)}


def _run_one(name: str, folder: Path, settings: Any, seed: int, progress: Progress | None) -> str:
    from gensci.io.run_folder import RunFolder
    from gensci.systems.peptide import PeptideSystem
    from gensci.systems.peptide_dynamics import simulate_peptide

    old = earlier_run(name, folder, settings, seed)
    if old is not None and _is_complete(RunFolder(folder, old), settings.num_shards):
        return f"{old['frames']} frames, complete before"
    system = PeptideSystem.from_text(name, temperature=settings.coldest)
    run = RunFolder(folder, _record(_settings(name, settings), seed, system))
    run.claim()
    _write_topology(folder / "topology.pdb", system)
    begin = time.monotonic()
    summary = simulate_peptide(system, settings, seed=seed, store=run, progress=progress)
    elapsed = time.monotonic() - begin
    run.save(outcome="complete", seconds=round(elapsed, 2), **dataclasses.asdict(summary))
    run.clear_states()
    return f"{summary.frames} frames in {elapsed:.1f} s, {summary.round_trips} round trips"


def _is_complete(run: Any, num_shards: int) -> bool:
    """Whether a finished run still has all its shards, undamaged."""
    if run.record["outcome"] != "complete":
        return False
    return all(run.load_shard(index) is not None for index in range(num_shards))


def _record(settings: dict[str, Any], seed: int, system: Any) -> dict[str, Any]:
    import torch

    import gensci
    from gensci.io.run_folder import FORMAT

    return {
        "command": "simulate",
        "format": FORMAT,
        "settings": settings,
        "seed": seed,
        "outcome": "running",
        "units": {"positions": "nm", "energy": "kJ/mol"},
        "temperature": system.temperature,
        "force_field": list(system.peptide.force_field),
        "versions": {"gensci": gensci.__version__, "torch": str(torch.__version__)},
    }


def _write_topology(path: Path, system: Any) -> None:
    from openmm import app, unit

    from gensci.io.atomic import write_atomic

    def write(temporary: Path) -> None:
        positions = system.peptide.positions * unit.nanometer
        with temporary.open("w", encoding="utf-8") as handle:
            app.PDBFile.writeFile(system.topology, positions, handle)

    write_atomic(path, write)
