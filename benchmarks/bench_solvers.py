"""Solvers and their numbers of steps: time, deviation from an exact solution, and quality.

For each solver three things are measured with one checkpoint.

* ``deviation``: all slots of held-out structures are solved from their true context, each solver
  starting from the same noise; how far the ends lie from those of Heun's method with 64 steps.
  Median and 95th percentile, over slots: lengths in per cent, angles in degrees, fractional
  coordinates on the torus, atoms of molecules in Angstrom.
* ``milliseconds``: processor time to draw a structure, place by place, 64 at once.
* ``quality``: of the structures drawn, one for each held-out composition or molecule: the match
  rate of crystals (pymatgen's criterion, see gensci.metrics.match_protocol), and for molecules
  the share whose bonds, perceived from positions alone, are those of the graph.

A second table is about densities: nats by which the log-density of a slot is off that of 48
Runge-Kutta steps, median and 95th percentile over the slots of ``--density-rows`` structures, and
processor time of a structure.

    OMP_NUM_THREADS=1 python benchmarks/bench_solvers.py CHECKPOINT --set perov-5 [--rows 300]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_environment import environment, write_results

from gensci.core.lattice import lattice_parameters
from gensci.core.random import stream
from gensci.data.structure_table import Structure, StructureTable
from gensci.metrics.crystal_arrays import Crystal
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.matching import match_predictions
from gensci.models.checkpoint import load_network
from gensci.models.structure_batches import read_crystals
from gensci.models.structure_proposal import (
    ANGSTROM,
    Drawing,
    draw_conformers,
)
from gensci.nn.edm_denoiser import SlotDenoiser
from gensci.nn.frozen_edm_head import FrozenHead
from gensci.nn.smiles_tokens import tokenize
from gensci.nn.structure_decoding import Track, draw_slots, open_slots
from gensci.nn.structure_layout import (
    ANGLE,
    ANGLES,
    FRACTION,
    LENGTHS,
    LOCAL,
    LOG_LENGTH,
)
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import Prompted, crystal_line, stack
from gensci.samplers.solvers import make_solver

ROWS_AT_ONCE = 64
REFERENCE = ("heun", {"num_steps": 64})
CALLS_OF_HEUN = 2
STEPS = {"ddim": (10, 20, 50), "dpm-solver++": (6, 8, 10, 15, 20), "heun": (4, 6, 8, 10, 18)}
DENSITIES = {"heun": (6, 8, 10, 16), "rk4": (3, 4, 5, 8)}
EXACT_DENSITY = ("flow-ode", {"num_steps": 48, "method": "rk4"})
UNITS = {
    LENGTHS: ("lengths_percent", 100 * LOG_LENGTH[1]),
    ANGLES: ("angles_degrees", ANGLE[1]),
    FRACTION: ("fractional", 1.0),
    LOCAL: ("atoms_angstrom", 1.0),
}


class Slots(NamedTuple):
    """Slots of several structures: their denoiser, kinds (n,) and true values (n, 3)."""

    denoiser: SlotDenoiser
    kind: torch.Tensor
    value: torch.Tensor


def solvers() -> Iterator[tuple[str, Any]]:
    """All rows of the table: a title and a solver."""
    for name, counts in STEPS.items():
        for steps in counts:
            yield f"{name} {steps}", make_solver(name, {"num_steps": steps})
    for schedule, steps in itertools.product(("karras",), (8, 10, 15)):
        settings = {"num_steps": steps, "schedule": schedule}
        yield f"dpm-solver++ {schedule} {steps}", make_solver("dpm-solver++", settings)


def groups(rows: list[Structure]) -> list[list[Structure]]:
    """Rows of about equal length together."""
    ordered = sorted(rows, key=len)
    return [ordered[k : k + ROWS_AT_ONCE] for k in range(0, len(ordered), ROWS_AT_ONCE)]


def extras_of(network: StructureTransformer, rows: list[Structure]) -> list[Any] | None:
    """Graphs of molecules; nothing for crystals."""
    if network.family == "crystal":
        return None
    from gensci.systems.molecule_graph import graph_of

    return [graph_of(row.smiles) for row in rows]


def known_slots(network: StructureTransformer, rows: list[Structure]) -> list[Slots]:
    """All slots of held-out structures in their true context."""
    found, head = [], FrozenHead(network.head)
    for k, group in enumerate(groups(rows)):
        batch = network.collate(group, stream(0, "solvers", k), extras_of(network, group))
        place = open_slots(batch)[:, 1:]
        kind = batch.kind[:, 1:][place]
        hidden = network(batch)[:, :-1][place]
        torus = (kind == FRACTION) & network.periodic
        condition = network.head.condition(hidden, torus)
        found.append(Slots(SlotDenoiser(head, condition), kind, batch.value[:, 1:][place]))
    return found


def solved(slots: list[Slots], solver: Any) -> torch.Tensor:
    """Ends (slots, 3), from the same noise whatever the solver."""
    parts = [solver.solve(one.denoiser, stream(1, "noise", k)) for k, one in enumerate(slots)]
    return torch.cat(parts)


def densities(slots: list[Slots], solver: Any) -> torch.Tensor:
    """Log-densities (slots,) of the true values."""
    return torch.cat([solver.log_prob(one.denoiser, one.value) for one in slots])


def density_table(network: StructureTransformer, rows: list[Structure]) -> dict[str, Any]:
    """How far the log-density of a slot is off, by method and steps, and what that costs."""
    slots, results = known_slots(network, rows), {}
    exact = densities(slots, make_solver(*EXACT_DENSITY))
    for method, counts in DENSITIES.items():
        for steps in counts:
            solver = make_solver("flow-ode", {"num_steps": steps, "method": method})
            start = time.process_time()
            off = (densities(slots, solver) - exact).abs().double()
            spent = time.process_time() - start
            title = f"flow-ode {method} {steps}"
            results[title] = {
                "milliseconds": 1000 * spent / len(rows),
                "nats": [off.quantile(q).item() for q in (0.5, 0.95)],
            }
            print(f"{title:24s} {results[title]}", flush=True)
    return results


def deviation(found: torch.Tensor, wanted: torch.Tensor, kinds: torch.Tensor) -> dict[str, Any]:
    """Median and 95th percentile of distances, by kind of slot."""
    result = {}
    for kind, (name, unit) in UNITS.items():
        gap = (found - wanted)[kinds == kind]
        if not len(gap):
            continue
        gap = gap - gap.round() if kind == FRACTION else gap
        far = unit * gap.norm(dim=-1).double()
        result[name] = [far.quantile(q).item() for q in (0.5, 0.95)]
    return result


def crystals(
    network: StructureTransformer, rows: list[Structure], solver: Any, seed: int
) -> tuple[list[Crystal], float]:
    """One crystal of each composition, and the seconds that took."""
    drawn, seconds = [], 0.0
    cell = np.full(6, 90.0, np.float32)
    for k, group in enumerate(groups(rows)):
        start = time.process_time()
        lines = [
            crystal_line(
                network.vocabulary, np.sort(row.numbers).astype(np.int64), Prompted(row.source),
                cell, np.zeros((len(row), 3), np.float32),
            )
            for row in group
        ]  # fmt: skip
        batch = stack(lines)
        track = Track(network, batch, ~open_slots(batch))
        x = read_crystals(draw_slots(track, Drawing(solver).solve(stream(seed, "solvers", k))))
        seconds += time.process_time() - start
        cells = lattice_parameters(x["lattice"].double()).numpy()
        for i, row in enumerate(group):
            inside = x["fractional"][i, : len(row)].numpy()
            drawn.append(Crystal(x["numbers"][i, : len(row)].numpy(), inside, cells[i]))
    return drawn, seconds


def molecules(
    network: StructureTransformer, rows: list[Structure], solver: Any, seed: int
) -> tuple[list[np.ndarray], float]:
    """One conformer (N, 3) Angstrom of each molecule, and the seconds that took."""
    drawn, seconds = [], 0.0
    for k, group in enumerate(groups(rows)):
        pieces = [[network.vocabulary.piece(t) for t in tokenize(row.smiles)] for row in group]
        items = list(zip(extras_of(network, group), pieces, strict=True))
        start = time.process_time()
        x = draw_conformers(network, items, Prompted(), Drawing(solver), stream(seed, "solvers", k))
        seconds += time.process_time() - start
        positions = x["positions"].numpy() / ANGSTROM
        drawn += [one[: len(row)] for one, row in zip(positions, group, strict=True)]
    return drawn, seconds


def same_graph(rows: list[Structure], shapes: list[np.ndarray]) -> float:
    """Share of conformers whose perceived bonds are those of the molecule."""
    from rdkit import RDLogger

    from gensci.data.molecule_perception import flat, perceive
    from gensci.systems.molecule_graph import graph_of

    RDLogger.DisableLog("rdApp.*")
    hits = 0
    for row, shape in zip(rows, shapes, strict=True):
        try:
            found = perceive(graph_of(row.smiles).numbers, shape)[0]
        except ValueError:
            continue
        hits += flat(found) == flat(row.smiles)
    return hits / len(rows)


def drawn_quality(
    network: StructureTransformer, rows: list[Structure], solver: Any, seeds: int
) -> dict[str, float]:
    """Milliseconds of a structure and how good they are, over several seeds."""
    ordered = [row for group in groups(rows) for row in group]
    seconds, quality = [], []
    for seed in range(seeds):
        if network.family == "crystal":
            drawn, spent = crystals(network, rows, solver, seed)
            score = match_predictions([[one] for one in drawn], ordered, Protocol(), jobs=1).score()
            quality.append(score.rate)
        else:
            shapes, spent = molecules(network, rows, solver, seed)
            quality.append(same_graph(ordered, shapes))
        seconds.append(spent)
    return {
        "milliseconds": 1000 * min(seconds) / len(rows),
        "quality": float(np.mean(quality)),
        "quality_by_seed": quality,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--set", default="perov-5", help="prepared set whose val rows are used")
    parser.add_argument("--data", type=Path, default=Path("data", "structures"))
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1, help="draws of every row")
    parser.add_argument("--density-rows", type=int, default=32)
    parser.add_argument("--name", default="solvers", help="of the file in results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, _ = load_network(arguments.checkpoint)
    network = network.float().eval().requires_grad_(False)
    table = StructureTable.load(arguments.data / arguments.set / "val")
    fits = np.flatnonzero(table.num_atoms <= network.max_atoms)
    order = np.random.default_rng(0).permutation(fits)[: arguments.rows]
    rows = [table.row(int(k)) for k in order]
    slots = known_slots(network, rows)
    kinds = torch.cat([one.kind for one in slots])
    exact = solved(slots, make_solver(*REFERENCE))
    results = {}
    for title, solver in solvers():
        result = {
            "calls": solver.num_steps * (CALLS_OF_HEUN if solver.name == "heun" else 1)
            - (solver.name == "heun"),
            "deviation": deviation(solved(slots, solver), exact, kinds),
            **drawn_quality(network, rows, solver, arguments.seeds),
        }
        results[title] = result
        far = "  ".join(f"{k} {a:.4f} {b:.4f}" for k, (a, b) in result["deviation"].items())
        print(
            f"{title:24s} {result['calls']:3d} calls {result['milliseconds']:7.2f} ms  "
            f"quality {result['quality']:.3f}  {far}",
            flush=True,
        )
    density = density_table(network, rows[: arguments.density_rows])
    record = {
        **environment(1, "rdkit", "pymatgen"),
        "checkpoint": arguments.checkpoint,
        "set": arguments.set,
        "rows": len(rows),
        "seeds": arguments.seeds,
        "reference": f"{REFERENCE[0]}, {REFERENCE[1]['num_steps']} steps",
        "results": results,
        "density": density,
    }
    write_results(arguments.name, record)


if __name__ == "__main__":
    main()
