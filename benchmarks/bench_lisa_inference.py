"""Inference of the LISA problems from few waveforms, beside two exact references of each.

Divergence of every parameter (Jensen-Shannon, nats) from the joint references, before and after
reweighting, with the divergence of the references from each other; ln Z; weights of the skies;
importance efficiency and k-hat; counts of calls and times. References are made by
`bench_lisa_reference.py`. An inference goes on where an earlier one was stopped.

    python benchmarks/bench_lisa_inference.py loud faint moderate --work /tmp/lisa
    python benchmarks/bench_lisa_inference.py loud --seed 3      # written beside that of seed 1
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results

from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.io.run_folder import RunFolder
from gensci.loops.lisa_inference import LisaResult, LisaSettings, infer_lisa
from gensci.loops.lisa_surrogate import save_surrogate
from gensci.metrics.divergence import log_z_agreement, mode_shares, parameter_divergences
from gensci.sims.lisa import PARAMETERS
from gensci.systems.lisa_coordinates import skies, to_simple
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import Problem, load_problem

REFERENCES = Path(__file__).parent / "references" / "lisa"
SKY = (8, 7)  # sine of the latitude and longitude among the parameters


def main() -> None:
    """Infer, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=["loud", "faint"])
    parser.add_argument("--work", type=Path, default=Path("/tmp/lisa-inference"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="where to write the surrogate of loud")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "lisa-inference.json"
    for name in chosen.problems:
        entry = name if chosen.seed == 1 else f"{name}, seed {chosen.seed}"
        row = one(name, chosen.work, chosen.seed, chosen.checkpoint)
        # read only now: another process may have added rows meanwhile
        record = json.loads(path.read_text()) if path.exists() else {"problems": {}}
        record["environment"] = environment(1)
        record["problems"][entry] = row
        write_results("lisa-inference", record)


def one(name: str, work: Path, seed: int, checkpoint: Path | None) -> dict[str, Any]:
    """Infer one problem and compare it with its references."""
    problem, settings = load_problem(name), LisaSettings()
    folder = RunFolder(
        work / f"{name}-{seed}",
        {"command": "bench", "settings": {"problem": name, "lisa": repr(settings)}, "seed": seed},
    )
    folder.claim()
    observation = make_observation(problem)
    print(f"== {name}", flush=True)
    result = infer_lisa(problem, observation, settings, folder, seed=seed, say=say)
    row: dict[str, Any] = {
        "seed": seed, "counts": result.counts, "khat": result.khat,
        "efficiency": result.efficiency, "fallback": result.fallback,
        "ess": result.posterior.ess.count, "log_z": list(result.evidence),
        **{f"{kind}_seconds": spent(result, kind) for kind in ("wall", "cpu")},
        "seconds": result.seconds,
        "rounds": [
            {
                "change": record.change, "wall": record.wall_seconds, "cpu": record.cpu_seconds,
                "mean": record.training.get("mean"), "rhat": record.verdict.get("rhat"),
            }
            for record in result.records
        ],
    }  # fmt: skip
    row |= compared(problem, result)
    show(name, row)
    if checkpoint is not None and result.proposal is not None:
        meta = {"system": "lisa:mbhb", "problem": name, "metrics": row}
        save_surrogate(
            checkpoint, result.surrogate, result.proposal, problem.prior, result.images.skies, meta
        )
    return row


def spent(result: LisaResult, kind: str) -> float:
    """Seconds of all parts; those of a search that an earlier call made are not known."""
    return round(sum(v for name, v in result.seconds.items() if name.endswith(kind)), 1)


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def compared(problem: Problem, result: LisaResult) -> dict[str, Any]:
    """Everything that needs the references."""
    runs = [read(REFERENCES / f"{problem.name}-{run}.npz") for run in (1, 2)]
    if any(run is None for run in runs):
        return {"reference": "missing"}
    (one, told_one), (two, told_two) = runs
    both, ess = np.concatenate([one, two]), told_one["ess"] + told_two["ess"]
    pairs = {
        "floor": divergences(SampleSet({"theta": torch.from_numpy(one)}, torch.zeros(len(one))),
                             two, told_two["ess"], problem, told_one["ess"]),
        "surrogate": divergences(result.surrogate_posterior, both, ess, problem),
        "reweighted": divergences(result.posterior, both, ess, problem),
    }  # fmt: skip
    exact = LogZ(
        0.5 * (told_one["log_z"] + told_two["log_z"]),
        0.5 * math.hypot(told_one["log_z_error"], told_two["log_z_error"]),
    )
    agreement = log_z_agreement(result.evidence, exact)
    return {
        "divergence": pairs,
        "reference": {
            "log_z": [told_one["log_z"], told_two["log_z"]], "ess": [told_one["ess"],
            told_two["ess"]], "calls": [told_one["calls"], told_two["calls"]],
        },
        "log_z_difference": agreement.difference, "log_z_difference_error": agreement.error,
        "skies": sky_weights(problem, result, both),
    }  # fmt: skip


def read(path: Path) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Rows and record of a reference."""
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["theta"].astype(np.float64), json.loads(str(file["told"]))


def divergences(
    samples: SampleSet,
    reference: np.ndarray,
    reference_ess: float,
    problem: Problem,
    ess: float | None = None,
) -> dict[str, Any]:
    """Median and maximum over the parameters, all of them, and the floor of the estimate."""
    alive = samples.select(torch.isfinite(samples.log_weight))
    found = parameter_divergences(
        alive.x["theta"].double().numpy(), reference, PARAMETERS, stream(0, "floor"),
        weight_a=alive.weight.numpy(), ess_a=ess, ess_b=reference_ess,
        periods=problem.prior.periods, trials=20,
    )  # fmt: skip
    values = {name: round(item.value, 5) for name, item in found.items()}
    floor = next(iter(found.values())).floor
    return {
        "median": float(np.median(list(values.values()))), "max": max(values.values()),
        "floor": round(floor, 5), "parameters": values,
    }  # fmt: skip


def sky_weights(problem: Problem, result: LisaResult, reference: np.ndarray) -> dict[str, Any]:
    """Weights of the eight skies about that of the truth, of three posteriors."""
    setting = problem.setting
    centres = skies(to_simple(problem.truth[None], setting))[:, 0]
    place = centres[:, [9, 10]].numpy()
    table: dict[str, Any] = {}
    for name, theta, weight in (
        ("reference", reference, None),
        ("surrogate", *weighted(result.surrogate_posterior)),
        ("reweighted", *weighted(result.posterior)),
    ):
        share, error = mode_shares(
            theta[:, list(SKY)], place, weight, scale=[0.5, math.pi / 4],
            periods=[math.nan, 2 * math.pi],
        )  # fmt: skip
        table[name] = {"share": share.round(4).tolist(), "error": error.round(4).tolist()}
    shares = [np.array(table[name]["share"]) for name in ("reference", "reweighted")]
    table["largest_difference"] = float(np.abs(shares[0] - shares[1]).max())
    return table


def weighted(samples: SampleSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows and weights."""
    return samples.x["theta"].numpy(), samples.weight.numpy()


def show(name: str, row: dict[str, Any]) -> None:
    """Print what was found."""
    counts = ", ".join(f"{key} {value:,}" for key, value in row["counts"].items())
    print(f"{name}: {counts}")
    print(
        f"  efficiency {row['efficiency']:.1%}, ESS {row['ess']:.0f}, k-hat {row['khat']:.2f}, "
        f"fallback {row['fallback']}, {row['wall_seconds']} s wall, {row['cpu_seconds']} s CPU"
    )
    if "divergence" not in row:
        print("  no reference: run bench_lisa_reference.py")
        return
    print(
        f"  ln Z {row['log_z'][0]:.3f} +- {row['log_z'][1]:.3f}, less the reference's "
        f"{row['log_z_difference']:+.3f} +- {row['log_z_difference_error']:.3f}"
    )
    print(f"  {'divergence, nats':18s}" + "".join(f"{k:>12s}" for k in row["divergence"]))
    for parameter in PARAMETERS:
        cells = [item["parameters"][parameter] for item in row["divergence"].values()]
        print(f"  {parameter:18s}" + "".join(f"{cell:12.5f}" for cell in cells))
    for key in ("median", "max", "floor"):
        cells = [item[key] for item in row["divergence"].values()]
        print(f"  {key:18s}" + "".join(f"{cell:12.5f}" for cell in cells))
    for kind in ("reference", "surrogate", "reweighted"):
        share = " ".join(f"{s:.3f}" for s in row["skies"][kind]["share"])
        print(f"  skies {kind:12s} {share}")
    print(f"  largest difference of a sky's weight {row['skies']['largest_difference']:.3f}")


if __name__ == "__main__":
    main()
