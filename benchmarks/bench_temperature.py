"""Samples at other temperatures from a flow trained at one: steered, and as trained.

    python benchmarks/bench_temperature.py --names AA,WA --temperatures 250,400,500

The claim: taking the flow's conditionals to the power T0 / T keeps most of the effective samples
that importance weights alone lose, and the weights stay right: both give the same log Z.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from bench_environment import environment, write_results

from gensci.models.proposal import load_proposal
from gensci.samplers import make_sampler
from gensci.systems.peptide import PeptideSystem


def verdict(
    name: str, temperature: float, drawn_at: float | None, arguments: argparse.Namespace
) -> dict:
    """What importance sampling says of its own weights; nothing is truncated."""
    system = PeptideSystem.from_text(name, temperature=temperature)
    target = system.target("cpu", torch.float32)
    flow = load_proposal(arguments.checkpoint, system.peptide, "cpu", temperature=drawn_at)
    samples = make_sampler("importance").run(target, flow, arguments.n, seed=arguments.seed)
    found = samples.meta["verdict"]
    return {key: found[key] for key in ("ess_fraction", "khat", "log_z", "log_z_error")}


def compare(name: str, temperature: float, arguments: argparse.Namespace) -> dict:
    """One row: the flow as trained, and steered."""
    plain, steered = (verdict(name, temperature, t, arguments) for t in (None, temperature))
    error = np.hypot(plain["log_z_error"], steered["log_z_error"])
    shift = float((steered["log_z"] - plain["log_z"]) / error)
    row = {"name": name, "temperature": temperature, "as_trained": plain, "steered": steered}
    print(
        f"{name:6} {temperature:6.0f} K  as trained: ESS {plain['ess_fraction']:6.2%}, k-hat "
        f"{plain['khat']:5.2f}   steered: ESS {steered['ess_fraction']:6.2%}, k-hat "
        f"{steered['khat']:5.2f}   log Z apart by {shift:4.1f} errors",
        flush=True,
    )
    return {**row, "log_z_shift": shift}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="AA,WA", help="comma-separated")
    parser.add_argument("--temperatures", default="250,400,500", help="K, comma-separated")
    parser.add_argument("--checkpoint", default="peptide")
    parser.add_argument("-n", type=int, default=4000, help="samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", default="temperature", help="name of the JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [
        compare(name, float(text), arguments)
        for name in arguments.names.split(",")
        for text in arguments.temperatures.split(",")
    ]
    record = {**environment(arguments.threads), "checkpoint": arguments.checkpoint}
    record |= {"samples": arguments.n, "seed": arguments.seed}
    write_results(arguments.result, {**record, "rows": rows})


if __name__ == "__main__":
    main()
