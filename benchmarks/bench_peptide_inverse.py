"""Inverse of the peptide TarFlow against a plain form of the published sampling loop.

Both run the same weights on the same noise in one process, in turn. The plain loop does what the
published one was read to do (the official file may not be copied): keys and values are lists that
are concatenated in every layer at every step, the atoms found so far and the look-ahead inputs are
concatenated at every step, and conditioning, adaptive scales, shifts and gates are computed at
every step for every sample, in single precision. Its masks of ones and copies of all positions are
left out, so this is not slower than it. Ours is timed at each precision of its matrix products
("highest" is single precision, "high" two bfloat16 numbers for each, "medium" one); what it
prepares once for a peptide is told apart. The differences are those of positions (over sigma_data)
and of log-densities (nats) from the plain loop in single precision.

Of prose-288m one of the eight blocks is measured, unless --blocks says more: all have the same
shape, so the ratio is that of the whole, while rates are eight times those of the whole and
differences are those of one block.

    OMP_NUM_THREADS=1 python benchmarks/bench_peptide_inverse.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from bench_environment import environment, write_results
from torch import Tensor
from torch.nn import functional as F

from gensci.nn.inverse import make_inverse
from gensci.nn.native_inverse import PARTS as PRECISIONS
from gensci.nn.native_inverse import kernel_status
from gensci.nn.peptide_encoding import SIDE_CHAINS
from gensci.nn.tarflow import AutoregressiveBlock, Condition, TarFlowPeptide
from gensci.nn.transformer import TransformerLayer

NETWORKS = {  # channels, blocks, layers per block, head width
    "fixture": (64, 8, 2, 16),
    "small": (128, 4, 2, 32),
    "prose-288m": (384, 8, 8, 64),
}
PEPTIDES = {"AA": ("ALA",) * 2, "AAAA": ("ALA",) * 4, "ARIP": ("ALA", "ARG", "ILE", "PRO")}
SETTINGS = {  # peptides, batch, repeats and blocks; all of the largest would take a minute a call
    "fixture": (tuple(PEPTIDES), 64, 7, 8),
    "small": (tuple(PEPTIDES), 64, 7, 4),
    "prose-288m": (("AA", "AAAA"), 256, 3, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--peptides", nargs="+", choices=PEPTIDES)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--blocks", type=int, help="how many of the network's are measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="bench_peptide_inverse", help="of the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rows = []
    for network in arguments.networks:
        peptides, batch, repeats, blocks = SETTINGS[network]
        blocks = min(arguments.blocks or blocks, NETWORKS[network][1])
        for peptide in arguments.peptides or peptides:
            sizes = (arguments.batch or batch, arguments.repeats or repeats, blocks)
            rows += measure(network, peptide, *sizes, device)
    record = {
        **environment(arguments.threads),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "clock": clock(device),
        "kernel": kernel_status(),
        "rows": rows,
    }
    write_results(arguments.name, record)


def measure(
    name: str, peptide: str, batch: int, repeats: int, blocks: int, device: torch.device
) -> list[dict[str, object]]:
    """Time the plain inverse and ours at each precision in turn; print a line for each."""
    torch.manual_seed(0)
    channels, of_blocks, *shape = NETWORKS[name]
    network = TarFlowPeptide(channels, blocks, *shape).eval()
    with torch.no_grad():
        for block in network.blocks:  # as if trained: no map is the identity
            block.leave.weight.normal_(0.0, 0.01)
    network = network.to(device)
    cond = network.encode(named_peptide(PEPTIDES[peptide]))
    cond = {key: value.to(device) for key, value in cond.items()}
    z = torch.randn(batch, len(cond["mask"]), 3).to(device)
    ours, prepared = {}, {}
    for precision in PRECISIONS:
        prepared[precision] = seconds(
            lambda p=precision: ours.update({p: make_inverse(network, cond, precision=p)}), device
        )[0]
        ours[precision](z)  # a GPU captures its graphs in the first call
    plain, times = [], {precision: [] for precision in PRECISIONS}
    for _ in range(repeats):
        time_plain, wanted = seconds(lambda: plain_inverse(network, z, cond), device)
        plain.append(time_plain)
        for precision, inverse in ours.items():
            times[precision].append(seconds(lambda f=inverse: f(z), device))
    return [
        row(
            {
                "network": name,
                "blocks": blocks,
                "of_blocks": of_blocks,
                "peptide": peptide,
                "atoms": z.shape[1],
                "batch": batch,
                "precision": precision,
                "prepare_seconds": prepared[precision],
                **differences(taken[0][1], wanted),
            },
            plain,
            [time_ours for time_ours, _ in taken],
        )
        for precision, taken in times.items()
    ]


def differences(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The largest of positions, and the largest and typical of log-densities.

    The noise is the same, so a log-density differs as its log-determinant does.
    """
    nats = (found[1] - wanted[1]).double()
    return {
        "largest_difference": float((found[0] - wanted[0]).abs().max()),
        "largest_log_density_difference": float(nats.abs().max()),
        "rms_log_density_difference": float(nats.square().mean().sqrt()),
    }


def row(record: dict[str, object], plain: list[float], ours: list[float]) -> dict[str, object]:
    """The record with rates and ratios of times taken in turn; prints it."""
    ratios = sorted(slow / fast for slow, fast in zip(plain, ours, strict=True))
    record |= {
        "plain_samples_per_second": record["batch"] / min(plain),
        "gensci_samples_per_second": record["batch"] / min(ours),
        "ratio_median": ratios[len(ratios) // 2],
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }
    print(
        f"{record['network']:<10} {record['blocks']}/{record['of_blocks']} blocks"
        f" {record['peptide']:<5}{record['atoms']:>3} atoms"
        f" {record['precision']:<7}  plain {record['plain_samples_per_second']:7.1f}/s"
        f"  gensci {record['gensci_samples_per_second']:7.1f}/s"
        f"  ratio {record['ratio_median']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        f"  |dx| {record['largest_difference']:.0e}"
        f"  |dlog q| {record['largest_log_density_difference']:.0e}",
        flush=True,
    )
    return record


@torch.no_grad()
def plain_inverse(network: TarFlowPeptide, z: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
    """Positions and log-determinant of noise, by the loop described above."""
    rows = {key: value.expand(len(z), *value.shape) for key, value in cond.items()}
    h = network.embedding(rows)
    log_det = z.new_zeros(len(z))
    for block, column in zip(reversed(network.blocks), reversed(network.columns), strict=True):
        order = cond["permutations"][:, column]
        x, change = plain_block(block, z[:, order], h[:, order])
        z, log_det = x[:, order.argsort()], log_det + change
    return z, log_det


def plain_block(block: AutoregressiveBlock, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One block of the plain loop."""
    atoms, places = z.shape[1], block.places(z.shape[1])
    xs, log_det = [z[:, :1]], z.new_zeros(len(z))
    caches: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in block.layers]
    for i in range(atoms - 1):
        x = torch.cat(xs, dim=1)
        u = block.enter(x[:, i : i + 1]) + places[i]
        following = torch.cat((h[:, 1:], torch.zeros_like(h[:, :1])), dim=1)
        c = block.condition(torch.cat((h, following), dim=-1)[:, i : i + 1])
        for layer, cache in zip(block.layers, caches, strict=True):
            u = plain_layer(layer, u, c, cache)
        a, b = block.leave(u).chunk(2, dim=-1)
        xs.append(z[:, i + 1 : i + 2] * a.exp() + b)
        log_det = log_det - a.sum((-2, -1))
    return torch.cat(xs, dim=1), log_det


def plain_layer(
    layer: TransformerLayer, u: Tensor, c: Tensor, cache: tuple[list[Tensor], list[Tensor]]
) -> Tensor:
    """One layer of the plain loop, for one token (batch, 1, channels)."""
    terms = layer.terms(c)
    width = u.shape[-1:]
    v = F.layer_norm(u, width) * terms.attention.scale + terms.attention.shift
    q, k, value = (part.transpose(1, 2) for part in layer.attention.project(v))
    keys, values = cache
    keys.append(k)
    values.append(value)
    mixed = F.scaled_dot_product_attention(q, torch.cat(keys, dim=2), torch.cat(values, dim=2))
    v = v + layer.attention.out(mixed.transpose(1, 2).flatten(2))
    v = v + layer.mlp(v)
    u = u + v * terms.attention.gate
    w = F.layer_norm(u, width) * terms.transition.scale + terms.transition.shift
    return u + layer.transition(w) * terms.transition.gate


def named_peptide(residues: tuple[str, ...]) -> SimpleNamespace:
    """Names of the atoms of a zwitterionic peptide."""
    names, kinds, index = [], [], []
    for place, residue in enumerate(residues):
        atoms = ["N"] + ([] if residue == "PRO" else ["H"]) + (["H2", "H3"] if place == 0 else [])
        atoms += ["CA"] + (["HA2", "HA3"] if residue == "GLY" else ["HA"])
        atoms += [*SIDE_CHAINS[residue], "C", "O"] + (["OXT"] if place == len(residues) - 1 else [])
        names += atoms
        kinds += [residue] * len(atoms)
        index += [place] * len(atoms)
    return SimpleNamespace(atom_names=names, residue_names=kinds, residue_index=index)


def clock(device: torch.device) -> str:
    """Which time is taken: of the processor where others may share it, of the wall for a GPU."""
    return "wall" if device.type == "cuda" else "processor"


def seconds(call: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Time of one call, and its result."""
    if device.type != "cuda":
        start = time.process_time()
        result = call()
        return time.process_time() - start, result
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
