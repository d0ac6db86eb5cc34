"""Energies and forces per second of gensci.sims.forcefield against OpenMM.

Same physics everywhere: amber14 with OBC2. OpenMM has three natural ways to it: its CPU platform
with the solvent that openmm.app's implicit/obc2.xml writes as text (a CustomGBForce), and its CPU
and Reference platforms with the native GBSAOBCForce; for small peptides Reference is the fastest.
Each is measured in three uses: a step of its own integrator (one force evaluation, no Python in
between), and setPositions + getState with forces or with the energy alone. Ratios are to the
fastest use, once of the CPU platform (either solvent) and once of all of OpenMM.

All run in this process on the same cores with the same number of threads, in turns. Conformations
are 512 frames of a short simulation, repeated, so that all are realistic and neighbours differ.
Ratios are given by elapsed time and by processor time of the whole process; the latter is hardly
disturbed by other work on the machine.

    OMP_NUM_THREADS=1 python benchmarks/bench_forcefield.py [--threads 1] [--repeats 7]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import openmm
import torch
from bench_environment import environment, write_results
from make_openmm_reference import native_solvent

from gensci.sims.forcefield import ForceField, kernel_status
from gensci.sims.peptide import build_peptide

SOLVENT = "obc2"
PEPTIDES = {"Ace-A-Nme": 131072, "AA": 131072, "AAAA": 65536, "GYDPETGTWG": 8192}
OPENMM_CALLS = {"Ace-A-Nme": 300, "AA": 300, "AAAA": 200, "GYDPETGTWG": 40}
FRAMES = 512
TEXT, CPU, REFERENCE = "CPU, solvent as text", "CPU", "Reference"
OPENMM = (TEXT, CPU, REFERENCE)
OURS, OURS_ALONE = "gensci energies and forces", "gensci energies"


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


def make_context(system: openmm.System, kind: str, threads: int) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(310, 1, 0.001)
    integrator.setRandomNumberSeed(1)
    name = REFERENCE if kind == REFERENCE else CPU
    properties = {} if kind == REFERENCE else {"Threads": str(threads)}
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName(name), properties)


def openmm_uses(
    system: openmm.System, kind: str, arrays: list[Any], calls: int, threads: int
) -> dict[str, Callable[[], object]]:
    """What one kind of OpenMM is timed at: `calls` evaluations each."""
    if kind != TEXT:
        system = copy.deepcopy(system)
        native_solvent(system)
    stepping, evaluating = (make_context(system, kind, threads) for _ in range(2))
    stepping.setPositions(arrays[0])

    def evaluate(**wanted: bool) -> None:
        for k in range(calls):
            evaluating.setPositions(arrays[k % len(arrays)])
            evaluating.getState(**wanted)

    return {
        f"{kind}: steps": lambda: stepping.getIntegrator().step(calls),
        f"{kind}: energies and forces": lambda: evaluate(getEnergy=True, getForces=True),
        f"{kind}: energies": lambda: evaluate(getEnergy=True),
    }


def rate(work: Callable[[], object], count: int) -> dict[str, float]:
    elapsed, busy = time.perf_counter(), time.process_time()
    work()
    elapsed, busy = time.perf_counter() - elapsed, time.process_time() - busy
    return {"elapsed": count / elapsed, "processor": count / busy}


def bench_peptide(name: str, threads: int, repeats: int) -> dict[str, object]:
    peptide = build_peptide(name, implicit_solvent=SOLVENT)
    field = ForceField.from_openmm(peptide.system, num_threads=threads)
    frames = simulate_frames(field, torch.from_numpy(peptide.positions))
    count, calls = PEPTIDES[name], OPENMM_CALLS[name]
    x = frames.repeat(-(-count // FRAMES), 1, 1)[:count].contiguous()
    arrays = [frame.double().numpy() for frame in frames[: min(calls, FRAMES)]]
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        OURS: (lambda: field.energy_and_forces(x), count),
        OURS_ALONE: (lambda: field.energy(x), count),
    }
    for kind in OPENMM:
        uses = openmm_uses(peptide.system, kind, arrays, calls, threads)
        contenders |= {use: (work, calls) for use, work in uses.items()}
    for work, _ in contenders.values():
        work()
    rounds = [{k: rate(*job) for k, job in contenders.items()} for _ in range(repeats)]
    return {"peptide": name, "atoms": peptide.num_atoms, **summarise(rounds)}


def summarise(rounds: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    summary: dict[str, object] = {}
    for clock in ("elapsed", "processor"):
        speeds = [{use: both[clock] for use, both in r.items()} for r in rounds]
        summary[f"per_second_{clock}"] = {
            use: statistics.median(r[use] for r in speeds) for use in speeds[0]
        }
        for ours in (OURS, OURS_ALONE):
            for against, kinds in (("CPU", (TEXT, CPU)), ("fastest", OPENMM)):
                ratios = [r[ours] / fastest(r, ours, kinds) for r in speeds]
                summary[f"ratio {ours[7:]} to {against}, {clock}"] = {
                    "median": statistics.median(ratios),
                    "range": [min(ratios), max(ratios)],
                }
    return summary


def fastest(speeds: dict[str, float], ours: str, kinds: tuple[str, ...]) -> float:
    """OpenMM's best use that yields as much as ours: energies alone are no match for forces."""
    return max(
        speed
        for use, speed in speeds.items()
        if use.split(":")[0] in kinds and (ours == OURS_ALONE or not use.endswith(": energies"))
    )


def print_table(rows: list[dict[str, Any]]) -> None:
    for clock in ("elapsed", "processor"):
        print(f"\nper second of {clock} time; OpenMM at its best use; ratios: median (range)")
        print(f"{'peptide':<12}{'atoms':>5}{'E+F':>10}{'E only':>11}{'CPU, text':>11}{'CPU':>8}"
              f"{'Reference':>11}{'E+F to CPU':>17}{'E+F to fastest':>17}{'E to CPU':>17}"
              f"{'E to fastest':>17}")  # fmt: skip
        for row in rows:
            speed = row[f"per_second_{clock}"]
            best = {k: max(v for u, v in speed.items() if u.split(":")[0] == k) for k in OPENMM}
            print(f"{row['peptide']:<12}{row['atoms']:>5}{speed[OURS]:>10,.0f}"
                  f"{speed[OURS_ALONE]:>11,.0f}{best[TEXT]:>11,.0f}{best[CPU]:>8,.0f}"
                  f"{best[REFERENCE]:>11,.0f}", end="")  # fmt: skip
            for work in ("energies and forces", "energies"):
                for against in ("CPU", "fastest"):
                    print(f"{spread(row[f'ratio {work} to {against}, {clock}']):>17}", end="")
            print()


def spread(ratio: dict[str, Any]) -> str:
    low, high = ratio["range"]
    return f"{ratio['median']:.0f} ({low:.0f} .. {high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [bench_peptide(name, arguments.threads, arguments.repeats) for name in PEPTIDES]
    record = {
        **environment(arguments.threads, "openmm"),
        "force field": f"amber14-all.xml, {SOLVENT}", "path": kernel_status(), "results": rows,
    }  # fmt: skip
    print(f"{record['hardware']}, {arguments.threads} thread(s); {record['path']}")
    print_table(rows)
    write_results("forcefield", record)


if __name__ == "__main__":
    main()
