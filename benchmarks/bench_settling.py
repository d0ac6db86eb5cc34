"""How long a simulation's energies fall after its hot start, against the reference ensembles.

    python benchmarks/bench_settling.py                    # eight tetrapeptides, three recipes
    python benchmarks/bench_settling.py --names RLMM --length 200ps

Each recipe equilibrates for 1 ps only, so that all of the fall is seen; printed is the mean energy
of consecutive blocks less that of the reference ensemble, in kT, and the mean over the peptides
with its standard error. It says from when on the frames of a training corpus may be kept: a flow
trained on frames from before makes the compact conformations too seldom.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from bench_environment import environment, write_results

from gensci.commands.simulate import duration
from gensci.metrics.references import load_reference_ensemble
from gensci.samplers.base import MemoryStore
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.systems.peptide import PeptideSystem
from gensci.systems.simulation import SimulationSettings
from gensci.systems.simulation_run import simulate_system

NAMES = "RLMM,KLLR,KRWN,KKAP,HYGW,QAKR,SHKS,PQIF"
COMMON = SimulationSettings(
    length=80.0, frame_interval=0.5, time_step=0.003, masses="uniform", equilibration=1.0
)
# what makes 48 replicas, and twice 24; the first made most of the corpora of checkpoints/peptide
RECIPES = {
    "8 x 6, to 800 K": replace(COMMON, ladders=8, num_temperatures=6, hottest=800.0, pivots=8),
    "4 x 6, to 600 K": replace(COMMON, ladders=4, num_temperatures=6, hottest=600.0, pivots=16),
    "6 x 4, to 500 K": replace(COMMON, ladders=6, num_temperatures=4, hottest=500.0, pivots=16),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=NAMES, help="comma-separated, with a reference")
    parser.add_argument("--length", default="80ps")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    length = duration("length", arguments.length)
    names = arguments.names.split(",")
    rows: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float] = {}
    for label, recipe in RECIPES.items():
        begun, rows[label] = time.process_time(), {}
        settings = replace(recipe, length=length)
        print(f"{label}: ps {ends(length, arguments.blocks)}", flush=True)
        for name in names:
            found = excess(name, settings, arguments.blocks, arguments.seed)
            rows[label][name] = found
            print(f"{name:<9}" + "".join(f"{value:8.2f}" for value in found), flush=True)
        seconds[label] = time.process_time() - begun
        columns = list(zip(*rows[label].values(), strict=True))
        print("mean     " + "".join(f"{statistics.fmean(column):8.2f}" for column in columns))
        if len(names) > 1:
            errors = [statistics.stdev(column) / len(names) ** 0.5 for column in columns]
            print("+-       " + "".join(f"{error:8.2f}" for error in errors))
        print(f"{seconds[label]:.0f} s of processor\n", flush=True)
    record = {**environment(arguments.threads), **vars(arguments), "processor_seconds": seconds}
    write_results("settling", {**record, "energy_above_reference_kt": rows})


def ends(length: float, blocks: int) -> str:
    """The time at which each block ends (ps)."""
    return "".join(f"{length * (k + 1) / blocks:8.0f}" for k in range(blocks)).strip()


def excess(name: str, settings: SimulationSettings, blocks: int, seed: int) -> list[float]:
    """Mean energy of each block of a simulation less the reference's (kT)."""
    store = MemoryStore()
    system = PeptideSystem.from_text(name)
    simulate_system(system, settings, seed=seed, store=store)
    shards = [store.load_shard(k) for k in range(settings.num_shards)]
    energy = torch.cat([shard["energy"] for shard in shards]).double().numpy()
    snapshot = torch.cat([shard["snapshot"] for shard in shards]).numpy()
    reference = load_reference_ensemble(name)
    energy = energy / (GAS_CONSTANT * settings.coldest)
    block = snapshot * blocks // settings.snapshots
    level = reference.reduced_energy.mean()
    return [float(energy[block == k].mean() - level) for k in range(blocks)]


if __name__ == "__main__":
    main()
