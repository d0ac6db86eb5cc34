"""Speed of crystal matching: gensci against pymatgen's StructureMatcher, on the same pairs.

References are test rows of prepared sets. Half of the predictions are references with atoms moved
by about 0.3 Angstrom and strained cells, half are random atoms in a reference's cell. Both search
in this process in turns; reduction to primitive cells is part of the time. The benchmark fails
where the two disagree on a match; distances may differ where Niggli cells are not unique.

    OMP_NUM_THREADS=1 python benchmarks/bench_matching.py [--pairs 400] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_environment import environment, write_results

from gensci.commands.evaluation_inputs import rows_of
from gensci.data.structure_table import StructureTable
from gensci.metrics.crystal_arrays import Crystal, cell_parameters, cell_vectors
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.match_worker import Bank

Pair = tuple[Crystal, Crystal]


def disturbed(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Atoms moved and the cell strained, or atoms anywhere."""
    matrix = cell_vectors(np.asarray(crystal.lattice, dtype=np.float64))
    strained = cell_parameters(matrix @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))))
    if rng.random() < 0.5:
        return Crystal(crystal.numbers, rng.random(crystal.coordinates.shape), strained)
    steps = rng.normal(size=crystal.coordinates.shape) * 0.3 / 3**0.5
    return Crystal(crystal.numbers, crystal.coordinates + steps @ np.linalg.inv(matrix), strained)


def pairs_of(folder: Path, count: int, rng: np.random.Generator) -> list[Pair]:
    table = StructureTable.load(folder)
    rows = rng.choice(len(table), size=min(count, len(table)), replace=False)
    references = list(rows_of(table.select(rows)))
    return [(disturbed(reference, rng), reference) for reference in references]


def matcher(pairs: list[Pair], name: str) -> Callable[[], list[float | None]]:
    """A search over all pairs that remembers nothing of the last one."""

    def search() -> list[float | None]:
        crystals = [crystal for pair in pairs for crystal in pair]
        bank = Bank.of(crystals, Protocol(matcher=name))
        return [bank.distance((2 * i, 2 * i + 1)) for i in range(len(pairs))]

    return search


def compare(pairs: list[Pair], repeats: int) -> dict[str, Any]:
    searches = {name: matcher(pairs, name) for name in ("gensci", "pymatgen")}
    for name in searches:  # what is imported at first use
        matcher(pairs[:20], name)()
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    found: dict[str, list[float | None]] = {}
    for _ in range(repeats):
        for name, search in searches.items():
            begun = time.process_time()
            found[name] = search()
            seconds[name].append(time.process_time() - begun)
    both = list(zip(found["gensci"], found["pymatgen"], strict=True))
    disagree = sum((a is None) != (b is None) for a, b in both)
    if disagree:
        raise SystemExit(f"{disagree} of {len(pairs)} pairs are judged differently")
    gaps = [abs(a - b) for a, b in both if a is not None and b is not None]
    ratios = [p / g for g, p in zip(seconds["gensci"], seconds["pymatgen"], strict=True)]
    return {
        "pairs": len(pairs),
        "matched": sum(a is not None for a, _ in both),
        "pairs_per_cpu_second": {n: len(pairs) / statistics.median(s) for n, s in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "largest_difference": max(gaps, default=0.0),
        "different_by_1e-6": sum(gap > 1e-6 for gap in gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["perov-5", "carbon-24", "mp-20"])
    parser.add_argument("--data", type=Path, default=Path("data", "structures"))
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    record = {}
    for name in arguments.sets:
        pairs = pairs_of(arguments.data / name / "test", arguments.pairs, rng)
        found = record[name] = compare(pairs, arguments.repeats)
        speed = found["pairs_per_cpu_second"]
        print(
            f"{name:<10} gensci {speed['gensci']:6.0f} pairs/s, pymatgen {speed['pymatgen']:4.0f}, "
            f"{found['ratio']:.1f} times ({found['ratio_range'][0]:.1f} .. "
            f"{found['ratio_range'][1]:.1f}); {found['matched']} of {found['pairs']} match, "
            f"no decision differs, {found['different_by_1e-6']} distances do"
        )
    write_results("matching", {**record, **environment(1, "pymatgen", "spglib", "scipy")})


if __name__ == "__main__":
    main()
