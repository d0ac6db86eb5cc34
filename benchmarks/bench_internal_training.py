"""Steps of training of the internal-coordinate flow: plain, compiled in parts, and packed.

A step is the likelihood of frames of several tetrapeptides (the flow's own draws, so that no data
are needed) in bfloat16 where autocast chooses it, its gradient, and AdamW. The three ways take the
same steps in turn, in this order and the other one, on one thread of one process. Times are those
of the processor, as other programs may share it; compiling is not counted. Memory is settled
(``gensci.core.memory``) as ``gensci train`` does, for all three.

    python benchmarks/bench_internal_training.py
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

from gensci.core.memory import settle_memory

settle_memory()  # before torch is imported

import torch
from bench_environment import environment, write_results
from torch import Generator, Tensor, nn

from gensci.models.checkpoint import load_network
from gensci.nn import internal_packed
from gensci.sims.peptide import build_peptide

PEPTIDES = ("AARV", "CMLC", "EMKS", "FRAD")
Group = tuple[Tensor, dict[str, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="peptide")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    groups = [drawn(arguments.checkpoint, name, arguments.frames) for name in PEPTIDES]
    ways = {
        "plain": Way(arguments.checkpoint, packed=False),
        "compiled": Way(arguments.checkpoint, packed=False, fuse=True),
        "packed": Way(arguments.checkpoint, packed=True),
    }
    times = in_turn(ways, groups, arguments.steps)
    for name, seconds in times.items():
        print(
            f"{name:<9} {statistics.median(seconds):6.2f} s of processor a step"
            f" ({min(seconds):.2f} to {max(seconds):.2f})",
            flush=True,
        )
    record = {
        **environment(1),
        **vars(arguments),
        "peptides": {name: x.shape[1] for name, (x, _) in zip(PEPTIDES, groups, strict=True)},
        "seconds_a_step": {
            name: {
                "median": statistics.median(seconds),
                "min": min(seconds),
                "max": max(seconds),
            }
            for name, seconds in times.items()
        },
    }
    write_results("internal_training", record)


@torch.no_grad()
def drawn(checkpoint: str, name: str, frames: int) -> Group:
    """Draws of the checkpoint for a peptide and its conditioning tensors."""
    network, _ = load_network(checkpoint)
    cond = network.encode(build_peptide(name))
    x, _ = network.sample_and_log_prob(2 * frames, cond, Generator().manual_seed(0))
    return x[x.isfinite().all(-1).all(-1)][:frames], cond


class Way:
    """A network in training, told how to form its density."""

    def __init__(self, checkpoint: str, packed: bool, fuse: bool = False):
        self.network, _ = load_network(checkpoint)
        self.network.train().requires_grad_(True)
        self.packed = packed
        if fuse:
            self.network.fuse()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), 1e-6)

    def __call__(self, groups: list[Group]) -> float:
        """Processor time of a step (s)."""
        if self.packed:
            return seconds(self._step, groups)
        with mock.patch.object(internal_packed, "serves", return_value=False):
            return seconds(self._step, groups)

    def _step(self, groups: list[Group]) -> None:
        self.optimiser.zero_grad()
        loss = torch.stack([likelihood(self.network, *group) for group in groups]).mean()
        loss.backward()
        self.optimiser.step()


def likelihood(network: nn.Module, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Mean of -log q of a coordinate."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return -network.log_prob(x, cond).mean() / (3 * x.shape[1])


def in_turn(ways: dict[str, Way], groups: list[Group], steps: int) -> dict[str, list[float]]:
    """Times of the steps after two that compile; every other round in the opposite order."""
    for way in ways.values():
        way(groups), way(groups)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(steps):
        order = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in order:
            times[name].append(ways[name](groups))
    return times


def seconds(call: Callable[[list[Group]], None], groups: list[Group]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call(groups)
    return time.process_time() - start


if __name__ == "__main__":
    main()
