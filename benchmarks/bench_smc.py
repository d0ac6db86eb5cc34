"""Effective samples of SMC and of importance sampling on peptides that the flow fits badly.

    OMP_NUM_THREADS=1 python benchmarks/bench_smc.py [--names KG,RT,RL] [--particles 512]

A round is one population of each method from a seed of its own. Kish's number leaves out that
particles of one ancestor, or of one chain, are alike, and says little where weights have heavy
tails. So effective samples are also measured: the variance of an observable over the variance of
its estimates between rounds, for the energy and the sines and cosines of psi and phi together (the
mean of the ratios of variances). A few rounds tell it within a factor of two. Bias shows in z, the
difference of the mean over rounds to the reference ensemble of replica exchange in joint errors,
with one relative spread for all observables. For waste-free "Kish" also knows how alike the
densities along a chain are, but not the slower torsions; the verdict of ``smc`` tells the smaller
of it and the effective number of ancestors.

Costs are counted where they arise: energies (forces cost the same call), draws, densities and
slopes of the flow, and seconds of the processor, which a busy machine does not lengthen much.
Written again after every round; the same command goes on where a stopped one was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results

from gensci.core.results import SampleSet
from gensci.metrics.references import load_reference_ensemble
from gensci.models.proposal import load_proposal
from gensci.samplers import make_sampler
from gensci.sims.peptide.backbone import find_backbone, torsion_angles
from gensci.systems.peptide import PeptideSystem

NAME = "smc"
TARGET = {"force": "target", "ess_target": 0.5}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "importance": ("importance", {}),
    # resampled once by the weights of the flow, then moved at t = 1 where the flow is not asked
    "moved at t=1": ("smc", {"schedule": "linear", "num_steps": 1, "num_moves": 20}),
    "tempered": ("smc", {**TARGET, "num_moves": 2}),
    "waste-free": ("smc", {**TARGET, "num_moves": 3, "waste_free": True}),
}
# What trajectories along the slope of the path itself cost: few particles, in the first round.
DEAR = {"waste-free, path": ("smc", {**METHODS["waste-free"][1], "force": "path"})}
DEAR_PARTICLES = 48


class Counted:
    """A density that counts the rows that it was asked for."""

    def __init__(self, subject: Any) -> None:
        self.subject, self.draws, self.values, self.slopes = subject, 0, 0, 0

    def sample_and_log_prob(self, n: int, generator: torch.Generator) -> Any:
        """Draws with their log-density."""
        self.draws += n
        return self.subject.sample_and_log_prob(n, generator)

    def log_prob(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """The log-density."""
        self.values += len(x["positions"])
        return self.subject.log_prob(x)

    def log_prob_and_grad(self, x: dict[str, torch.Tensor]) -> Any:
        """The log-density and its slope."""
        self.slopes += len(x["positions"])
        return self.subject.log_prob_and_grad(x)


def observables(energy: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(n, k): the energy, and cosines and sines of the torsions (n, torsions)."""
    return np.column_stack([energy, np.cos(angles), np.sin(angles)])


def estimates(system: PeptideSystem, samples: SampleSet, names: list[str]) -> list[float]:
    """Weighted means of the observables."""
    x = samples.x["positions"]
    backbone = {torsion.name: torsion.atoms for torsion in find_backbone(system.topology)}
    atoms = torch.tensor([backbone[name] for name in names])
    angles = torsion_angles(x, atoms).double().numpy()
    energy = system.force_field.energy(x).double().numpy()
    return samples.mean(torch.from_numpy(observables(energy, angles))).tolist()


def run(
    system: PeptideSystem, flow: Any, method: tuple[str, dict[str, Any]], n: int, seed: int
) -> dict[str, Any]:
    """One population of one method."""
    target, proposal = Counted(system.target("cpu", torch.float32)), Counted(flow)
    begun = time.process_time()
    samples = make_sampler(*method).run(target, proposal, n, seed=seed, shard_size=n)
    seconds = time.process_time() - begun
    verdict = samples.meta["verdict"]
    steps = samples.info.get("temperature", torch.zeros(0))
    return {
        "seed": seed,
        "seconds": seconds,
        "energies": target.values + target.slopes,
        "flow": {"draws": proposal.draws, "values": proposal.values, "slopes": proposal.slopes},
        "temperatures": len(steps.unique()),
        "ess": verdict.get("ess_if_moves_mix", verdict["ess"]),
        **{k: verdict.get(k) for k in ("log_z", "log_z_error", "khat", "acceptance")},
        "effective_ancestors": verdict.get("effective_ancestors"),
        "means": estimates(system, samples, backbone_names(system.name)),
    }


def backbone_names(name: str) -> list[str]:
    """The psi and phi of a reference ensemble."""
    return list(load_reference_ensemble(name).backbone_names)


def reference(name: str) -> dict[str, list[float]]:
    """Means, standard deviations and errors of the means of the observables."""
    ensemble = load_reference_ensemble(name)
    values = observables(ensemble.energy.astype(np.float64), ensemble.backbone.astype(np.float64))
    ladders = [values[ensemble.ladder == k].mean(0) for k in np.unique(ensemble.ladder)]
    return {
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "error": (np.std(ladders, axis=0, ddof=1) / math.sqrt(len(ladders))).tolist(),
    }


def summary(runs: list[dict[str, Any]], truth: dict[str, list[float]]) -> dict[str, Any]:
    """Means over the rounds, effective samples by scatter, and how far the means are off."""
    means = np.array([one["means"] for one in runs])
    energies = float(np.mean([one["energies"] for one in runs]))
    record = {
        "rounds": len(runs),
        "kish": float(np.mean([one["ess"] for one in runs])),
        "energies": energies,
        "seconds": float(np.mean([one["seconds"] for one in runs])),
        "flow_rows": {k: float(np.mean([r["flow"][k] for r in runs])) for k in runs[0]["flow"]},
        "temperatures": float(np.mean([one["temperatures"] for one in runs])),
        "log_z": float(np.mean([one["log_z"] for one in runs])),
        "log_z_error": float(np.mean([one["log_z_error"] for one in runs])),
    }
    if len(runs) > 1:
        variance = means.var(0, ddof=1)
        measured = 1.0 / float(np.mean(variance / np.square(truth["std"])))
        # one spread for all observables, as a few rounds tell that of each badly
        own = np.array(truth["std"]) / math.sqrt(measured * len(runs))
        joint = np.hypot(own, truth["error"])
        record |= {
            "measured": measured,
            "measured_per_10k_energies": 1e4 * measured / energies,
            "measured_per_second": measured / record["seconds"],
            "z": ((means.mean(0) - truth["mean"]) / joint).tolist(),
            "log_z_scatter": float(np.std([one["log_z"] for one in runs], ddof=1)),
        }
    return record


def show(name: str, method: str, record: dict[str, Any]) -> None:
    flow = record["flow_rows"]
    line = (
        f"{name:<4}{method:<18}{record['rounds']:>2} rounds  energies {record['energies']:>9,.0f}"
        f"  flow {flow['draws']:,.0f}/{flow['values']:,.0f}/{flow['slopes']:,.0f}"
        f"  {record['seconds']:6.1f} s  Kish {record['kish']:6.1f}"
    )
    if "measured" in record:
        worst = max(abs(z) for z in record["z"])
        line += (
            f"  measured {record['measured']:6.1f}"
            f" = {record['measured_per_10k_energies']:7.1f} per 1e4 energies,"
            f" {record['measured_per_second']:5.1f}/s  max|z| {worst:.1f}"
            f"  log Z {record['log_z']:.2f} +- {record['log_z_error']:.2f}"
            f" (scatter {record['log_z_scatter']:.2f})"
        )
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="peptide-small")
    parser.add_argument("--names", default="KG,RT,RL")
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    fixed = {k: v for k, v in vars(arguments).items() if k != "rounds"}
    path = RESULTS / f"{NAME}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("arguments") != fixed:
        record = {**environment(arguments.threads, "openmm"), "arguments": fixed, "runs": {}}
    names = arguments.names.split(",")
    systems = {name: PeptideSystem.from_text(name) for name in names}
    flows = {n: load_proposal(arguments.checkpoint, s.peptide, "cpu") for n, s in systems.items()}
    for seed in range(arguments.rounds):
        for name in names:
            methods = METHODS if seed else {**METHODS, **DEAR}
            for label, method in methods.items():
                runs = record["runs"].setdefault(name, {}).setdefault(label, [])
                if len(runs) <= seed:
                    n = DEAR_PARTICLES if label in DEAR else arguments.particles
                    runs.append(run(systems[name], flows[name], method, n, seed))
                found = summary(runs, reference(name))
                if len(runs) > seed + 1 and label not in DEAR:
                    continue
                record.setdefault("summary", {}).setdefault(name, {})[label] = found
                show(name, label, found)
        write_results(NAME, record)


if __name__ == "__main__":
    main()
