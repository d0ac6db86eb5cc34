"""`gensci simulate`: molecular dynamics, to train on or to compare with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from gensci.core.errors import UsageError

_UNITS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6}
_DURATION = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(fs|ps|ns|us)?\s*")
_GPU_BATCH = 16
T = TypeVar("T")


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
    equilibration: str = "20ps",
    pivots: int = 8,
    corpus_seed: int = 0,
    exclude: str | None = None,
    include_published: bool = False,
    part: str = "1/1",
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    batch: int | None = None,
    system_settings: dict[str, Any] | None = None,
) -> int:
    """Simulate by Langevin dynamics with temperature replica exchange; makes training corpora.

    Starts are random backbone and side-chain torsions; frames are those of the coldest temperature.
    OUT/NAME/ gets run.json, topology.pdb and shards of positions (nm), energies (kJ/mol) and forces
    (kJ/mol/nm); OUT/ gets report.txt, which says how well each has mixed. The same command again
    continues, with a larger length it appends, and with more systems it adds them, to the same
    bits. Exit status 3: some of several systems failed.

    Args:
        system: dipeptides, tripeptides:200, octapeptides:50 (corpora), AA, Ace-A-Nme, a file of
            peptides, an OpenMM XML or Amber prmtop, or several of these with commas.
        out: Folder that gets one folder for each system.
        length: Simulated time of every replica, such as 50ps or 10ns.
        frame_interval: Time between frames.
        time_step: 1fs suits physical masses, 2fs hmr, 3fs uniform.
        masses: physical, hmr (hydrogens of 3 Da) or uniform (12 Da); averages do not depend on it.
        friction: Of the Langevin dynamics, 1/ps.
        ladders: Independent replica-exchange ladders in one batch.
        temperatures: Replicas of each ladder.
        coldest: Temperature of the frames, K.
        hottest: Temperature at the other end of the ladder, K.
        equilibration: Time before the first frame, once hot and once in the ladder. Energies of
            tetrapeptides take about 20 ps to fall.
        pivots: Monte Carlo rotations about bonds that each replica tries every hundred steps; they
            cross the barriers of the backbone. 0 for dynamics alone.
        corpus_seed: Of samples such as tripeptides:200; a larger sample holds the smaller one.
        exclude: More sequences to leave out: JSON file with lists of them, or texts with commas.
        include_published: Corpora hold the published validation and test sequences too: no
            training data.
        part: "2/3" does every third system beginning with the second, for several processes.
        seed: Of the starts, the noise and the exchanges.
        device: cpu or cuda.
        threads: CPU threads.
        batch: Systems that are simulated side by side, so that no thread or GPU idles; by default
            as many as threads, 16 on a GPU. On the CPU the bits are those of one after the other.
        system_settings: Settings of the force field; easier as --system.implicit_solvent obc2.
    """
    from gensci.commands.device import choose_device
    from gensci.commands.simulating import Corpus, run_corpus
    from gensci.data.corpora import select_entries
    from gensci.systems.simulation import SimulationSettings

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
        pivots=pivots,
        device=choose_device(device).type,
    )
    asked = {"exclude": exclude, "corpus_seed": corpus_seed, "include_published": include_published}
    entries = select_entries(system, **asked)
    corpus = Corpus(
        entries=tuple(select_part(entries, part)),
        out=Path(out),
        settings=settings,
        seed=seed,
        system_settings=system_settings or {},
        asked={"system": system, **asked, "part": part},
    )
    usual = _GPU_BATCH if settings.device == "cuda" else threads
    return run_corpus(corpus, threads, usual if batch is None else batch)


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


def select_part(entries: list[T], part: str) -> list[T]:
    """Every n-th entry, beginning with the k-th, for a text `k/n`."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", part.strip())
    first, step = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= step:
        raise UsageError(f"--part {part!r} is not k/n with 1 <= k <= n", "write for example 1/2")
    return entries[first - 1 :: step]
