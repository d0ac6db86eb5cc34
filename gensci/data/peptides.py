"""Frames of peptide simulations as batches of groups: every group is one peptide.

Reads the folders that ``gensci simulate`` writes (``<root>/<NAME>/shards/*.safetensors``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.data.exclusions import refuse_excluded
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.sims.peptide.parameters import DEFAULT_FORCE_FIELD, system_files
from gensci.systems.peptide import PeptideSystem

Tensors = dict[str, Tensor]
Encoder = Callable[[Any], Tensors]
VALIDATION_PEPTIDES, VALIDATION_FRAMES = 32, 128
SOLVENT = "obc1"  # of ``molecule``


@dataclass
class Group:
    """Frames of one peptide.

    Attributes:
        name: of the peptide.
        positions: (frames, atoms, 3) nm.
        reduced_energy: (frames,) U / kT at the temperature of the simulation.
        cond: conditioning tensors of the network.
        temperature: of the simulation, K.
    """

    name: str
    positions: Tensor
    reduced_energy: Tensor
    cond: Tensors
    temperature: float

    def energy(self, positions: Tensor) -> Tensor:
        """U / kT of conformations (n, atoms, 3) nm, as in ``reduced_energy``: (n,)."""
        target = molecule(self.name).target(positions.device, positions.dtype)
        return target.energy({"positions": positions}) / (GAS_CONSTANT * self.temperature)

    def rows(self, rows: Tensor | slice) -> Group:
        """Some of the frames."""
        return replace(
            self, positions=self.positions[rows], reduced_energy=self.reduced_energy[rows]
        )

    def to(self, device: torch.device) -> Group:
        """All tensors on a device."""
        return replace(
            self,
            positions=self.positions.to(device),
            reduced_energy=self.reduced_energy.to(device),
            cond={key: value.to(device) for key, value in self.cond.items()},
        )


@cache
def molecule(name: str) -> PeptideSystem:
    """The system of a peptide; building takes part of a second, so it is kept."""
    return PeptideSystem.from_text(name)


def peptide_folders(root: Path) -> list[str]:
    """Names of the peptides with frames in ``root``, sorted.

    Raises:
        UsageError: there are none.
    """
    if not root.is_dir():
        raise UsageError(f"no folder {root}", "make training data with 'gensci simulate'")
    names = sorted(p.name for p in root.iterdir() if (p / "shards").is_dir())
    if not names:
        raise UsageError(f"no peptide folder in {root}", "'gensci simulate' makes them")
    return names


def split_roots(roots: str) -> list[Path]:
    """Folders of a text with commas between."""
    return [Path(part.strip()) for part in roots.split(",") if part.strip()]


def read_frames(folder: Path, limit: int | None = None) -> tuple[Tensor, Tensor, float]:
    """Frames of a simulation folder, evenly thinned to ``limit``.

    Returns:
        positions (frames, atoms, 3) float32 nm, U / kT (frames,) and the temperature (K).

    Raises:
        UsageError: no shard is there.
    """
    # a name that begins with a dot is what a killed simulation left half-written
    shards = sorted((folder / "shards").glob("[!.]*.safetensors"))
    if not shards:
        raise UsageError(f"no training frames in {folder}; make them with 'gensci simulate'")
    temperature = json.loads((folder / "run.json").read_text())["temperature"]
    positions, energies = [], []
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            positions.append(file.get_tensor("positions"))
            energies.append(file.get_tensor("energy"))
    x, energy = torch.cat(positions), torch.cat(energies)
    if limit is not None and len(x) > limit:
        rows = torch.linspace(0, len(x) - 1, limit).long()
        x, energy = x[rows], energy[rows]
    return x, energy / (GAS_CONSTANT * temperature), temperature


def canonically_named(name: str, x: Tensor) -> Tensor:
    """Frames (n, atoms, 3) of a peptide with the one naming of equal atoms that its target counts.

    Rotations about bonds (``--pivots``) exchange such atoms, and the relaxation of a start with
    clashes now and then does, which a flow would learn for nothing.
    """
    return molecule(name).peptide.canonical(x)


def refuse_other_energies(folder: Path) -> None:
    """Refuse frames of another force field than the one that ``Group.energy`` evaluates.

    Raises:
        UsageError: `run.json` names another force field, solvent or cutoff.
    """
    record = json.loads((folder / "run.json").read_text())
    own = list(system_files(DEFAULT_FORCE_FIELD, SOLVENT))
    cutoff = record.get("settings", {}).get("system.cutoff")
    if record.get("force_field", own) != own or cutoff is not None:
        names = ", ".join(record.get("force_field", own))
        raise UsageError(
            f"frames in {folder} are those of {names}{f', cutoff {cutoff} nm' if cutoff else ''}",
            f"models are trained with {', '.join(own)}: simulate without --system. settings",
        )


@cache
def fingerprint(encoder: Encoder) -> str:
    """Changes whenever an encoder gives other tensors, as far as a telling peptide shows it."""
    cond = encoder(molecule("PW").peptide)
    digest = hashlib.sha256()
    for name, value in sorted(cond.items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def encoded(name: str, root: Path, encoder: Encoder) -> Tensors:
    """Conditioning tensors of a peptide, kept beside the data because building one is slow."""
    path = root / ".encodings" / f"{name}.{fingerprint(encoder)}.safetensors"
    if path.exists():
        return load_file(path)
    cond = encoder(molecule(name).peptide)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")  # several ranks may be at it
    save_file({key: value.contiguous() for key, value in cond.items()}, part)
    part.rename(path)
    return cond


class GroupedFrames(Dataset):
    """Batch ``i`` as a list of groups, drawn from its own random stream.

    Args:
        groups: the peptides; how often each is drawn does not depend on its number of frames.
        batches: how many batches an epoch has.
        groups_per_batch, frames_per_group: peptides in a batch and frames of each.
        seed: of the draws, with ``epoch``, which the training module sets.
        size_power: peptides are drawn in proportion to this power of their number of atoms.
    """

    def __init__(
        self,
        groups: list[Group],
        batches: int,
        groups_per_batch: int,
        frames_per_group: int,
        seed: int,
        size_power: float = 0.0,
    ):
        self.groups, self.batches = groups, batches
        self.groups_per_batch, self.frames_per_group = groups_per_batch, frames_per_group
        self.seed, self.epoch = seed, 0
        atoms = torch.tensor([group.positions.shape[1] for group in groups], dtype=torch.float64)
        self.share = atoms**size_power

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[Group]:
        generator = stream(self.seed, "batch", self.epoch, index)
        count = min(self.groups_per_batch, len(self.groups))
        chosen = torch.multinomial(self.share, count, generator=generator)
        return [self._draw(self.groups[int(k)], generator) for k in chosen]

    def _draw(self, group: Group, generator: torch.Generator) -> Group:
        size = (self.frames_per_group,)
        return group.rows(torch.randint(len(group.positions), size, generator=generator))


class PeptideData(pl.LightningDataModule):
    """Training and validation frames of simulated peptides.

    Args:
        root: folder with one sub-folder a training peptide, or several with commas.
        validation_root: the same for peptides that training must not see; None reuses the last
            tenth of the training frames.
        exclude: JSON file with lists of sequences that may not be trained on, or the sequences with
            commas; a training folder of that name is an error.
        include_published: train on published validation and test sequences too, which otherwise is
            an error.
        groups_per_batch, frames_per_group, batches_per_epoch, seed, size_power: see
            ``GroupedFrames``.
        max_frames: frames kept of each peptide (evenly thinned), None for all.
    """

    def __init__(
        self,
        root: str,
        validation_root: str | None = None,
        exclude: str | None = None,
        include_published: bool = False,
        groups_per_batch: int = 8,
        frames_per_group: int = 32,
        batches_per_epoch: int = 500,
        max_frames: int | None = None,
        seed: int = 0,
        size_power: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters()

    def _groups(self, roots: str) -> list[Group]:
        return [group for root in split_roots(roots) for group in self._groups_of(root)]

    def _groups_of(self, root: Path) -> list[Group]:
        encoder = self.trainer.lightning_module.network.encode
        limit = self.hparams.max_frames
        groups = []
        for name in peptide_folders(root):
            refuse_other_energies(root / name)
            x, energy, temperature = read_frames(root / name, limit)
            x = canonically_named(name, x)
            groups.append(Group(name, x, energy, encoded(name, root, encoder), temperature))
        return groups

    def setup(self, stage: str) -> None:
        """Read the frames; Lightning calls it once in each process."""
        h = self.hparams
        # before the frames are read, and before encodings are written beside them
        refuse_excluded(
            [name for root in split_roots(h.root) for name in peptide_folders(root)],
            h.exclude,
            "--data.exclude",
            published=not h.include_published,
        )
        train = self._groups(h.root)
        self.names = [group.name for group in train]
        if h.validation_root is None:
            tail = [max(1, len(g.positions) // 10) for g in train]
            pairs = list(zip(train, tail, strict=True))
            validation = [g.rows(slice(-k, None)) for g, k in pairs]
            train = [g.rows(slice(None, -k)) for g, k in pairs]
        else:
            validation = self._groups(h.validation_root)
        self.train_set = GroupedFrames(
            train,
            h.batches_per_epoch,
            h.groups_per_batch,
            h.frames_per_group,
            h.seed,
            h.size_power,
        )
        self.validation_set = [
            [g.rows(torch.linspace(0, len(g.positions) - 1, VALIDATION_FRAMES).long())]
            for g in validation[:VALIDATION_PEPTIDES]
        ]

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self.train_set.epoch = epoch

    def train_dataloader(self) -> DataLoader:
        """Batches of groups, drawn in this process: drawing is cheap."""
        return DataLoader(self.train_set, batch_size=None, shuffle=False)

    def val_dataloader(self) -> DataLoader:
        """One group a batch."""
        return DataLoader(self.validation_set, batch_size=None)

    def transfer_batch_to_device(
        self, batch: list[Group], device: torch.device, dataloader_idx: int
    ) -> list[Group]:
        """Move positions and conditioning tensors of every group."""
        return [group.to(device) for group in batch]
