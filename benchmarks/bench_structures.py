"""Time to sample 64 crystals of 10 atoms: UniGenX as published against the network of gensci.

Both networks have the same channels, layers and heads, and the same width and depth of the
diffusion head; weights are random unless a checkpoint is given, which changes no time of the
published way. Published means 200 respaced ancestral steps for each slot of three numbers and
13 slots (3 lattice rows, 10 coordinates). gensci means its solver and 12 slots (lengths, angles, 10
coordinates), where cells that close to no volume are drawn again within the time. The middle ways
tell what the solver does and what the network does: the published network with its own fast solver,
and that of gensci with 200 steps. The last way, with atoms that overlap drawn again, is what
`gensci sample` does by default; how often that is depends on the checkpoint.

All run in this process on the same cores in turns. Ratios are given by elapsed time and by
processor time; the latter is hardly disturbed by other work on the machine. Whether the samples are
as good is for other benchmarks to say.

    OMP_NUM_THREADS=1 python benchmarks/bench_structures.py [--size small] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_environment import environment, write_results

from gensci.commands.structure_proposals import exclusion_of
from gensci.models.checkpoint import load_network
from gensci.models.structure_proposal import CrystalProposal, Drawing
from gensci.nn.published_unigenx import UniGenX
from gensci.nn.published_vocabulary import PublishedVocabulary
from gensci.nn.structure_network import StructureTransformer
from gensci.samplers.solvers import make_solver

CRYSTALS = 64
NUMBERS = (8, 8, 8, 8, 8, 8, 12, 12, 14, 14)
SIZES = {
    "small": {
        "hidden": 256, "intermediate": 640, "num_layers": 6, "num_heads": 4,
        "head_width": 256, "head_depth": 3,
    },
    "100m": {
        "hidden": 1024, "intermediate": 4096, "num_layers": 6, "num_heads": 16,
        "head_width": 1024, "head_depth": 3,
    },
}  # fmt: skip
PUBLISHED, OURS, APART = "published", "gensci", "gensci, atoms kept apart"
CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}


def published_way(network: UniGenX, solver: Any) -> Callable[[], object]:
    numbers = torch.tensor(NUMBERS).repeat(CRYSTALS, 1)
    return lambda: network.sample_crystals(numbers, solver, torch.Generator().manual_seed(1))


def our_way(
    network: StructureTransformer, solver: Any, exclusion: float = 0.0
) -> Callable[[], object]:
    drawing = Drawing(solver, exclusion=exclusion_of(exclusion))
    proposal = CrystalProposal(network, NUMBERS, drawing)
    return lambda: proposal.sample(CRYSTALS, torch.Generator().manual_seed(1))


def networks(arguments: argparse.Namespace) -> tuple[UniGenX, StructureTransformer]:
    """The published network and ours, of one size; ours from the checkpoint where one is given."""
    torch.manual_seed(0)
    if arguments.checkpoint:
        ours, _ = load_network(arguments.checkpoint)
        size = {key: ours.settings[key] for key in SIZES["small"]}
    else:
        size = SIZES[arguments.size]
        ours = StructureTransformer("crystal", ("mp-20",), {}, **size)
    return UniGenX(PublishedVocabulary.material().tokens, **size).eval(), ours.eval()


def measure(work: Callable[[], object]) -> dict[str, float]:
    starts = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - starts[name] for name, clock in CLOCKS.items()}


def summarise(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Median seconds of each way, and ratios to the published one with their range."""
    summary: dict[str, Any] = {}
    for clock in CLOCKS:
        for way in rounds[0]:
            ratios = [r[PUBLISHED][clock] / r[way][clock] for r in rounds]
            summary.setdefault(way, {})[clock] = {
                "seconds": statistics.median(r[way][clock] for r in rounds),
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
    return summary


def print_table(summary: dict[str, Any]) -> None:
    print(
        f"\n{CRYSTALS} crystals of {len(NUMBERS)} atoms; ratio to the published way: median (range)"
    )
    for way, clocks in summary.items():
        parts = (
            f"{entry['seconds']:8.2f} s {clock}, {entry['ratio']:6.1f} "
            f"({entry['range'][0]:.1f} .. {entry['range'][1]:.1f})"
            for clock, entry in clocks.items()
        )
        print(f"{way:<34}" + "   ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--checkpoint", help="of gensci; its size is then used for both")
    parser.add_argument("--solver", default="heun")
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    published, ours = networks(arguments)
    ancestral, fast, own = (
        make_solver(name, {"num_steps": steps})
        for name, steps in (
            ("ddpm", 200), ("dpm-solver++", 20), (arguments.solver, arguments.num_steps)
        )
    )  # fmt: skip
    ways = {
        PUBLISHED: published_way(published, ancestral),
        "published, DPM-Solver++, 20 steps": published_way(published, fast),
        "gensci, 200 ancestral steps": our_way(ours, ancestral),
        OURS: our_way(ours, own),
        APART: our_way(ours, own, 0.7),
    }
    for work in ways.values():
        work()
    rounds = [{way: measure(work) for way, work in ways.items()} for _ in range(arguments.repeats)]
    summary = summarise(rounds)
    record = {
        **environment(arguments.threads),
        "crystals": CRYSTALS,
        "atoms": len(NUMBERS),
        "size": {key: ours.settings[key] for key in SIZES["small"]},
        "parameters": {
            name: sum(weight.numel() for weight in network.parameters())
            for name, network in ((PUBLISHED, published), (OURS, ours))
        },
        "checkpoint": arguments.checkpoint,
        "solver": {"name": arguments.solver, "num_steps": arguments.num_steps},
        "results": summary,
    }
    print(f"{record['hardware']}, {arguments.threads} thread(s); parameters {record['parameters']}")
    print_table(summary)
    write_results("structures", record)


if __name__ == "__main__":
    main()
