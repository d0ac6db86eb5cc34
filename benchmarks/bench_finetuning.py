"""What finetuning brings on peptides the flow never saw, and what it costs.

    python benchmarks/bench_finetuning.py --names KG,RT
    python benchmarks/bench_finetuning.py --show            # the table of what was measured

The claim: `gensci finetune` raises the effective samples per energy evaluation of an unseen
peptide, told by independent draws before and after with nothing truncated, and the weights stay
right: log Z before and after agree, and so does the mean energy of all that was
drawn with long simulations (benchmarks/references/ensembles). A run that is stopped goes on when
the same command is given again; finished peptides are read from benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results

from gensci.commands.finetuning import metrics
from gensci.io.run_folder import FORMAT, RunFolder
from gensci.loops.finetuning import Finetuned, FinetuneSettings, finetune
from gensci.metrics.references import load_reference_ensemble
from gensci.models.flow_finetuning import FitSettings
from gensci.models.proposal import load_proposal
from gensci.systems.peptide import PeptideSystem

NAME = "finetuning"
ENSEMBLES = Path(__file__).parent / "references" / "ensembles"


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """Finetune for one peptide and say what came of it."""
    system = PeptideSystem.from_text(name)
    target = system.target("cpu", torch.float32)
    proposal = load_proposal(arguments.checkpoint, system.peptide, "cpu")
    settings = FinetuneSettings(
        rounds=arguments.rounds,
        draws=arguments.draws,
        held_out=arguments.held_out,
        fit=FitSettings(steps=arguments.steps, rows=arguments.rows),
    )
    told = {
        "system": name,
        "checkpoint_sha256": proposal.checkpoint_hash,
        **sizes(arguments),
        **asdict(settings.fit),
    }
    record = {"format": FORMAT, "command": NAME, "settings": told, "seed": arguments.seed}
    folder = RunFolder(Path(arguments.work) / name, {**record, "outcome": "running"})
    folder.claim()
    begun = time.process_time()
    result = finetune(
        *(target, proposal, settings), seed=arguments.seed, store=folder,
        say=lambda line: print(line, flush=True), save_seconds=60.0,
    )  # fmt: skip
    row = {"name": name, "atoms": result.buffer.x.shape[1], "settings": str(settings)}
    # of this process: a run that was continued has spent more
    row |= {"cpu_seconds": time.process_time() - begun, **metrics(result)}
    return row | energies(name, system, result)


def energies(name: str, system: PeptideSystem, result: Finetuned) -> dict:
    """Mean energy of all that was drawn, by its weights, and of the reference if there is one."""
    energy = system.force_field.energy(result.buffer.x).double().numpy()
    weight = torch.softmax(result.buffer.log_weight, 0).numpy()
    mean = float((weight * energy).sum())
    error = float(np.sqrt((weight**2 * (energy - mean) ** 2).sum()))
    found = {"energy": mean, "energy_error": error}
    if not (ENSEMBLES / f"{name}.npz").exists():
        return found
    reference = load_reference_ensemble(name)
    truth = reference.energy.astype(np.float64)
    ladders = [truth[reference.ladder == k].mean() for k in np.unique(reference.ladder)]
    spread = float(np.std(ladders, ddof=1) / np.sqrt(len(ladders)))
    return found | {
        "reference_energy": float(truth.mean()),
        "reference_energy_error": spread,
        "energy_z": (mean - float(truth.mean())) / float(np.hypot(error, spread)),
    }


def print_table(rows: list[dict]) -> None:
    """Before and after, what it cost, and whether the weights are right."""
    print(
        f"{'peptide':8} {'ESS before':>18} {'smooth':>6} {'k-hat':>6} "
        f"{'ESS after':>18} {'smooth':>6} {'k-hat':>6} "
        f"{'kept':>11} {'energies':>9} {'paid for':>9} {'log Z shift':>11} {'<U> z':>6}"
    )
    for row in rows:
        before, after = row["before"], row["after"] or row["before"]
        paid = row["cost"]["break_even"] if row["kept"] == "finetuned" else None
        print(
            f"{row['name']:8} {before['ess']:8.2%} +- {before['ess_error']:6.2%} "
            f"{before['smoothed']:6.1%} {before['khat']:6.2f} "
            f"{after['ess']:8.2%} +- {after['ess_error']:6.2%} "
            f"{after['smoothed']:6.1%} {after['khat']:6.2f} "
            f"{row['kept']:>11} {row['energy_evaluations']:9d} "
            f"{'-' if paid is None else f'{paid:9.0f}':>9} "
            f"{row['judgement']['log_z_shift']:10.1f}s "
            + (f"{row['energy_z']:6.1f}" if "energy_z" in row else f"{'-':>6}")
        )
    print("paid for: further draws from which on more effective samples came of all energies")


def finished(arguments: argparse.Namespace) -> list[dict]:
    """Rows of an earlier call with the same sizes."""
    path = RESULTS / f"{arguments.result}.json"
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    return earlier["rows"] if arguments.show or earlier["sizes"] == sizes(arguments) else []


def sizes(arguments: argparse.Namespace) -> dict:
    """What decides the numbers."""
    names = ("checkpoint", "rounds", "draws", "held_out", "steps", "rows", "seed")
    return {name: getattr(arguments, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="G,KG,RT", help="comma-separated")
    parser.add_argument("--checkpoint", default="peptide")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", default="runs/bench_finetuning", help="unfinished work")
    parser.add_argument("--result", default=NAME, help="name of the JSON file")
    parser.add_argument("--show", action="store_true", help="only print what was measured")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = finished(arguments)
    for name in [] if arguments.show else arguments.names.split(","):
        if name in [row["name"] for row in rows]:
            continue
        rows.append(measure(name, arguments))
        write_results(
            arguments.result,
            {**environment(arguments.threads), "sizes": sizes(arguments), "rows": rows},
        )
    print_table(rows)


if __name__ == "__main__":
    main()
