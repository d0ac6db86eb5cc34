"""Crystals or molecules as one table of arrays: what `gensci data prepare` writes."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gensci.core.errors import UsageError

Kind = Literal["crystal", "molecule"]
Array = np.ndarray
ARRAYS, INDEX = "structures.safetensors", "index.json"
_PROPERTY = "property:"


@dataclass(frozen=True)
class Structure:
    """One crystal or molecule.

    Attributes:
        kind: crystal or molecule.
        id: of the row in its set.
        source: name of the set.
        numbers: (atoms,) uint8 atomic numbers.
        coordinates: (atoms, 3) float32; fractional in [0, 1) for crystals, Angstrom for molecules.
        lattice: (6,) float32 a, b, c in Angstrom and alpha, beta, gamma in degrees; None for
            molecules.
        properties: numbers by name; a missing one is absent or NaN.
        smiles: of a molecule, else None; the atoms are in its order, hydrogens last.
    """

    kind: Kind
    id: str
    source: str
    numbers: Array
    coordinates: Array
    lattice: Array | None = None
    properties: dict[str, float] = field(default_factory=dict)
    smiles: str | None = None

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class StructureTable:
    """Structures of one kind, one after another in flat arrays.

    Attributes:
        kind: crystal or molecule.
        ids: (n,) of the rows.
        source: (n,) set that each row is from.
        numbers: (atoms,) uint8 atomic numbers of all rows.
        offsets: (n + 1,) int64; row i has the atoms offsets[i] to offsets[i + 1].
        coordinates: (atoms, 3) float32; fractional in [0, 1) for crystals, Angstrom for molecules.
        lattice: (n, 6) float32 a, b, c in Angstrom, alpha, beta, gamma in degrees, of the primitive
            Niggli cell; (0, 6) for molecules.
        properties: (n,) float32 by name, NaN where missing.
        smiles: (n,) of molecules, else empty.
    """

    kind: Kind
    ids: tuple[str, ...]
    source: tuple[str, ...]
    numbers: Array
    offsets: Array
    coordinates: Array
    lattice: Array
    properties: dict[str, Array] = field(default_factory=dict)
    smiles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, atoms = len(self.ids), len(self.numbers)
        crystal = self.kind == "crystal"
        expected = {
            "source": (len(self.source), n),
            "offsets": (self.offsets.shape, (n + 1,)),
            "coordinates": (self.coordinates.shape, (atoms, 3)),
            "lattice": (self.lattice.shape, (n if crystal else 0, 6)),
            "smiles": (len(self.smiles), 0 if crystal else n),
            **{name: (value.shape, (n,)) for name, value in self.properties.items()},
        }
        wrong = [name for name, (found, wanted) in expected.items() if found != wanted]
        steps = np.diff(self.offsets) if self.offsets.ndim == 1 and n else np.ones(0)
        ends = tuple(self.offsets[[0, -1]]) if len(self.offsets) == n + 1 else (0, atoms)
        if ends != (0, atoms) or (steps < 1).any():
            wrong.append("offsets")
        if self.kind not in ("crystal", "molecule"):
            wrong.append("kind")
        if wrong:
            raise UsageError(
                f"a table of {n} structures and {atoms} atoms has unfit {', '.join(wrong)}",
                "prepare the data again with 'gensci data prepare'",
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_atoms(self) -> Array:
        """(n,) int64 atoms of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Structure:
        """One structure; its arrays are views of the table's."""
        index = range(len(self))[index]  # negative ones too, IndexError beyond the end
        atoms = slice(self.offsets[index], self.offsets[index + 1])
        return Structure(
            kind=self.kind,
            id=self.ids[index],
            source=self.source[index],
            numbers=self.numbers[atoms],
            coordinates=self.coordinates[atoms],
            lattice=self.lattice[index] if self.kind == "crystal" else None,
            properties={name: float(value[index]) for name, value in self.properties.items()},
            smiles=self.smiles[index] if self.smiles else None,
        )

    def select(self, rows: Sequence[int] | Array) -> StructureTable:
        """The table of some rows, in their order; a boolean mask of (n,) does too."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        counts = self.num_atoms[index]
        offsets = _offsets(counts)
        shift = np.repeat(self.offsets[:-1][index] - offsets[:-1], counts)
        atoms = np.arange(offsets[-1]) + shift
        crystal = self.kind == "crystal"
        return StructureTable(
            kind=self.kind,
            ids=tuple(self.ids[i] for i in index),
            source=tuple(self.source[i] for i in index),
            numbers=self.numbers[atoms],
            offsets=offsets,
            coordinates=self.coordinates[atoms],
            lattice=self.lattice[index] if crystal else self.lattice,
            properties={name: value[index] for name, value in self.properties.items()},
            smiles=tuple(self.smiles[i] for i in index) if self.smiles else (),
        )

    @staticmethod
    def from_structures(structures: Iterable[Structure], kind: Kind = "crystal") -> StructureTable:
        """The table of these rows.

        Args:
            structures: all of one kind.
            kind: of an empty table.

        Raises:
            UsageError: they are not of one kind.
        """
        rows = list(structures)
        kinds = {row.kind for row in rows} or {kind}
        if len(kinds) > 1:
            raise UsageError("crystals and molecules cannot share a table", "prepare them apart")
        (kind,) = kinds
        names = sorted({name for row in rows for name in row.properties})
        crystal = kind == "crystal"
        return StructureTable(
            kind=kind,
            ids=tuple(row.id for row in rows),
            source=tuple(row.source for row in rows),
            numbers=np.concatenate([np.zeros(0), *(r.numbers for r in rows)]).astype(np.uint8),
            offsets=_offsets(np.array([len(row) for row in rows], dtype=np.int64)),
            coordinates=_stack([r.coordinates for r in rows], 3),
            lattice=_stack([np.reshape(r.lattice, (1, 6)) for r in rows] if crystal else [], 6),
            properties={
                name: np.array([r.properties.get(name, np.nan) for r in rows], dtype=np.float32)
                for name in names
            },
            smiles=() if crystal else tuple(row.smiles or "" for row in rows),
        )

    @staticmethod
    def concatenate(tables: Sequence[StructureTable]) -> StructureTable:
        """The rows of several tables; a property that one of them lacks is NaN there.

        Raises:
            UsageError: there is no table, or they are not of one kind.
        """
        kinds = {table.kind for table in tables}
        if len(kinds) != 1:
            raise UsageError("crystals and molecules cannot share a table", "prepare them apart")
        names = sorted({name for table in tables for name in table.properties})
        return StructureTable(
            kind=kinds.pop(),
            ids=sum((table.ids for table in tables), ()),
            source=sum((table.source for table in tables), ()),
            numbers=np.concatenate([table.numbers for table in tables]),
            offsets=_offsets(np.concatenate([table.num_atoms for table in tables])),
            coordinates=np.concatenate([table.coordinates for table in tables]),
            lattice=np.concatenate([table.lattice for table in tables]),
            properties={name: np.concatenate([_column(t, name) for t in tables]) for name in names},
            smiles=sum((table.smiles for table in tables), ()),
        )

    def save(self, folder: str | Path) -> None:
        """Write a folder of `structures.safetensors` and `index.json`, replacing an older one.

        A kill at any instant leaves the old folder, the new one or none, never half of one. A
        folder with the same rows stays, and with it what was made from them, such as templates.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        columns = {_PROPERTY + name: value for name, value in self.properties.items()}
        arrays = ("numbers", "offsets", "coordinates", "lattice")
        columns |= {name: getattr(self, name) for name in arrays}
        save_file({name: np.ascontiguousarray(c) for name, c in columns.items()}, part / ARRAYS)
        index = {"kind": self.kind, "ids": self.ids, "source": self.source, "smiles": self.smiles}
        (part / INDEX).write_text(json.dumps(index), encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        if _same_files(part, folder):
            shutil.rmtree(part)
            return
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def load(folder: str | Path) -> StructureTable:
        """Read a folder that `save` has written.

        Raises:
            UsageError: it is absent or damaged.
        """
        folder = Path(folder)
        remedy = "make it with 'gensci data prepare'"
        if not (folder / INDEX).is_file():
            raise UsageError(f"no prepared structures in {folder}", remedy)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            arrays = load_file(folder / ARRAYS)
            properties = {
                name.removeprefix(_PROPERTY): arrays.pop(name)
                for name in sorted(arrays)
                if name.startswith(_PROPERTY)
            }
            return StructureTable(
                kind=index["kind"],
                ids=tuple(index["ids"]),
                source=tuple(index["source"]),
                smiles=tuple(index["smiles"]),
                properties=properties,
                **arrays,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, UsageError) as error:
            raise UsageError(f"{folder} is damaged ({error})", remedy) from error


def _same_files(folder: Path, other: Path) -> bool:
    """Whether all files of a folder are in another too, byte by byte."""
    return all(
        (other / file.name).is_file() and filecmp.cmp(file, other / file.name, shallow=False)
        for file in folder.iterdir()
    )


def _offsets(counts: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _stack(parts: list[Array], width: int) -> Array:
    """Rows of all parts, float32, also where there are none."""
    return np.concatenate([np.zeros((0, width)), *parts]).astype(np.float32)


def _column(table: StructureTable, name: str) -> Array:
    missing = np.full(len(table), np.nan, dtype=np.float32)
    return table.properties.get(name, missing)
