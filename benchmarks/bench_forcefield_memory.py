"""What a new peptide costs ahead of time, and the memory of a stream of conformations.

Ahead of time: from an OpenMM System to the first energies and forces of 16 conformations, in a
process that has the kernel in its cache, and once for each machine the build of the kernel.
Memory: 100,000 conformations of AAAA are made chunk by chunk (one structure, shaken) and go through
energy_and_forces, twice; the resident set and its peak are read after the first and second time.

    OMP_NUM_THREADS=1 python benchmarks/bench_forcefield_memory.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_environment import environment, write_results

from gensci.sims.forcefield import ForceField, kernel_status
from gensci.sims.peptide import build_peptide

PEPTIDES = {"AA": "obc1", "AAAA": "obc1", "GYDPETGTWG": "obc1", "AAAA, GBn2": "gbn2"}
STREAMED, CHUNK, REPEATS = 100_000, 2048, 5
BUILD = "from gensci.sims.forcefield import kernel_status; print(kernel_status())"


def ahead_of_time(name: str, solvent: str) -> dict[str, object]:
    """Seconds from a System to the first energies and forces."""
    peptide = build_peptide(name.split(",")[0], implicit_solvent=solvent, minimise=False)
    x = torch.from_numpy(peptide.positions).float().repeat(16, 1, 1)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ForceField.from_openmm(peptide.system).energy_and_forces(x)
        seconds.append(time.perf_counter() - start)
    return {"peptide": name, "median_s": statistics.median(seconds), "worst_s": max(seconds)}


def build_seconds() -> float:
    """Seconds that the kernel takes in a process with an empty cache beyond one with a full one."""

    def run(cache: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", BUILD], check=True, capture_output=True,
                       env={**os.environ, "XDG_CACHE_HOME": cache})  # fmt: skip
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as cache:
        return run(cache) - run(cache)


def resident() -> tuple[int, int]:
    """Bytes resident now, and at most so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize(), peak


def stream(field: ForceField, start: torch.Tensor, count: int) -> float:
    """Sends that many shaken conformations through the kernel; mean energy, so none is idle."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for done in range(0, count, CHUNK):
        size = min(CHUNK, count - done)
        noise = torch.randn(size, *start.shape, generator=generator)
        energy, forces = field.energy_and_forces(start + 0.003 * noise)
        total += float(energy.double().sum()) + 0 * float(forces[0, 0, 0])
    return total / count


def memory() -> dict[str, object]:
    peptide = build_peptide("AAAA")
    field = ForceField.from_openmm(peptide.system)
    start = torch.from_numpy(peptide.positions).float()
    stream(field, start, STREAMED)  # the allocator settles within a few MB
    before, peak_before = resident()
    mean = stream(field, start, STREAMED)
    after, peak_after = resident()
    atoms = peptide.num_atoms
    return {
        "conformations": STREAMED, "chunk": CHUNK, "atoms": atoms, "mean_energy": mean,
        "bytes_per_conformation": {"positions": 12 * atoms, "forces": 12 * atoms, "energy": 4},
        "scratch_bytes": 64 * (11 * atoms + 3 * atoms * (atoms - 1) // 2),
        "resident_before": before, "resident_after": after,
        "peak_before": peak_before, "peak_growth": peak_after - peak_before,
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    used = memory()  # first, so that its peak is its own
    rows = [ahead_of_time(name, solvent) for name, solvent in PEPTIDES.items()]
    built = build_seconds()
    print(f"{kernel_status()}; built once in {built:.1f} s")
    for row in rows:
        print(f"{row['peptide']:<14} System to first energies and forces: "
              f"{1e3 * row['median_s']:.0f} ms, at most {1e3 * row['worst_s']:.0f} ms")  # fmt: skip
    each = sum(used["bytes_per_conformation"].values())
    print(f"{used['conformations']:,} conformations of AAAA in chunks of {used['chunk']}: {each} "
          f"bytes each for positions, forces and energy ({each * STREAMED / 1e6:.0f} MB for all), "
          f"{used['scratch_bytes'] / 1e3:.0f} kB of scratch for a thread; resident "
          f"{used['resident_before'] / 1e6:.1f} MB before, {used['resident_after'] / 1e6:.1f} MB "
          f"after; the peak grew by {used['peak_growth'] / 1e6:.2f} MB")  # fmt: skip
    record = {**environment(1, "openmm"), "path": kernel_status(), "build_s": built}
    write_results("forcefield_memory", {**record, "ahead_of_time": rows, "memory": used})


if __name__ == "__main__":
    main()
