"""Files of crystals and molecules as records: the text of one structure and where it stands.

Reading only splits the files; what a text means is found later, record by record, so that a broken
one costs itself alone.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean

Format = Literal["poscar", "cif", "extxyz", "mol", "smiles"]
SPLITS = ("train", "val", "test")
_PROPERTY_NAMES = {
    "formation_energy_per_atom": "formation_energy",
    "e_above_hull": "energy_above_hull",
    "spacegroup.number": "space_group",
    "atomization_energy_kcal_mol": "atomization_energy",
}
_IDS = ("material_id", "id", "name", "mol_id", "idx")
_QM7_ENERGIES = "tests/data/hof_qm7.txt"  # kcal/mol
_NO_PROPERTIES = {"", "Unnamed: 0", "split", "year", *_IDS}
_COMMENT = re.compile(r"([\w.:-]+)=(\"[^\"]*\"|\S+)")
_FOLDER_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class Record:
    """The text of one structure.

    Attributes:
        where: file and row, for messages.
        id: of the structure.
        format: how the text is written.
        text: of the structure alone.
        properties: numbers that stand beside it.
        split: train, val or test, where the source says; another word as it stands there.
        source: name of the set, where the source says.
    """

    where: str
    id: str
    format: Format
    text: str
    properties: dict[str, float] = field(default_factory=dict)
    split: str | None = None
    source: str | None = None


def read_records(path: Path) -> Iterator[Record]:
    """Records of a file, or of every file of a folder; gzip is undone.

    CSV tables need a column `cif` or `smiles`; one named material_id, id or name gives ids, one
    named split the split, and other columns of numbers are properties. In a folder, files whose
    names begin with train, val or test are these splits.

    Raises:
        UsageError: there is no such file, or its kind is unknown.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _reader(p) and not p.name.startswith("."))
        if not files:
            raise UsageError(f"no file of structures in {path}", f"known are {_KNOWN}")
        for file in files:
            yield from (replace(r, split=r.split or _file_split(file)) for r in read_records(file))
        return
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "name a file, a folder or a known set")
    reader = _reader(path)
    if reader is None:
        raise UsageError(f"{path.name} is of no known kind of file", f"known are {_KNOWN}")
    try:
        yield from reader(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, csv.Error) as e:
        raise UsageError(f"{path} cannot be read ({e})", "is the file complete?") from e


def _reader(path: Path) -> Callable[[Path], Iterator[Record]] | None:
    name = path.name.lower().removesuffix(".gz")
    return next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)


def _file_split(path: Path) -> str | None:
    stem = re.split(r"[._-]", path.name.lower())[0]
    return _FOLDER_SPLITS.get(stem, "test" if stem == "test" else None)


def _text(path: Path) -> io.TextIOBase:
    zipped = path.suffix.lower() == ".gz"
    opened = gzip.GzipFile(path) if zipped else path.open("rb")  # the wrapper closes it
    return io.TextIOWrapper(opened, encoding="utf-8-sig", newline="")


def _table(path: Path) -> Iterator[Record]:
    """Rows of a CSV table."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with _text(path) as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        by_name = {name.strip().lower(): name for name in columns}
        content = next((by_name[n] for n in ("cif", "smiles") if n in by_name), None)
        if content is None:
            hint = did_you_mean("cif", columns) or did_you_mean("smiles", columns)
            raise UsageError(f"{path} has no column 'cif' or 'smiles'", hint or "add one")
        for number, row in enumerate(rows, start=1):
            yield _table_record(path, number, row, content)


def _table_record(path: Path, number: int, row: dict[str, str | None], content: str) -> Record:
    name = next((row[key] for key in _IDS if row.get(key)), None)
    split = (row.get("split") or "").strip().lower()
    split = _FOLDER_SPLITS.get(split, split)
    return Record(
        where=f"{path.name} row {number}",
        id=name or f"{_stem(path)}-{number}",
        format="cif" if content.lower() == "cif" else "smiles",
        text=row[content] or "",
        properties=_properties({k: v for k, v in row.items() if k != content}),
        split=split or None,
    )


def _jarvis(path: Path) -> Iterator[Record]:
    """A zip of one JSON {split: {id: POSCAR text}}, as the JARVIS leaderboard has them."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".json")][:1] or [None]
        content = json.loads(archive.read(name)) if name else None
    if not isinstance(content, dict) or not set(content) <= set(SPLITS):
        raise UsageError(f"{path} holds no JSON with train, val and test", "see the JARVIS files")
    for split, rows in content.items():
        for name, text in rows.items():
            yield Record(f"{path.name} {split} {name}", name, "poscar", text, split=split)


def _cifs(path: Path) -> Iterator[Record]:
    """Data blocks of a CIF."""
    with _text(path) as file:
        blocks = re.split(r"(?m)^(?=data_)", file.read())
    blocks = [block for block in blocks if block.startswith("data_")]
    for number, block in enumerate(blocks, start=1):
        name = _stem(path) if len(blocks) == 1 else block.split(None, 1)[0][len("data_") :]
        where = f"{path.name} block {number}"
        yield Record(where, name or f"{_stem(path)}-{number}", "cif", block)


def _frames(path: Path) -> Iterator[Record]:
    """Frames of extended XYZ."""
    with _text(path) as file:
        number = 0
        while line := file.readline():
            if not line.strip():
                continue
            number += 1
            where = f"{path.name} frame {number}"
            if not line.strip().isdecimal():
                # where the next frame begins cannot be known
                yield Record(where, f"{_stem(path)}-{number}", "extxyz", line)
                return
            lines = [line, *(file.readline() for _ in range(int(line) + 1))]
            keys = {k: v.strip('"') for k, v in _COMMENT.findall(lines[1])}
            name = next((keys[key] for key in _IDS if key in keys), f"{_stem(path)}-{number}")
            numbers = {k: v for k, v in keys.items() if k not in ("Lattice", "Properties", "pbc")}
            yield Record(where, name, "extxyz", "".join(lines), _properties(numbers))


def _qm7(path: Path) -> Iterator[Record]:
    """The molecules of QM7 in an archive of github.com/qmlcode/qml, with their energies."""
    with tarfile.open(path) as archive:
        inside = {m.name.split("/", 1)[-1]: m for m in archive.getmembers() if m.isfile()}

        def text(name: str) -> str:
            return archive.extractfile(inside[name]).read().decode()

        names = sorted(n for n in inside if n.startswith("tests/qm7/") and n.endswith(".xyz"))
        if not names or _QM7_ENERGIES not in inside:
            raise UsageError(
                f"{path} holds no tests/qm7 and {_QM7_ENERGIES}", f"known are {_KNOWN}"
            )
        rows = [line.split() for line in text(_QM7_ENERGIES).splitlines() if line.strip()]
        energies = {row[0]: {"atomization_energy": float(row[1])} for row in rows}
        for name in names:
            count, _, *atoms = text(name).strip().split("\n")
            frame = "\n".join([count.strip(), "", *atoms, ""])
            file = name.rsplit("/", 1)[-1]
            where = f"{path.name} {name}"
            yield Record(where, file[: -len(".xyz")], "extxyz", frame, energies.get(file, {}))


def _molfiles(path: Path) -> Iterator[Record]:
    """Molecules of an SDF, with the numbers among their data."""
    with _text(path) as file:
        blocks = re.split(r"(?m)^\$\$\$\$[^\n]*\r?\n?", file.read())
    for number, block in enumerate(blocks, start=1):
        if not block.strip():
            continue
        data = dict(re.findall(r"(?m)^> *<([^>]+)>[^\n]*\r?\n([^\n]*)", block))
        name = next((data[key] for key in _IDS if key in data), block.split("\n", 1)[0].strip())
        where = f"{path.name} record {number}"
        yield Record(where, name or f"{_stem(path)}-{number}", "mol", block, _properties(data))


def _lines(path: Path) -> Iterator[Record]:
    """One SMILES a line, with a name behind it or not."""
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            text, _, name = line.strip().partition(" ")
            if text and not text.startswith("#"):
                where = f"{path.name} line {number}"
                yield Record(where, name.strip() or f"{_stem(path)}-{number}", "smiles", text)


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": _table,
    ".json.zip": _jarvis,
    ".cif": _cifs,
    ".extxyz": _frames,
    ".xyz": _frames,
    ".tar": _qm7,
    ".sdf": _molfiles,
    ".mol": _molfiles,
    ".smi": _lines,
    ".smiles": _lines,
}
_KNOWN = ", ".join(_READERS)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _properties(columns: dict[str, str | None]) -> dict[str, float]:
    """Columns that are finite numbers, under the names that the project uses."""
    found = {}
    for name, text in columns.items():
        if name is None or name in _NO_PROPERTIES or not isinstance(text, str):
            continue
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            found[_PROPERTY_NAMES.get(name, name)] = value
    return found
