"""Sequential neural likelihood on the ten tasks of the field's benchmark, beside published values.

    python benchmarks/bench_snl.py                                  # observation 1, 10,000
    python benchmarks/bench_snl.py --budgets 1000,10000 --observations 1,2,3,4,5,6,7,8,9,10
    python benchmarks/bench_snl.py --tasks two_moons --single       # one round, as sbi's NLE
    python benchmarks/bench_snl.py --peer /work/venvs/sbi/bin/python  # sbi on the same simulations
    python benchmarks/bench_snl.py --table                          # print what is there

The claim: at the same number of simulations our mean C2ST is at or below that of SNLE in
Lueckmann et al. 2021 (arXiv:2101.04653) on most tasks, and training and drawing take a fraction of
sbi's CPU time. One set of settings serves all tasks. Each (task, observation, budget) is one JSON
in results/bench_snl/; what is there is not done again, so a killed run goes on. Judged as in the
benchmark (snl_judging.c2st) by its own reference posteriors: `pip install --no-deps sbibm`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from bench_environment import environment
from snl_judging import c2st, task_prior

from gensci.core.random import stream
from gensci.loops.fitting import FITTING, FlowEstimator, SurrogateSampler
from gensci.loops.rounds import InferenceProblem, LoopSettings
from gensci.loops.sequential import run_rounds
from gensci.loops.simulate_rows import SimulationSettings, UserSimulator
from gensci.samplers.base import MemoryStore
from gensci.sims.inference_tasks import (
    TASKS,
    InferenceTask,
    load_observation,
    load_reference,
    load_task,
)

RESULTS = Path(__file__).parents[1] / "results" / "bench_snl"
DRAWS = 10_000
# rounds of a budget, as shares: a first look over the prior, then three about the observation
SHARES = (0.4, 0.2, 0.2, 0.2)
# Mean C2ST over ten observations at 1,000 and 10,000 simulations, and the latter of one-round NLE:
# sbi-benchmark/results/main_paper.csv of Lueckmann et al. 2021.
PUBLISHED = {
    "two_moons": (0.657, 0.571, 0.713),
    "gaussian_linear": (0.628, 0.548, 0.555),
    "gaussian_linear_uniform": (0.657, 0.552, 0.548),
    "slcp": (0.921, 0.713, 0.771),
    "slcp_distractors": (0.992, 0.949, 0.961),
    "lotka_volterra": (0.909, 0.738, 0.956),
    "sir": (0.745, 0.745, 0.748),
    "bernoulli_glm": (0.634, 0.553, 0.605),
    "bernoulli_glm_raw": (0.990, 0.973, 0.939),
    "gaussian_mixture": (0.701, 0.702, 0.731),
}


def round_sizes(budget: int, single: bool) -> tuple[int, ...]:
    """Simulations of each round."""
    if single:
        return (budget,)
    return tuple(round(budget * share) for share in SHARES)


def infer(task: InferenceTask, observation: int, budget: int, single: bool, seed: int) -> dict:
    """Run the sequential loop and judge its draws."""
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
    begin = time.process_time()
    score = c2st(load_reference(task, observation), theta)
    return {
        "c2st": score,
        "judging_cpu_seconds": time.process_time() - begin,
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


def run_peer(python: str, observation: int, budget: int, seed: int) -> dict:
    """Train sbi's NLE on simulations of two_moons drawn from the prior, and judge its draws."""
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
    score = c2st(load_reference(task, observation), theta)
    return {
        "c2st": score,
        "training_cpu_seconds": report["training"]["cpu_seconds"],
        "drawing_cpu_seconds": report["sampling"]["cpu_seconds"],
        "report": report,
    }


def kept(name: str, work: Any, **facts: Any) -> dict:
    """The result of this name, made by ``work`` and written first where it is not there."""
    path = RESULTS / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    print(name, flush=True)
    record = {**facts, **work(), "environment": environment(1)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(record, indent=1, default=str))
    unfinished.replace(path)  # a killed run leaves no half file
    return record


def print_table() -> None:
    """Print mean C2ST by task and budget beside the published values, and CPU seconds."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    print(
        f"{'task':24} {'method':7} {'budget':>6} {'obs':>3} {'C2ST':>6} {'std':>5} "
        f"{'SNLE':>6} {'':5} {'train s':>8} {'draw s':>7}"
    )
    wins: dict[int, list[bool]] = {}
    groups = {(r["method"], r["budget"], r["task"]) for r in records}
    order = {name: place for place, name in enumerate(TASKS)}
    for method, budget, name in sorted(groups, key=lambda g: (g[0], g[1], order[g[2]])):
        group = [
            r for r in records if (r["method"], r["budget"], r["task"]) == (method, budget, name)
        ]
        scores = [r["c2st"] for r in group]
        spread = stdev(scores) if len(scores) > 1 else 0.0
        column = {"snl": {1000: 0, 10_000: 1}, "single": {10_000: 2}}.get(method, {}).get(budget)
        published = PUBLISHED[name][column] if column is not None else float("nan")
        better = mean(scores) <= published
        if method == "snl":
            wins.setdefault(budget, []).append(better)
        print(
            f"{name:24} {method:7} {budget:6} {len(group):3} {mean(scores):6.3f} {spread:5.3f} "
            f"{published:6.3f} {'below' if better else '':5} "
            f"{mean(r['training_cpu_seconds'] for r in group):8.1f} "
            f"{mean(r['drawing_cpu_seconds'] for r in group):7.1f}"
        )
    for budget, better in sorted(wins.items()):
        print(f"at {budget}: at or below SNLE on {sum(better)} of {len(better)} tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--observations", default="1")
    parser.add_argument("--budgets", default="10000")
    parser.add_argument("--single", action="store_true", help="one round instead of four")
    parser.add_argument("--peer", metavar="PYTHON", help="run sbi on two_moons by this Python")
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        run_all(arguments)
    print_table()


def run_all(arguments: argparse.Namespace) -> None:
    """Do what is not there yet; observations in the outer loop, so that all tasks come early."""
    method, seed = "single" if arguments.single else "snl", arguments.seed
    for observation in map(int, arguments.observations.split(",")):
        for budget in map(int, arguments.budgets.split(",")):
            facts = {"observation": observation, "budget": budget, "seed": seed}
            if arguments.peer:
                kept(
                    f"sbi-two_moons-{observation:02d}-{budget}",
                    partial(run_peer, arguments.peer, observation, budget, seed),
                    method="sbi", task="two_moons", **facts,
                )  # fmt: skip
                continue
            for name in arguments.tasks.split(","):
                record = kept(
                    f"{method}-{name}-{observation:02d}-{budget}",
                    partial(infer, load_task(name), observation, budget, arguments.single, seed),
                    method=method, task=name, fitting=asdict(FITTING), **facts,
                )  # fmt: skip
                print(f"    C2ST {record['c2st']:.3f}", flush=True)


if __name__ == "__main__":
    main()
