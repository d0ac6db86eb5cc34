"""The tables of bench_peptides: peptide by peptide, then means beside the published rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

PUBLISHED = Path(__file__).parent / "data" / "published_peptides.json"
# title, key of a row, its width; a star marks what is counted as published
COLUMNS = (
    ("ESS", "ess", 7),
    ("ESS*", "ess_published", 7),
    ("k-hat", "khat", 6),
    ("E-W2", "energy_w2", 7),
    ("E-W2*", "energy_w2_published", 7),
    ("halves", "energy_halves", 6),
    ("T-W2", "torus_w2", 6),
    ("T-W2*", "torus_w2_published", 6),
    ("halves", "torus_halves", 6),
    ("floor", "torus_floor", 6),
    ("slow-W2", "slow_modes_w2", 7),
    ("halves", "slow_modes_halves", 6),
    ("energies", "evaluations", 8),
    ("per CPU s", "samples_per_cpu_second", 9),
)
SUMMARISED = (
    *("ess", "ess_published", "khat", "energy_w2", "energy_w2_published", "torus_w2"),
    *("torus_w2_published", "slow_modes_w2", "samples_per_cpu_second"),
    *("evaluations", "energy_halves", "torus_halves", "torus_floor", "slow_modes_halves"),
)
NOTES = """\
Columns without a star: all weights. Star: the rows of the largest 0.2 % of the weights are left
out first, as in the published figures; that is no estimate of the Boltzmann distribution. E-W2 in
kT; T-W2 in radian, exact transport of at most {points} points on each side (with a star: of as many
as "points" says; the more, the lower the floor). halves: of the reference itself; floor: of equally
many independent points of one ensemble; both of {points} points. slow-W2: in the plane of the two
slowest modes of the reference's replica-exchange ladders, in standard deviations; NOT comparable
with the published TICA-W2 (see gensci/metrics/slow_modes.py). energies: how often one was
evaluated. per CPU s: draws with their weights for each second of processor time. Where no draw had
any weight the effective size counts as 0, and the distances are blank."""


def published_rows(length: int) -> list[dict[str, Any]]:
    """Published means for peptides of so many residues, with their sources."""
    return json.loads(PUBLISHED.read_text())["rows"].get(str(length), [])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, spread and number of peptides of every column that any row has."""
    found: dict[str, Any] = {"peptides": len(rows)}
    for key in SUMMARISED:
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            spread = stdev(values) if len(values) > 1 else None
            found[key] = {"mean": mean(values), "sd": spread, "peptides": len(values)}
    return found


def cell(value: float | None, width: int) -> str:
    """A number that fits its column; blank where there is none."""
    if value is None:
        return " " * width
    if isinstance(value, int):
        return f"{value:{width}d}"
    if abs(value) >= 1e4:
        return f"{value:{width}.0e}"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:{width}.{digits}f}"


def line(name: str, values: dict[str, Any]) -> str:
    """One line of the table of peptides."""
    cells = " ".join(cell(values.get(key), width) for _, key, width in COLUMNS)
    return f"{name:10} {cells}"


def peptide_table(rows: list[dict[str, Any]]) -> list[str]:
    """Every peptide, then mean, standard deviation and how many have a number."""
    found = summary(rows)
    head = f"{'peptide':10} " + " ".join(f"{title:>{width}}" for title, _, width in COLUMNS)
    lines = [head, *(line(row["name"], row) for row in rows)]
    for row in rows:
        if row.get("error"):
            lines.append(f"{row['name']}: {row['error']}")
    for statistic in ("mean", "sd"):
        values = {key: found[key][statistic] for key in SUMMARISED if key in found}
        lines.append(line(statistic, values))
    judged = found.get("torus_w2", {}).get("peptides", 0)
    lines.append(
        f"{len(rows)} peptides, {judged} with a reference ensemble, "
        f"{sum(bool(row.get('error')) for row in rows)} without any weight"
    )
    return lines


def comparison(runs: list[dict[str, Any]], length: int) -> list[str]:
    """Means of every run beside the published ones."""
    keys = ("ess", "energy_w2", "torus_w2", "tica_w2")
    titles = ("ESS*", "E-W2*", "T-W2*", "points", "TICA-W2", "slow-W2")
    lines = [f"{'':34} " + " ".join(f"{t:>8}" for t in titles) + "  judged source"]
    for run in runs:
        found = run["summary"]

        def average(key: str, found: dict[str, Any] = found) -> float | None:
            own = found.get(f"{key}_published") or found.get(key)
            return own["mean"] if own else None

        values = [average(key) for key in keys[:3]]
        points = run.get("published_points")
        cells = [cell(v, 8) for v in (*values, points, None, average("slow_modes_w2"))]
        count = found.get("torus_w2", {}).get("peptides", 0)
        lines.append(
            f"{run_name(run):34} {' '.join(cells)} {count:3} of {found['peptides']:2} this table"
        )
    for row in published_rows(length):
        cells = [cell(v, 8) for v in (*(row[key] for key in keys[:3]), 10_000, row[keys[3]])]
        lines.append(f"{row['model']:34} {' '.join(cells)} {'':8} {'':9}{row['source']}")
    return lines


def run_name(run: dict[str, Any]) -> str:
    """Model, sampler and number of samples of a run."""
    return f"{run['model']} {run['sampler']} {run['num_samples']}"


def tables(record: dict[str, Any]) -> str:
    """All that is known about peptides of one length."""
    lines: list[str] = []
    for run in record["runs"]:
        beyond = ", longer or shorter than its training" if run["extrapolation"] else ""
        lines += [f"{run_name(run)}{beyond}", *peptide_table(run["rows"]), ""]
    lines += comparison(record["runs"], record["length"])
    return "\n".join([*lines, "", NOTES.format(points=record["points"])])
