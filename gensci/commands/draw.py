"""Draw samples of one system, in memory or into a run folder that can be resumed."""

from __future__ import annotations

import contextlib
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import gensci.samplers  # noqa: F401  (registers the samplers)
from gensci.commands.device import choose_device, describe_device
from gensci.commands.prepare import Prepared, prepare
from gensci.commands.record import begin_record, failure, forget_failure, now, surroundings
from gensci.core.errors import RunFolderError, UsageError
from gensci.core.registry import SYSTEMS
from gensci.core.results import SampleSet
from gensci.io.progress import ProgressReport
from gensci.io.run_folder import RunFolder, read_record
from gensci.io.trajectories import FRAME_ROWS, write_arrays, write_trajectory
from gensci.samplers.settings import check_whole, make_sampler
from gensci.systems.resolve import SystemChoice

Say = Callable[[str], None]
NUM_SAMPLES = 2000


@dataclass(frozen=True)
class Request:
    """What was asked for, the same for every system of a call.

    Attributes:
        num_samples: How many to draw of each system; None for the number of the system's family.
        sampler: Name in the registry; None for that of the system's family.
        checkpoint: Name or folder of the model; None for that of the system's family.
        seed: None for one that varies, or that of the run to be continued.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        allow_extrapolation: Whether a peptide outside of the training range is sampled.
        save_seconds: How often the state of an unfinished shard is saved.
        sampler_settings: By name, as text or values.
        system_settings: By name, as text or values.
        proposal_settings: By name, as text or values; for models of structures.
    """

    num_samples: int | None = None
    sampler: str | None = None
    checkpoint: str | None = None
    seed: int | None = None
    device: str = "auto"
    allow_extrapolation: bool = False
    save_seconds: float = 30.0
    sampler_settings: Mapping[str, Any] = field(default_factory=dict)
    system_settings: Mapping[str, Any] = field(default_factory=dict)
    proposal_settings: Mapping[str, Any] = field(default_factory=dict)

    def for_family(self, family: str) -> Request:
        """Return the request with the numbers and names of a family where none are given.

        Models of crystals and molecules draw without a density at no extra cost, so their draws
        are taken as they are; elsewhere draws are weighted.
        """
        facts = SYSTEMS.metadata(family)
        return replace(
            self,
            num_samples=facts.get("num_samples", NUM_SAMPLES)
            if self.num_samples is None
            else self.num_samples,
            sampler=self.sampler or facts.get("sampler", "importance"),
            checkpoint=self.checkpoint or facts.get("checkpoint", ""),
        )

    def check(self) -> None:
        """Raise `UsageError` for what is wrong whatever the system is."""
        if self.num_samples is not None:
            check_whole("num_samples", self.num_samples, 1)
        if not self.save_seconds >= 0:
            raise UsageError(f"save_seconds={self.save_seconds} is not usable", "give 0 or more")
        if self.sampler is not None:
            make_sampler(self.sampler, self.sampler_settings)
        choose_device(self.device)


def draw(choice: SystemChoice, request: Request) -> SampleSet:
    """Draw samples in memory; nothing is written.

    Raises:
        GensciError: See `draw_into`.
    """
    request = request.for_family(choice.family)
    request.check()
    prepared = _prepare(choice, request)
    sampler = make_sampler(request.sampler, request.sampler_settings)
    seed = secrets.randbits(32) if request.seed is None else request.seed
    _check_draws(prepared, request)
    for line in prepared.warnings:
        warnings.warn(line, stacklevel=2)
    samples = sampler.run(prepared.target, prepared.proposal, request.num_samples, seed=seed)
    facts = {"system": choice.spelled, "warnings": list(prepared.warnings)}
    return samples.with_meta(**facts, **surroundings())


def draw_into(
    path: Path, choice: SystemChoice, request: Request, argv: list[str], say: Say
) -> SampleSet:
    """Draw samples into a run folder, continuing where an earlier call was stopped.

    Everything that can be wrong with the input is found before the first write.

    Args:
        path: The run folder, new, empty or of the same run.
        choice: The system.
        request: The settings.
        argv: The command line, for the record.
        say: Shows one line to the user.

    Raises:
        UsageError: A setting, or a sampler that does not fit.
        CheckpointError: The model cannot be loaded.
        RunFolderError: The folder is foreign, of other settings, or cannot be written.
    """
    request = request.for_family(choice.family)
    request.check()
    earlier = read_record(path, "sample")
    sampler = make_sampler(request.sampler, request.sampler_settings)
    prepared = _prepare(choice, request)
    sampler.check(prepared.target, prepared.proposal)
    settings = {
        "system": choice.spelled,
        "num_samples": request.num_samples,
        "sampler": sampler.name,
        **{f"sampler.{name}": value for name, value in asdict(sampler).items()},
        **prepared.settings,
    }
    record = begin_record(path, earlier, "sample", settings, request.seed, argv)
    if earlier is None or earlier["outcome"] != "complete":
        _check_draws(prepared, request)
    folder = RunFolder(
        path, {"sampling_seconds": 0.0, **record, "warnings": list(prepared.warnings)}
    )
    folder.claim()
    for line in prepared.warnings:
        say(f"warning: {line}")
    say(_headline(choice, request, folder, earlier and earlier["outcome"]))
    return _run(folder, prepared, sampler, request, choice.folder)


def _prepare(choice: SystemChoice, request: Request) -> Prepared:
    device = choose_device(request.device)
    drawing = request.proposal_settings
    if choice.family == "crystal" and request.sampler != "direct":
        # other samplers need the model's own law, which knows its density
        drawing = {"exclusion": 0.0, **drawing}
    return prepare(
        choice,
        request.checkpoint,
        device,
        request.system_settings,
        request.allow_extrapolation,
        drawing,
    )


def _check_draws(prepared: Prepared, request: Request) -> None:
    """Ask the proposal, where it can tell, whether so many samples can be drawn."""
    check = getattr(prepared.proposal, "check_draws", None)
    if check is not None:
        check(request.num_samples)


def _headline(
    choice: SystemChoice, request: Request, folder: RunFolder, outcome: str | None
) -> str:
    device = describe_device(torch.device(folder.record["settings"]["device"]))
    verb = {None: "drawing", "complete": "complete before, reading"}.get(outcome, "continuing")
    return (
        f"{choice.spelled}: {verb} {request.num_samples} samples by "
        f"{folder.record['settings']['sampler']} on {device}, seed {folder.record['seed']}"
    )


def _run(
    folder: RunFolder, prepared: Prepared, sampler: Any, request: Request, label: str
) -> SampleSet:
    """Sample, write the files, and record how it ended."""
    begun = time.monotonic()
    before = float(folder.record.get("sampling_seconds") or 0.0)
    try:
        with ProgressReport(label) as progress:
            samples = sampler.run(
                prepared.target,
                prepared.proposal,
                request.num_samples,
                seed=folder.record["seed"],
                store=folder,
                progress=progress,
                save_seconds=request.save_seconds,
            )
        spent = before + time.monotonic() - begun
        write_files(folder.path, samples, prepared.molecule, prepared.write)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk must not hide the first error
            forget_failure(folder)
            seconds = before + time.monotonic() - begun
            folder.save(**failure(error), sampling_seconds=seconds)
        raise
    forget_failure(folder)
    folder.save(
        outcome="complete",
        finished=now(),
        sampling_seconds=spent,
        repaired_shards=folder.repaired,
        **{name: samples.meta[name] for name in ("requested", "kept", "rejected", "verdict")},
        num_shards=samples.meta["num_shards"],
        batch_size=samples.meta["batch_size"],
    )
    folder.clear_states()
    return samples


def write_files(
    path: Path,
    samples: SampleSet,
    molecule: Any,
    write: Callable[[Path, SampleSet], Any] | None = None,
) -> None:
    """Write `samples.npz`, and what viewers open.

    Args:
        path: The run folder.
        samples: What was drawn.
        molecule: With a topology, for `topology.pdb` and `samples.xtc`; or None.
        write: Writes other files: crystals, or molecules with their bonds.

    Raises:
        RunFolderError: The disk refuses.
    """
    try:
        extra = {}
        if molecule is not None:
            positions = molecule.positions
            extra[FRAME_ROWS] = write_trajectory(path, samples, molecule.topology, positions)
        if write is not None:
            write(path, samples)
        write_arrays(path / "samples.npz", samples, **extra)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the files of {path} ({error.strerror or error})",
            "make room and run the same command again; the samples are kept in its shards",
        ) from error
