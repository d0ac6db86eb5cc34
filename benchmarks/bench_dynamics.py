"""Aggregate nanoseconds per day of gensci's Langevin dynamics against OpenMM.

Everybody takes the same steps: 2 fs, hydrogens of 3 Da, no constraints, friction 1/ps, 310 K, on
the same cores with the same number of threads, in turns. OpenMM simulates one molecule; gensci a
batch of independent ones, so its figure is the sum over the batch. Two opponents: OpenMM's CPU
platform with the force field of `build_peptide` (Amber14, OBC1 as openmm.app writes it), and the
fastest that was found for peptides: OpenMM's Reference platform with its own GBSAOBCForce, which
knows OBC2 only. A table of the energy drift without friction is printed too.

    OMP_NUM_THREADS=1 python benchmarks/bench_dynamics.py [--threads 1] [--repeats 5]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import openmm
import torch
from bench_environment import environment, write_results
from make_openmm_reference import heavy_hydrogens, native_solvent

from gensci.sims.dynamics import (
    GAS_CONSTANT,
    DynamicsState,
    Langevin,
    geometric_ladder,
    kinetic_energy,
    repartitioned_masses,
)
from gensci.sims.dynamics import ReplicaExchange as Replicas
from gensci.sims.forcefield import ForceField, kernel_status
from gensci.sims.peptide import build_peptide

PEPTIDES = ("AA", "AAAA", "GYDPETGTWG")
ROWS = {"AA": 256, "AAAA": 256, "GYDPETGTWG": 64}
STEPS = {"AA": 400, "AAAA": 150, "GYDPETGTWG": 60}
TIME_STEP, FRICTION, TEMPERATURE, HYDROGEN = 0.002, 1.0, 310.0, 3.0
DAY = 86400.0


def openmm_context(system: openmm.System, platform: str, threads: int, x: object) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIME_STEP)
    integrator.setRandomNumberSeed(1)
    properties = {"Threads": str(threads)} if platform == "CPU" else {}
    chosen = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, integrator, chosen, properties)
    context.setPositions(x)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    integrator.step(20)
    return context


def opponents(name: str, threads: int) -> dict[str, openmm.Context]:
    contexts = {}
    for label, solvent, platform in (
        ("openmm CPU, OBC1", "obc1", "CPU"),
        ("openmm Reference, own OBC2", "obc2", "Reference"),
    ):
        peptide = build_peptide(name, implicit_solvent=solvent)
        heavy_hydrogens(peptide.system, peptide.bonds)
        if platform == "Reference":
            native_solvent(peptide.system)
        contexts[label] = openmm_context(peptide.system, platform, threads, peptide.positions)
    return contexts


def ours(name: str, threads: int) -> tuple[Langevin, DynamicsState, torch.Tensor]:
    peptide = build_peptide(name)
    field = ForceField.from_openmm(peptide.system, num_threads=threads)
    masses = repartitioned_masses(field.masses.float(), peptide.bonds, HYDROGEN)
    langevin = Langevin(field, masses, TIME_STEP, FRICTION)
    rows = ROWS[name]
    temperature, generator = torch.full((rows,), TEMPERATURE), torch.Generator().manual_seed(1)
    x = torch.from_numpy(peptide.positions).float().repeat(rows, 1, 1)
    state = langevin.run(langevin.start(x, temperature, generator), temperature, 200, generator)
    return langevin, state, temperature


def speed(work: Callable[[], object], steps: int) -> dict[str, float]:
    """Steps per second of elapsed and of processor time."""
    elapsed, busy = time.perf_counter(), time.process_time()
    work()
    return {
        "elapsed": steps / (time.perf_counter() - elapsed),
        "processor": steps / (time.process_time() - busy),
    }


def bench_peptide(name: str, threads: int, repeats: int) -> dict[str, object]:
    langevin, state, temperature = ours(name, threads)
    generator = torch.Generator().manual_seed(2)
    rows, steps = len(temperature), STEPS[name]
    ladder = geometric_ladder(TEMPERATURE, 800.0, 8)
    replicas = Replicas(langevin, ladder, exchange_interval=100)
    exchanging = replicas.start(state.positions, generator)
    contexts = opponents(name, threads)
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "gensci": (lambda: langevin.run(state, temperature, steps, generator), rows * steps),
        "gensci, replica exchange": (
            lambda: replicas.run(exchanging, 100, generator),
            rows * 100,
        ),
    }
    for label, context in contexts.items():
        integrator = context.getIntegrator()
        count = 200 if "CPU" in label else 1000
        contenders[label] = (lambda i=integrator, c=count: i.step(c), count)
    for work, _ in contenders.values():
        work()
    rounds = [{k: speed(*job) for k, job in contenders.items()} for _ in range(repeats)]
    return summarise(name, langevin.masses.shape[0], rows, rounds)


def summarise(
    name: str, atoms: int, rows: int, rounds: list[dict[str, dict[str, float]]]
) -> dict[str, object]:
    result: dict[str, object] = {"peptide": name, "atoms": atoms, "rows": rows}
    for clock in ("elapsed", "processor"):
        speeds = [{k: both[clock] for k, both in r.items()} for r in rounds]
        per_day = TIME_STEP * 1e-3 * DAY
        result[f"ns_per_day_{clock}"] = {
            k: statistics.median(r[k] for r in speeds) * per_day for k in speeds[0]
        }
        for label in [k for k in speeds[0] if "openmm" in k]:
            ratios = sorted(r["gensci"] / r[label] for r in speeds)
            result[f"ratio to {label}, {clock}"] = {
                "median": statistics.median(ratios),
                "range": [ratios[0], ratios[-1]],
            }
    return result


def drift(name: str, time_step: float, picoseconds: float, dtype: torch.dtype) -> dict[str, float]:
    """Change of the total energy without friction, physical masses."""
    peptide = build_peptide(name)
    field = ForceField.from_openmm(peptide.system)
    masses, rows = field.masses.to(dtype), 32
    x = torch.from_numpy(peptide.positions).to(dtype).repeat(rows, 1, 1)
    temperature, generator = torch.full((rows,), TEMPERATURE), torch.Generator().manual_seed(3)
    warm = Langevin(field, masses, 0.0005, 20.0)
    state = warm.run(warm.start(x, temperature, generator), temperature, 2000, generator)
    newton = Langevin(field, masses, time_step, friction=0.0)
    totals = []
    for _ in range(round(picoseconds / 0.05)):
        state = newton.run(state, temperature, round(0.05 / time_step), generator)
        totals.append((state.energy + kinetic_energy(state, masses)).double())
    total = torch.stack(totals)
    edge = max(1, len(total) // 20)
    change = total[-edge:].mean(0) - total[:edge].mean(0)
    freedom = 3 * field.num_atoms * GAS_CONSTANT * TEMPERATURE
    scale = 1e3 / (0.95 * picoseconds) / freedom  # per ns, in kT, for each degree of freedom
    return {
        "peptide": name,
        "time_step_fs": 1e3 * time_step,
        "precision": str(dtype).removeprefix("torch."),
        "picoseconds": picoseconds,
        "drift": change.mean().item() * scale,
        "error": change.std().item() / math.sqrt(rows) * scale,
        "fluctuation": total.std(0).mean().item(),
    }


def print_tables(rows: list[dict[str, object]], drifts: list[dict[str, float]]) -> None:
    for clock in ("elapsed", "processor"):
        print(f"\nns per day of {clock} time, {1e3 * TIME_STEP:.0f} fs steps")
        for row in rows:
            print(f"{row['peptide']} ({row['atoms']} atoms, {row['rows']} rows)")
            for label, value in row[f"ns_per_day_{clock}"].items():
                ratio = row.get(f"ratio to {label}, {clock}")
                low_high = "" if ratio is None else "gensci is {:.0f} times ({:.0f} .. {:.0f})"
                numbers = [] if ratio is None else [ratio["median"], *ratio["range"]]
                print(f"  {label:<28}{value:>12,.0f}   {low_high.format(*numbers)}")
    print("\nwithout friction: drift of the total energy, kT per ns and degree of freedom")
    for d in drifts:
        print(
            f"  {d['peptide']:<5}{d['precision']:<8} {d['time_step_fs']:.2f} fs, "
            f"{d['picoseconds']:.0f} ps: {d['drift']:+.4f} +- {d['error']:.4f}"
            f"   (fluctuation {d['fluctuation']:.2f} kJ/mol)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [bench_peptide(name, arguments.threads, arguments.repeats) for name in PEPTIDES]
    drifts = [
        drift("AA", 0.0005, 100.0, torch.float32),
        drift("AA", 0.001, 100.0, torch.float32),
        drift("AA", 0.0005, 25.0, torch.float64),
    ]
    record = {**environment(arguments.threads, "openmm"), "path": kernel_status(), "results": rows}
    print(f"{record['hardware']}, {arguments.threads} thread(s); {record['path']}")
    print_tables(rows, drifts)
    write_results("dynamics", {**record, "drift": drifts})


if __name__ == "__main__":
    main()
