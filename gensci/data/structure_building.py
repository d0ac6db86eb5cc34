"""Records become structures: checked, reduced, in chunks that are kept, so that work resumes."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gensci.core.errors import GensciError, UsageError
from gensci.data.crystal_texts import crystal, read_cif, read_extxyz_crystal, read_poscar
from gensci.data.structure_readers import Record
from gensci.data.structure_table import Kind, Structure, StructureTable

CHUNK = 500
_VERSION = 1  # of what is built from a record; a change makes kept chunks stale


@dataclass(frozen=True)
class Rules:
    """How records are built.

    Attributes:
        source: name of the set, of records that name none.
        primitive: reduce crystals to the primitive cell, instead of keeping their atoms.
        max_atoms: larger structures are rejected; None for no limit.
        seed: of the conformers of molecules that are given as SMILES.
    """

    source: str
    primitive: bool = True
    max_atoms: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Rejection:
    """A record that did not become a row.

    Attributes:
        where: file and row.
        id: of the record.
        kind: "broken", or why a sound row is left out: "large", "duplicate", "held out".
        reason: in words.
    """

    where: str
    id: str
    kind: str
    reason: str


class TooLarge(ValueError):
    """A sound structure with more atoms than are wanted."""


def kind_of(record: Record) -> Kind:
    """Whether a record is of a crystal or of a molecule."""
    if record.format == "extxyz":
        return "crystal" if "lattice=" in record.text.lower() else "molecule"
    return "crystal" if record.format in ("poscar", "cif") else "molecule"


def build(record: Record, rules: Rules) -> Structure:
    """The structure of a record.

    Raises:
        ValueError: it is broken or too large.
    """
    if kind_of(record) == "molecule":
        structure = _molecule(record, rules)
    else:
        readers = {"poscar": read_poscar, "cif": read_cif, "extxyz": read_extxyz_crystal}
        cell = readers[record.format](record.text)
        _check_size(len(cell[2]) if not rules.primitive else 0, rules)
        source = record.source or rules.source
        structure = crystal(cell, record.id, source, record.properties, rules.primitive)
    _check_size(len(structure), rules)
    return structure


def _check_size(atoms: int, rules: Rules) -> None:
    if rules.max_atoms is not None and atoms > rules.max_atoms:
        raise TooLarge(f"{atoms} atoms are more than {rules.max_atoms}")


def _molecule(record: Record, rules: Rules) -> Structure:
    if record.format == "smiles":
        from gensci.data.molecule_conformers import conformer

        smiles = canonical_smiles(record.text)
        # its own seed: a molecule gets the same conformer wherever it stands
        digest = hashlib.sha256(f"{rules.seed}:{smiles}".encode()).digest()
        numbers, positions = conformer(smiles, int.from_bytes(digest[:4], "big") >> 1)
    else:
        from gensci.data.molecule_perception import perceive

        numbers, positions = _molfile(record.text) if record.format == "mol" else _xyz(record.text)
        smiles, order = perceive(numbers, positions)
        numbers, positions = np.asarray(numbers)[order], np.asarray(positions)[order]
    if not np.isfinite(positions).all():
        raise ValueError("a coordinate is no finite number")
    return Structure(
        kind="molecule",
        id=record.id,
        source=record.source or rules.source,
        numbers=np.asarray(numbers).astype(np.uint8),
        coordinates=np.asarray(positions).astype(np.float32),
        properties=record.properties,
        smiles=smiles,
    )


def canonical_smiles(text: str) -> str:
    """RDKit's canonical spelling.

    Raises:
        ValueError: it is no SMILES.
    """
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        molecule = Chem.MolFromSmiles(text.strip())
    if molecule is None or not molecule.GetNumAtoms():
        raise ValueError(f"{text.strip()!r} is no SMILES")
    return Chem.MolToSmiles(molecule)


def _molfile(text: str) -> tuple[np.ndarray, np.ndarray]:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        molecule = Chem.MolFromMolBlock(text, removeHs=False)
        if molecule is None:
            raise ValueError("no molecule that RDKit accepts")
        molecule = Chem.AddHs(molecule, addCoords=True)
    if molecule.GetNumConformers() != 1 or not molecule.GetConformer().Is3D():
        raise ValueError("the record has no 3D coordinates")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    return numbers, molecule.GetConformer().GetPositions()


def _xyz(text: str) -> tuple[np.ndarray, np.ndarray]:
    import io

    from ase.io import read

    atoms = read(io.StringIO(text), format="extxyz")
    return np.asarray(atoms.numbers), np.asarray(atoms.positions)


Built = tuple[StructureTable, list[int], list[Rejection]]


def build_chunk(records: list[Record], rules: Rules, kind: Kind) -> Built:
    """Table of the sound records, their positions in the list, and the others with reasons.

    Raises:
        UsageError: a package that is needed is not installed.
    """
    rows, kept, rejected = [], [], []
    for position, record in enumerate(records):
        try:
            if kind_of(record) != kind:
                raise ValueError(f"a {kind_of(record)} among {kind}s; prepare them apart")
            rows.append(build(record, rules))
            kept.append(position)
        except ImportError as error:
            raise UsageError(
                f"preparing {kind}s needs {error.name}",
                f"pip install 'gensci[{'materials' if kind == 'crystal' else 'molecules'}]'",
            ) from error
        # readers of other packages raise anything on broken text, and one row must not end a run
        except Exception as error:
            broken = "large" if isinstance(error, TooLarge) else "broken"
            reason = " ".join(str(error).split())
            if not isinstance(error, (ValueError, OSError, GensciError)):
                detail = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
                reason = f"the {record.format} cannot be read ({detail})"
            rejected.append(Rejection(record.where, record.id, broken, reason))
    return StructureTable.from_structures(rows, kind), kept, rejected


def build_table(
    records: Iterable[Record],
    rules: Rules,
    cache: Path,
    jobs: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> tuple[StructureTable, list[Record], list[Rejection]]:
    """Build all records, in chunks that are kept in ``cache``.

    Args:
        records: of one kind; the first decides which.
        rules: how they are built.
        cache: folder of finished chunks, named by the hash of their records and rules.
        jobs: processes.
        progress: called with the number of records after each chunk.

    Returns:
        the table, the record of each of its rows (without text), and what was rejected.
    """
    stream = iter(records)
    first = next(stream, None)
    kind = "crystal" if first is None else kind_of(first)
    chunks = _chunks(itertools.chain([] if first is None else [first], stream))
    tables, origins, rejected = [StructureTable.from_structures([], kind)], [], []
    for chunk, (table, kept, bad) in _map_chunks(chunks, rules, kind, cache, jobs):
        tables.append(table)
        origins.extend(replace(chunk[position], text="") for position in kept)
        rejected.extend(bad)
        if progress is not None:
            progress(len(chunk))
    return StructureTable.concatenate(tables), origins, rejected


def _map_chunks(
    chunks: Iterator[list[Record]], rules: Rules, kind: Kind, cache: Path, jobs: int
) -> Iterator[tuple[list[Record], Built]]:
    if jobs <= 1:
        yield from ((chunk, _kept_chunk(chunk, rules, kind, cache)) for chunk in chunks)
        return
    # forked workers would inherit the threads of torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        while batch := list(itertools.islice(chunks, 4 * jobs)):  # bounds what is in memory
            waiting = [pool.submit(_kept_chunk, chunk, rules, kind, cache) for chunk in batch]
            yield from ((c, w.result()) for c, w in zip(batch, waiting, strict=True))


def _kept_chunk(records: list[Record], rules: Rules, kind: Kind, cache: Path) -> Built:
    """The chunk, from the cache where an earlier run has finished it."""
    content = [_VERSION, kind, asdict(rules), [asdict(replace(r, split=None)) for r in records]]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    folder, notes = cache / key, cache / f"{key}.json"
    if folder.is_dir() and notes.is_file():
        rejected = [Rejection(**row) for row in json.loads(notes.read_text())["rejected"]]
        return StructureTable.load(folder), json.loads(notes.read_text())["kept"], rejected
    built = build_chunk(records, rules, kind)
    table, kept, rejected = built
    cache.mkdir(parents=True, exist_ok=True)  # not before: a source may turn out unreadable
    part = cache / f".{key}.{os.getpid()}.partial"
    part.write_text(json.dumps({"kept": kept, "rejected": [asdict(row) for row in rejected]}))
    part.rename(notes)
    table.save(folder)  # last: a chunk with a folder is complete
    return built


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    stream = iter(records)
    while chunk := list(itertools.islice(stream, CHUNK)):
        yield chunk
