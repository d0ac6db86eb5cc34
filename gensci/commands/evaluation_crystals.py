"""Measures of crystals for `gensci evaluate`: of predicted structures, and of invented ones."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gensci.commands.evaluation_inputs import Group, Results, rows_of
from gensci.core.elements import SYMBOLS
from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.io.progress import ProgressReport
from gensci.metrics.crystal_arrays import Crystal, composition_key
from gensci.metrics.crystal_coverage import CUTOFFS, coverage, require_matminer
from gensci.metrics.crystals import (
    chgnet_energies,
    novelty,
    property_distances,
    uniqueness,
    validity,
)
from gensci.metrics.match_protocol import Protocol
from gensci.metrics.matching import STATUSES, MatchTable, match_everyone, match_predictions

if TYPE_CHECKING:
    from gensci.data.structure_table import StructureTable

Array = np.ndarray

MEASURES = ("validity", "uniqueness", "novelty", "distances", "coverage", "energy")
FAST = MEASURES[:4]


@dataclass
class Report:
    """What an evaluation found.

    Attributes:
        lines: for people.
        metrics: for machines, by name.
        units: of the metrics, by name.
        protocol: how they were measured.
        samples: one entry for each reference or sample.
    """

    lines: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def share(self, name: str, value: float, remark: str = "") -> None:
        """Add a share between 0 and 1."""
        self.number(name, value, "share", f"{value:7.1%}", remark)

    def number(self, name: str, value: float, unit: str, shown: str, remark: str = "") -> None:
        """Add a number with its unit."""
        self.metrics[name], self.units[name] = finite(value), unit
        self.lines.append(f"  {name.replace('_', ' '):<34} {shown}{remark and f'  {remark}'}")


def finite(value: float) -> float | None:
    """The number for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None


def formula(numbers: Array) -> str:
    """Elements with their counts in one cell, such as O4Ti2."""
    counts = Counter(int(number) for number in numbers)
    named = sorted((SYMBOLS[n - 1], count) for n, count in counts.items())
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in named)


@dataclass(frozen=True)
class Assignment:
    """References that have predictions.

    Attributes:
        rows: (m,) of the table.
        predictions: (m,) lists of crystals.
        without: references without any.
        unassigned: predictions of which the table has no composition.
        shared: references that share their predictions with others of their composition.
    """

    rows: list[int]
    predictions: list[list[Crystal]]
    without: int
    unassigned: int
    shared: int


def assign(groups: list[Group], table: StructureTable) -> Assignment:
    """Give predictions to references: by id, else by composition.

    Where a composition has as many runs as references, each gets one, in order; otherwise all
    references of the composition share its predictions.
    """
    by_id = {name: row for row, name in enumerate(table.ids)}
    own: dict[int, list[Crystal]] = defaultdict(list)
    pools: dict[tuple, list[list[Crystal]]] = defaultdict(list)
    for group in groups:
        parts: dict[tuple, list[Crystal]] = defaultdict(list)
        for name, crystal in zip(group.ids, group.crystals, strict=True):
            if name in by_id:
                own[by_id[name]].append(crystal)
            else:
                parts[composition_key(crystal.numbers)].append(crystal)
        for key, crystals in parts.items():
            pools[key].append(crystals)
    references: dict[tuple, list[int]] = defaultdict(list)
    for row in range(len(table)):
        if row not in own:
            references[composition_key(table.row(row).numbers)].append(row)
    shared = 0
    for key, rows in references.items():
        runs = pools.pop(key, [])
        if runs and len(runs) == len(rows):
            own.update(zip(rows, runs, strict=True))
        elif runs:
            together = [crystal for run in runs for crystal in run]
            own.update((row, together) for row in rows)
            shared += len(rows) if len(rows) > 1 else 0
    listed = sorted(own)
    left = sum(len(run) for runs in pools.values() for run in runs)
    return Assignment(listed, [own[r] for r in listed], len(table) - len(listed), left, shared)


def judge_predictions(
    results: Results,
    table: StructureTable,
    train: StructureTable | None,
    protocol: Protocol,
    jobs: int | None,
) -> Report:
    """Match rates of predicted crystals, beside those of templates where a training set is given.

    Raises:
        UsageError: no prediction has the composition of a reference.
    """
    given = assign(results.groups, table)
    if not given.rows:
        raise UsageError(
            "no sample has the composition of a reference",
            "is it the right --reference? `--task new` judges crystals without references",
        )
    most = max(len(crystals) for crystals in given.predictions)
    protocol = replace(protocol, samples=min(protocol.samples, most))
    references = list(rows_of(table.select(given.rows)))
    with ProgressReport("pairs") as progress:
        found = match_predictions(
            given.predictions, references, protocol, jobs=jobs, progress=progress
        )
    report = Report(protocol=protocol.record())
    report.lines.append(f"protocol: {protocol.text}")
    _count_lines(report, given, len(table))
    _score(report, "model", found)
    if given.shared:
        flat = _flat(given, protocol.samples)
        _note(report, "METRe", match_everyone(flat, references, protocol, jobs=jobs))
    if train is not None:
        _beside_templates(
            report, found, references, [table.ids[r] for r in given.rows], train, jobs
        )
    report.samples = _per_reference(found, table, given)
    return report


def _count_lines(report: Report, given: Assignment, total: int) -> None:
    report.metrics["references"] = len(given.rows)
    report.metrics["references_without_prediction"] = given.without
    report.lines.append(f"  {len(given.rows)} of {total} references have predictions")
    if given.unassigned:
        report.lines.append(f"  {given.unassigned} samples are of no composition of the reference")
    if given.shared:
        report.lines.append(
            f"  {given.shared} references share the predictions of their composition"
        )


def _score(
    report: Report, name: str, found: MatchTable, rows: Array | None = None, part: str = ""
) -> None:
    """One line for n = 1 and one for all samples; ``part`` names the references of the rows."""
    for n in dict.fromkeys((1, found.protocol.samples)):
        score = found.score(n, rows)
        key = f"{part}{name.replace(' ', '_')}_n{n}"
        report.metrics[key] = score.record()
        report.units[key] = "rate and errors: share; rmse, crmse: (volume per atom)^(1/3)"
        report.lines.append(f"  {name:<34} {score}")


def _note(report: Report, name: str, found: MatchTable) -> None:
    score = found.score()
    report.metrics[name] = score.record()
    report.lines.append(
        f"  {name:<34} {score.rate:6.1%}, cRMSE {score.crmse:.4f} (any prediction may match)"
    )


def _flat(given: Assignment, samples: int) -> list[Crystal]:
    seen: dict[int, Crystal] = {}
    for crystals in given.predictions:
        seen.update((id(crystal), crystal) for crystal in crystals[:samples])
    return list(seen.values())


TEMPLATES = ("random", "nearest", "voted")


def _beside_templates(
    report: Report,
    found: MatchTable,
    references: list[Crystal],
    ids: list[str],
    train: StructureTable,
    jobs: int | None,
) -> None:
    """The same measure for structures copied from the training set, and where the nearest fails."""
    pool = template_pool(train)
    protocol = replace(found.protocol, samples=1)
    tables = {}
    for how in TEMPLATES:
        copies = [copied(pool, how, r, name) for r, name in zip(references, ids, strict=True)]
        tables[how] = match_predictions(copies, references, protocol, jobs=jobs)
        _score(report, f"{how} template", tables[how])
    failed = np.isnan(tables["nearest"].distance[:, 0])
    if failed.any():
        report.lines.append(f"  where the nearest template fails ({int(failed.sum())} references):")
        for name, one in (("model", found), ("random template", tables["random"])):
            _score(report, name, one, failed, "nearest_template_fails/")


def template_pool(train: StructureTable) -> Any:
    """The structures of a training set as templates (`gensci.data.templates`)."""
    from gensci.data.templates import TemplatePool

    print(f"making templates of {len(train)} training structures", file=sys.stderr)
    return TemplatePool.from_table(train)


def copied(
    pool: Any, how: str, reference: Crystal, name: str, count: int = 1, novel: bool = False
) -> list[Crystal]:
    """Predictions for the atoms of a reference that copy structures of a pool.

    Args:
        pool: a `gensci.data.templates.TemplatePool`.
        how: one of `TEMPLATES`: any at random, the nearest by similarity of the elements, or the
            nearest of the prototype that near ones vote for.
        reference: whose atoms are asked for; its structure is not looked at.
        name: id of the reference, which is left out of the pool, and which decides the draw.
        count: how many.
        novel: votes count for no structure of exactly the same composition.
    """
    if how != "random":
        asked = {"vote": True, "novel": novel} if how == "voted" else {"vote": False}
        found = pool.candidates(reference.numbers, k=count, exclude=(name,), **asked)
    else:
        generators = (stream(0, "random-template", name, str(i)) for i in range(count))
        drawn = (pool.random(reference.numbers, g, exclude=(name,)) for g in generators)
        found = [template for template in drawn if template is not None]
    return [Crystal(one.numbers, one.fractional, one.lattice) for one in found]


def _per_reference(found: MatchTable, table: StructureTable, given: Assignment) -> list[dict]:
    return [
        {
            "reference": table.ids[row],
            "formula": formula(table.row(row).numbers),
            "distance": [finite(value) for value in distance],
            "status": [STATUSES[value] for value in status],
        }
        for row, distance, status in zip(given.rows, found.distance, found.status, strict=True)
    ]


def judge_new(
    results: Results,
    table: StructureTable | None,
    train: StructureTable | None,
    measures: tuple[str, ...],
    protocol: Protocol,
    jobs: int | None,
) -> Report:
    """Validity, uniqueness, novelty and distances of crystals that nobody asked for by name."""
    crystals = [crystal for group in results.groups for crystal in group.crystals]
    report = Report(protocol=protocol.record())
    report.metrics["samples"] = len(crystals)
    report.lines.append(f"  {len(crystals)} samples")
    checks = validity(crystals, jobs=jobs)
    valid = np.array([check.valid for check in checks], dtype=bool)
    counts = np.ones(len(crystals), dtype=bool)
    if "validity" in measures:
        report.share("structural_validity", np.mean([check.structural for check in checks]))
        report.share("compositional_validity", np.mean([check.compositional for check in checks]))
        report.share("validity", valid.mean())
    if "uniqueness" in measures:
        unique = uniqueness(crystals, protocol, jobs=jobs)
        report.share("uniqueness", unique.value, f"({protocol.text})")
        counts &= unique.rows
    if "novelty" in measures and train is not None:
        new = novelty(crystals, list(rows_of(train)), protocol, jobs=jobs)
        report.share("novelty", new.value, f"against {len(train)} training structures")
        counts &= new.rows
    if "uniqueness" in measures:
        names = "valid_unique_novel" if train is not None else "valid_unique"
        report.share(names, (counts & valid).mean())
    if table is not None:
        _against_reference(report, crystals, valid, table, measures, jobs)
    ids = [name for group in results.groups for name in group.ids]
    report.samples = [
        {"sample": name, "formula": formula(crystal.numbers), **asdict(check)}
        for name, crystal, check in zip(ids, crystals, checks, strict=True)
    ]
    return report


def _against_reference(
    report: Report,
    crystals: list[Crystal],
    valid: Array,
    table: StructureTable,
    measures: tuple[str, ...],
    jobs: int | None,
) -> None:
    reference = list(rows_of(table))
    chosen = [crystal for crystal, keep in zip(crystals, valid, strict=True) if keep]
    if not chosen:
        report.lines.append("  no sample is valid: no distances and no coverage")
        return
    energies = None
    if "energy" in measures:
        energies = tuple(e[np.isfinite(e)] for e in map(chgnet_energies, (chosen, reference)))
    if "distances" in measures or energies is not None:
        for name, value in property_distances(chosen, reference, energies).items():
            quantity, unit = _W1[name]
            report.number(f"w1_{quantity}", value, unit, f"{value:.4f} {unit}", "(valid samples)")
    if "coverage" in measures:
        _cover(report, crystals, reference, table, jobs)


_W1 = {
    "density_g_per_cm3": ("density", "g/cm^3"),
    "num_elements": ("num_elements", "elements"),
    "energy_ev_per_atom": ("chgnet_energy", "eV/atom"),
}


def _cover(
    report: Report,
    crystals: list[Crystal],
    reference: list[Crystal],
    table: StructureTable,
    jobs: int | None,
) -> None:
    try:
        require_matminer()
    except GensciError as missing:
        report.lines.append(f"  left out: {missing}")
        return
    source = Counter(table.source).most_common(1)[0][0]
    cutoffs = CUTOFFS.get(source, CUTOFFS["mp-20"])
    with ProgressReport("fingerprints") as progress:
        found = coverage(crystals, reference, cutoffs, jobs=jobs, progress=progress)
    remark = f"(cutoffs {cutoffs[0]:g} structure, {cutoffs[1]:g} composition)"
    report.share("coverage_recall", found.recall, remark)
    report.share("coverage_precision", found.precision, remark)
    report.metrics["coverage"] = asdict(found)
