"""Sequential neural likelihood on the ten tasks of the field's benchmark, beside published values.

    python benchmarks/bench_snl.py                                  # observation 1, 10,000
    python benchmarks/bench_snl.py --budgets 1000,10000 --observations 1,2,3,4,5,6,7,8,9,10
    python benchmarks/bench_snl.py --tasks two_moons --single       # one round, as sbi's NLE
    python benchmarks/bench_snl.py --peer /work/venvs/sbi/bin/python  # sbi on as many simulations
    python benchmarks/bench_snl.py --later                          # judge by another call
    python benchmarks/bench_snl.py --table                          # gather what is there

The claim: at the same number of simulations our mean C2ST is at or below that of SNLE in
Lueckmann et al. 2021 (arXiv:2101.04653) on most tasks, and training and drawing take a fraction of
sbi's CPU time. One set of settings serves all tasks. Each (task, observation, budget) is one JSON
in results/bench_snl/ (not in git); what is there is not done again, so a killed run goes on. All of
them together are written to benchmarks/results/snl.json, and what that file holds judged counts as
done in a new checkout too. Judged as in the benchmark by its own
reference posteriors: `pip install --no-deps sbibm`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import snl_table
import torch
from bench_environment import RESULTS, environment, write_results
from snl_judging import task_prior

# imports Lightning, which is not to be counted as training
import gensci.models.likelihood_fitting  # noqa: F401
from gensci.core.random import stream
from gensci.loops.fitting import FITTING, FlowEstimator, SurrogateSampler
from gensci.loops.rounds import InferenceProblem, LoopSettings
from gensci.loops.sequential import run_rounds
from gensci.loops.simulate_rows import SimulationSettings, UserSimulator
from gensci.metrics.classifier import c2st, fast_c2st
from gensci.samplers.base import MemoryStore
from gensci.sims.inference_tasks import (
    TASKS,
    InferenceTask,
    load_observation,
    load_reference,
    load_task,
)

PARTS = Path(__file__).parents[1] / "results" / "bench_snl"
DRAWS = 10_000
# Rounds of a budget, as shares: a short look over the prior, then ever more about the observation.
# The likelihood is wanted there only, and the fewer of its rows lie there, the worse it is.
SHARES = (0.1, 0.2, 0.3, 0.4)
Drawn = tuple[torch.Tensor, dict[str, Any]]


def round_sizes(budget: int, single: bool) -> tuple[int, ...]:
    """Simulations of each round."""
    if single:
        return (budget,)
    return tuple(round(budget * share) for share in SHARES)


def infer(task: InferenceTask, observation: int, budget: int, single: bool, seed: int) -> Drawn:
    """Run the sequential loop."""
    simulator = UserSimulator(
        lambda theta, generator: task.simulate(theta, generator),
        (task.dim_x,),
        SimulationSettings(jobs=0, batched=True, array="torch", rows_per_call=1000),
    )
    prior, x = task_prior(task), load_observation(task, observation)
    sizes = round_sizes(budget, single)
    settings = LoopSettings(
        rounds=len(sizes), simulations=sizes, num_samples=DRAWS, draws=2000, stop_change=0.0
    )
    sampler = SurrogateSampler(prior)
    begin = time.process_time()
    result = run_rounds(
        InferenceProblem(prior, x, simulator), settings, FlowEstimator(), sampler, MemoryStore(),
        seed=seed, say=lambda line: print("   ", line, flush=True),
    )  # fmt: skip
    spent = time.process_time() - begin
    theta = result.posterior.resample("systematic", stream(seed, "draws")).x["theta"]
    training = [record.cpu_seconds["train"] for record in result.records]
    known = sum(sum(record.cpu_seconds.values()) for record in result.records)
    return theta, {
        "training_cpu_seconds": sum(training),
        "training_by_round": training,
        "drawing_cpu_seconds": spent - known,  # the 10,000 draws of the end
        "total_cpu_seconds": spent,
        "simulator_calls": simulator.calls,
        "surrogate_calls": sum(record.surrogate_calls for record in result.records),
        "changes": [record.change for record in result.records],
        "verdict": result.posterior.meta.get("verdict", {}),
        "fit": [record.training for record in result.records],
        "loop": asdict(settings),
    }


def run_peer(python: str, observation: int, budget: int, seed: int) -> Drawn:
    """Train sbi's NLE on simulations of two_moons drawn from the prior."""
    task = load_task("two_moons")
    theta = task_prior(task).sample(budget, stream(seed, "peer"))
    with tempfile.TemporaryDirectory() as folder:
        problem, draws = Path(folder) / "problem.npz", Path(folder) / "draws.npz"
        np.savez(
            problem, low=task.prior["low"], high=task.prior["high"], theta=theta.numpy(),
            x=task.simulate(theta, stream(seed, "data")).numpy(), seed=seed, num_samples=DRAWS,
            observation=load_observation(task, observation).numpy(),
        )  # fmt: skip
        script = str(Path(__file__).with_name("sbi_peer.py"))
        subprocess.run([python, script, str(problem), str(draws)], check=True)
        with np.load(draws) as found:
            report = json.loads(str(found["report"]))
            theta = torch.from_numpy(found["theta"])
    return theta, {
        "training_cpu_seconds": report["training"]["cpu_seconds"],
        "drawing_cpu_seconds": report["sampling"]["cpu_seconds"],
        "report": report,
    }


def kept(name: str, work: Callable[[], Drawn], task: str, observation: int, **facts: Any) -> None:
    """Do the work of this name where it is not done; keep its draws and what is told of them."""
    path = PARTS / f"{name}.json"
    if path.exists():
        return
    print(name, flush=True)
    theta, told = work()
    PARTS.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".npz"), theta=theta.float().numpy())
    reference = load_reference(load_task(task), observation)
    quick = fast_c2st(reference.float(), theta.float(), stream(1, "judge")).accuracy
    record = {"task": task, "observation": observation, **facts, "c2st_fast": quick, **told}
    write(path, record | {"environment": environment(1, "normflows", "pytorch-lightning")})
    print(f"    fast C2ST {quick:.3f}", flush=True)


def write(path: Path, record: dict) -> None:
    """Write a record at once, so that a killed run leaves no half file."""
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(record, indent=1, default=str))
    unfinished.replace(path)


def judge(path: Path) -> None:
    """Add the benchmark's own C2ST to a record that lacks it."""
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as found:
        theta = torch.from_numpy(found["theta"])
    reference = load_reference(load_task(record["task"]), record["observation"])
    begin = time.process_time()
    record["c2st"] = c2st(reference.float(), theta.float())
    record["judging_cpu_seconds"] = time.process_time() - begin
    write(path, record)
    print(f"{path.stem}: C2ST {record['c2st']:.3f}", flush=True)


def write_table() -> None:
    """Print the table of all parts and write it, with them, to one file."""
    records = [json.loads(path.read_text()) for path in sorted(PARTS.glob("*.json"))]
    rows = snl_table.table(records)
    snl_table.print_table(rows)
    write_results("snl", {"table": rows, "records": records})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--observations", default="1")
    parser.add_argument("--budgets", default="10000")
    parser.add_argument("--single", action="store_true", help="one round instead of four")
    parser.add_argument("--peer", metavar="PYTHON", help="run sbi on two_moons by this Python")
    parser.add_argument("--table", action="store_true", help="only gather what was measured")
    parser.add_argument("--later", action="store_true", help="leave the slow judging for later")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    restore()
    if not arguments.table:
        run_all(arguments)
        if not arguments.later:
            judge_all(arguments.tasks.split(","))
    write_table()


def run_all(arguments: argparse.Namespace) -> None:
    """Infer what is not there yet, observation by observation, so that all tasks come early."""
    method, seed = "single" if arguments.single else "snl", arguments.seed
    for observation in map(int, arguments.observations.split(",")):
        for budget in map(int, arguments.budgets.split(",")):
            facts = {"observation": observation, "budget": budget, "seed": seed}
            if arguments.peer:
                work = partial(run_peer, arguments.peer, observation, budget, seed)
                name = f"sbi-two_moons-{observation:02d}-{budget}"
                kept(name, work, "two_moons", method="sbi", **facts)
                continue
            for task in arguments.tasks.split(","):
                work = partial(infer, load_task(task), observation, budget, arguments.single, seed)
                name = f"{method}-{task}-{observation:02d}-{budget}"
                kept(name, work, task, method=method, fitting=asdict(FITTING), **facts)


def judge_all(tasks: list[str]) -> None:
    """Judge what is not judged yet, fewest parameters first: ten take a hundred times as long."""

    def cost(path: Path) -> tuple:
        with np.load(path.with_suffix(".npz")) as found:
            return found["theta"].shape[1], path.stem.split("-")[2:], path.stem

    open_parts = [
        path for path in PARTS.glob("*.json") if "c2st" not in json.loads(path.read_text())
    ]
    for path in sorted(open_parts, key=cost):
        if path.stem.split("-")[1] in tasks:
            judge(path)


def restore() -> None:
    """Lay out again what was judged elsewhere; what was not judged lacks its draws."""
    committed = RESULTS / "snl.json"
    if not committed.exists():
        return
    PARTS.mkdir(parents=True, exist_ok=True)
    for record in json.loads(committed.read_text())["records"]:
        method, task = record["method"], record["task"]
        path = PARTS / f"{method}-{task}-{record['observation']:02d}-{record['budget']}.json"
        if "c2st" in record and not path.exists():
            write(path, record)


if __name__ == "__main__":
    main()
