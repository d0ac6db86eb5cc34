"""The report of a corpus of simulations: `report.txt` for people, `report.json` for programs."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gensci.io.atomic import write_atomic, write_json
from gensci.io.run_folder import RECORD

TEXT, JSON = "report.txt", "report.json"
_ORDER = ("failed", "poorly mixed", "not judged", "well mixed")
FEWEST = 8  # systems from which their mean drift of energy is judged
LARGEST_DRIFT = 0.3  # kT; published distances between energies of dipeptides are about this
CERTAINTY = 3.0  # standard errors
_HEAD = """\
Simulations in {place}: {count}, {states}.

Worst first. `trips` are round trips of walkers over the backbone barrier that was crossed least
often, `ladders` the largest disagreement between independent ladders on a basin's weight (1: none),
`ladder` the round trips through the temperatures, `exchange` the smallest acceptance of exchanges.

"""


@dataclass(frozen=True)
class Settling:
    """Whether the energies of a corpus still fall: from a hot start they do at first.

    Attributes:
        drift: first half of the frames less second half, mean over the systems, kT.
        error: standard error of the mean.
        systems: how many.
    """

    drift: float
    error: float
    systems: int

    @property
    def settled(self) -> bool:
        """False where the energy surely falls, by more than does not matter."""
        return self.drift < LARGEST_DRIFT or self.drift < CERTAINTY * self.error

    def __str__(self) -> str:
        return (
            f"the energy of the first half of the frames is {self.drift:.2f} +- {self.error:.2f} "
            f"kT above that of the second, mean of {self.systems} systems"
        )


def settling(rows: list[dict[str, Any]]) -> Settling | None:
    """The mean drift over those rows of a report that have one; None where they are too few."""
    drifts = [row["energy_drift"] for row in rows if row.get("energy_drift") is not None]
    if len(drifts) < FEWEST:
        return None
    error = statistics.stdev(drifts) / math.sqrt(len(drifts))
    return Settling(statistics.fmean(drifts), error, len(drifts))


@dataclass
class CorpusReport:
    """What all simulations below a folder have come to.

    Attributes:
        out: the folder.
        failures: reasons by name of those that failed before they had a folder.
    """

    out: Path
    failures: dict[str, str] = field(default_factory=dict)
    _rows: dict[Path, tuple[int, dict[str, Any]]] = field(default_factory=dict, repr=False)

    def write(self) -> None:
        """Write both files anew, each in one step, from the `run.json` of every simulation."""
        rows = sorted(self.rows(), key=_badness)
        if not rows:
            return
        write_json(self.out / JSON, {"systems": rows, "verdicts": Counter(map(_state, rows))})
        text = _text(self.out, rows)
        write_atomic(self.out / TEXT, lambda path: _write_text(path, text))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each simulation; those in other processes too."""
        found = {
            row["name"]: row for path in self.out.glob(f"*/{RECORD}") if (row := self._row(path))
        }
        for name, reason in self.failures.items():
            found.setdefault(name, {"name": name, "outcome": "failed", "error": reason})
        return list(found.values())

    def _row(self, path: Path) -> dict[str, Any] | None:
        """The row of one `run.json`, read again only when it changed; None for anything else."""
        try:
            changed = path.stat().st_mtime_ns
            if self._rows.get(path, (None,))[0] != changed:
                self._rows[path] = (changed, summary_row(path.parent.name, _record(path)))
            return self._rows[path][1]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _record(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["command"] != "simulate":
        raise ValueError(record["command"])
    return record


def summary_row(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The facts of a `run.json` that the report shows.

    Returns:
        ``name``, ``outcome``, and where they are known ``length`` (ps), ``frames``, ``dropped``,
        ``seconds``, ``energy_drift`` (kT), ``temperature_round_trips``, ``lowest_acceptance``,
        ``worst_torsion``, ``round_trips`` of that, ``disagreement``, ``verdict``, ``reasons`` and
        ``error``.
    """
    row: dict[str, Any] = {"name": name, "outcome": record["outcome"]}
    old_length = record["settings"].get("length")  # where an earlier version had it
    for key in ("length", "frames", "dropped", "seconds", "error", "energy_drift"):
        value = record.get(key, old_length if key == "length" else None)
        if value is not None:
            row[key] = value
    if "mixing" not in record:
        return row
    mixing = record["mixing"]
    judged = {name: item for name, item in mixing["torsions"].items() if item["judged"]}
    row["temperature_round_trips"] = record["round_trips"]
    row["lowest_acceptance"] = min(record["acceptance"], default=None)
    if judged:
        worst = min(judged, key=lambda name: judged[name]["round_trips"])
        spread = [item["disagreement"] for item in judged.values() if item["disagreement"]]
        row |= {"worst_torsion": worst, "round_trips": judged[worst]["round_trips"]}
        row["disagreement"] = max(spread, default=None)
    return row | {"verdict": mixing["verdict"], "reasons": mixing["reasons"]}


def _state(row: dict[str, Any]) -> str:
    """Failed, or the verdict where there is one."""
    return "failed" if row["outcome"] == "failed" else row.get("verdict", "no verdict yet")


def _badness(row: dict[str, Any]) -> tuple[int, float, str]:
    state = _state(row)
    place = _ORDER.index(state) if state in _ORDER else len(_ORDER)
    return place, row.get("round_trips", 0), row["name"]


def _text(out: Path, rows: list[dict[str, Any]]) -> str:
    counts = Counter(map(_state, rows))
    states = ", ".join(f"{counts[state]} {state}" for state in counts)
    width = max(len(row["name"]) for row in rows)
    head = (
        f"{'system':<{width}} {'ps':>9} {'frames':>8} {'trips':>12} {'ladders':>8} {'ladder':>7} "
    )
    lines = [f"{head}{'exchange':>8}  verdict"]
    lines += [_line(row, width) for row in rows]
    found = settling(rows)
    if found is not None:
        word = "settled" if found.settled else "not settled, use a longer --equilibration"
        states += f"; {word}:\n{found}"
    return _HEAD.format(place=out, count=len(rows), states=states) + "\n".join(lines) + "\n"


def _line(row: dict[str, Any], width: int) -> str:
    def shown(key: str, form: str) -> str:
        return format(row[key], form) if row.get(key) is not None else "-"

    trips = f"{row['round_trips']} {row['worst_torsion']}" if "worst_torsion" in row else "-"
    columns = (
        f"{row['name']:<{width}} {shown('length', '.5g'):>9} {shown('frames', 'd'):>8} "
        f"{trips:>12} {shown('disagreement', '.2f'):>8} "
        f"{shown('temperature_round_trips', 'd'):>7} {shown('lowest_acceptance', '.2f'):>8}"
    )
    return f"{columns}  {_verdict(row)}"


def _verdict(row: dict[str, Any]) -> str:
    """In words, with the reasons."""
    if row["outcome"] == "failed":
        return f"failed: {row.get('error', 'see run.json')}"
    reasons = f": {', '.join(row['reasons'])}" if row.get("reasons") else ""
    unfinished = "" if row["outcome"] == "complete" else f" ({row['outcome']})"
    return f"{_state(row)}{reasons}{unfinished}"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
