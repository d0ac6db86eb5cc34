"""Draws and densities of the internal-coordinate flow: the C kernel against torch.

Both run the same weights, those of a checkpoint, on one thread of one process, in turn. Times are
those of the processor, as other programs may share it; packing of the weights and drawing of the
random numbers are included. Densities without gradient are torch's parallel pass, in pieces that
are fastest for it, against the kernel's pass over the given positions.

    python benchmarks/bench_internal_sampling.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest import mock

import torch
from bench_environment import environment, write_results
from torch import Generator, Tensor, nn

from gensci.models.checkpoint import load_network
from gensci.models.proposal import PAIRS_AT_ONCE
from gensci.nn import native_placing
from gensci.nn.internal_features import zmatrix_of
from gensci.nn.internal_placing import Placing, TorchPlacing
from gensci.nn.zmatrix import internal_coordinates
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
    """Time draws and densities both ways, in turn, and print two lines."""
    cond = network.encode(build_peptide(peptide))
    generator = Generator().manual_seed(0)
    x, _ = network.sample_and_log_prob(batch, cond, generator)
    pieces = x.split(max(1, PAIRS_AT_ONCE["cpu"] // x.shape[1] ** 2))

    def density() -> object:
        placed = x[:, cond["order"]]
        ic = internal_coordinates(placed, zmatrix_of(cond))
        return native_placing.NativePlacing(network, cond).log_prob(placed, ic)

    calls = {
        "draws": (
            lambda: TorchPlacing(network, cond, batch).run(generator),
            lambda: Placing(network, cond, batch).run(generator),
        ),
        "densities": (lambda: [torch_density(network, part, cond) for part in pieces], density),
    }
    row: dict[str, object] = {"peptide": peptide, "atoms": x.shape[1]}
    for name, (slow, fast) in calls.items():
        row[name] = compare(slow, fast, batch, repeats)
        print(
            f"{peptide:<10} {x.shape[1]:>3} atoms  {name:<9}"
            f"  torch {row[name]['torch_per_second']:6.0f}/s"
            f"  kernel {row[name]['kernel_per_second']:6.0f}/s"
            f"  ratio {row[name]['ratio_median']:.1f}"
            f" ({row[name]['ratio_min']:.1f} to {row[name]['ratio_max']:.1f})",
            flush=True,
        )
    return row


def torch_density(network: nn.Module, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Log-densities by the parallel pass, whatever the flow itself would use."""
    with mock.patch.object(native_placing, "fits", return_value=False):
        return network.log_prob(x, cond)


def compare(
    slow: Callable[[], object], fast: Callable[[], object], batch: int, repeats: int
) -> dict[str, float]:
    """Samples per second both ways, and the ratio with its spread."""
    slow(), fast()
    pairs = [(seconds(slow), seconds(fast)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "torch_per_second": batch / min(a for a, _ in pairs),
        "kernel_per_second": batch / min(b for _, b in pairs),
        "ratio_median": ratios[repeats // 2],
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
