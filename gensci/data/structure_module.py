"""Prepared crystals or molecules as batches of sequences of about equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.registry import did_you_mean
from gensci.data.structure_table import StructureTable
from gensci.data.template_pairs import TemplatePairs
from gensci.systems.molecule_graph import MoleculeGraph, graph_of

Array = np.ndarray
_SHUFFLED_LENGTHS = 3.0  # places by which lengths are blurred, so that batches differ every epoch


def sequence_lengths(table: StructureTable, templates: bool) -> Array:
    """(n,) int64 places that each row takes in a sequence, about.

    A crystal has a token and a slot for each atom and a second slot with a template; a molecule a
    slot for each atom and a token for each letter.
    """
    atoms = table.num_atoms
    if table.kind == "molecule":
        return atoms + np.array([len(smiles) for smiles in table.smiles], dtype=np.int64) + 4
    return 3 * atoms + 12 if templates else 2 * atoms + 8


def batches_of(rows: Array, lengths: Array, tokens: int) -> list[Array]:
    """Cut rows, in their order, into batches whose padded size is at most ``tokens``.

    Args:
        rows: (m,) row numbers.
        lengths: (m,) of each.
        tokens: places of a batch; a row that alone is longer is a batch.
    """
    batches, first, longest = [], 0, 0
    for place, length in enumerate(lengths):
        longest = max(longest, int(length))
        if place > first and longest * (place + 1 - first) > tokens:
            batches.append(rows[first:place])
            first, longest = place, int(length)
    return [*batches, rows[first:]] if len(rows) else batches


def repetitions(weights: Array, rng: np.random.Generator) -> Array:
    """Row numbers, each as often as its weight says on average.

    Args:
        weights: (n,) of the rows; 1.5 is once or twice.
        rng: decides the fractions.
    """
    whole = np.floor(weights).astype(np.int64)
    counts = whole + (rng.random(len(weights)) < weights - whole)
    return np.repeat(np.arange(len(weights)), counts)


class StructureBatches(Dataset):
    """Batch ``i`` of an epoch, from the seed, the epoch and ``i`` alone.

    Args:
        table: the rows.
        pairs: templates of the rows, or None.
        weights: (n,) how often each row stands in an epoch.
        collate: of the network: structures, generator and extras to a batch.
        tokens: places of a batch.
        seed: of order, templates and augmentation.
        shuffle: False gives rows by length, the same in every epoch.
    """

    def __init__(
        self,
        table: StructureTable,
        pairs: RowPairs | None,
        weights: Array,
        collate: Any,
        tokens: int,
        seed: int,
        shuffle: bool = True,
    ):
        self.table, self.pairs, self.collate = table, pairs, collate
        self.weights, self.tokens, self.seed, self.shuffle = weights, tokens, seed, shuffle
        self.lengths = sequence_lengths(table, pairs is not None)
        self.graph = lru_cache(maxsize=None)(graph_of)  # reading a SMILES takes milliseconds
        self.epoch = 0
        self._planned: tuple[int, list[Array]] | None = None
        # The trainer asks once how long an epoch is; fractions of weights change it a little.
        self.count = len(self.plan())

    def plan(self) -> list[Array]:
        """Rows of every batch of this epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = self.epoch, self._plan()
        return self._planned[1]

    def _plan(self) -> list[Array]:
        if not self.shuffle:
            rows = np.argsort(self.lengths, kind="stable")
            return batches_of(rows, self.lengths[rows], self.tokens)
        rng = self._rng("epoch", self.epoch)
        rows = repetitions(self.weights, rng)
        blurred = self.lengths[rows] + _SHUFFLED_LENGTHS * rng.random(len(rows))
        rows = rows[np.argsort(blurred)]
        batches = batches_of(rows, self.lengths[rows], self.tokens)
        return [batches[k] for k in rng.permutation(len(batches))]

    def _rng(self, *names: str | int) -> np.random.Generator:
        generator = stream(self.seed, *names)
        return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        plan = self.plan()
        rows = plan[index % len(plan)].tolist()
        generator = stream(self.seed, "batch", self.epoch if self.shuffle else 0, index)
        structures = [self.table.row(row) for row in rows]
        return self.collate(structures, generator, self._extras(rows, generator))

    def _extras(self, rows: Sequence[int], generator: torch.Generator) -> list[Any]:
        """What the network wants beside structures: graphs of molecules, templates of crystals."""
        if self.table.kind == "molecule":
            return [self._graph(row) for row in rows]
        if self.pairs is None:
            return [None] * len(rows)
        choices = torch.randint(2**31, (len(rows),), generator=generator).tolist()
        return [self.pairs(row, choice) for row, choice in zip(rows, choices, strict=True)]

    def _graph(self, row: int) -> MoleculeGraph:
        return self.graph(self.table.smiles[row])


class ContinuedLoader(DataLoader):
    """Batches in order; a stopped training goes on behind the last one it had.

    Args:
        batches: by number.
    """

    def __init__(self, batches: StructureBatches):
        super().__init__(batches, batch_size=None, shuffle=False)
        self.done = self.first = 0
        self.epoch = -1

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch, from the first that is not done."""
        first, self.first = self.first, 0
        # Counted here: a trainer that goes on in the middle of an epoch counts one too many.
        self.epoch += first == 0
        self.dataset.epoch = self.epoch
        for index in range(first, len(self.dataset)):
            self.done = index + 1
            yield self.dataset[index]

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many batches of it are done."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that are done; a whole epoch begins anew."""
        self.epoch, self.first = state["epoch"], state["done"] % len(self.dataset)


class RowPairs:
    """Template pairs of a table that was put together from parts of several.

    Args:
        parts: pairs of each table, or None where it has none.
        rows: (n, 2) part and row in it of each row.
    """

    def __init__(self, parts: Sequence[TemplatePairs | None], rows: Array):
        self.parts, self.rows = parts, rows

    def __call__(self, row: int, choice: int) -> Any:
        """A pair of a row, or None."""
        part, own = self.rows[row].tolist()
        pairs = self.parts[part]
        return None if pairs is None else pairs.row(own, choice)


class StructureData(pl.LightningDataModule):
    """Training and validation rows of prepared folders.

    Args:
        roots: folders with train and val, as `gensci data prepare` writes them; all of crystals or
            all of molecules. An epoch is one pass over their training rows.
        tokens_per_batch: padded places of a batch.
        seed: of order and augmentation.
        templates: show crystals with templates, which `gensci data pair` has put beside the
            training rows (and beside the validation rows, where it was asked to).
        set_weights: how often an epoch has the rows of a set, by the name of the set; 1 for others.
        max_atoms: larger rows are left out; by default the network's own limit.
        validation_rows: at most that many of each folder, evenly over its rows.
    """

    def __init__(
        self,
        roots: list[str],
        tokens_per_batch: int = 4096,
        seed: int = 0,
        templates: bool = False,
        set_weights: dict[str, float] | None = None,
        max_atoms: int | None = None,
        validation_rows: int = 256,
    ):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Read the folders; Lightning calls it once in each process.

        Raises:
            UsageError: a folder is absent or of another kind, has no template pairs, or a weight is
                of no set.
        """
        h, network = self.hparams, self.trainer.lightning_module.network
        limit = h.max_atoms or getattr(network, "max_atoms", None)
        table, pairs = self._read("train", limit, None)
        if not len(table):
            raise UsageError(f"no training rows in {', '.join(h.roots)}", "prepare other data")
        self.names = sorted(set(table.source))
        common = {"collate": network.collate, "tokens": h.tokens_per_batch, "seed": h.seed}
        self.train_set = StructureBatches(table, pairs, self._weights(table), **common)
        table, pairs = self._read("val", limit, h.validation_rows)
        ones = np.ones(len(table))
        self.validation_set = StructureBatches(table, pairs, ones, **common, shuffle=False)

    def _weights(self, table: StructureTable) -> Array:
        weights = self.hparams.set_weights or {}
        for name, value in weights.items():
            if name not in self.names or not 0 <= value < 1000:
                hint = did_you_mean(name, self.names) or f"choose from: {', '.join(self.names)}"
                raise UsageError(f"set_weights has {name!r}: {value}", hint)
        return np.array([weights.get(name, 1.0) for name in table.source])

    def _read(
        self, split: str, limit: int | None, most: int | None
    ) -> tuple[StructureTable, RowPairs | None]:
        """Rows of all roots, thinned to ``most`` of each, and their template pairs."""
        tables, parts, origins = [], [], []
        for part, root in enumerate(self.hparams.roots):
            folder = Path(root) / split
            table = StructureTable.load(folder)
            rows = np.flatnonzero(table.num_atoms <= (limit or np.inf))
            if most is not None and len(rows) > most:
                rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
            tables.append(table.select(rows))
            parts.append(self._pairs(folder, table) if self.hparams.templates else None)
            origins.append(np.stack([np.full(len(rows), part), rows], axis=1))
        table = StructureTable.concatenate(tables)
        if not self.hparams.templates:
            return table, None
        return table, RowPairs(parts, np.concatenate(origins))

    def _pairs(self, folder: Path, table: StructureTable) -> TemplatePairs | None:
        if folder.name != "train" and not (folder / "pairs.safetensors").is_file():
            return None
        pairs = TemplatePairs.load(folder)
        if len(pairs) != len(table):
            raise UsageError(
                f"the template pairs in {folder} are of {len(pairs)} rows, not of {len(table)}",
                "make them anew with 'gensci data pair'",
            )
        return pairs

    def train_dataloader(self) -> DataLoader:
        """Batches drawn in this process: drawing is cheap."""
        return ContinuedLoader(self.train_set)

    def val_dataloader(self) -> DataLoader:
        """The same batches every time."""
        return DataLoader(self.validation_set, batch_size=None, shuffle=False)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Move the tensors of a batch, which may be an object of its own with ``to``."""
        if hasattr(batch, "to"):
            return batch.to(device)
        return super().transfer_batch_to_device(batch, device, index)
