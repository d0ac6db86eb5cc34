"""`gensci evaluate`: measures of crystals and molecules, each with the protocol beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensci.core.errors import UsageError

if TYPE_CHECKING:
    from gensci.commands.evaluation_crystals import Report
    from gensci.commands.evaluation_inputs import Results
    from gensci.metrics.match_protocol import Protocol

FORMAT = 1
TASKS = ("auto", "match", "new", "conformers")


def evaluate(
    results: str,
    reference: str | None = None,
    train: str | None = None,
    task: str = "auto",
    order: str = "given",
    measures: str = "fast",
    delta: float | None = None,
    jobs: int | None = None,
    out: str | None = None,
    protocol_settings: dict[str, Any] | None = None,
) -> int:
    """Judge crystals or molecules against a reference, and say how it was done.

    Args:
        results: a run folder of `gensci sample`, a folder of several, or a file (extxyz, CIF, SDF)
            or folder of CIFs.
        reference: the truth: a table of `gensci data prepare` or a file (CSV, extxyz, CIF, SDF).
        train: what the model was trained on, for novelty and for the baselines that copy it.
        task: match (a structure for each reference), new (sets of structures), conformers, or auto:
            what the run was asked for, and new for files.
        order: given, or likelihood, by which the first of several samples is the most likely one.
        measures: of new crystals: fast, all, or some of validity,uniqueness,novelty,distances,
            coverage,energy.
        delta: threshold of COV in nm; 0.05 by default, 0.125 is usual for drugs.
        jobs: processes, by default one for each core.
        out: file for the numbers, with those of every sample (JSON).
        protocol_settings: easier as --protocol.stol 0.5, --protocol.validity both,
            --protocol.samples 20, --protocol.time_limit 20.

    Returns:
        Exit status 0.
    """
    from gensci.commands.evaluation_inputs import read_results
    from gensci.samplers.settings import check_choice, check_positive, check_whole

    check_choice("--task", task, TASKS)
    check_choice("--order", order, ("given", "likelihood"))
    if jobs is not None:
        check_whole("--jobs", jobs, 1)
    if delta is not None:
        check_positive("--delta", delta)
    chosen = chosen_measures(measures)
    settings = protocol_settings or {}
    make_protocol(settings, task)  # complains before anything is read
    if out is not None:
        check_out(Path(out))
    found = read_results(Path(results), order)  # type: ignore[arg-type]
    report, facts = judge(found, reference, train, task, chosen, delta, settings, jobs)
    print(f"{results}: {facts['task']}")
    for line in [*report.lines, *facts.pop("remarks")]:
        print(line)
    if out is not None:
        write(Path(out), report, {"results": results, **facts})
        print(f"  numbers of every sample: {out}")
    return 0


def judge(
    found: Results,
    reference: str | None,
    train: str | None,
    task: str,
    measures: tuple[str, ...],
    delta: float | None,
    settings: dict[str, Any],
    jobs: int | None,
) -> tuple[Report, dict[str, Any]]:
    """The report, and facts about its inputs.

    Raises:
        UsageError: inputs that do not belong together.
    """
    from gensci.commands import evaluation_crystals as crystals
    from gensci.commands import evaluation_molecules as molecules
    from gensci.commands.evaluation_inputs import read_table

    task = chosen_task(found, task)
    if reference is None and task != "new":
        raise UsageError(f"--task {task} needs --reference", "give the true structures")
    tables, problems = {}, list(found.problems)
    for name, text, split in (("reference", reference, "test"), ("train", train, "train")):
        if text is not None:
            tables[name], bad = read_table(text, split, f"--{name}")
            problems += bad
            if tables[name].kind != found.kind:
                raise UsageError(
                    f"--{name} {text} holds {tables[name].kind}s, the results {found.kind}s",
                    "name a table of the same kind",
                )
    truth, known = tables.get("reference"), tables.get("train")
    protocol = make_protocol(settings, task)
    if task == "match":
        report = crystals.judge_predictions(found, truth, known, protocol, jobs)
    elif task == "conformers":
        report = molecules.judge_conformers(found, truth, delta, jobs)
    elif found.kind == "crystal":
        report = crystals.judge_new(found, truth, known, measures, protocol, jobs)
    else:
        report = molecules.judge_new_molecules(found, truth, known, jobs)
    facts = {"task": task, "reference": reference, "train": train, "problems": problems}
    return report, {**facts, "remarks": remarks(problems)}


def chosen_task(found: Results, task: str) -> str:
    """What to measure.

    Raises:
        UsageError: the task is one of the other kind of structures.
    """
    allowed = {"crystal": ("match", "new"), "molecule": ("conformers", "new")}[found.kind]
    if task == "auto":
        return allowed[0] if found.de_novo is False else "new"
    if task not in allowed:
        raise UsageError(
            f"--task {task} is not for {found.kind}s", f"choose from: {', '.join(allowed)}"
        )
    return task


def remarks(problems: list[str], shown: int = 5) -> list[str]:
    """The first records that could not be read, for people."""
    lines = [f"  left out: {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  left out: {len(problems) - shown} more")
    return lines


def chosen_measures(text: str) -> tuple[str, ...]:
    """Names of measures from `fast`, `all` or a list with commas.

    Raises:
        UsageError: an unknown name.
        GensciError: one that was asked for by name needs a package that is not installed.
    """
    from gensci.commands.evaluation_crystals import FAST, MEASURES
    from gensci.metrics.crystal_coverage import require_matminer
    from gensci.samplers.settings import check_choice

    if text in ("fast", "all"):
        return FAST if text == "fast" else MEASURES
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise UsageError("--measures is empty", f"choose from: fast, all, {', '.join(MEASURES)}")
    for name in names:
        check_choice("measure", name, MEASURES)
    if "coverage" in names:
        require_matminer()
    return names


def make_protocol(settings: dict[str, Any], task: str) -> Protocol:
    """The protocol of a task with these settings, as text or values.

    Predictions are matched at the published tolerances, up to 20 for each reference; uniqueness and
    novelty are counted at pymatgen's stricter ones.

    Raises:
        UsageError: an unknown setting or an unusable value.
    """
    from dataclasses import asdict, fields

    from gensci.core.registry import did_you_mean
    from gensci.metrics.match_protocol import STRICT, Protocol

    kinds = {field.name: type(field.default) for field in fields(Protocol)}
    chosen = asdict(STRICT if task == "new" else Protocol(samples=20))
    for text, value in settings.items():
        name = text.replace("-", "_")
        if name not in kinds:
            raise UsageError(
                f"no setting --protocol.{text}",
                f"{did_you_mean(name, list(kinds))}choose from: {', '.join(kinds)}",
            )
        try:
            chosen[name] = kinds[name](value)
        except ValueError as error:
            raise UsageError(f"--protocol.{text} {value!r} is no number", "give one") from error
    return Protocol(**chosen)


def check_out(path: Path) -> None:
    """Find out before the work whether the file can be written.

    Raises:
        UsageError: it is a folder, or lies in none.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--out {path} cannot be written", "name a file in a folder that exists")


def write(path: Path, report: Report, facts: dict[str, Any]) -> None:
    """Write everything as JSON, completely or not at all."""
    from gensci import __version__
    from gensci.io.atomic import write_json

    write_json(
        path,
        {
            "format": FORMAT,
            "gensci": __version__,
            **facts,
            "protocol": report.protocol,
            "units": report.units,
            "metrics": report.metrics,
            "per_sample": report.samples,
        },
    )
