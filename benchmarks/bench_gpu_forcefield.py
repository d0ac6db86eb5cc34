"""Energies and forces per second of the GPU kernels against plain torch on the same GPU.

Parity with the CPU kernel in float64 comes first; no speed is printed for a kernel that disagrees.
Every row is a median over repeats with its range; batches are the stored frames, repeated. Run by
gpu_forcefield.sh, which needs neither OpenMM nor an installation. With GENSCI_REHEARSAL=1 the
whole script runs at a tiny size in triton's interpreter on the CPU.

    bash benchmarks/gpu_forcefield.sh
"""

import importlib
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_environment import commit, environment, write_results
from parameter_file import Example, load_example

from gensci.sims.forcefield import ForceField
from gensci.sims.forcefield.field import _convert
from gensci.sims.forcefield.gpu import GpuKernel, Tile, gpu_status
from gensci.sims.forcefield.terms import energy_terms

REHEARSAL = os.environ.get("GENSCI_REHEARSAL") == "1"
DATA = Path(__file__).parent / "data"
DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
PEPTIDES = ("AA",) if REHEARSAL else ("AA", "AAAA", "GYDPETGTWG")
SIZES = (2, 3) if REHEARSAL else (256, 1024, 4096, 16384, 65536, 262144)
TORCH_SIZES = (2,) if REHEARSAL else (256, 4096, 16384)
SWEPT = SIZES[::2]
STREAMED = 8 if REHEARSAL else 100_000
PIECE = SIZES[-1] if REHEARSAL else 4096
REPEATS, SECONDS = (1, 0.0) if REHEARSAL else (5, 0.15)
OWN_TILE = Tile(32, 4, 1) if REHEARSAL else None
TILES = tuple(Tile(rows, lanes, lanes // 32) for rows in (1, 2, 4, 8) for lanes in (32, 64, 128))
TILES = (OWN_TILE,) if OWN_TILE else (*TILES, Tile(4, 64, 4), Tile(8, 64, 4))
Work = Callable[[], object]


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def rates(work: Work, count: int) -> dict[str, float]:
    """Conformations per second: median and range over repeats of at least SECONDS each."""
    work()
    wait()
    start = time.perf_counter()
    work()
    wait()
    calls = max(1, round(SECONDS / max(time.perf_counter() - start, 1e-6)))
    speeds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        speeds.append(calls * count / (time.perf_counter() - start))
    return {"median": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}


def batch(example: Example, n: int) -> torch.Tensor:
    x = example.x
    return x.repeat(-(-n // len(x)), 1, 1)[:n].to(DEVICE).contiguous()


def kernel_of(example: Example, dtype: torch.dtype = torch.float32) -> GpuKernel:
    return GpuKernel([example.parameters], DEVICE, dtype, tile=OWN_TILE)


def parity(name: str, example: Example) -> dict[str, float]:
    """Largest errors of every path on the stored frames; stops where one is wrong."""
    rows = slice(0, 3 if REHEARSAL else len(example.x))
    paths = {
        "kernel, single": kernel_of(example).energy_and_forces,
        "kernel, double": kernel_of(example, torch.float64).energy_and_forces,
        "torch, single": ForceField(example.parameters, fused=False).energy_and_forces,
    }
    errors: dict[str, float] = {}
    true = example.forces[rows].double().flatten(1)
    for path, evaluate in paths.items():
        x = example.x[rows].to(DEVICE, torch.float64 if "double" in path else torch.float32)
        energy, forces = (t.cpu().double() for t in evaluate(x))
        errors[f"{path}: energy, kJ/mol"] = (energy - example.energy[rows]).abs().max().item()
        relative = (forces.flatten(1) - true).norm(dim=1) / true.norm(dim=1)
        errors[f"{path}: forces, relative"] = relative.max().item()
    for what, error in errors.items():
        print(f"{name:<12} {what:<36} {error:.2e}")
        limit = 5e-2 if "energy" in what else 1e-4
        if not error < (limit if "single" in what else 1e-6):
            sys.exit(f"{name}: the error of {what} is {error:.2e}; speeds would mean nothing")
    return errors


def bench_kernel(name: str, example: Example) -> list[dict[str, object]]:
    kernel, rows = kernel_of(example), []
    for n in SIZES:
        x = batch(example, n)
        both = rates(lambda x=x: kernel.energy_and_forces(x), n)
        energies = rates(lambda x=x: kernel.energy(x), n)
        row = {"peptide": name, "batch": n, "energies and forces": both, "energies": energies}
        if DEVICE.type == "cuda" and n <= 4096:
            replay = kernel.captured((n,))
            row["energies and forces, graph"] = rates(lambda x=x, replay=replay: replay(x), n)
        rows.append(row)
        print_row(row)
    return rows


def bench_torch(name: str, example: Example) -> list[dict[str, object]]:
    """Plain torch on the same device, eager and, at one size, compiled."""
    field, rows = ForceField(example.parameters, fused=False), []
    for n in TORCH_SIZES:
        x = batch(example, n)
        row = {
            "peptide": f"{name} (torch)", "batch": n,
            "energies and forces": rates(lambda x=x: field.energy_and_forces(x), n),
            "energies": rates(lambda x=x: field.energy(x), n),
        }  # fmt: skip
        rows.append(row)
        print_row(row)
    if DEVICE.type == "cuda" and name == "AAAA":
        rows.append(bench_compiled(name, example))
    return rows


def bench_compiled(name: str, example: Example) -> dict[str, object]:
    numbers = _convert(example.parameters, DEVICE, torch.float32)
    total = torch.compile(lambda x: sum(energy_terms(x, numbers).values()))
    x = batch(example, 4096).requires_grad_()
    try:
        work = rates(lambda: torch.autograd.grad(total(x).sum(), x), len(x))
    except Exception as error:  # torch.compile may fail in any way; the benchmark goes on
        return {"peptide": f"{name} (torch.compile)", "failed": f"{type(error).__name__}: {error}"}
    row = {"peptide": f"{name} (torch.compile)", "batch": len(x), "energies and forces": work}
    print_row(row)
    return row


def sweep_tiles(example: Example, n: int) -> list[dict[str, object]]:
    x, rows = batch(example, n), []
    for tile in TILES:
        kernel = GpuKernel([example.parameters], DEVICE, torch.float32, tile=tile)
        speed = rates(lambda kernel=kernel: kernel.energy_and_forces(x), n)
        rows.append({"tile": vars(tile), "batch": n, **speed})
        print(f"{tile!s:<50} batch {n:>7} {speed['median']:>14,.0f} / s")
    return rows


def memory(example: Example) -> dict[str, float]:
    """Bytes for a conformation beyond input and output, and growth while streaming."""
    kernel, x = kernel_of(example), batch(example, PIECE)
    kernel.energy_and_forces(x)
    if DEVICE.type != "cuda":
        return {"streamed": stream(kernel, x)}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = kernel.energy_and_forces(x)
    kept = sum(t.numel() * t.element_size() for t in result)
    peak = torch.cuda.max_memory_allocated() - before - kept
    del result
    kernel.energy_and_forces(x)
    reserved = torch.cuda.memory_reserved()
    count = stream(kernel, x)
    growth = torch.cuda.memory_reserved() - reserved
    print(f"memory: {peak / PIECE:,.0f} bytes a conformation; {growth} more after {count:,}")
    return {"bytes per conformation": peak / PIECE, "streamed": count, "growth": growth}


def stream(kernel: GpuKernel, x: torch.Tensor) -> int:
    done = 0
    while done < STREAMED:
        kernel.energy_and_forces(x)
        done += len(x)
    wait()
    return done


def print_row(row: dict[str, object]) -> None:
    cells = [f"{row['peptide']:<24} batch {row['batch']:>7}"]
    for what in ("energies and forces", "energies", "energies and forces, graph"):
        if what in row:
            speed = row[what]
            cells.append(f"{what} {speed['median']:>13,.0f} / s")
    print("   ".join(cells), flush=True)


def main() -> None:
    torch.set_num_threads(1)
    if REHEARSAL:
        sys.path.append(str(Path(__file__).parents[1]))
        importlib.import_module("tests.sims.gpu_interpreter").patch_interpreter()
    status = "rehearsal in the interpreter" if REHEARSAL else gpu_status()
    hardware = "cpu" if DEVICE.type == "cpu" else torch.cuda.get_device_name()
    print(f"{hardware}; torch {torch.__version__}; {status}; commit {commit()}")
    examples = {name: load_example(DATA / f"forcefield_{name}.safetensors") for name in PEPTIDES}
    record = {**environment(1, "triton"), "gpu": hardware, "path": status}
    stages: dict[str, Callable[[], object]] = {
        "parity": lambda: {name: parity(name, e) for name, e in examples.items()},
        "kernel": lambda: [row for name, e in examples.items() for row in bench_kernel(name, e)],
        "memory": lambda: {name: memory(e) for name, e in examples.items()},
        "torch": lambda: [row for name, e in examples.items() for row in bench_torch(name, e)],
        "tiles": lambda: [row for n in SWEPT for row in sweep_tiles(examples[PEPTIDES[-2:][0]], n)],
    }
    for stage, work in stages.items():  # written after each, lest a time limit take it all
        record[stage] = work()
        path = write_results(f"gpu_forcefield{'_rehearsal' * REHEARSAL}", record)
        if os.environ.get("OUT"):
            shutil.copy(path, os.environ["OUT"])


if __name__ == "__main__":
    main()
