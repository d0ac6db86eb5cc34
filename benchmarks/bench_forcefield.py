"""Energies and forces per second of gensci.sims.forcefield against OpenMM's CPU platform.

Both run in this process on the same cores with the same number of threads, in turns. OpenMM is
measured in its two natural uses, and the ratio is taken to the faster one: a step of its own
Verlet integrator (one force evaluation, no Python in between), and setPositions + getState for
conformations that come from elsewhere. Conformations are 512 frames of a short simulation,
repeated, so that all are realistic and neighbours differ. Ratios are given by elapsed time and by
processor time of the whole process; the latter is hardly disturbed by other work on the machine.

    OMP_NUM_THREADS=1 python benchmarks/bench_forcefield.py [--threads 1] [--repeats 7]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import openmm
import torch
from bench_environment import environment, write_results

from gensci.sims.forcefield import ForceField, kernel_status
from gensci.sims.peptide import build_peptide

PEPTIDES = ("AA", "AAAA", "GYDPETGTWG")
FRAMES = 512
CONFORMATIONS = {"AA": 32768, "AAAA": 16384, "GYDPETGTWG": 2048}
OPENMM_CALLS = {"AA": 600, "AAAA": 400, "GYDPETGTWG": 80}


def make_context(system: openmm.System, threads: int) -> openmm.Context:
    properties = {"Threads": str(threads)}
    integrator = openmm.LangevinMiddleIntegrator(310, 1, 0.001)
    integrator.setRandomNumberSeed(1)
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), properties)


def simulate_frames(field: ForceField, start: torch.Tensor) -> torch.Tensor:
    """512 conformations near 310 K: friction-dominated dynamics of all of them at once."""
    generator = torch.Generator().manual_seed(1)
    x = start.float().repeat(FRAMES, 1, 1)
    mobility = 2e-7  # nm^2 mol / kJ: displacement for a unit of force and step
    noise = (2 * mobility * 2.577) ** 0.5
    for _ in range(1500):
        kick = torch.randn(x.shape, generator=generator)
        x = x + (mobility * field.energy_and_forces(x)[1]).clamp(-2e-3, 2e-3) + noise * kick
    return x


def rate(work: Callable[[], object], count: int) -> dict[str, float]:
    elapsed, busy = time.perf_counter(), time.process_time()
    work()
    elapsed, busy = time.perf_counter() - elapsed, time.process_time() - busy
    return {"elapsed": count / elapsed, "processor": count / busy}


def bench_peptide(name: str, threads: int, repeats: int) -> dict[str, object]:
    peptide = build_peptide(name)
    field = ForceField.from_openmm(peptide.system, num_threads=threads)
    frames = simulate_frames(field, torch.from_numpy(peptide.positions))
    count, calls = CONFORMATIONS[name], OPENMM_CALLS[name]
    x = frames.repeat(-(-count // FRAMES), 1, 1)[:count].contiguous()
    evaluating, stepping = (make_context(peptide.system, threads) for _ in range(2))
    arrays = [frame.double().numpy() for frame in frames[: min(calls, FRAMES)]]
    stepping.setPositions(arrays[0])

    def openmm_evaluations() -> None:
        for k in range(calls):
            evaluating.setPositions(arrays[k % len(arrays)])
            evaluating.getState(getEnergy=True, getForces=True)

    contenders = {
        "gensci energies and forces": (lambda: field.energy_and_forces(x), count),
        "openmm steps": (lambda: stepping.getIntegrator().step(calls), calls),
        "gensci energies": (lambda: field.energy(x), count),
        "openmm energies and forces": (openmm_evaluations, calls),
    }
    for work, _ in contenders.values():
        work()
    rounds = [{k: rate(*job) for k, job in contenders.items()} for _ in range(repeats)]
    return summarise(name, peptide.num_atoms, rounds)


def summarise(
    name: str, atoms: int, rounds: list[dict[str, dict[str, float]]]
) -> dict[str, object]:
    row: dict[str, object] = {"peptide": name, "atoms": atoms}
    for clock in ("elapsed", "processor"):
        speeds = [{work: both[clock] for work, both in r.items()} for r in rounds]
        row[f"per_second_{clock}"] = {k: statistics.median(r[k] for r in speeds) for k in speeds[0]}
        for work in ("gensci energies and forces", "gensci energies"):
            ratios = sorted(r[work] / max(v for k, v in r.items() if "openmm" in k) for r in speeds)
            row[f"ratio {work[7:]}, {clock}"] = {
                "median": statistics.median(ratios),
                "range": [ratios[0], ratios[-1]],
            }
    return row


def print_table(rows: list[dict[str, object]]) -> None:
    for clock in ("elapsed", "processor"):
        print(f"\nper second of {clock} time; ratio to the faster use of OpenMM, median (range)")
        print(f"{'peptide':<12}{'atoms':>5}{'E+F':>11}{'E only':>11}{'OpenMM step':>13}", end="")
        print(f"{'OpenMM E+F':>12}{'ratio E+F':>21}{'ratio E only':>21}")
        for row in rows:
            speed = row[f"per_second_{clock}"]
            print(
                f"{row['peptide']:<12}{row['atoms']:>5}"
                f"{speed['gensci energies and forces']:>11,.0f}{speed['gensci energies']:>11,.0f}"
                f"{speed['openmm steps']:>13,.0f}{speed['openmm energies and forces']:>12,.0f}"
                f"{spread(row[f'ratio energies and forces, {clock}']):>21}"
                f"{spread(row[f'ratio energies, {clock}']):>21}"
            )


def spread(ratio: dict[str, object]) -> str:
    low, high = ratio["range"]
    return f"{ratio['median']:.0f} ({low:.0f} .. {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [bench_peptide(name, arguments.threads, arguments.repeats) for name in PEPTIDES]
    record = {**environment(arguments.threads, "openmm"), "path": kernel_status(), "results": rows}
    print(f"{record['hardware']}, {arguments.threads} thread(s); {record['path']}")
    print_table(rows)
    write_results("forcefield", record)


if __name__ == "__main__":
    main()
