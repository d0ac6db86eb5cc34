"""Samples, effective samples and memory of `gensci sample` on peptides the flow never saw.

For every peptide: draws and energies per second, then importance sampling and plain Langevin
dynamics of OpenMM's CPU platform (1 fs steps, 1/ps friction, the same Amber14 + OBC1 and 310 K, the
same number of threads) in turns. An effective sample is Kish's for weights. For dynamics it is one
for every statistical inefficiency of the slowest of the sines and cosines of the backbone torsions,
which OpenMM is too slow to show here: it is measured in 32 chains of gensci's own dynamics with the
same settings. They miss what is slower than their length, so the number of effective samples of
OpenMM is an upper bound. Then sequential Monte Carlo (its Kish number leaves out that particles of
one ancestor are alike), the inverse of the TarFlow against a plain loop (see
bench_peptide_inverse.py), and the peak memory of one command.

    OMP_NUM_THREADS=1 python benchmarks/bench_peptide_sampling.py [--checkpoint peptide-small]

The default peptides are left out of the training data of the shipped checkpoint.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bench_peptide_inverse as inverse
import numpy as np
import openmm
import torch
from bench_environment import environment, write_results

import gensci.samplers  # noqa: F401  (registers the samplers)
from gensci.core.errors import GensciError
from gensci.core.registry import SAMPLERS
from gensci.models.proposal import FlowProposal, load_proposal
from gensci.sims.dynamics import Langevin
from gensci.systems.peptide import PeptideSystem

MEMORY_LIMIT = 4e9  # bytes, of the issue
TIME_STEP, FRICTION = 0.001, 1.0  # ps, 1/ps
FRAME_STEPS = 50  # between frames of the dynamics
NETWORKS = ("small",)
INVERSE_BATCH = 64


def openmm_speed(system: PeptideSystem, threads: int) -> Callable[[float], float]:
    """A function that simulates for some seconds and returns ps per second."""
    integrator = openmm.LangevinMiddleIntegrator(system.temperature, FRICTION, TIME_STEP)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system.peptide.system, integrator, platform, {"Threads": str(threads)})
    context.setPositions(system.peptide.positions)
    context.setVelocitiesToTemperature(system.temperature, 1)

    def measure(seconds: float) -> float:
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            context.getIntegrator().step(200)
            steps += 200
        return steps * TIME_STEP / (time.perf_counter() - start)

    measure(0.5)
    return measure


def dynamics_inefficiency(system: PeptideSystem, length: float, chains: int = 32) -> float:
    """Time (ps) that Langevin dynamics needs for one independent sample, or less.

    Args:
        system: the peptide.
        length: ps of each chain; slower motions than that are not seen.
        chains: simulated at once, from a hot start that scatters them.
    """
    field = system.force_field.to(dtype=torch.float32)
    langevin = Langevin(field, field.masses.float(), TIME_STEP, FRICTION)
    generator = torch.Generator().manual_seed(0)
    start = torch.from_numpy(system.peptide.positions).float().expand(chains, -1, -1).clone()
    hot, warm = torch.full((chains,), 1000.0), torch.full((chains,), system.temperature)
    state = langevin.start(start, hot, generator)
    for temperature in (hot, warm):
        state = langevin.run(state, temperature, 5000, generator)
    dihedrals, frames = backbone(system), []
    for _ in range(max(2, round(length / (FRAME_STEPS * TIME_STEP)))):
        state = langevin.run(state, warm, FRAME_STEPS, generator)
        frames.append(torsions(state.positions[:, dihedrals].numpy()))
    angles = np.stack(frames)  # frames, chains, torsions
    columns = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    slowest = max(inefficiency(columns[..., k]) for k in range(columns.shape[-1]))
    return slowest * FRAME_STEPS * TIME_STEP


def backbone(system: PeptideSystem) -> np.ndarray:
    """Atoms of every psi, then of every phi, of a peptide: (torsions, 4)."""
    peptide = system.peptide
    keys = zip(peptide.residue_index, peptide.atom_names, strict=True)
    where = {key: atom for atom, key in enumerate(keys)}
    rows = []
    for k in range(max(peptide.residue_index)):
        psi = [(k, "N"), (k, "CA"), (k, "C"), (k + 1, "N")]
        phi = [(k, "C"), (k + 1, "N"), (k + 1, "CA"), (k + 1, "C")]
        rows += [[where[key] for key in row] for row in (psi, phi) if all(a in where for a in row)]
    return np.array(rows)


def torsions(x: np.ndarray) -> np.ndarray:
    """Dihedral angles (frames, torsions) in radians of positions (frames, torsions, 4, 3)."""
    a, b, c = (x[..., k + 1, :] - x[..., k, :] for k in range(3))
    n, m = np.cross(a, b), np.cross(b, c)
    length = np.linalg.norm(b, axis=-1)
    return np.arctan2((a * m).sum(-1) * length, (n * m).sum(-1))


def inefficiency(values: np.ndarray) -> float:
    """Frames for one independent value, from (frames, chains); initial positive sequence.

    Ref: Geyer 1992, doi:10.1214/ss/1177011137.
    """
    frames = len(values)
    size = 1 << (2 * frames - 1).bit_length()
    power = np.abs(np.fft.rfft(values - values.mean(), size, axis=0)) ** 2
    covariance = np.fft.irfft(power.mean(1), size)[:frames] / np.arange(frames, 0, -1)
    if covariance[0] <= 0:
        return 1.0
    pairs = (covariance / covariance[0])[: frames // 2 * 2].reshape(-1, 2).sum(1)
    positive = len(pairs) if (pairs > 0).all() else int(np.argmin(pairs > 0))
    return max(1.0, 2 * float(pairs[:positive].sum()) - 1)


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time and result of one call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def middle(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def bench_speed(
    system: PeptideSystem, proposal: FlowProposal, count: int, repeats: int
) -> dict[str, Any]:
    """Draws and energies per second, and the share of the energies in the time of both."""
    target = system.target("cpu", torch.float32)
    generator = torch.Generator().manual_seed(0)
    draws, energies = [], []
    with torch.no_grad():
        proposal.sample_and_log_prob(min(count, 256), generator)
        for _ in range(repeats):
            spent, (x, _) = seconds_of(lambda: proposal.sample_and_log_prob(count, generator))
            draws.append(spent)
            energies.append(seconds_of(lambda x=x: target.log_prob(x))[0])
    return {
        "flow_samples_per_second": middle([count / spent for spent in draws]),
        "energies_per_second": middle([count / spent for spent in energies]),
        "share_of_energies": sum(energies) / (sum(draws) + sum(energies)),
    }


def run_sampler(
    name: str, system: PeptideSystem, proposal: FlowProposal, count: int, seed: int
) -> dict[str, Any]:
    """One run in memory: seconds, effective samples and k-hat."""
    target = system.target("cpu", torch.float32)
    try:
        spent, samples = seconds_of(
            lambda: SAMPLERS.get(name)().run(target, proposal, count, seed=seed)
        )
    except GensciError as error:
        return {"seconds": float("nan"), "ess": 0.0, "khat": None, "error": str(error)}
    verdict = samples.meta["verdict"]
    return {"seconds": spent, "ess": verdict["ess"], "khat": verdict.get("khat")}


def summarise(runs: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Rates of several runs of a sampler."""
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[0]["error"]}
    return {
        "samples": count,
        "samples_per_second": middle([count / run["seconds"] for run in good]),
        "effective_per_second": middle([run["ess"] / run["seconds"] for run in good]),
        "ess_fraction": middle([run["ess"] / count for run in good]),
        "khat": [run["khat"] for run in good],
    }


def bench_peptide(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: speed, importance sampling and dynamics in turns."""
    system = PeptideSystem.from_text(name)
    proposal = load_proposal(arguments.checkpoint, system.peptide, "cpu")
    count, repeats = arguments.num_samples, arguments.repeats
    row = {"peptide": name, "atoms": system.peptide.num_atoms}
    row |= bench_speed(system, proposal, count, repeats)
    simulate, runs, speeds = openmm_speed(system, arguments.threads), [], []
    for seed in range(repeats):
        runs.append(run_sampler("importance", system, proposal, count, seed))
        speeds.append(simulate(arguments.md_seconds))
    row["importance"] = summarise(runs, count)
    time_needed = dynamics_inefficiency(system, arguments.md_ps)
    row["openmm"] = {
        "ps_per_second": middle(speeds),
        "inefficiency_ps_at_least": time_needed,
        "effective_per_second_at_most": middle([speed / time_needed for speed in speeds]),
    }
    if name in arguments.smc.split(","):
        smc = run_sampler("smc", system, proposal, arguments.smc_samples, 0)
        row["smc"] = summarise([smc], arguments.smc_samples)
    print_row(row)
    return row


def print_row(row: dict[str, Any]) -> None:
    """The lines of one peptide."""
    print(
        f"{row['peptide']:<8}{row['atoms']:>4} atoms"
        f"  flow {row['flow_samples_per_second']['median']:,.0f}/s"
        f"  energies {row['energies_per_second']['median']:,.0f}/s"
        f" ({row['share_of_energies']:.1%} of the time)"
    )
    for name in ("importance", "smc"):
        found = row.get(name, {})
        if "error" in found:
            print(f"{'':8}{name}: {found['error']}")
        elif found:
            rate, fraction = found["effective_per_second"], found["ess_fraction"]
            print(
                f"{'':8}{name:<11}{found['samples_per_second']['median']:8.1f} samples/s, effective"
                f" {rate['median']:.2f}/s ({rate['min']:.2f} to {rate['max']:.2f}), ESS"
                f" {fraction['median']:.1%} ({fraction['min']:.1%} to {fraction['max']:.1%})"
            )
    md = row["openmm"]
    rate = md["effective_per_second_at_most"]
    print(
        f"{'':8}OpenMM     {md['ps_per_second']['median']:8.1f} ps/s, effective at most"
        f" {rate['median']:.3f}/s ({rate['min']:.3f} to {rate['max']:.3f}), one sample in"
        f" {md['inefficiency_ps_at_least']:.0f} ps or more",
        flush=True,
    )


def bench_inverse(repeats: int) -> list[dict[str, object]]:
    """Inverse of the TarFlow against the plain loop."""
    print(f"inverse of the TarFlow against a plain loop, batch {INVERSE_BATCH}")
    return [
        inverse.measure(network, peptide, INVERSE_BATCH, repeats)
        for network in NETWORKS
        for peptide in inverse.PEPTIDES
    ]


def bench_memory(system: str, count: int, checkpoint: str, threads: int) -> dict[str, Any]:
    """Peak resident memory of `gensci sample` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "gensci", "sample", "--system", f"peptide:{system}",
            "--num-samples", str(count), "--sampler", "importance", "--allow-extrapolation",
            "--checkpoint", checkpoint, "--seed", "0", "--threads", str(threads),
            "--out", f"{folder}/run",
        ]  # fmt: skip
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        spent = time.perf_counter() - start
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    within = child.returncode == 0 and peak < MEMORY_LIMIT
    print(
        f"memory: {count} samples of {system}: peak {peak / 1e9:.2f} GB in {spent:.0f} s, exit "
        f"status {child.returncode}, {'within' if within else 'NOT within'} the "
        f"{MEMORY_LIMIT / 1e9:.0f} GB of the requirement"
    )
    return {
        "system": system,
        "samples": count,
        "peak_bytes": peak,
        "limit_bytes": MEMORY_LIMIT,
        "within": within,
        "exit_status": child.returncode,
        "seconds": spent,
    }


@contextmanager
def load_noted(record: dict[str, Any]) -> Iterator[None]:
    """Record the load average before and after: numbers of a busy machine are low."""
    record["load_average"] = [os.getloadavg()[0]]
    yield
    record["load_average"].append(os.getloadavg()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="peptide-small")
    parser.add_argument("--names", default="AA,DG,VS,PY,WQ", help="comma-separated peptides")
    parser.add_argument("--num-samples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smc", default="AA", help="peptides for smc, or an empty text")
    parser.add_argument("--smc-samples", type=int, default=128)
    parser.add_argument("--md-seconds", type=float, default=3.0, help="OpenMM, in each turn")
    parser.add_argument("--md-ps", type=float, default=200.0, help="length of gensci's chains")
    parser.add_argument("--memory-system", default="AAAA")
    parser.add_argument("--memory-samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = environment(arguments.threads, "openmm")
    print(f"{record['hardware']}, {arguments.threads} thread(s), {record['commit']}")
    with load_noted(record):
        record["arguments"] = vars(arguments)
        record["peptides"] = [bench_peptide(n, arguments) for n in arguments.names.split(",")]
        record["inverse"] = bench_inverse(arguments.repeats)
        record["memory"] = bench_memory(
            arguments.memory_system,
            arguments.memory_samples,
            arguments.checkpoint,
            arguments.threads,
        )
    if not arguments.no_write:
        write_results("peptide_sampling", record)


if __name__ == "__main__":
    main()
