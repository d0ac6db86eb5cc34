"""Weighted samples of the published test peptides, beside the published figures.

    python benchmarks/bench_peptides.py --length 2 --model peptide     # all 30
    python benchmarks/bench_peptides.py --length 4 --model PATH --names ARIP,CCVH
    python benchmarks/bench_peptides.py --length 2 --table                   # print what is known

For every test peptide of Tan et al. 2025 (arXiv:2508.18175) of that length: 10,000 draws of the
model, one energy each, their weights, and their distances from the project's reference ensemble
where there is one. The model must have been trained on none of them, which is not checked here
(`gensci train` refuses to). What is measured stays in results/bench_peptides, one file a peptide,
so that a run that was stopped goes on with the next; when all are there, they are written to
benchmarks/results/peptides-LENGTH.json beside the runs of other models.

T-W2 as published takes 10,000 points on each side: up to 5 GB and a minute for each peptide that
has a reference.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import peptide_judging as judging
import torch
from bench_environment import RESULTS, environment
from peptide_table import line, summary, tables

import gensci.samplers  # noqa: F401  (registers the samplers)
from gensci.core.errors import GensciError, UsageError
from gensci.core.registry import SAMPLERS
from gensci.data.exclusions import published_splits
from gensci.io.atomic import write_json
from gensci.metrics.references import load_reference_ensemble

ENSEMBLES = Path(__file__).parent / "references" / "ensembles"
KEPT = Path(__file__).parents[1] / "results" / "bench_peptides"
FORMAT = 2
LENGTHS = (2, 4, 8)
# Sequential Monte Carlo takes some forty energies for a sample, more where the flow fits worse; the
# table of a run tells how many (`evaluations`).
USUAL_SAMPLES = {"importance": 10_000, "smc": 256}
SHARD = 2000  # rows


class CountingTarget:
    """A target that counts the conformations whose energy it was asked for."""

    def __init__(self, target: Any) -> None:
        self._target, self.evaluations = target, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def log_prob(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """As the target's."""
        self.evaluations += len(x["positions"])
        return self._target.log_prob(x)

    def log_prob_and_grad(self, x: dict[str, torch.Tensor]) -> Any:
        """As the target's."""
        self.evaluations += len(x["positions"])
        return self._target.log_prob_and_grad(x)


def published_names(length: int) -> list[str]:
    """The test peptides of so many residues, in the published order."""
    return [name for name, split in published_splits().items() if split == "test" and
            len(name) == length]  # fmt: skip


def chosen_names(text: str, length: int) -> list[str]:
    """Names of ``--names``.

    Raises:
        UsageError: one is no test peptide of this length.
    """
    known = published_names(length)
    names = known if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(
                f"--names {name} is no test peptide of length {length}",
                f"use some of {', '.join(known)}",
            )
    return names


def prepared(name: str, model: str) -> Any:
    """The peptide's target and the model's proposal for it, also beyond its range."""
    from gensci.commands.prepare import prepare
    from gensci.systems.resolve import resolve_one

    choice, device = resolve_one(f"peptide:{name}"), torch.device("cpu")
    return prepare(choice, model, device, {}, allow_extrapolation=True)


def judge_of(name: str) -> judging.Judge | None:
    """The reference ensemble of a peptide, where there is one.

    Raises:
        EnsembleError: it is there but damaged.
    """
    path = ENSEMBLES / f"{name}.npz"
    return judging.Judge(load_reference_ensemble(path)) if path.is_file() else None


def measure(name: str, ready: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: draw, weigh, compare.

    Raises:
        UsageError: a setting that cannot be used.
    """
    target = CountingTarget(ready.target)
    row: dict[str, Any] = {"name": name, "atoms": int(ready.molecule.num_atoms)}
    sampler, count = SAMPLERS.get(arguments.sampler)(), arguments.num_samples
    wall, busy = time.perf_counter(), time.process_time()
    try:
        samples = sampler.run(target, ready.proposal, count, seed=arguments.seed, shard_size=SHARD)
    except UsageError:
        raise
    except GensciError as error:  # no draw had any weight: a result, not a fault
        samples = None
        row |= {"error": error.problem, "ess": 0.0, "ess_published": 0.0}
    row |= {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - busy,
        "evaluations": target.evaluations,
        "load_average": os.getloadavg()[0],
    }
    row["samples_per_cpu_second"] = count / row["cpu_seconds"]
    if samples is None:
        return row
    row |= judging.weight_figures(samples, count)
    row["rejected"] = samples.meta["rejected"]
    judge = judge_of(name)
    if judge is not None:
        with torch.no_grad():
            energy = ready.target.energy(samples.x).double().numpy()
        topology = ready.molecule.topology
        row |= judging.distance_figures(judge, topology, samples, energy, count)
    return row


def settings_of(name: str, ready: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides a row; a kept row of other settings is measured again."""
    judge = judge_of(name)
    return {
        "format": FORMAT,
        # the hash of the weights stands for the checkpoint, wherever it lies
        "system": {key: ready.settings[key] for key in ready.settings if key != "checkpoint"},
        "sampler": arguments.sampler,
        "num_samples": arguments.num_samples,
        "seed": arguments.seed,
        "points": (judging.POINTS, judging.PUBLISHED_POINTS),
        "reference": judge.reference.meta["sha256"] if judge else None,
    }


def kept_or_measured(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The row of a peptide and what it was prepared from, from results/ where it is there."""
    ready = prepared(name, arguments.model)
    settings = json.loads(json.dumps(settings_of(name, ready, arguments)))
    own = f"{arguments.sampler}-{arguments.num_samples}-{arguments.seed}"
    folder = KEPT / f"{ready.settings['checkpoint_sha256'][:12]}-{own}"
    path = folder / f"{name}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["settings"] == settings:
            return kept["row"], ready
    row = measure(name, ready, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, "row": row})
    return json.loads(path.read_text())["row"], ready


def run_all(names: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The run of one model: its rows, and what it was."""
    rows = []
    for number, name in enumerate(names, start=1):
        row, ready = kept_or_measured(name, arguments)
        rows.append(row)
        if number == 1:
            for warning in ready.warnings:
                print(f"warning: {warning}", flush=True)
        print(f"{line(name, row)}  {number} of {len(names)}", flush=True)
    return {
        "model": Path(ready.settings["checkpoint"]).name,
        "checkpoint_sha256": ready.settings["checkpoint_sha256"],
        "extrapolation": bool(ready.warnings),
        "sampler": arguments.sampler,
        "num_samples": arguments.num_samples,
        "seed": arguments.seed,
        "published_points": judging.PUBLISHED_POINTS,
        "environment": environment(arguments.threads, "POT", "deeptime"),
        "rows": rows,
    }


IDENTITY = ("model", "checkpoint_sha256", "sampler", "num_samples", "seed", "published_points")


def merged(record: dict[str, Any] | None, run: dict[str, Any], length: int) -> dict[str, Any]:
    """The record with this run: rows of the same run are joined, an older model of its name goes.

    Args:
        record: what benchmarks/results holds, or None.
        run: see ``run_all``.
        length: residues.
    """
    runs = list(record["runs"]) if record else []
    same = [old for old in runs if all(old.get(key) == run.get(key) for key in IDENTITY)]
    others = [old for old in runs if (old["model"], old["sampler"], old["num_samples"]) !=
              (run["model"], run["sampler"], run["num_samples"])]  # fmt: skip
    rows = {row["name"]: row for old in same for row in old["rows"]}
    rows |= {row["name"]: row for row in run["rows"]}
    order = [name for name in published_names(length) if name in rows]
    joined = {**run, "rows": [rows[name] for name in order]}
    joined["summary"] = summary(joined["rows"])
    return {"length": length, "points": judging.POINTS, "runs": [*others, joined]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, choices=LENGTHS, required=True)
    parser.add_argument("--model", default="peptide", help="checkpoint: a name or a folder")
    parser.add_argument("--names", default="all", help="comma-separated test peptides, or all")
    parser.add_argument("--sampler", choices=sorted(USUAL_SAMPLES), default="importance")
    parser.add_argument("--num-samples", type=int, help="10,000 for importance, 256 for smc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the results so far")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"peptides-{arguments.length}.json"
    record = json.loads(path.read_text()) if path.is_file() else None
    if arguments.table:
        if record is None:
            raise UsageError(f"there is no {path}", "run this benchmark without --table first")
        print(tables(record))
        return
    if arguments.num_samples is None:
        arguments.num_samples = USUAL_SAMPLES[arguments.sampler]
    names = chosen_names(arguments.names, arguments.length)
    record = merged(record, run_all(names, arguments), arguments.length)
    RESULTS.mkdir(exist_ok=True)
    write_json(path, record)
    print(f"\n{tables(json.loads(path.read_text()))}\nwritten to {path}")


if __name__ == "__main__":
    try:
        main()
    except GensciError as error:
        sys.exit(f"bench_peptides: {error}")
