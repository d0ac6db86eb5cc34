"""Time until the torsions of an unseen tetrapeptide are right: flow, replica exchange, OpenMM.

    OMP_NUM_THREADS=1 python benchmarks/bench_amortization.py --model peptide
    python benchmarks/bench_amortization.py --names CCVH,GCDE --methods gensci --model PATH
    python benchmarks/bench_amortization.py --table --figure amortization.png

Three ways to the Boltzmann distribution of one peptide, on the same core with the same energy
function: weighted draws of a trained flow (its training is not timed, that is the amortization),
batched replica exchange of gensci by the recipe of the references, and one Langevin simulation by
OpenMM's CPU platform (2 fs steps, hydrogens of 3 Da). Every one goes on until its T-W2 from the
project's reference ensemble is below the level at two looks in a row, or its budget is spent. Looks
are at times that grow by a half, so the time of success is known to that; they are not timed.

The level is a multiple of the T-W2 between two halves of the reference, which is what two
independent simulations of half its length show. Times count processor seconds of one thread (a busy
machine stretches elapsed ones, which are recorded too) and include the building of the peptide, the
loading of the checkpoint and equilibration. The time series go to
benchmarks/results/amortization.json, a race at a time, and into a picture. The same command again
goes on with the races that are not there yet; a flow whose weights have changed runs anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from amortization_contestants import (
    FlowContestant,
    Found,
    OpenMMContestant,
    ReplicaContestant,
)
from amortization_figure import draw_races
from bench_environment import RESULTS, environment
from peptide_judging import Judge, torsions_of

from gensci.core.errors import GensciError, UsageError
from gensci.io.atomic import write_json
from gensci.metrics.references import load_reference_ensemble
from gensci.models.checkpoint import load_checkpoint

METHODS = ("gensci", "replicas", "openmm")
BUDGETS = {"gensci": 120.0, "replicas": 240.0, "openmm": 300.0}  # processor seconds
FIRST_LOOK, GROWTH, IN_A_ROW = 1.0, 1.5, 2
RESULT = RESULTS / "amortization.json"
FIGURES = Path(__file__).parents[1] / "results" / "bench_amortization"


class Contestant(Protocol):
    """Something that samples a peptide in pieces."""

    def run(self) -> Iterator[None]:
        """Work, with a pause after every piece."""
        ...

    def found(self) -> Found | None:
        """What there is so far."""
        ...


@dataclass
class Clock:
    """Elapsed and processor seconds of what was timed."""

    elapsed: float = 0.0
    processor: float = 0.0

    def time(self, work: Callable[[], Any]) -> None:
        """Do some work and add its time."""
        wall, busy = time.perf_counter(), time.process_time()
        work()
        self.elapsed += time.perf_counter() - wall
        self.processor += time.process_time() - busy


def race(
    contestant: Contestant, distance: Callable[[Found], float], level: float, budget: float
) -> dict[str, Any]:
    """Let a contestant run until it is below the level or its budget is spent.

    Args:
        contestant: see ``Contestant``.
        distance: from the reference, of what was found.
        level: of the distance.
        budget: processor seconds.

    Returns:
        ``series`` of looks, and ``reached``: the first of the looks in a row that are below the
        level, with the time of the look before it, or None.
    """
    clock, work = Clock(), contestant.run()
    series: list[dict[str, Any]] = []
    next_look, begun = FIRST_LOOK, os.getloadavg()[0]
    while clock.processor < budget and not reached(series, level):
        clock.time(lambda: next(work))
        if clock.processor >= min(next_look, budget):
            series.append(look(contestant.found(), distance, clock))
            next_look = GROWTH * clock.processor
    work.close()
    return {
        "level": level,
        "budget": budget,
        "series": series,
        "reached": reached(series, level),
        "load_average": [begun, os.getloadavg()[0]],
    }


def look(found: Found | None, distance: Callable[[Found], float], clock: Clock) -> dict[str, Any]:
    """One entry of a series."""
    seen = found is not None and len(found.positions) > 0
    entry = {"cpu_seconds": clock.processor, "seconds": clock.elapsed}
    entry["energies"] = found.energies if found is not None else None
    entry["torus_w2"] = distance(found) if seen else None
    if seen and found.weight is not None:
        entry["ess"] = float(found.weight.sum() ** 2 / (found.weight**2).sum())
    entry["samples"] = len(found.positions) if seen else 0
    return entry


def reached(series: list[dict[str, Any]], level: float) -> dict[str, float] | None:
    """The first of enough looks in a row below the level, and the time of the look before."""
    below = [entry["torus_w2"] is not None and entry["torus_w2"] <= level for entry in series]
    for first in range(len(series) - IN_A_ROW + 1):
        if all(below[first : first + IN_A_ROW]):
            before = series[first - 1]["cpu_seconds"] if first else 0.0
            return {
                "cpu_seconds": series[first]["cpu_seconds"],
                "after_cpu_seconds": before,
                "seconds": series[first]["seconds"],
                "energies": series[first]["energies"],
            }
    return None


def contestant_of(method: str, name: str, judge: Judge, arguments: argparse.Namespace) -> Any:
    """A fresh contestant."""
    if method == "gensci":
        return FlowContestant(name, arguments.model, arguments.seed)
    if method == "replicas":
        recipe = judge.reference.meta["recipe"]
        return ReplicaContestant(name, recipe, arguments.equilibration, arguments.seed)
    return OpenMMContestant(name, arguments.seed, arguments.threads)


def settings_of(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides a race; a race that is kept with the same is not run again."""
    settings = {
        "multiple": arguments.multiple,
        "budget": arguments.budget(method),
        "seed": arguments.seed,
        "threads": arguments.threads,
    }
    if method == "gensci":
        settings["checkpoint_sha256"] = load_checkpoint(arguments.model)[2]["weights_sha256"]
    if method == "replicas":
        settings["equilibration"] = arguments.equilibration
    return settings


def label_of(method: str, arguments: argparse.Namespace) -> str:
    """The name of a contestant in tables and pictures."""
    return f"gensci, {Path(arguments.model).name}" if method == "gensci" else method


def run_race(method: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One race with all that is needed to understand it."""
    from gensci.systems.peptide import PeptideSystem

    judge = Judge(load_reference_ensemble(name))
    topology = PeptideSystem.from_text(name).topology
    torus = judge.reference.meta["agreement"]["torus"]

    def distance(found: Found) -> float:
        return judge.torus(torsions_of(topology, found.positions), found.weight)

    contestant = contestant_of(method, name, judge, arguments)
    outcome = race(
        contestant, distance, arguments.multiple * torus["between"], arguments.budget(method)
    )
    return {
        "name": name,
        "method": method,
        "label": label_of(method, arguments),
        "halves": torus["between"],
        "floor": torus["floor"],
        "multiple": arguments.multiple,
        "points": judge.points,
        "settings": settings_of(method, arguments),
        "environment": environment(arguments.threads, "openmm", "POT"),
        **outcome,
    }


def kept_races(path: Path) -> list[dict[str, Any]]:
    """Races that were run before."""
    return json.loads(path.read_text())["races"] if path.is_file() else []


def with_race(races: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The races with a new one, which replaces that of the same peptide and label."""
    key = (new["name"], new["label"])
    return [*(old for old in races if (old["name"], old["label"]) != key), new]


def has_race(races: list[dict[str, Any]], name: str, label: str, settings: dict[str, Any]) -> bool:
    """Whether this race was run before, with these settings."""
    return any((r["name"], r["label"], r.get("settings")) == (name, label, settings) for r in races)


def table(races: list[dict[str, Any]], training_hours: float | None = None) -> str:
    """What each race came to, peptide by peptide."""
    lines = [
        f"{'peptide':8} {'method':24} {'level':>6} {'last T-W2':>9} {'energies':>11} "
        "processor seconds until below the level"
    ]
    for entry in sorted(races, key=lambda r: (r["name"], METHODS.index(r["method"]))):
        last = entry["series"][-1] if entry["series"] else {"torus_w2": None, "energies": None}
        distance = "" if last["torus_w2"] is None else f"{last['torus_w2']:.3f}"
        lines.append(
            f"{entry['name']:8} {entry['label']:24} {entry['level']:6.3f} {distance:>9} "
            f"{last['energies'] or 0:11,d} {verdict(entry)}"
        )
    lines += [
        "level: a multiple of the T-W2 (radian) between halves of the reference, "
        + ", ".join(
            f"{name} {multiple:g} x {halves:.3f} (floor {floor:.3f})"
            for name, multiple, halves, floor in sorted(
                {(r["name"], r["multiple"], r["halves"], r["floor"]) for r in races}
            )
        )
    ]
    return "\n".join([*lines, *(break_even(races, training_hours) if training_hours else [])])


def verdict(entry: dict[str, Any]) -> str:
    """When the level was reached, between two looks."""
    if entry["reached"] is None:
        return f"not reached in {entry['budget']:.0f} s"
    found = entry["reached"]
    return f"{found['after_cpu_seconds']:.1f} to {found['cpu_seconds']:.1f}"


def break_even(races: list[dict[str, Any]], training_hours: float) -> list[str]:
    """For how many peptides a flow must serve until its training is paid for."""
    lines = []
    for flow in [r for r in races if r["method"] == "gensci" and r["reached"]]:
        for other in [r for r in races if r["name"] == flow["name"] and r["method"] == "replicas"]:
            least = other["reached"]["cpu_seconds"] if other["reached"] else other["budget"]
            saved = least - flow["reached"]["cpu_seconds"]
            if saved > 0:
                often = f"{3600 * training_hours / saved:.0f}"
                often = often if other["reached"] else f"{often} or fewer"
                lines.append(
                    f"{flow['name']}: {training_hours:g} processor hours of training are paid for "
                    f"after {often} such peptides, compared with replica exchange"
                )
    return lines


class Options(argparse.Namespace):
    """The arguments, with budgets by method."""

    def budget(self, method: str) -> float:
        """Processor seconds."""
        return getattr(self, f"{method}_seconds")


def parse() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="ARIP", help="tetrapeptides with a reference ensemble")
    parser.add_argument("--model", default="peptide", help="checkpoint: a name or a folder")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--multiple", type=float, default=1.25, help="level, in halves' T-W2")
    for method, seconds in BUDGETS.items():
        parser.add_argument(f"--{method}-seconds", type=float, default=seconds)
    parser.add_argument("--equilibration", type=float, default=4.0, help="ps, replica exchange")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--training-hours", type=float, help="processor hours: print break-even")
    parser.add_argument("--result", type=Path, default=RESULT, help="where races are kept")
    parser.add_argument("--table", action="store_true", help="only print and draw what is known")
    parser.add_argument("--figure", type=Path, default=FIGURES / "amortization.png")
    arguments = parser.parse_args(namespace=Options())
    for method in arguments.methods.split(","):
        if method not in METHODS:
            raise UsageError(f"--methods {method} is unknown", f"use some of {', '.join(METHODS)}")
    if not arguments.multiple > 0:
        raise UsageError(f"--multiple is {arguments.multiple}", "give a positive one, e.g. 1.25")
    return arguments


def run_missing(arguments: Options) -> None:
    """Run the races that are not kept yet, and keep each when it is over."""
    for name in arguments.names.split(","):
        for method in arguments.methods.split(","):
            races = kept_races(arguments.result)
            settings = settings_of(method, arguments)
            if has_race(races, name, label_of(method, arguments), settings):
                print(f"{name} {label_of(method, arguments)}: kept from before", flush=True)
                continue
            entry = run_race(method, name, arguments)
            arguments.result.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.result, {"races": with_race(races, entry)})
            print(f"{name} {entry['label']}: {verdict(entry)}", flush=True)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if not arguments.table:
        run_missing(arguments)
    races = kept_races(arguments.result)
    if not races:
        raise UsageError(f"there is no {arguments.result}", "run this benchmark without --table")
    print(table(races, arguments.training_hours))
    arguments.figure.parent.mkdir(parents=True, exist_ok=True)
    draw_races(races, arguments.figure)
    print(f"picture in {arguments.figure}")


if __name__ == "__main__":
    try:
        main()
    except GensciError as error:
        sys.exit(f"bench_amortization: {error}")
