"""What `gensci evaluate` reads: samples of a run, a batch or a file, and tables of references."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gensci.core.errors import GensciError, UsageError
from gensci.io.batch import BATCH_RECORD
from gensci.io.run_folder import RECORD
from gensci.metrics.crystal_arrays import Crystal, cell_parameters

if TYPE_CHECKING:
    from gensci.core.results import SampleSet
    from gensci.data.structure_readers import Record
    from gensci.data.structure_table import StructureTable

Array = np.ndarray
Kind = Literal["crystal", "molecule"]
Order = Literal["given", "likelihood"]

DE_NOVO = "*"
_MOLECULE_FILES = (".sdf", ".mol")
_NO_CELL = np.full(6, np.nan)


@dataclass(frozen=True)
class Group:
    """Samples of one system, or those of a file that belong together.

    Attributes:
        name: the system as it was spelled, or the file.
        ids: (n,) names of the samples, which may be those of references.
        crystals: (n,) of a crystal run, else empty.
        numbers: (n, atoms) of molecules, 0 at padding.
        positions: (n, atoms, 3) nm of molecules.
        smiles: of a run that draws conformers.
    """

    name: str
    ids: list[str]
    crystals: list[Crystal] = field(default_factory=list)
    numbers: Array = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    positions: Array = field(default_factory=lambda: np.zeros((0, 0, 3)))
    smiles: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Results:
    """All that is to be judged.

    Attributes:
        kind: crystal or molecule.
        groups: one for each system; a file is one.
        de_novo: whether the systems were left to the model; None where a file does not say.
        problems: records that could not be read, failed systems; one line each.
    """

    kind: Kind
    groups: list[Group]
    de_novo: bool | None
    problems: list[str] = field(default_factory=list)


def read_results(path: Path, order: Order = "given") -> Results:
    """Samples of a run folder, of a batch of them, or of a file (extxyz, CIF, SDF).

    Args:
        path: what `gensci sample` wrote, or another program's file, or a folder of CIFs.
        order: ``likelihood`` puts samples with the greatest log-density of the model first.

    Raises:
        UsageError: there is nothing of the kind, or it is of a family without such measures.
        GensciError: a run is not finished.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", "name a run folder of `gensci sample` or a file")
    if (path / RECORD).is_file():
        group, family, text = _read_run(path, order)
        return Results(_kind(family), [group], text == DE_NOVO)
    if (path / BATCH_RECORD).is_file():
        return _read_batch(path, order)
    if path.name.lower().endswith(_MOLECULE_FILES):
        return Results("molecule", [_read_sdf(path)], None)
    return _read_file(path)


def _kind(family: str) -> Kind:
    return "crystal" if family == "crystal" else "molecule"


def _read_run(path: Path, order: Order) -> tuple[Group, str, str]:
    """The samples of one run folder, its family and its system without the family."""
    from gensci.io.trajectories import load_run

    samples = load_run(path)
    family, _, text = str(samples.meta["settings"].get("system", "")).partition(":")
    spelled = f"{family}:{text}"
    if family not in ("crystal", "smiles", "molecule") or "numbers" not in samples.x:
        raise UsageError(
            f"{path} is a run of {spelled}, for which `gensci evaluate` has no measures",
            "its run.json holds the verdict on the weights; benchmarks/bench_peptide_ensembles.py "
            "compares peptides with reference ensembles",
        )
    rows = _rows_in_order(samples, order, path)
    ids = [f"{path.name}-{row}" for row in rows]
    numbers = samples.x["numbers"].numpy()[rows]
    if family == "crystal":
        inside = samples.x["fractional"].double().numpy()[rows]
        cells = samples.x["lattice"].double().numpy()[rows]
        crystals = [_crystal(*parts) for parts in zip(numbers, inside, cells, strict=True)]
        return Group(spelled, ids, crystals), family, text
    positions = samples.x["positions"].double().numpy()[rows]
    smiles = text if family == "smiles" else None
    return Group(spelled, ids, [], numbers, positions, smiles), family, text


def _rows_in_order(samples: SampleSet, order: Order, path: Path) -> Array:
    if order == "given":
        return np.arange(len(samples))
    if samples.log_proposal is None:
        raise UsageError(
            f"{path} holds no log-densities, so its samples cannot be ranked",
            "leave --order out, or sample with the importance sampler",
        )
    return np.argsort(-samples.log_proposal.numpy(), kind="stable")


def _crystal(numbers: Array, fractional: Array, lattice: Array) -> Crystal:
    present = numbers > 0
    usable = np.isfinite(lattice).all() and (np.abs(lattice).sum(-1) > 0).all()
    parameters = cell_parameters(lattice) if usable else _NO_CELL
    return Crystal(numbers[present].astype(np.int64), fractional[present], parameters)


def _read_batch(path: Path, order: Order) -> Results:
    try:
        record = json.loads((path / BATCH_RECORD).read_text(encoding="utf-8"))
        systems = [(folder, dict(facts)) for folder, facts in record["systems"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path / BATCH_RECORD} cannot be read", "sample again") from error
    groups, problems, kinds, de_novo = [], [], set(), set()
    for folder, facts in systems:
        if facts.get("outcome") != "complete":
            problems.append(f"{facts.get('system', folder)}: {facts.get('outcome', 'unknown')}")
            continue
        group, family, text = _read_run(path / folder, order)
        groups.append(group)
        kinds.add(_kind(family))
        de_novo.add(text == DE_NOVO)
    if not groups:
        raise GensciError(f"no system of {path} is complete", "let `gensci sample` finish it")
    if len(kinds) > 1 or len(de_novo) > 1:
        raise UsageError(
            f"{path} mixes crystals and molecules", "evaluate their folders one by one"
        )
    return Results(kinds.pop(), groups, de_novo.pop(), problems)


def _read_sdf(path: Path) -> Group:
    from gensci.io.sdf import read_molecules

    molecules, _ = read_molecules(path)
    if not molecules:
        raise UsageError(f"{path} holds no molecule that RDKit reads", "check the file")
    arrays = [
        (
            np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()]),
            molecule.GetConformer().GetPositions() / 10,
        )
        for molecule in molecules
    ]
    numbers, positions = padded(arrays)
    ids = [m.GetProp("_Name") if m.HasProp("_Name") else "" for m in molecules]
    return Group(path.name, ids, [], numbers, positions)


def _read_file(path: Path) -> Results:
    """Samples of a file or a folder as they are, neither reduced nor judged."""
    from gensci.data.structure_building import kind_of
    from gensci.data.structure_readers import read_records

    crystals, molecules, names, problems = [], [], [], []
    for record in read_records(path):
        try:
            if kind_of(record) == "crystal":
                crystals.append(_raw_crystal(record))
            else:
                molecules.append(_raw_molecule(record))
        # readers of other packages raise anything on broken text, and one row must not end all
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            problems.append(f"{record.where}: {reason}")
            continue
        names.append(record.id)
    if crystals and molecules:
        raise UsageError(f"{path} mixes crystals and molecules", "evaluate them apart")
    if not names:
        first = f" ({problems[0]})" if problems else ""
        raise UsageError(f"{path} holds no structure that can be read{first}", "check the file")
    if crystals:
        return Results("crystal", [Group(path.name, names, crystals)], None, problems)
    numbers, positions = padded(molecules)
    return Results("molecule", [Group(path.name, names, [], numbers, positions)], None, problems)


def _raw_crystal(record: Record) -> Crystal:
    from gensci.data.crystal_texts import read_cif, read_extxyz_crystal, read_poscar

    readers = {"poscar": read_poscar, "cif": read_cif, "extxyz": read_extxyz_crystal}
    lattice, fractional, numbers = readers[record.format](record.text)
    return _crystal(np.asarray(numbers), np.asarray(fractional), np.asarray(lattice))


def _raw_molecule(record: Record) -> tuple[Array, Array]:
    """Atomic numbers and positions in nm of a frame of extended XYZ."""
    import io

    from ase.io import read

    if record.format != "extxyz":
        raise ValueError(f"{record.format} holds no coordinates")
    atoms: Any = read(io.StringIO(record.text), format="extxyz")
    return np.asarray(atoms.numbers), np.asarray(atoms.positions) / 10


def padded(molecules: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Numbers (n, atoms) and positions (n, atoms, 3) of molecules of any sizes, 0 at padding."""
    most = max((len(numbers) for numbers, _ in molecules), default=0)
    all_numbers = np.zeros((len(molecules), most), dtype=np.int64)
    all_positions = np.zeros((len(molecules), most, 3))
    for row, (numbers, positions) in enumerate(molecules):
        all_numbers[row, : len(numbers)] = numbers
        all_positions[row, : len(numbers)] = positions
    return all_numbers, all_positions


def read_table(text: str, split: str, option: str) -> tuple[StructureTable, list[str]]:
    """A prepared table, or a file of structures.

    Args:
        text: a folder that `gensci data prepare` wrote (of one split or of all), the name of such a
            set in data/structures, or a file or folder of CSV, extxyz, CIF or SDF.
        split: which one of a folder with all splits.
        option: for messages: --reference or --train.

    Returns:
        The table, and a line for each record that is broken.

    Raises:
        UsageError: there is nothing of the kind.
    """
    from gensci.data.structure_table import INDEX, StructureTable

    path = Path(text)
    named = Path("data", "structures", text)
    for folder in (path, path / split, named, named / split):
        if (folder / INDEX).is_file():
            return StructureTable.load(folder), []
    if not path.exists():
        raise UsageError(
            f"{option} {text}: there is no such file or prepared set",
            "name a table of `gensci data prepare` or a file (CSV, extxyz, CIF, SDF)",
        )
    table, problems = _build_table(path)
    if not len(table):
        first = f" ({problems[0]})" if problems else ""
        raise UsageError(f"{option} {text} holds no sound structure{first}", "check the file")
    return table, problems


def _build_table(path: Path) -> tuple[StructureTable, list[str]]:
    """The sound structures of a file; cells keep their atoms."""
    from gensci.data.structure_building import Rules, build_chunk, kind_of
    from gensci.data.structure_readers import read_records

    records = list(read_records(path))
    if not records:
        raise UsageError(f"{path} holds no structures", "check the file")
    rules = Rules(path.name.split(".")[0], primitive=False)
    table, _, rejected = build_chunk(records, rules, kind_of(records[0]))
    return table, [f"{bad.where}: {bad.reason}" for bad in rejected]


def rows_of(table: StructureTable) -> Iterator[Crystal]:
    """The crystals of a table."""
    for index in range(len(table)):
        row = table.row(index)
        yield Crystal(row.numbers, row.coordinates, row.lattice)


def molecules_of(table: StructureTable) -> tuple[Array, Array]:
    """Numbers and positions in nm of a table of molecules, padded."""
    rows = [table.row(index) for index in range(len(table))]
    return padded([(row.numbers.astype(np.int64), row.coordinates / 10.0) for row in rows])
