"""From raw files to the folders train, val and test that models are trained and judged on."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gensci.core.errors import GensciError, UsageError
from gensci.data.structure_building import Rejection, Rules, build_table
from gensci.data.structure_downloads import RawFile, obtain, sha256
from gensci.data.structure_readers import SPLITS, Record
from gensci.data.structure_selection import duplicates, hold_out, matching_rows
from gensci.data.structure_sets import DRAW, SETS, NamedSet, part_records, properties_by_id
from gensci.data.structure_table import INDEX, StructureTable

Tell = Callable[[str], Any]
REJECTED, ACCOUNT, CHUNKS, DOWNLOADS = "rejected.csv", "prepared.json", ".chunks", ".downloads"


@dataclass(frozen=True)
class Job:
    """How a set is prepared.

    Attributes:
        out: folder of the set; sets that it depends on are prepared beside it.
        seed: of random splits and of conformers.
        jobs: processes.
        origin: folder or mirror with raw files, None for the publishers.
        limit: records that are read of each split of a file, None for all.
        recipe: what else decides the rows, for the account: source, parts and the like.
        tell: told what happens, in words.
        progress: called with a number of records when they are done.
    """

    out: Path
    seed: int = 0
    jobs: int = 1
    origin: str | None = None
    limit: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    tell: Tell = lambda text: None
    progress: Callable[[int], Any] = lambda count: None

    def facts(self, name: str) -> dict[str, Any]:
        """All that decides the rows of the set of this name, but the content of its source."""
        return {"set": name, "seed": self.seed, "limit": self.limit, "recipe": dict(self.recipe)}


@dataclass(frozen=True)
class Account:
    """What came of a preparation.

    Attributes:
        folder: of the set.
        rows: of each split.
        rejected: number of records by kind of rejection.
    """

    folder: Path
    rows: dict[str, int]
    rejected: dict[str, int]


def prepare_named(name: str, job: Job) -> Account:
    """Prepare a named set, and before it the sets whose test rows it must not hold.

    Raises:
        UsageError: a raw file is not where ``job.origin`` says.
        GensciError: a download fails, or no row is sound.
    """
    named = SETS[name]
    apart = [_prepared(other, job) for other in named.keep_out]
    downloads = job.out.parent / DOWNLOADS
    paths = {f: obtain(f, downloads, job.origin, job.tell) for f in named.files}
    if named.recipe is not None:
        return _by_recipe(name, named, paths, job)
    records = _named_records(named, name, paths, job)
    rules = Rules(name, named.primitive, named.max_atoms, job.seed)
    choice = Choice(*build_table(records, rules, job.out / CHUNKS, job.jobs, job.progress))
    if not named.official:
        choice.drop_same_ids()
        choice.drop_copies(unique_smiles=False)
        choice.draw(named.hold_out, "train", job.seed, choice.table.ids)
        judged = [tables[split] for tables in apart for split in ("val", "test")]
        choice.keep_out(judged)
    files = {path.name: sha256(path) for path in paths.values()}
    return choice.save(job.out, {**job.facts(name), "about": named.about, "files": files})


def _by_recipe(name: str, named: NamedSet, paths: dict[RawFile, Path], job: Job) -> Account:
    """Molecules, whose splits go by their graphs."""
    from gensci.data import molecule_sets

    prepare = getattr(molecule_sets, named.recipe or "")
    (path,) = paths.values()
    sizes = getattr(molecule_sets, f"{name.upper()}_SIZES")
    if job.limit is not None:
        sizes = replace(sizes, train=job.limit, test=500 if sizes.test is None else sizes.test)
    return prepare(path, job.out, job.seed, sizes, job.jobs, job.progress, job.facts(name))


def _prepared(name: str, job: Job) -> dict[str, StructureTable]:
    """Train, val and test of another set, prepared where they are not."""
    folder = job.out.parent / name
    if not (folder / ACCOUNT).is_file():
        job.tell(f"{name} comes first: its test rows must stay out")
        prepare_named(name, replace(job, out=folder, limit=None, recipe={}))
    return {split: StructureTable.load(folder / split) for split in SPLITS}


def _named_records(
    named: NamedSet, name: str, paths: dict[RawFile, Path], job: Job
) -> Iterator[Record]:
    more = properties_by_id([paths[file] for file in named.properties])
    for part in named.parts:
        seen: Counter[str | None] = Counter()
        for record in part_records(part, paths[part.file], name):
            seen[record.split] += 1
            if job.limit is None or seen[record.split] <= job.limit:
                yield replace(record, properties=record.properties | more.get(record.id, {}))


def prepare_records(
    records: Iterable[Record],
    rules: Rules,
    job: Job,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    judged: list[StructureTable] | None = None,
) -> Account:
    """Prepare a user's own records.

    Args:
        records: of one kind; those without a split are split at random.
        rules: how they are built; ``rules.source`` names the set.
        job: where and how.
        fractions: of train, validation and test among the rows without a split.
        judged: tables whose rows may not be in train.

    Raises:
        UsageError: a record names a split that is none.
        GensciError: no row is sound.
    """
    chosen = (_with_split(record) for record in itertools.islice(records, job.limit))
    choice = Choice(*build_table(chosen, rules, job.out / CHUNKS, job.jobs, job.progress))
    choice.drop_copies(unique_smiles=False)
    drawn = int((choice.splits == DRAW).sum())
    counts = {split: round(part * drawn) for split, part in zip(SPLITS, fractions, strict=True)}
    counts.pop("train")
    groups = choice.table.smiles or choice.table.ids  # conformers of one molecule stay together
    choice.draw(counts, "train", job.seed, groups)
    choice.keep_out(judged or [])
    return choice.save(job.out, job.facts(rules.source))


def _with_split(record: Record) -> Record:
    if record.split not in (None, *SPLITS):
        raise UsageError(
            f"{record.where}: unknown split {record.split!r}",
            f"write {', '.join(SPLITS)}, or nothing for a random one",
        )
    return replace(record, split=record.split or DRAW)


def check_folder(folder: Path) -> None:
    """Refuse a folder for a set that holds anything else: its `train` would be replaced.

    Raises:
        UsageError: it is a file, or holds other things than prepared structures.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is not a folder", "name another --out")
    inside = sorted(folder.iterdir()) if folder.exists() else []
    if any(path.name in (ACCOUNT, CHUNKS) for path in inside):
        return
    for path in inside:
        if not path.name.startswith(".") and not (path / INDEX).is_file():
            raise UsageError(
                f"--out {folder} holds other files (such as {path.name!r})",
                "name a new folder with another --out",
            )


def check_recipe(name: str, job: Job) -> None:
    """Refuse to replace a set that was prepared in another way; in the same way it is made anew.

    Accounts of earlier versions hold fewer facts, of which those that are there must agree.

    Raises:
        UsageError: some setting differs; the message lists them.
    """
    try:
        account = json.loads((job.out / ACCOUNT).read_text(encoding="utf-8"))
        old = {**account, **account.get("recipe", {})}
    except (OSError, ValueError, AttributeError):
        return  # nothing is complete there
    facts = json.loads(json.dumps(job.facts(name)))
    new = {**facts, **facts.pop("recipe")}
    names = [name for name in new if name != "recipe" and name in old and old[name] != new[name]]
    if names:
        changes = ", ".join(f"{name} {old[name]!r} (now {new[name]!r})" for name in names)
        raise UsageError(
            f"--out {job.out} holds a set prepared with {changes}",
            "repeat its options, name another --out, or remove that folder first",
        )


class Choice:
    """Which rows of a table go where, and why the others do not.

    Args:
        table: all sound rows.
        origins: the record of each row.
        rejected: records that are no rows.
    """

    def __init__(self, table: StructureTable, origins: list[Record], rejected: list[Rejection]):
        self.table, self.origins, self.rejected = table, origins, list(rejected)
        self.splits = np.array([origin.split or "train" for origin in origins], dtype=object)

    def _drop(self, row: int, kind: str, reason: str) -> None:
        origin = self.origins[row]
        self.rejected.append(Rejection(origin.where, origin.id, kind, reason))
        self.splits[row] = ""

    def drop_same_ids(self) -> None:
        """Of rows with one id the first stays."""
        seen: dict[str, int] = {}
        for row, name in enumerate(self.table.ids):
            if seen.setdefault(name, row) != row:
                self._drop(row, "duplicate", f"same id as {self.origins[seen[name]].where}")

    def drop_copies(self, unique_smiles: bool) -> None:
        """Of copies the first stays; rows that the source itself calls test stay."""
        rows = np.flatnonzero(self.splits != "")
        if unique_smiles:
            first: dict[str, int] = {}
            smiles = [self.table.smiles[row] for row in rows]
            copies = {i: first[s] for i, s in enumerate(smiles) if first.setdefault(s, i) != i}
        else:
            copies = duplicates(self.table.select(rows))
        for copy, kept in copies.items():
            if self.splits[rows[copy]] != "test":
                reason = f"a copy of {self.origins[rows[kept]].where}"
                self._drop(int(rows[copy]), "duplicate", reason)

    def draw(
        self,
        counts: dict[str, int],
        rest: str,
        seed: int,
        groups: Sequence[str],
    ) -> None:
        """Draw splits of the rows that have none, a group of rows together."""
        rows = np.flatnonzero(self.splits == DRAW)
        self.splits[rows] = hold_out([groups[row] for row in rows], counts, rest, seed)

    def keep_out(self, judged: list[StructureTable]) -> None:
        """Drop training and validation rows that are test rows, of this or of another set."""
        for split, against in (("val", ("test",)), ("train", ("val", "test"))):
            own = [self.table.select(self.splits == name) for name in against]
            for reference in (*own, *judged):
                rows = np.flatnonzero(self.splits == split)
                found = matching_rows(self.table.select(rows), reference)
                for row, match in found.items():
                    name = f"{reference.source[match]} {reference.ids[match]}"
                    self._drop(int(rows[row]), "held out", f"the structure of {name}")

    def save(self, folder: Path, settings: dict[str, Any]) -> Account:
        """Write train, val, test, `rejected.csv` and `prepared.json`.

        Raises:
            GensciError: no row is left.
        """
        rows = {split: int((self.splits == split).sum()) for split in SPLITS}
        if not sum(rows.values()) and not self.rejected:
            raise GensciError("the source holds no structures", "check the file")
        for leftover in (*folder.glob(".*.partial"), *folder.glob(".*.old")):  # of killed runs
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        write_rejected(folder / REJECTED, self.rejected)
        if not sum(rows.values()):
            raise GensciError(
                f"no structure is left ({self.rejected[0].reason})",
                f"{folder / REJECTED} lists the reasons",
            )
        (folder / ACCOUNT).unlink(missing_ok=True)  # written last: what has one is complete
        for split in SPLITS:
            self.table.select(self.splits == split).save(folder / split)
        counts = dict(Counter(row.kind for row in self.rejected))
        account = {**settings, "rows": rows, "rejected": counts}
        write_atomic(folder / ACCOUNT, json.dumps(account, indent=2) + "\n")
        return Account(folder, rows, counts)


def write_rejected(path: Path, rejected: list[Rejection]) -> None:
    """A table of the records that did not become rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("where", "id", "kind", "reason"))
        writer.writerows((row.where, row.id, row.kind, row.reason) for row in rejected)
    part.replace(path)


def write_atomic(path: Path, text: str) -> None:
    """Write a small file that is complete or absent."""
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
