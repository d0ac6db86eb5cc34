"""Draws from the internal-coordinate flow: the C kernel against the pass in torch.

Both run the same weights, those of a checkpoint, on one thread of one process, in turn. Times are
those of the processor, as other programs may share it; packing of the weights and drawing of the
random numbers are included.

    python benchmarks/bench_internal_sampling.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from bench_environment import environment, write_results
from torch import Generator, nn

from gensci.models.checkpoint import load_network
from gensci.nn import native_placing
from gensci.nn.internal_placing import Placing, TorchPlacing
from gensci.sims.peptide import build_peptide

PEPTIDES = ("AA", "AAAA", "ARIP", "AAAAAAAAAA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="peptide-small")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, _ = load_network(arguments.checkpoint)
    if not native_placing.fits(network):
        raise SystemExit(f"there is no kernel to measure: {native_placing.kernel_status()}")
    rows = [measure(network, name, arguments.batch, arguments.repeats) for name in PEPTIDES]
    write_results("internal_sampling", {**environment(1), **vars(arguments), "rows": rows})


@torch.no_grad()
def measure(network: nn.Module, peptide: str, batch: int, repeats: int) -> dict[str, object]:
    """Time both passes in turn and print one line."""
    cond = network.encode(build_peptide(peptide))
    generator = Generator().manual_seed(0)

    def kernel() -> object:
        return Placing(network, cond, batch).run(generator)

    def plain() -> object:
        return TorchPlacing(network, cond, batch).run(generator)

    kernel(), plain()
    pairs = [(seconds(plain), seconds(kernel)) for _ in range(repeats)]
    ratios = sorted(slow / fast for slow, fast in pairs)
    row = {
        "peptide": peptide,
        "atoms": len(cond["order"]),
        "torch_samples_per_second": batch / min(slow for slow, _ in pairs),
        "kernel_samples_per_second": batch / min(fast for _, fast in pairs),
        "ratio_median": ratios[repeats // 2],
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }
    print(
        f"{peptide:<10} {row['atoms']:>3} atoms  torch {row['torch_samples_per_second']:6.0f}/s"
        f"  kernel {row['kernel_samples_per_second']:6.0f}/s  ratio {row['ratio_median']:.1f}"
        f" ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        flush=True,
    )
    return row


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
