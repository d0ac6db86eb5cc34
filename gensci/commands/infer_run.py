"""What every `gensci infer` does with what it found: the run folder, its record, its files."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gensci.commands.record import failure, forget_failure, now
from gensci.core.errors import GensciError, RunFolderError
from gensci.core.results import SampleSet
from gensci.io.figures import Draws
from gensci.io.posterior import PosteriorExtras, write_posterior
from gensci.io.posterior_corner import corner_plot
from gensci.io.posterior_plots import rounds_plot
from gensci.io.posterior_summary import Labels, summary_rows
from gensci.io.run_folder import RunFolder, files_for_users
from gensci.loops.rounds import RoundRecord

Say = Callable[[str], None]

PACKAGES = ("torch", "numpy", "normflows", "safetensors", "arviz", "scipy")
NEEDED = ("normflows", "scipy", "arviz", "h5py", "corner", "matplotlib")
DIAGNOSTICS = "diagnostics"
_MOST_DRAWN = 20_000  # rows of a picture
_FEWEST_OF_CHAIN = 4  # draws, below which a chain says nothing about itself


@dataclass(frozen=True)
class Found:
    """What an inference found.

    Attributes:
        samples: Of the posterior, `{"theta": (n, d)}`, with their weights and `meta["verdict"]`.
        labels: Of the columns of theta.
        extras: Densities, evidence, observation.
        records: One of each round.
        rounds: Draws after each round by its name, for the picture; the last may be corrected.
        overlay: Further posteriors in the corner plot, by name.
        counts: Calls by kind.
        calls: The same in words.
        facts: Further entries of `run.json`.
        lines: Further lines for the user.
        pictures: Write further files into the folder of diagnostics.
    """

    samples: SampleSet
    labels: Labels
    extras: PosteriorExtras
    records: tuple[RoundRecord, ...] = ()
    rounds: Mapping[str, Draws] = field(default_factory=dict)
    overlay: Mapping[str, Draws] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    calls: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    pictures: tuple[Callable[[Path], None], ...] = ()


def check_packages(names: Sequence[str] = NEEDED) -> None:
    """Refuse to begin what could not be ended.

    Raises:
        GensciError: A package of the extra `posterior` is not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise GensciError(
            f"posteriors need {', '.join(missing)}, not installed here",
            "pip install 'gensci[posterior]'",
        )


class Stopwatch:
    """Wall and CPU seconds of a run, those of earlier calls included.

    Args:
        before: Seconds of earlier calls by kind.
        elsewhere: What has a count `cpu_seconds` of other processes, or None.
    """

    def __init__(self, before: Mapping[str, float] | None = None, elsewhere: Any = None) -> None:
        self._before = {"wall": 0.0, "cpu": 0.0, **(before or {})}
        self._elsewhere = elsewhere
        self._begun = time.monotonic(), self._cpu()

    def read(self) -> dict[str, float]:
        """Seconds by kind."""
        wall, cpu = time.monotonic() - self._begun[0], self._cpu() - self._begun[1]
        return {
            "wall": round(self._before["wall"] + wall, 2),
            "cpu": round(self._before["cpu"] + cpu, 2),
        }

    def _cpu(self) -> float:
        return time.process_time() + getattr(self._elsewhere, "cpu_seconds", 0.0)


def conduct(folder: RunFolder, watch: Stopwatch, work: Callable[[], Found]) -> Found:
    """Do the work, write its files, and record how it ended.

    Raises:
        GensciError: As `work`; the record then has the outcome `failed` and the line.
    """
    try:
        found = work()
        write_files(folder.path, found, folder.record["seed"])
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk must not hide the first error
            forget_failure(folder)
            folder.save(**failure(error), seconds=watch.read())
        raise
    forget_failure(folder)
    folder.save(
        outcome="complete",
        finished=now(),
        seconds=watch.read(),
        counts=dict(found.counts),
        kept=len(found.samples),
        verdict=found.samples.meta["verdict"],
        rounds=[asdict(record) for record in found.records],
        repaired_shards=folder.repaired,
        **found.facts,
    )
    for leftover in (folder.path / "state").glob("*simulating-*"):
        leftover.unlink()  # a round that was interrupted after its last row
    return found


def write_files(path: Path, found: Found, seed: int) -> None:
    """Write all files for the user.

    Raises:
        RunFolderError: The disk refuses.
    """
    try:
        # the attributes of the posterior tell as much as the record of the run
        about = {"counts": dict(found.counts), **(found.extras.attributes or {})}
        extras = replace(found.extras, attributes=about)
        write_posterior(path, found.samples, found.labels, extras, seed=seed)
        pictures = path / DIAGNOSTICS
        pictures.mkdir(exist_ok=True)
        shown = {"posterior": drawable(found.samples), **found.overlay}
        corner_plot(path / "corner.png", shown, found.labels)
        if found.rounds:
            rounds_plot(pictures / "rounds.png", found.rounds, found.labels)
        for write in found.pictures:
            write(pictures)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the files of {path} ({error.strerror or error})",
            "make room and run the same command again; what was computed is kept",
        ) from error


def drawable(samples: SampleSet) -> Draws:
    """Samples as a picture takes them: every k-th of many."""
    rows = torch.arange(0, len(samples), max(1, len(samples) // _MOST_DRAWN))
    theta = samples.x["theta"][rows].numpy()
    weight = samples.weight[rows]
    return Draws(theta, weight.numpy() if float(weight.sum()) > 0 else None)


def tidied(samples: SampleSet) -> SampleSet:
    """The samples, without the numbers of chains that are too short to judge.

    What a store gave back may stand in another order, which must not show in the files.
    """
    samples = replace(samples, info=dict(sorted(samples.info.items())))
    if samples.chain is None:
        return samples
    shortest = int(torch.unique(samples.chain, return_counts=True)[1].min())
    return samples if shortest >= _FEWEST_OF_CHAIN else replace(samples, chain=None)


def told(found: Found, path: Path | None, seconds: Mapping[str, float]) -> list[str]:
    """What to tell the user at the end: a table, counts, the verdict, the files."""
    verdict = found.samples.meta["verdict"]
    numbers = f"{len(found.samples)} samples, effective size {verdict['ess']:.0f}"
    if verdict.get("efficiency") is not None:
        numbers += f", efficiency {verdict['efficiency']:.1%}"
    if verdict.get("khat") is not None:
        numbers += f", k-hat {verdict['khat']:.2f}"
    if verdict.get("log_z") is not None:
        error = verdict.get("log_z_error")
        spread = "an unknown error" if error is None else f"{error:.3f}"
        numbers += f", log Z {verdict['log_z']:.3f} +- {spread}"
    spent = f"{seconds['wall']:.0f} s, {seconds['cpu']:.0f} s of processor time"
    lines = [*table(found.samples, found.labels), f"  {found.calls}; {spent}", f"  {numbers}"]
    lines += [f"  {line}" for line in found.lines]
    lines.append(f"  verdict: {verdict['advice']}")
    if path is not None:
        lines.append(f"  files in {path}: {' '.join(files_for_users(path))}")
    return lines


def table(samples: SampleSet, labels: Labels) -> list[str]:
    """Mean, standard deviation and 95 % interval of each parameter, in aligned columns."""
    rows = [("parameter", "mean", "sd", "2.5 %", "97.5 %")]
    for row, unit in zip(summary_rows(samples, labels), labels.units, strict=True):
        name = f"{row['parameter']} [{unit}]" if unit else str(row["parameter"])
        digits = _digits(row["sd"])
        values = (row["mean"], row["sd"], row["q2.5"], row["q97.5"])
        rows.append((name, *(f"{value:.{digits}f}" for value in values)))
    return [f"  {line}" for line in _aligned(rows)]


def _digits(sd: float) -> int:
    """Decimals that show three digits of a standard deviation."""
    return max(0, min(12, 2 - math.floor(math.log10(sd)))) if sd > 0 else 6


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
