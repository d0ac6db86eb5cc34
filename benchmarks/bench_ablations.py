"""What every change of the improved model is worth: small models trained alike, one change apart.

Each row is a model of its own, trained for ``--steps`` steps from the same seed on the same batches
by the Lightning module of `gensci train`, and asked for structures of validation rows. ``unigenx``
is the improved configuration; each row below it takes one change back to what was published, the
last takes all back. Rows named ``... sampled`` are the first model asked in another way.

* Crystals (Perov-5 and MP-20 to ten atoms): match rate of single predictions (stol 0.5, ltol 0.3,
  angle 10, no validity filter), mean over ``--samples`` draws of each composition, with its
  standard error over rows; the share that match within 0.1, because cells as small as those of
  perovskites match within 0.5 by chance; and the mean normalised distance of those that match.
* Molecules (QM7): share of conformers that are perceived as the same molecule from positions alone,
  and of those whose atoms all have a stable number of bonds.

Every finished row is kept in results/bench_ablations/, so that a stopped run goes on.

    OMP_NUM_THREADS=1 python benchmarks/bench_ablations.py --family crystal [--steps 1000]
    OMP_NUM_THREADS=1 python benchmarks/bench_ablations.py --family molecule
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from bench_environment import environment, write_results

from gensci.core.lattice import lattice_parameters
from gensci.core.random import stream
from gensci.data.molecule_perception import flat, perceive
from gensci.data.structure_module import StructureData
from gensci.data.structure_table import StructureTable
from gensci.metrics.crystal_arrays import Crystal
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.matching import match_predictions
from gensci.metrics.molecules import stability
from gensci.models.new_structures import NewCrystals
from gensci.models.structure_model import StructureModel
from gensci.models.structure_proposal import Drawing, draw_conformers
from gensci.nn.smiles_tokens import tokenize
from gensci.nn.structure_collate import element_order
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import Prompted
from gensci.samplers.decoders.base import make_decoder
from gensci.samplers.solvers.base import make_solver
from gensci.systems.molecule_graph import graph_of

FOLDER = Path("results", "bench_ablations")
SIZE = {
    "hidden": 128, "intermediate": 320, "num_layers": 4, "num_heads": 4,
    "head_width": 128, "head_depth": 2,
}  # fmt: skip
PUBLISHED = {
    "head": "ddpm", "lattice": "vectors", "periodic": False, "origin": "random",
    "atom_order": "sorted", "coming": False, "ignore_padding": False,
}  # fmt: skip
CLOSE = 0.1  # normalised distance
ENDINGS = ("close", "distance", "stable")
FAST, FAST_STEPS, SLOW, SLOW_STEPS = "dpm-solver++", 16, "ddpm", 200


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of it.
        settings: of the network, where they are not the improved ones.
        average: whether the averaged weights are asked.
        temperature: of slots.
        solver, num_steps: of slots; the published way where None and the head is the published.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    average: bool = True
    temperature: float = 1.0
    solver: tuple[str, int] | None = None

    @property
    def drawing(self) -> Drawing:
        """How this row draws slots."""
        published = self.settings.get("head") == "ddpm"
        default = (SLOW, SLOW_STEPS) if published else (FAST, FAST_STEPS)
        name, steps = self.solver or default
        return Drawing(make_solver(name, {"num_steps": steps}), self.temperature)


SAMPLED = [
    Row("last weights, not averaged; sampled", average=False),
    Row("temperature 0.7; sampled", temperature=0.7),
    Row("temperature 0.4; sampled", temperature=0.4),
    Row("200 ancestral steps; sampled", solver=(SLOW, SLOW_STEPS)),
]
ROWS = {
    "crystal": [
        Row("unigenx"),
        *SAMPLED,
        Row("lattice vectors, turned at random", {"lattice": "vectors"}),
        Row("fractional coordinates in space", {"periodic": False}),
        Row("origin anywhere", {"origin": "random"}),
        Row("atoms of an element sorted", {"atom_order": "sorted"}),
        Row("DDPM head, 200 steps", {"head": "ddpm"}),
        Row("padding in the token loss", {"ignore_padding": False}),
        Row("coming slot not told", {"coming": False}),
        Row("all as published", PUBLISHED),
    ],
    "molecule": [
        Row("unigenx"),
        *SAMPLED,
        Row("frame of space, turned at random", {"frames": "global"}),
        Row("DDPM head, 200 steps", {"head": "ddpm"}),
        Row("padding in the token loss", {"ignore_padding": False}),
        Row("coming slot not told", {"coming": False}),
        Row(
            "all as published",
            {"frames": "global", "head": "ddpm", "coming": False, "ignore_padding": False},
        ),
    ],
}
SETS = {"crystal": ("perov-5", "mp-20"), "molecule": ("qm7",)}
MOST_ATOMS = {"crystal": 10, "molecule": 40}


def trained(row: Row, arguments: argparse.Namespace) -> tuple[StructureModel, float]:
    """A model that was trained with the settings of a row, and processor seconds of it."""
    pl.seed_everything(arguments.seed, verbose=False)
    sets = SETS[arguments.family]
    network = StructureTransformer(
        arguments.family, sets, {}, **SIZE, max_atoms=MOST_ATOMS[arguments.family], **row.settings
    )
    model = StructureModel(
        network, learning_rate=2e-3, warmup_steps=50, decay_steps=arguments.steps // 2,
        ema_decay=0.99, seed=arguments.seed,
    )  # fmt: skip
    roots = [str(Path(arguments.data, name)) for name in sets]
    data = StructureData(roots, tokens_per_batch=arguments.tokens, seed=arguments.seed)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision="bf16-mixed", max_steps=arguments.steps,
        max_epochs=-1, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    begun = time.process_time()
    trainer.fit(model, data)
    return model.float().eval(), time.process_time() - begun


def validation_rows(name: str, arguments: argparse.Namespace) -> StructureTable:
    """Rows of a set to be predicted, none of which was trained on."""
    table = StructureTable.load(Path(arguments.data, name, "val"))
    table = table.select(np.flatnonzero(table.num_atoms <= MOST_ATOMS[arguments.family]))
    order = torch.randperm(len(table), generator=stream(arguments.seed, "ablation rows"))
    return table.select(order[: arguments.rows].tolist())


def match_rates(
    network: StructureTransformer, row: Row, name: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """Match rate of single predictions for validation rows of a set."""
    table = validation_rows(name, arguments)
    references = [
        Crystal(np.asarray(one.numbers), one.coordinates, one.lattice)
        for one in map(table.row, range(len(table)))
    ]
    compositions = [one.numbers[element_order(one.numbers)] for one in references]
    proposal = NewCrystals(network, make_decoder("ancestral"), row.drawing, Prompted(name))
    predictions: list[list[Crystal]] = [[] for _ in references]
    for k in range(arguments.samples):
        x = proposal.place(compositions, stream(arguments.seed, "ablation", name, k))
        cells = lattice_parameters(x["lattice"].double()).numpy()
        for i, numbers in enumerate(compositions):
            inside = x["fractional"][i, : len(numbers)].numpy()
            predictions[i].append(Crystal(numbers, inside, cells[i]))
    protocol = Protocol(samples=arguments.samples)
    distance = match_predictions(predictions, references, protocol, jobs=1).distance
    hits = np.isfinite(distance)
    each = hits.mean(1)
    return {
        f"{name} match": float(each.mean()),
        f"{name} error": float(each.std() / np.sqrt(len(each))),
        f"{name} close": float((hits & (distance < CLOSE)).mean()),
        f"{name} distance": float(distance[hits].mean()) if hits.any() else float("nan"),
    }


def perceived_rates(
    network: StructureTransformer, row: Row, name: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """Shares of conformers with the bonds asked for, and with stable atoms."""
    texts = list(validation_rows(name, arguments).smiles)
    items = [(graph_of(text), tokenize(graph_of(text).smiles)) for text in texts]
    items = [(graph, [network.vocabulary.piece(p) for p in pieces]) for graph, pieces in items]
    same, stable = [], []
    for k in range(arguments.samples):
        generator = stream(arguments.seed, "ablation", name, k)
        x = draw_conformers(network, items, Prompted(name), row.drawing, generator)
        for i, (graph, _) in enumerate(items):
            places = 10 * x["positions"][i, : len(graph.numbers)].numpy()
            same.append(shows(graph, places))
        found = stability(x["numbers"].numpy(), x["positions"].numpy())
        stable.append(found.molecule_share)
    rate = float(np.mean(same))
    return {
        f"{name} match": rate,
        f"{name} error": float(np.sqrt(rate * (1 - rate) / len(same))),
        f"{name} stable": float(np.mean(stable)),
    }


def shows(graph: Any, places: np.ndarray) -> bool:
    """Whether positions in Angstrom show the bonds of a graph."""
    try:
        return flat(perceive(graph.numbers, places)[0]) == flat(graph.smiles)
    except ValueError:
        return False


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table, row by row; what was measured before is not trained again."""
    judge = match_rates if arguments.family == "crystal" else perceived_rates
    model, of = None, None
    for row in ROWS[arguments.family]:
        label = f"{arguments.family}-{row.name}-{arguments.steps}-{arguments.tokens}"
        path = FOLDER / f"{label.replace(' ', '_').replace(';', '').replace(',', '')}.json"
        if path.is_file():
            yield json.loads(path.read_text())
            continue
        if model is None or of != row.settings:
            (model, seconds), of = trained(row, arguments), row.settings
        network = model.average.module if row.average else model.network
        record: dict[str, Any] = {"name": row.name, "training_s": seconds}
        begun = time.process_time()
        for name in SETS[arguments.family]:
            record |= judge(network, row, name, arguments)
        record["evaluation_s"] = time.process_time() - begun
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(ROWS), default="crystal")
    parser.add_argument("--data", default="data/structures")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=1500, help="places of a batch")
    parser.add_argument("--rows", type=int, default=200, help="of each set, to be predicted")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rows = []
    for record in measured(arguments):
        parts = [
            f"{name} {100 * record[f'{name} match']:5.1f} +- {100 * record[f'{name} error']:.1f} %"
            for name in SETS[arguments.family]
        ]
        parts += [f"{k} {v:.3f}" for k, v in record.items() if k.endswith(ENDINGS)]
        print(f"{record['name']:40}", "  ".join(parts), flush=True)
        rows.append(record)
    name = f"ablations-{arguments.family}"
    write_results(name, {"arguments": vars(arguments), "rows": rows, **environment(1)})


if __name__ == "__main__":
    main()
