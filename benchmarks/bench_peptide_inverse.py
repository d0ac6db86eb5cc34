"""Inverse of the peptide TarFlow against a plain form of the published sampling loop.

Both run the same weights on the same noise in one process, in turn. The plain loop follows the
description of the published one: keys and values are lists that are concatenated in every layer at
every step, the atoms found so far are stacked at every step, and look-ahead, adaptive scales,
shifts and gates are computed at every step for every sample.

    python benchmarks/bench_peptide_inverse.py
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

from gensci.nn.peptide_encoding import SIDE_CHAINS
from gensci.nn.tarflow import AutoregressiveBlock, Condition, TarFlowPeptide
from gensci.nn.transformer import TransformerLayer

NETWORKS = {  # channels, blocks, layers per block, head width
    "fixture": (64, 8, 2, 16),
    "small": (128, 4, 2, 32),
}
PEPTIDES = {"AA": ("ALA",) * 2, "AAAA": ("ALA",) * 4, "ARIP": ("ALA", "ARG", "ILE", "PRO")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [
        measure(network, peptide, arguments.batch, arguments.repeats)
        for network in NETWORKS
        for peptide in PEPTIDES
    ]
    record = {**environment(arguments.threads), "rows": rows}
    write_results("bench_peptide_inverse", record)


def measure(name: str, peptide: str, batch: int, repeats: int) -> dict[str, object]:
    """Time both inverses in turn and print one line."""
    torch.manual_seed(0)
    network = TarFlowPeptide(*NETWORKS[name]).eval()
    with torch.no_grad():
        for block in network.blocks:  # as if trained: no map is the identity
            block.leave.weight.normal_(0.0, 0.01)
    cond = network.encode(named_peptide(PEPTIDES[peptide]))
    z = torch.randn(batch, len(cond["mask"]), 3)
    plain, ours = plain_inverse(network, z, cond), network.inverse(z, cond)
    difference = float((plain[0] - ours[0]).abs().max())
    pairs = [
        (
            seconds(lambda: plain_inverse(network, z, cond)),
            seconds(lambda: network.inverse(z, cond)),
        )
        for _ in range(repeats)
    ]
    ratios = sorted(slow / fast for slow, fast in pairs)
    row = {
        "network": name,
        "peptide": peptide,
        "atoms": z.shape[1],
        "batch": batch,
        "plain_samples_per_second": batch / min(slow for slow, _ in pairs),
        "gensci_samples_per_second": batch / min(fast for _, fast in pairs),
        "ratio_median": ratios[repeats // 2],
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "largest_difference": difference,
    }
    print(
        f"{name:<8} {peptide:<5} {z.shape[1]:>3} atoms"
        f"  plain {row['plain_samples_per_second']:7.1f}/s"
        f"  gensci {row['gensci_samples_per_second']:7.1f}/s  ratio {row['ratio_median']:.2f}"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f})  |dx| {difference:.0e}",
        flush=True,
    )
    return row


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


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
