"""Match rates of predicted crystals beside those of templates, on the test rows of a set.

Rows of the table: a random, the nearest and the voted template (copies of training structures, see
gensci.data.templates), the model's first sample, the best of its samples, the likeliest of its
samples, and the same with retrieved templates as a prompt. All of it again on the test compositions
of which the nearest template fails.

Predictions are kept in results/bench_csp/, one file for each way, and grow row by row: a run that
was stopped goes on, and scoring can be repeated without sampling.

    OMP_NUM_THREADS=1 python benchmarks/bench_csp.py --set perov-5 --checkpoint crystals \
        [--rows 500] [--samples 20] [--stage sample|score|both] [--jobs 2]

No validity filter by default; --protocol.validity prediction|both as in `gensci evaluate`.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import environment, write_results

from gensci.commands.evaluation_crystals import TEMPLATES, copied
from gensci.commands.evaluation_inputs import rows_of
from gensci.core.lattice import lattice_parameters
from gensci.core.random import stream
from gensci.data.structure_table import StructureTable
from gensci.data.templates import TemplatePool
from gensci.metrics.crystal_arrays import Crystal
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.matching import MatchTable, match_predictions

FOLDER = Path("results", "bench_csp")
SAVE_SECONDS = 30.0
Draw = Callable[[np.ndarray, str], "Drawn"]


@dataclass(frozen=True)
class Drawn:
    """Predictions for one composition: (N,), (k, N, 3), (k, 6) and log-densities (k,) or zeros."""

    numbers: np.ndarray
    fractional: np.ndarray
    lattice: np.ndarray
    log_prob: np.ndarray


@dataclass
class Kept:
    """Predictions of one way on disk, by id of the reference."""

    path: Path
    rows: dict[str, Drawn] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Kept:
        """What an earlier run has kept."""
        kept = cls(path)
        if path.is_file():
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            for row, name in enumerate(arrays["ids"].tolist()):
                atoms, k = int(arrays["atoms"][row]), int(arrays["counts"][row])
                kept.rows[name] = Drawn(
                    arrays["numbers"][row, :atoms],
                    arrays["fractional"][row, :k, :atoms],
                    arrays["lattice"][row, :k],
                    arrays["log_prob"][row, :k],
                )
        return kept

    def save(self) -> None:
        """Write all rows, completely or not at all."""
        drawn = list(self.rows.values())
        atoms = np.array([len(one.numbers) for one in drawn])
        counts = np.array([len(one.lattice) for one in drawn])
        n, k, most = len(drawn), int(counts.max(initial=0)), int(atoms.max(initial=0))
        numbers = np.zeros((n, most), dtype=np.uint8)
        fractional = np.zeros((n, k, most, 3), dtype=np.float32)
        lattice = np.zeros((n, k, 6), dtype=np.float32)
        log_prob = np.zeros((n, k))
        for row, one in enumerate(drawn):
            numbers[row, : atoms[row]] = one.numbers
            fractional[row, : counts[row], : atoms[row]] = one.fractional
            lattice[row, : counts[row]] = one.lattice
            log_prob[row, : counts[row]] = one.log_prob
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial.npz")
        np.savez(
            part,
            ids=np.array(list(self.rows)),
            atoms=atoms,
            counts=counts,
            numbers=numbers,
            fractional=fractional,
            lattice=lattice,
            log_prob=log_prob,
        )
        part.replace(self.path)

    def fill(self, references: dict[str, np.ndarray], draw: Draw) -> None:
        """Draw what is missing; saved now and then, and at the end whatever happens."""
        missing = [name for name in references if name not in self.rows]
        begun = saved = time.monotonic()
        try:
            for done, name in enumerate(missing, start=1):
                self.rows[name] = draw(references[name], name)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                    pace = done / (saved - begun)
                    print(f"  {self.path.stem}: {done} of {len(missing)}, {pace:.2f} rows/s")
        finally:
            if missing:
                self.save()

    def crystals(self, name: str, by_likelihood: bool = False) -> list[Crystal]:
        """Predictions of one reference in the order drawn, or the likeliest first."""
        one = self.rows[name]
        order = np.arange(len(one.lattice))
        if by_likelihood:
            order = np.argsort(-np.nan_to_num(one.log_prob, nan=-np.inf), kind="stable")
        return [Crystal(one.numbers, one.fractional[i], one.lattice[i]) for i in order]


def from_templates(pool: TemplatePool, how: str, count: int, novel: bool) -> Draw:
    """Copies of structures of the pool."""

    def draw(numbers: np.ndarray, name: str) -> Drawn:
        wanted = Crystal(numbers, np.zeros(0), np.zeros(0))
        found = copied(pool, how, wanted, name, count, novel)
        if not found:
            return Drawn(numbers, np.zeros((0, len(numbers), 3)), np.zeros((0, 6)), np.zeros(0))
        # templates bring their own order of atoms, and the file has one for each composition
        orders = [np.argsort(one.numbers, kind="stable") for one in found]
        inside = [one.coordinates[order] for one, order in zip(found, orders, strict=True)]
        cells = [one.lattice for one in found]
        return Drawn(np.sort(numbers), np.stack(inside), np.stack(cells), np.zeros(len(found)))

    return draw


def from_model(arguments: argparse.Namespace, pool: TemplatePool | None) -> Draw:
    """Samples of a checkpoint, with or without retrieved templates.

    This is the one place that knows how the model is called.
    """
    from gensci.commands.structure_proposals import DENSITY, exclusion_of, leading
    from gensci.models.checkpoint import load_network
    from gensci.models.structure_proposal import CrystalProposal, Drawing
    from gensci.nn.structure_sequence import Prompted
    from gensci.samplers.solvers import make_solver

    network, _ = load_network(arguments.checkpoint)
    network = network.float().to(arguments.device).eval()
    drawing = Drawing(
        make_solver(arguments.solver, {"num_steps": arguments.num_steps}),
        arguments.temperature,
        make_solver("flow-ode", DENSITY),
        exclusion=exclusion_of(arguments.exclusion),
    )
    prompt = Prompted(arguments.style)

    def draw(numbers: np.ndarray, name: str) -> Drawn:
        numbers = np.sort(numbers)
        templates = None
        if pool is not None:
            most = max(20, arguments.samples)
            templates = leading(network, pool, numbers, prompt, most, arguments.novel)
        proposal = CrystalProposal(network, numbers, drawing, prompt, templates)
        generator = stream(arguments.seed, "bench-csp", name, device=arguments.device)
        x = proposal.sample(arguments.samples, generator)
        judge = CrystalProposal(network, numbers, drawing, prompt)
        log_prob = judge.log_prob(x) if arguments.likelihood else torch.zeros(arguments.samples)
        return Drawn(
            numbers,
            x["fractional"].cpu().numpy(),
            lattice_parameters(x["lattice"].double()).cpu().numpy(),
            log_prob.cpu().numpy(),
        )

    return draw


def template_pool(arguments: argparse.Namespace) -> TemplatePool:
    """Structures to copy, of the training rows of the set; kept, because the fit takes a minute."""
    path = FOLDER / f"pool-{'+'.join(arguments.pool)}.safetensors"
    if path.is_file():
        return TemplatePool.load(path)
    folders = [Path(arguments.data, name, "train") for name in arguments.pool]
    table = StructureTable.concatenate([StructureTable.load(folder) for folder in folders])
    pool = TemplatePool.from_table(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    pool.save(path)
    return pool


def ways(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Draw]]]:
    """Names of all ways, and what makes the function that draws them."""
    count = arguments.samples
    for how in TEMPLATES:
        yield (
            f"{how} template",
            lambda how=how: from_templates(template_pool(arguments), how, count, arguments.novel),
        )
    if arguments.checkpoint:
        yield "model", lambda: from_model(arguments, None)
        if arguments.retrieval:
            yield "model + retrieval", lambda: from_model(arguments, template_pool(arguments))


def kept_path(arguments: argparse.Namespace, way: str) -> Path:
    """Where the predictions of one way lie; settings that change them are in the name."""
    name = f"{arguments.set}-{way.replace(' ', '')}-seed{arguments.seed}-k{arguments.samples}"
    if way != "model":
        name += f"-{'+'.join(arguments.pool)}" + "-novel" * arguments.novel
    if way.startswith("model"):
        solver = f"{arguments.solver}{arguments.num_steps}-T{arguments.temperature:g}"
        weights = f"{Path(arguments.checkpoint).name}-{weights_digest(arguments.checkpoint)}"
        name += f"-{weights}-{solver}-{arguments.style or 'nostyle'}"
        name += f"-apart{arguments.exclusion:g}" * bool(arguments.exclusion)
    return FOLDER / f"{name}.npz"


@functools.lru_cache(maxsize=1)
def weights_digest(checkpoint: str) -> str:
    """Eight digits that change with the weights."""
    from gensci.models.checkpoint import find_checkpoint, sha256

    return sha256(find_checkpoint(checkpoint) / "model.safetensors")[:8]


def chosen_rows(table: StructureTable, rows: int | None, seed: int) -> list[int]:
    """Rows of the test set in a fixed random order, so that more rows only add to fewer."""
    order = torch.randperm(len(table), generator=stream(seed, "bench-csp-rows")).tolist()
    return order if rows is None else order[:rows]


def score_ways(
    kept: dict[str, Kept], ids: list[str], references: list[Crystal], arguments: argparse.Namespace
) -> dict[str, MatchTable]:
    """Every way compared with the references; the model's once more, likeliest sample first."""
    settings = {name: getattr(arguments, name) for name in ("validity", "matcher", "time_limit")}
    protocol = Protocol(samples=arguments.samples, **settings)
    found = {}
    for way, predictions in kept.items():
        listed = [predictions.crystals(name) for name in ids]
        begun = time.monotonic()
        found[way] = match_predictions(listed, references, protocol, jobs=arguments.jobs)
        pairs = sum(map(len, listed)) / (time.monotonic() - begun)
        print(f"  {way}: {pairs:.0f} pairs/s")
        if way.startswith("model") and arguments.likelihood:
            orders = [
                np.argsort(-np.nan_to_num(predictions.rows[n].log_prob, nan=-np.inf), kind="stable")
                for n in ids
            ]
            found[f"{way}, likeliest"] = reordered(found[way], orders)
    return found


def reordered(table: MatchTable, orders: list[np.ndarray]) -> MatchTable:
    """The same comparisons with the predictions of each reference in another order."""
    distance, status = table.distance.copy(), table.status.copy()
    for row, order in enumerate(orders):
        distance[row, : len(order)] = table.distance[row, order]
        status[row, : len(order)] = table.status[row, order]
    return MatchTable(distance, status, table.protocol)


def print_table(
    found: dict[str, MatchTable], rows: np.ndarray | None, samples: int
) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for way, table in found.items():
        for n in dict.fromkeys((1, samples)):
            if n > 1 and way.endswith("likeliest"):
                continue  # the best of all is the same in any order
            score = table.score(n, rows)
            record[f"{way} n={n}"] = score.record()
            print(f"{way:<28} {score}")
    return record


def sample_all(arguments: argparse.Namespace, references: dict[str, np.ndarray]) -> None:
    for way, make in ways(arguments):
        kept = Kept.open(kept_path(arguments, way))
        if any(name not in kept.rows for name in references):
            print(f"drawing: {way}")
            kept.fill(references, make())


def score_all(
    arguments: argparse.Namespace, ids: list[str], references: list[Crystal]
) -> dict[str, Any]:
    opened = {way: Kept.open(kept_path(arguments, way)) for way, _ in ways(arguments)}
    kept = {way: one for way, one in opened.items() if all(name in one.rows for name in ids)}
    for way in opened.keys() - kept.keys():
        print(f"not drawn for all rows: {way}")
    found = score_ways(kept, ids, references, arguments)
    protocol = next(iter(found.values())).protocol
    print(f"\n{arguments.set}, {len(ids)} test rows; {protocol.text}")
    record = {"all": print_table(found, None, arguments.samples), "protocol": protocol.record()}
    if "nearest template" in found:
        failed = np.isnan(found["nearest template"].distance[:, 0])
        print(f"\nwhere the nearest template fails ({int(failed.sum())} rows)")
        record["nearest_template_fails"] = print_table(found, failed, arguments.samples)
    return record


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="perov-5", help="prepared set, under --data")
    parser.add_argument("--data", default="data/structures")
    parser.add_argument("--pool", nargs="+", help="sets whose training rows are templates")
    parser.add_argument("--checkpoint", help="name or folder; without it only templates are judged")
    parser.add_argument("--style", help="training set that the model is asked to write like")
    parser.add_argument("--rows", type=int, help="test rows, all by default")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument(
        "--novel", action="store_true",
        help="a test row is no training row: votes are not for structures of its composition",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solver", default="dpm-solver++")
    parser.add_argument("--num-steps", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument(
        "--exclusion", type=float, default=0.7, help="as --proposal.exclusion of gensci sample"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-likelihood", dest="likelihood", action="store_false")
    parser.add_argument("--no-retrieval", dest="retrieval", action="store_false")
    parser.add_argument("--stage", choices=("sample", "score", "both"), default="both")
    parser.add_argument("--jobs", type=int, help="processes that match")
    parser.add_argument("--validity", default="none", choices=("none", "prediction", "both"))
    parser.add_argument("--matcher", default="gensci", choices=("gensci", "pymatgen"))
    parser.add_argument("--time-limit", type=float, default=20.0)
    arguments = parser.parse_args()
    arguments.pool = arguments.pool or [arguments.set]
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    table = StructureTable.load(Path(arguments.data, arguments.set, "test"))
    table = table.select(chosen_rows(table, arguments.rows, arguments.seed))
    references = list(rows_of(table))
    if arguments.stage != "score":
        sample_all(arguments, {n: c.numbers for n, c in zip(table.ids, references, strict=True)})
    if arguments.stage != "sample":
        record = score_all(arguments, list(table.ids), references)
        name = f"csp-{arguments.set}-{Path(arguments.checkpoint or 'templates').name}"
        name += "" if arguments.temperature == 1.0 else f"-T{arguments.temperature:g}"
        name += "-novel" * arguments.novel
        surroundings = environment(arguments.threads, "pymatgen", "spglib", "scipy")
        write_results(name, {"arguments": vars(arguments), **record, **surroundings})


if __name__ == "__main__":
    main()
