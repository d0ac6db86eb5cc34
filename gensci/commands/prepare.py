"""From a resolved system to what a sampler needs: its target, its proposal, its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensci.commands.peptide_proposals import PeptideDrawing
from gensci.core.errors import UsageError
from gensci.core.registry import MODELS, SYSTEMS
from gensci.core.results import SampleSet
from gensci.io.crystals import write_crystals
from gensci.io.sdf import write_molecules
from gensci.models.checkpoint import checkpoint_name, load_checkpoint
from gensci.models.proposal import load_proposal, trained_temperature
from gensci.sims.peptide import build_peptide
from gensci.sims.peptide.parse import parse_peptide
from gensci.systems import crystal, lisa, molecule, peptide, smiles, toy  # noqa: F401  (register)
from gensci.systems.resolve import SystemChoice
from gensci.systems.settings import typed_settings


@dataclass(frozen=True)
class Prepared:
    """A system that is ready to be sampled.

    Attributes:
        target: The unnormalised density.
        proposal: What draws, with a density where there is one.
        settings: Everything about system and model that decides the numbers, for `run.json`.
        molecule: Has the `topology` and `positions` of the atoms of a trajectory, or None.
        warnings: What the user must know although the run goes on, a line each.
        write: Writes other files for viewers into a folder and returns the rows written, or None.
    """

    target: Any
    proposal: Any
    settings: dict[str, Any]
    molecule: Any = None
    warnings: tuple[str, ...] = ()
    write: Callable[[Path, SampleSet], np.ndarray] | None = None


def prepare(
    choice: SystemChoice,
    checkpoint: str,
    device: torch.device,
    settings: Mapping[str, Any],
    allow_extrapolation: bool = False,
    proposal_settings: Mapping[str, Any] | None = None,
) -> Prepared:
    """Build the system and its proposal; writes nothing.

    Args:
        choice: From `gensci.systems.resolve`.
        checkpoint: Name or folder of a model; toys and files bring a proposal of their own.
        device: Where to compute.
        settings: Of the system, as text or values, for example `{"temperature": "330"}`.
        allow_extrapolation: Warn, not refuse, where the checkpoint was not trained for the system.
        proposal_settings: How a model of structures draws, for example `{"num_steps": "20"}`; of a
            peptide's flow see `gensci.commands.peptide_proposals`.

    Raises:
        UsageError: A setting, or a system that the checkpoint was not trained for.
        CheckpointError: The checkpoint is absent, truncated or tampered with.
    """
    family = SYSTEMS.get(choice.family)
    source = SYSTEMS.metadata(choice.family)["proposal"]
    if source == "structures":
        return _prepare_structures(
            family, choice, checkpoint, device, settings, proposal_settings or {}
        )
    if source == "checkpoint":
        return _prepare_peptide(
            *(family, choice, checkpoint, device, settings, proposal_settings or {}),
            allow_extrapolation,
        )
    if proposal_settings:
        raise UsageError(
            f"--proposal.{next(iter(proposal_settings))}: proposals of {choice.family}s have no "
            "settings",
            "leave it out",
        )
    if source == "surrogate":
        return _prepare_lisa(choice, checkpoint, settings)
    if source == "own":
        return _prepare_alone(family, choice, device, settings)
    return _prepare_file(family, choice, device, settings)


def _prepare_peptide(
    family: Any,
    choice: SystemChoice,
    checkpoint: str,
    device: torch.device,
    settings: Mapping[str, Any],
    proposal_settings: Mapping[str, Any],
    allow_extrapolation: bool,
) -> Prepared:
    # The quick checks come before the slow building.
    _, config, meta = load_checkpoint(checkpoint)
    if config.get("class") in MODELS and not hasattr(MODELS.get(config["class"]), "encode"):
        raise UsageError(
            f"checkpoint {checkpoint!r} is no model of peptides",
            "choose another --checkpoint (`gensci list checkpoints`)",
        )
    length = parse_peptide(choice.text).num_residues
    warnings = check_range(choice, length, meta.get("trained_residues"), allow_extrapolation)
    if meta.get("finetuned_for", choice.spelled) != choice.spelled:
        told = f"the checkpoint was finetuned for {meta['finetuned_for']}; others may fit worse"
        warnings = (*warnings, told)
    chosen = peptide_settings(settings)
    drawing = PeptideDrawing.read(proposal_settings, chosen["temperature"])
    if config.get("class") in MODELS:
        kind = config["class"]
        drawing.check(checkpoint_name(checkpoint), kind, MODELS.get(kind))
    try:
        system = family.from_text(choice.text, **chosen)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"peptides need the package {error.name}", "pip install 'gensci[peptides]'"
        ) from error
    drawn_at = drawing.temperature
    flow = load_proposal(checkpoint, system.peptide, device, torch.float32, drawn_at)
    proposal = drawing.applied(flow, system.peptide)
    warnings = (*warnings, *drawing.warnings(device))
    # The target's centroid is a matter of convention; another one than the flow's wastes weight.
    system = replace(system, centroid_scale=proposal.centroid_scale)
    facts = {
        **{f"system.{name}": value for name, value in chosen.items()},
        "system.centroid_scale": system.centroid_scale,
        "checkpoint": checkpoint_name(checkpoint),
        "checkpoint_sha256": proposal.checkpoint_hash,
        **drawing.recorded(),
        "device": str(device),
    }
    steered = hasattr(proposal.network, "tempered") and drawn_at != trained_temperature(meta)
    if steered:  # in the record only where it decides the numbers
        facts["proposal.temperature"] = drawn_at
    target = system.target(device, torch.float32)
    return Prepared(target, proposal, facts, system.peptide, warnings)


def check_range(
    choice: SystemChoice, length: int, trained: Any, allow_extrapolation: bool = False
) -> tuple[str, ...]:
    """Refuse a peptide that the checkpoint was not trained for, or warn where that is allowed.

    Args:
        choice: The system, for the message.
        length: Its number of residues.
        trained: Fewest and most residues in training, or None where not recorded.
        allow_extrapolation: Whether to go on outside of the range.

    Returns:
        The warnings: none inside of the range, else one line.

    Raises:
        UsageError: Outside of the range, and not allowed.
    """
    if trained is None or trained[0] <= length <= trained[1]:
        return ()
    low, high = trained
    span = f"{low}" if low == high else f"{low} to {high}"
    problem = (
        f"--system {choice.spelled} has {length} residues, the checkpoint was trained on {span}"
    )
    if allow_extrapolation:
        return (
            f"{problem}; proposals will fit worse: expect a far smaller effective sample size "
            "(the weights still correct what was drawn; heed the verdict)",
        )
    raise UsageError(
        problem,
        "choose a peptide of that length or another --checkpoint (`gensci list checkpoints`), "
        "or go on all the same with --allow-extrapolation",
    )


def peptide_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a peptide system, given ones checked against their types.

    Raises:
        UsageError: An unknown setting or a value of the wrong type.
    """

    def declare(parser: Any) -> None:
        parser.add_argument("--temperature", type=float, default=peptide.TEMPERATURE)
        parser.add_function_arguments(build_peptide, skip={"spec"})

    return typed_settings(settings, "a peptide", declare)


def _prepare_file(
    family: Any, choice: SystemChoice, device: torch.device, settings: Mapping[str, Any]
) -> Prepared:
    """A molecule from a file: no model knows it, so short dynamics make the proposals."""
    system = family.from_text(choice.text, **settings)
    target, proposal = (make(device, torch.float32) for make in (system.target, system.proposal))
    facts = {**system.record(), "system.centroid_scale": system.centroid_scale}
    facts["device"] = str(device)
    return Prepared(target, proposal, facts, system, system.warnings())


def _prepare_structures(
    family: Any,
    choice: SystemChoice,
    checkpoint: str,
    device: torch.device,
    settings: Mapping[str, Any],
    proposal_settings: Mapping[str, Any],
) -> Prepared:
    """Crystals and molecules: a model of structures draws what the system prompts for."""
    system = family.from_text(choice.text, **settings)
    from gensci.commands.structure_proposals import load_structure_proposal, recorded
    from gensci.models.published_proposal import PublishedCrystals

    proposal, digest = load_structure_proposal(
        checkpoint, system.prompt(), device, **proposal_settings
    )
    facts = {
        **system.record(),
        **recorded(proposal_settings),
        "checkpoint": checkpoint_name(checkpoint),
        "checkpoint_sha256": digest,
        "device": str(device),
    }
    if isinstance(proposal, PublishedCrystals):
        facts["proposal.exclusion"] = 0.0  # they draw as published
    return Prepared(
        system.target(device),
        proposal,
        facts,
        warnings=(*system.warnings(), *getattr(proposal, "warnings", ())),
        write=_writer(choice.family, system, proposal),
    )


def _prepare_lisa(choice: SystemChoice, checkpoint: str, settings: Mapping[str, Any]) -> Prepared:
    """A LISA binary: a surrogate of its posterior proposes, the exact likelihood weighs."""
    from gensci.commands.lisa_proposals import lisa_writer, load_lisa

    found = load_lisa(choice.text, checkpoint, settings)
    facts = {
        **found.system.record(),
        "checkpoint": checkpoint_name(checkpoint),
        "checkpoint_sha256": found.digest,
        "device": "cpu",
    }
    return Prepared(found.target, found.proposal, facts, write=lisa_writer(found.system))


def _writer(family: str, system: Any, proposal: Any) -> Callable[[Path, SampleSet], np.ndarray]:
    """What writes crystals, conformers of one molecule, or molecules by their own SMILES."""
    if family == "crystal":
        return write_crystals
    if family == "smiles":
        return partial(write_molecules, smiles=[system.smiles])

    def write(path: Path, samples: SampleSet) -> np.ndarray:
        return write_molecules(path, samples, proposal.smiles(samples.x["tokens"]))

    return write


def _prepare_alone(
    family: Any, choice: SystemChoice, device: torch.device, settings: Mapping[str, Any]
) -> Prepared:
    """A system without settings that brings a proposal of its own: a toy."""
    if settings:
        raise UsageError(
            f"--system.{next(iter(settings))}: {choice.family}s have no settings", "leave it out"
        )
    system = family.parse(choice.text)
    target, proposal = (make(device, torch.float64) for make in (system.target, system.proposal))
    return Prepared(target, proposal, {"device": str(device)})
