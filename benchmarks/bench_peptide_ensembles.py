"""Weighted samples of excluded dipeptides against long independent simulations.

    python benchmarks/bench_peptide_ensembles.py                     # all with a reference
    python benchmarks/bench_peptide_ensembles.py --names AA,CE,CL --result peptide_ess
    python benchmarks/bench_peptide_ensembles.py --collect peptide_ensembles,peptide_ess
    python benchmarks/bench_peptide_ensembles.py --summarise data/reference   # renew references

The claim: on peptides that the flow never saw, the reweighted mean energy and the psi/phi histogram
agree with replica exchange within error bars. References are summaries (cell populations of the
backbone torus and the mean energy, with errors from independent ladders) in benchmarks/references,
made by `gensci simulate`; their recipe stands in each file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results

from gensci.metrics.ensembles import (
    Estimate,
    block_estimate,
    dipeptide_observables,
    total_variation,
    weighted_estimate,
    z_scores,
)

REFERENCES = Path(__file__).parent / "references"


def summarise(folder: Path) -> dict:
    """Averages of a simulation folder with errors from its ladders."""
    from safetensors.torch import load_file

    shards = [load_file(path) for path in sorted((folder / "shards").glob("*.safetensors"))]
    run = json.loads((folder / "run.json").read_text())
    positions = torch.cat([s["positions"] for s in shards]).numpy()
    energy = torch.cat([s["energy"] for s in shards]).double().numpy()
    if run["dropped"]:
        raise SystemExit(f"{folder}: frames were dropped, so ladders cannot be told apart")
    # Frames come snapshot by snapshot, one of each ladder.
    block = np.arange(len(energy)) % run["settings"]["ladders"]
    values = dipeptide_observables(folder / "topology.pdb", positions, energy)
    estimate = block_estimate(values, block)
    return {
        "system": run["settings"]["system"],
        "recipe": {"command": "gensci simulate", "seed": run["seed"], **run["settings"]},
        "frames": len(energy),
        "round_trips": run["round_trips"],
        "observables": "energy kJ/mol, then 6x6 cells of (psi1, phi2) from -pi",
        "mean": estimate.mean.tolist(),
        "error": estimate.error.tolist(),
    }


def read_reference(name: str) -> Estimate:
    data = json.loads((REFERENCES / f"{name}.json").read_text())
    return Estimate(np.array(data["mean"]), np.array(data["error"]))


def compare(name: str, checkpoint: str, n: int, seed: int, folder: Path) -> dict:
    """One row of the table: draw n weighted samples and compare them with the reference."""
    from openmm.app import PDBFile

    from gensci.models.proposal import load_proposal
    from gensci.samplers import make_sampler
    from gensci.systems.peptide import PeptideSystem

    system = PeptideSystem.from_text(name)
    target = system.target("cpu", torch.float32)
    proposal = load_proposal(checkpoint, system.peptide, "cpu")
    start = time.perf_counter()
    samples = make_sampler("importance").run(target, proposal, n, seed=seed, shard_size=2000)
    seconds = time.perf_counter() - start
    topology = folder / f"{name}.pdb"
    with open(topology, "w") as file:
        PDBFile.writeFile(system.peptide.topology, 10 * system.peptide.positions, file)
    positions = samples.x["positions"]
    energy = system.force_field.energy(positions).double().numpy()
    values = dipeptide_observables(topology, positions.numpy(), energy)
    row = {
        "name": name,
        "atoms": positions.shape[1],
        "samples": n,
        "seconds": seconds,
        "ess": samples.meta["verdict"]["ess_fraction"],
        "khat": samples.meta["verdict"]["khat"],
    }
    log_weight = samples.log_weight.double().numpy()
    estimate = weighted_estimate(values, log_weight)
    row |= {"energy": estimate.mean[0], "energy_error": estimate.error[0]}
    if not (REFERENCES / f"{name}.json").exists():
        return row
    return row | agreement(estimate, weighted_estimate(values, 0 * log_weight), name)


def agreement(estimate: Estimate, unweighted: Estimate, name: str) -> dict:
    """Differences from the reference in units of the joint error."""
    reference = read_reference(name)
    # One frame in a thousand is what neither side can resolve; it keeps empty cells out of z.
    z = z_scores(estimate, reference, floor=1e-3)
    seen = reference.mean > 0.01
    seen[0] = False
    return {
        "reference_energy": reference.mean[0],
        "reference_energy_error": reference.error[0],
        "energy_z": z[0],
        "cells": int(seen.sum()),
        "cells_chi2": float((z[seen] ** 2).mean()),
        "cells_largest_z": float(np.abs(z[seen]).max()),
        "total_variation": total_variation(estimate.mean[1:], reference.mean[1:]),
        "total_variation_unweighted": total_variation(unweighted.mean[1:], reference.mean[1:]),
    }


def print_table(rows: list[dict]) -> None:
    print(
        f"{'peptide':8} {'atoms':>5} {'ESS':>7} {'k-hat':>6} {'<U> weighted':>18} "
        f"{'<U> reference':>18} {'z':>5} {'chi2/cell':>9} {'max|z|':>6} {'TV':>6} {'TV raw':>6}"
    )
    for r in rows:
        line = (
            f"{r['name']:8} {r['atoms']:5d} {r['ess']:7.2%} {r['khat']:6.2f} "
            f"{r['energy']:10.2f} +- {r['energy_error']:4.2f} "
        )
        if "energy_z" in r:
            line += (
                f"{r['reference_energy']:10.2f} +- {r['reference_energy_error']:4.2f} "
                f"{r['energy_z']:5.1f} {r['cells_chi2']:9.2f} {r['cells_largest_z']:6.1f} "
                f"{r['total_variation']:6.3f} {r['total_variation_unweighted']:6.3f}"
            )
        print(line, flush=True)
    ess = [r["ess"] for r in rows]
    if len(rows) > 1:
        print(f"ESS: mean {np.mean(ess):.2%}, median {np.median(ess):.2%}, {len(rows)} peptides")


def print_collected(names: list[str]) -> None:
    rows = {
        row["name"]: row
        for name in names
        for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    }
    ess = [row["ess"] for row in rows.values()]
    print(
        f"ESS over {len(ess)} peptides: mean {np.mean(ess):.3f}, median {np.median(ess):.3f}, "
        f"lowest {np.min(ess):.3f}; {rows[min(rows)]['samples']} samples each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="all", help="comma-separated, or all with a reference")
    parser.add_argument("--checkpoint", default="peptide-small")
    parser.add_argument("-n", type=int, default=10_000, help="samples (energy evaluations)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", default="peptide_ensembles", help="name of the JSON file")
    parser.add_argument("--collect", help="only print the ESS over these results, comma-separated")
    parser.add_argument("--summarise", type=Path, help="simulation folders to make references of")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.collect:
        print_collected(arguments.collect.split(","))
        return
    if arguments.summarise:
        REFERENCES.mkdir(exist_ok=True)
        for run in sorted(arguments.summarise.glob("*/run.json")):
            summary = summarise(run.parent)
            (REFERENCES / f"{summary['system']}.json").write_text(json.dumps(summary) + "\n")
            print(f"{summary['system']}: {summary['frames']} frames")
        return
    names = arguments.names.split(",")
    if arguments.names == "all":
        names = sorted(path.stem for path in REFERENCES.glob("*.json"))
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in names:
            rows.append(
                compare(name, arguments.checkpoint, arguments.n, arguments.seed, Path(folder))
            )
            print_table(rows[-1:])
    print()
    print_table(rows)
    write_results(arguments.result, {**environment(arguments.threads), "rows": rows})


if __name__ == "__main__":
    main()
