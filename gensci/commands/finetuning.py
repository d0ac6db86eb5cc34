"""Finetune a flow into a run folder that is a checkpoint too and can be resumed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gensci.commands.device import choose_device, describe_device
from gensci.commands.prepare import Prepared, prepare
from gensci.commands.record import begin_record, failure, forget_failure, now
from gensci.core.errors import CheckpointError, RunFolderError, UsageError
from gensci.core.registry import MODELS, SYSTEMS, Registry
from gensci.io.finetuning_plot import Point, ess_plot
from gensci.io.progress import ProgressReport
from gensci.io.run_folder import RunFolder, read_record
from gensci.loops.finetuning import Finetuned, FinetuneSettings, finetune
from gensci.loops.finetuning_report import cost, plain
from gensci.models.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    load_checkpoint,
    save_checkpoint,
    sha256,
)
from gensci.models.flow_finetuning import FitSettings
from gensci.models.proposal import FlowProposal, trained_temperature
from gensci.samplers import make_sampler
from gensci.samplers.settings import make_registered
from gensci.systems.resolve import SystemChoice, resolve_one

COMMAND = "finetune"
PICTURE = "ess.png"
TRAINING: Registry[FitSettings] = Registry("training")
TRAINING.register("finetuning")(FitSettings)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Attributes:
        system: Text of `--system`.
        checkpoint: Name or folder of the flow to begin with; None for that of the system's family.
        sizes: Of `FinetuneSettings`, the plain ones.
        seed: None for one that varies, or that of the run to be continued.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        allow_extrapolation: Whether a peptide outside of the training range is taken.
        save_seconds: How often unfinished work is saved.
        train: Settings of the gradient steps, as text or values.
        sampler: Those of smc.
        system_settings: Those of the system.
        proposal_settings: Those of the flow.
    """

    system: str
    checkpoint: str | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str = "auto"
    allow_extrapolation: bool = False
    save_seconds: float = 30.0
    train: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    system_settings: Mapping[str, Any] = field(default_factory=dict)
    proposal_settings: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> FinetuneSettings:
        """The settings of the loop.

        Raises:
            UsageError: One that is unknown or cannot be used.
        """
        if not self.save_seconds >= 0:
            raise UsageError(f"save_seconds={self.save_seconds} is not usable", "give 0 or more")
        if self.sampler and self.sizes.get("refresh") != "smc":
            raise UsageError(
                f"--sampler.{next(iter(self.sampler))}: no sampler runs with --refresh importance",
                "leave it out, or give --refresh smc",
            )
        fit = make_registered(TRAINING, "finetuning", self.train)
        return FinetuneSettings(**self.sizes, fit=fit, smc=make_sampler("smc", self.sampler))


def finetune_into(out: str | None, order: Order, say: Say = print) -> Path:
    """Finetune into a run folder, continuing where an earlier call was stopped.

    Everything that can be wrong with the input is found before the first write.

    Args:
        out: The folder, new, empty or of the same run; None for `runs/NAME`.
        order: The settings.
        say: Shows one line to the user.

    Returns:
        The folder.

    Raises:
        UsageError: A setting, a system that is no peptide, a checkpoint without exact density.
        CheckpointError: The checkpoint cannot be loaded.
        RunFolderError: The folder is foreign, of other settings, or cannot be written.
    """
    choice, settings = resolve_one(order.system.strip()), order.settings()
    if SYSTEMS.metadata(choice.family)["proposal"] != "checkpoint":
        raise UsageError(
            f"--system {choice.spelled}: only flows of peptides are finetuned",
            "give a peptide, for example peptide:AA",
        )
    order = replace(
        order, checkpoint=order.checkpoint or SYSTEMS.metadata(choice.family)["checkpoint"]
    )
    path = Path(out) if out else Path("runs", choice.folder)
    earlier = read_record(path, COMMAND)
    prepared = _prepare(choice, order)
    record = begin_record(
        *(path, earlier, COMMAND),
        {"system": choice.spelled, **_facts(settings), **prepared.settings},
        *(order.seed, sys.argv[1:]),
    )
    folder = RunFolder(path, {"seconds": 0.0, **record, "warnings": list(prepared.warnings)})
    done = earlier is not None and earlier["outcome"] == "complete" and _intact(path, earlier)
    verb = "finetuned before in" if done else "continuing in" if earlier else "finetuning into"
    say(
        f"{choice.spelled}: {verb} {path}, from {order.checkpoint} on "
        f"{describe_device(choose_device(order.device))}, seed {record['seed']}"
    )
    for line in prepared.warnings:
        say(f"warning: {line}")
    if done:
        lines = earlier["summary"]
    else:
        folder.claim()
        lines = _run(folder, prepared, settings, order, choice, say)
    for line in lines:
        say(f"  {line}")
    return path


def _prepare(choice: SystemChoice, order: Order) -> Prepared:
    prepared = prepare(
        choice,
        order.checkpoint,
        choose_device(order.device),
        order.system_settings,
        order.allow_extrapolation,
        order.proposal_settings,
    )
    if not isinstance(prepared.proposal, FlowProposal):
        raise UsageError(
            "--proposal.rotations, --proposal.mirror and --proposal.precision change the draws of "
            "a flow; what is finetuned is the flow itself",
            "leave them out",
        )
    network = prepared.proposal.network
    lacking = [name for name in ("log_prob", "sample_and_log_prob") if not hasattr(network, name)]
    if lacking or not any(True for _ in network.parameters()):
        raise UsageError(
            f"checkpoint {order.checkpoint!r} does not tell an exact density, so its draws cannot "
            "be weighed",
            "choose a flow with another --checkpoint (`gensci list checkpoints`)",
        )
    return prepared


def _facts(settings: FinetuneSettings) -> dict[str, Any]:
    """The settings as `run.json` holds them."""
    facts = asdict(settings)
    fit, smc = facts.pop("fit"), facts.pop("smc")
    facts |= {f"train.{name}": value for name, value in fit.items()}
    if settings.refresh == "smc":
        facts |= {f"sampler.{name}": value for name, value in smc.items()}
    return facts


def _intact(path: Path, record: dict[str, Any]) -> bool:
    """Whether the checkpoint of a finished run is still what it was."""
    try:
        return load_checkpoint(path)[2]["weights_sha256"] == record["weights_sha256"]
    except (CheckpointError, KeyError):
        return False


def _run(
    folder: RunFolder,
    prepared: Prepared,
    settings: FinetuneSettings,
    order: Order,
    choice: SystemChoice,
    say: Say,
) -> list[str]:
    """Finetune, write the files, and record how it ended."""
    begun, before = time.monotonic(), float(folder.record.get("seconds") or 0.0)
    try:
        with ProgressReport(choice.folder) as progress:
            result = finetune(
                *(prepared.target, prepared.proposal, settings),
                seed=folder.record["seed"], store=folder, progress=progress,
                say=lambda line: say(f"  {line}"), save_seconds=order.save_seconds,
            )  # fmt: skip
        lines = summary(result, folder.path)
        _write(folder, prepared, settings, order, result)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk must not hide the first error
            forget_failure(folder)
            folder.save(**failure(error), seconds=before + time.monotonic() - begun)
        raise
    forget_failure(folder)
    folder.save(
        outcome="complete",
        finished=now(),
        seconds=before + time.monotonic() - begun,
        weights_sha256=sha256(folder.path / WEIGHTS),
        summary=lines,
        **metrics(result),
    )
    folder.clear_states()
    return lines


def metrics(result: Finetuned) -> dict[str, Any]:
    """All numbers of a run, as JSON holds them."""
    return {
        "kept": result.judgement.kept,
        "energy_evaluations": result.evaluations,
        "before": plain(result.before),
        "after": None if result.after is None else plain(result.after),
        "judgement": plain(result.judgement),
        "cost": cost(result.before, result.after, result.evaluations),
        "best_round": result.best,
        "rounds": [plain(record) for record in result.records],
        "buffer": {
            "effective": result.buffer.effective,
            "log_z": result.buffer.constant.value,
            "log_z_error": result.buffer.constant.error,
        },
    }


def summary(result: Finetuned, path: Path) -> list[str]:
    """What to tell the user at the end."""
    spent = cost(result.before, result.after, result.evaluations)
    lines = []
    for name, quality in (("before", result.before), ("after", result.after)):
        if quality is not None:
            lines.append(
                f"{name}: {1e4 * quality.ess:.0f} +- {1e4 * quality.ess_error:.0f} effective "
                f"samples per 10,000 energies, k-hat {quality.khat:.2f}, "
                f"log Z {quality.log_z:.3f} +- {quality.log_z_error:.3f}"
            )
    judged = result.judgement
    lines.append(f"kept the {judged.kept} flow: {judged.reason}")
    told = f"{result.evaluations} energies in all"
    if judged.kept == "finetuned" and spent["break_even"] is not None:
        told += f"; paid for from {spent['break_even']:.0f} further draws on"
    lines.append(told)
    lines.append(f"files in {path}: run.json {WEIGHTS} {DESCRIPTION} {PICTURE}")
    return lines


def _write(
    folder: RunFolder,
    prepared: Prepared,
    settings: FinetuneSettings,
    order: Order,
    result: Finetuned,
) -> None:
    """The picture, then the checkpoint.

    Raises:
        RunFolderError: The disk refuses.
    """
    points = [
        Point(record.evaluations, record.quality.ess, record.quality.ess_error)
        for record in result.records
    ]
    after = result.after
    last = None if after is None else Point(result.evaluations, after.ess, after.ess_error)
    record = folder.record
    try:
        title = f"{record['settings']['system']}: kept the {result.judgement.kept} flow"
        ess_plot(folder.path / PICTURE, points, last, title)
    except OSError as error:
        raise RunFolderError(
            f"cannot write in {folder.path} ({error.strerror or error})",
            "make room and run the same command again; what was computed is kept",
        ) from error
    network = prepared.proposal.network
    config = {"class": MODELS.name_of(type(network)), "settings": network.settings}
    meta = description(record, load_checkpoint(order.checkpoint)[2], result)
    save_checkpoint(
        folder.path, result.weights, config, meta, beside=("run.json", "state", PICTURE)
    )


def description(
    record: dict[str, Any], parent: dict[str, Any], result: Finetuned
) -> dict[str, Any]:
    """Where the weights come from, for `model.json`; nothing that differs from call to call."""
    settings = record["settings"]
    text = settings["system"].partition(":")[2]
    from gensci.sims.peptide.parse import parse_peptide

    length = parse_peptide(text).num_residues
    return {
        "data": "weighted draws of the flow itself (gensci finetune)",
        "parent": settings["checkpoint"],
        "parent_sha256": parent["weights_sha256"],
        "training_sequences": parent.get("training_sequences", []),
        "finetuned_for": settings["system"],
        "trained_residues": [length, length],
        "trained_temperature": trained_temperature(parent),
        "seed": record["seed"],
        "settings": settings,
        "metrics": metrics(result),
    }
