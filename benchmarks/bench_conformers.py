"""Conformers of QM9 test molecules: the model against RDKit, by COV and MAT.

References are ``--references`` conformers of each molecule by ETKDG and MMFF94s, which is also how
the training set was made; every method gives twice as many. Rows:

* ``model``: draws of the checkpoint, nothing done to them;
* ``model + MMFF94s``: the same, relaxed;
* ``ETKDG``: distance geometry alone, other seeds (what a user has without a model);
* ``ETKDG + MMFF94s``: the law of the references, drawn again: the most that can be reached;
* ``one conformer``: a single relaxed one, repeated: what knowing bonds and angles alone is worth.

Beside COV and MAT stand the shares of conformers that are perceived as the same molecule from
positions alone, with and without stereo.

    OMP_NUM_THREADS=1 python benchmarks/bench_conformers.py CHECKPOINT [--molecules 100]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import environment, write_results

from gensci.core.random import stream
from gensci.data.molecule_conformers import conformers, drawn, relax
from gensci.data.molecule_perception import flat, perceive
from gensci.data.structure_table import StructureTable
from gensci.metrics.conformers import Conformers, conformer_score

Array = np.ndarray
Draw = Callable[[str, int], Array]
TEST = Path(__file__).parents[1] / "data" / "structures" / "qm9" / "test"
_REFERENCE_SEED, _OTHER_SEED = 1000, 2000


def model_draws(checkpoint: str, seed: int) -> Draw:
    """Positions (n, N, 3) Angstrom of n draws of the model."""
    from gensci.models.checkpoint import load_network
    from gensci.models.structure_proposal import ConformerProposal, Drawing
    from gensci.nn.smiles_tokens import tokenize
    from gensci.nn.structure_sequence import Prompted
    from gensci.samplers.solvers import make_solver
    from gensci.systems.molecule_graph import graph_of

    network, _ = load_network(checkpoint)
    network = network.float()
    drawing, prompt = Drawing(make_solver("dpm-solver++", {"num_steps": 16})), Prompted("qm9")

    def draw(smiles: str, n: int) -> Array:
        proposal = ConformerProposal(network, graph_of(smiles), tokenize(smiles), drawing, prompt)
        return proposal.sample(n, stream(seed, "conformers", smiles))["positions"].numpy() * 10

    return draw


def methods(checkpoint: str | None, seed: int) -> dict[str, Draw]:
    """All rows of the table, by name."""
    table: dict[str, Draw] = {
        "ETKDG": lambda smiles, n: drawn(smiles, n, _OTHER_SEED)[1],
        "ETKDG + MMFF94s": lambda smiles, n: conformers(smiles, n, _OTHER_SEED)[1],
        "one conformer": lambda smiles, n: np.repeat(conformers(smiles, 1, _OTHER_SEED)[1], n, 0),
    }
    if checkpoint:
        model = model_draws(checkpoint, seed)
        table = {"model": model, "model + MMFF94s": lambda s, n: relax(s, model(s, n)), **table}
    return table


def chosen_molecules(test: Path, count: int, references: int, seed: int) -> dict[str, Array]:
    """Reference conformers (m, N, 3) Angstrom of molecules of the test table, in random order."""
    table = StructureTable.load(test)
    order = torch.randperm(len(table), generator=stream(seed, "molecules")).tolist()
    found: dict[str, Array] = {}
    for row in order:
        smiles = table.smiles[row]
        try:
            found[smiles] = conformers(smiles, references, _REFERENCE_SEED)[1]
        except ValueError:
            continue
        if len(found) == count:
            break
    return found


def perceived(smiles: str, numbers: Array, shapes: Array) -> tuple[float, float]:
    """Shares of conformers that show the same graph, and the same stereoisomer."""
    graphs, stereo = 0, 0
    for shape in shapes:
        try:
            found = perceive(numbers, shape)[0]
        except ValueError:
            continue
        graphs += flat(found) == flat(smiles)
        stereo += found == smiles
    return graphs / len(shapes), stereo / len(shapes)


def measure(draw: Draw, references: dict[str, Array], jobs: int) -> dict[str, Any]:
    """COV, MAT, shares perceived and the time of drawing of one method."""
    from gensci.systems.molecule_graph import graph_of

    molecules, shares, seconds = [], [], 0.0
    for smiles, reference in references.items():
        start = time.process_time()
        shapes = draw(smiles, 2 * len(reference))
        seconds += time.process_time() - start
        molecules.append(Conformers(smiles, shapes / 10, reference / 10))
        shares.append(perceived(smiles, graph_of(smiles).numbers, shapes))
    graph, stereo = np.mean(shares, axis=0)
    drawn_in_all = sum(len(molecule.generated) for molecule in molecules)
    return {
        **conformer_score(molecules, jobs=jobs).record(),
        "same_graph": float(graph),
        "same_stereoisomer": float(stereo),
        "processor_ms_each": 1000 * seconds / drawn_in_all,
    }


def show(name: str, row: dict[str, Any]) -> None:
    columns = [
        f"COV-R {100 * row['coverage_recall_mean']:5.1f} %",
        f"MAT-R {10 * row['matching_recall_mean_nm']:.3f} A",
        f"COV-P {100 * row['coverage_precision_mean']:5.1f} %",
        f"MAT-P {10 * row['matching_precision_mean_nm']:.3f} A",
        f"graph {100 * row['same_graph']:5.1f} %",
        f"stereo {100 * row['same_stereoisomer']:5.1f} %",
        f"{row['processor_ms_each']:.1f} ms",
    ]
    print(f"{name:18s}", "  ".join(columns), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="folder; the baselines alone without it")
    parser.add_argument("--test", type=Path, default=TEST, help="prepared table of molecules")
    parser.add_argument("--molecules", type=int, default=100)
    parser.add_argument("--references", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (arguments.molecules, arguments.references, arguments.seed)
    references = chosen_molecules(arguments.test, *sizes)
    rows = {}
    for name, draw in methods(arguments.checkpoint, arguments.seed).items():
        rows[name] = measure(draw, references, arguments.jobs)
        show(name, rows[name])
    record = {
        **vars(arguments),
        "test": str(arguments.test),
        "rows": rows,
        "environment": environment(1, "rdkit"),
    }
    write_results("conformers", record)


if __name__ == "__main__":
    main()
