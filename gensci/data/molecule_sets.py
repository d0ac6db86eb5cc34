"""QM7 and QM9 as tables: which molecules go where, and where their coordinates come from.

QM9 holds many molecules of QM7. Both are ordered by the same hash of the graph of a molecule; test
and validation are taken from one end of that order, training from the other. So no test molecule
of one set is in the training part of the other, although neither has to know the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gensci.core.errors import UsageError
from gensci.data.molecule_perception import flat, with_stereo
from gensci.data.structure_building import Rejection, Rules, build_table
from gensci.data.structure_preparing import CHUNKS, Account, Choice
from gensci.data.structure_readers import Record, read_records
from gensci.data.structure_selection import rank
from gensci.data.structure_table import StructureTable

_OUT = ""


@dataclass(frozen=True)
class Sizes:
    """Rows of each split; None takes what is left (one of them may)."""

    train: int | None
    val: int | None
    test: int | None


QM7_SIZES = Sizes(train=6000, val=500, test=None)
QM9_SIZES = Sizes(train=25_000, val=500, test=2000)


def prepare_qm7(
    source_path: str | Path,
    out: str | Path,
    seed: int = 0,
    sizes: Sizes = QM7_SIZES,
    jobs: int = 1,
    progress: Callable[[int], Any] = lambda count: None,
    facts: Mapping[str, Any] | None = None,
) -> Account:
    """Perceive the molecules of QM7 (Rupp et al. 2012, doi:10.1103/PhysRevLett.108.058301).

    Args:
        source_path: extended XYZ with coordinates in Angstrom.
        out: folder of the set, for train, val and test.
        seed: of the split.
        sizes: of the splits.
        jobs: processes.
        progress: called with a number of records when they are done.
        facts: for the account, besides name and seed.

    Returns:
        how many rows went where.

    Raises:
        UsageError: the sizes do not fit the set.
        GensciError: no row is sound.
    """
    folder = Path(out)
    records = (replace(record, source="qm7") for record in read_records(Path(source_path)))
    rules = Rules("qm7", seed=seed)
    table, origins, rejected = build_table(records, rules, folder / CHUNKS, jobs, progress)
    choice = Choice(table, origins, rejected)
    choice.drop_copies(unique_smiles=True)
    kept = np.flatnonzero(choice.splits != _OUT)
    choice.splits[kept] = splits([flat(table.smiles[row]) for row in kept], sizes, seed)
    return choice.save(folder, {**(facts or {}), "set": "qm7", "seed": seed})


def prepare_qm9(
    source_path: str | Path,
    out: str | Path,
    seed: int = 0,
    sizes: Sizes = QM9_SIZES,
    jobs: int = 1,
    progress: Callable[[int], Any] = lambda count: None,
    facts: Mapping[str, Any] | None = None,
) -> Account:
    """Give conformers to a part of the molecules of QM9 (Ramakrishnan 2014, 10.1038/sdata.2014.22).

    The SMILES are all that is needed; geometries are ETKDG and MMFF94s, stereo is theirs. The work
    is kept in chunks, so that a killed run goes on where it was.

    Args:
        source_path: table with SMILES.
        out: folder of the set, for train, val and test.
        seed: of the split and of the conformers.
        sizes: of the splits.
        jobs: processes.
        progress: called with a number of records when they are done.
        facts: for the account, besides name and seed.

    Returns:
        how many rows went where.

    Raises:
        UsageError: the sizes do not fit the set.
        GensciError: no row is sound.
    """
    folder = Path(out)
    records, rejected = _unique(read_records(Path(source_path)))
    chosen = splits([record.text for record in records], sizes, seed)
    # Test and validation first: an evaluation need not wait for the training part.
    wanted = [
        replace(record, split=split, source="qm9")
        for part in ("test", "val", "train")
        for record, split in zip(records, chosen, strict=True)
        if split == part
    ]
    rules = Rules("qm9", seed=seed)
    table, origins, bad = build_table(wanted, rules, folder / CHUNKS, jobs, progress)
    choice = Choice(stereo_table(table), origins, [*rejected, *bad])
    return choice.save(folder, {**(facts or {}), "set": "qm9", "seed": seed})


def splits(molecules: Sequence[str], sizes: Sizes, seed: int) -> list[str]:
    """Which split each row belongs to; "" for rows that no split needs.

    Args:
        molecules: SMILES without stereo; equal ones go to the same split.
        sizes: rows of each split; reached but for equal molecules.
        seed: another one gives another order.

    Raises:
        UsageError: more rows are asked for than there are.
    """
    wanted = [sizes.test, sizes.val, sizes.train]
    asked = sum(size or 0 for size in wanted)
    if asked > len(molecules):
        raise UsageError(
            f"sizes ask for {asked} molecules of {len(molecules)}", "ask for smaller splits"
        )
    test, val, train = (len(molecules) - asked if size is None else size for size in wanted)
    ranks = {molecule: rank(seed, molecule) for molecule in set(molecules)}
    order = sorted(range(len(molecules)), key=lambda row: ranks[molecules[row]])
    split_of: dict[str, str] = {}
    for place, row in enumerate(order):
        late = place >= len(order) - train
        split = "test" if place < test else "val" if place < test + val else _OUT
        split_of.setdefault(molecules[row], "train" if late else split)
    return [split_of[molecule] for molecule in molecules]


def stereo_table(table: StructureTable) -> StructureTable:
    """The molecules with SMILES that say which stereoisomers their coordinates are.

    A row whose SMILES with stereo RDKit does not read back stays as it is.
    """
    rows = []
    for index in range(len(table)):
        row = table.row(index)
        try:
            smiles, order = with_stereo(row.smiles or "", row.coordinates)
        except ValueError:
            smiles, order = row.smiles or "", np.arange(len(row))
        shape = {"numbers": row.numbers[order], "coordinates": row.coordinates[order]}
        rows.append(replace(row, smiles=smiles, **shape))
    return StructureTable.from_structures(rows, "molecule")


def _unique(records: Iterator[Record]) -> tuple[list[Record], list[Rejection]]:
    """The first record of each molecule, its text the canonical SMILES without stereo."""
    found: dict[str, Record] = {}
    rejected = []
    for record in records:
        try:
            smiles = flat(record.text)
        except ValueError as error:
            rejected.append(Rejection(record.where, record.id, "broken", str(error)))
            continue
        first = found.setdefault(smiles, replace(record, text=smiles))
        if first.where != record.where:
            reason = f"a copy of {first.where}"
            rejected.append(Rejection(record.where, record.id, "duplicate", reason))
    return list(found.values()), rejected
