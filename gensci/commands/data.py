"""`gensci data prepare`: crystals and molecules from raw files to training folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean

if TYPE_CHECKING:
    from gensci.data.structure_preparing import Account, Job
    from gensci.data.structure_table import StructureTable

FOLDER = Path("data/structures")
PARTS = "0.9,0.05,0.05"


def prepare(
    source: str,
    out: Path | None = None,
    name: str | None = None,
    split: str = PARTS,
    seed: int = 0,
    jobs: int = 1,
    origin: str | None = None,
    keep_out: str | None = None,
    keep_cells: bool = False,
    max_atoms: int | None = None,
    limit: int | None = None,
) -> int:
    """Check, reduce and split crystals or molecules; makes what models are trained on.

    OUT gets the folders train, val and test, prepared.json, and rejected.csv with file, row and
    reason of all that was left out. Crystals become primitive Niggli cells, copies are dropped, and
    training rows that are test rows too. The same command again continues a killed run, and takes
    up rows that were mended; OUT with a set of other options is refused. Exit status 3: some rows
    are broken.

    Args:
        source: perov-5, carbon-24, mp-20, mp-20-full, mpts-52, mpts-52-full, wbm, qm7 or qm9; or
            your own CSV with a column
            cif or smiles, CIF, extended XYZ, SDF, list of SMILES, or folder of these.
        out: Folder of the set; by default data/structures/NAME.
        name: Of your own set, by default that of the file; models are told it.
        split: Parts of train, val and test among rows of your own that have no column split and lie
            in no file train.csv, val.csv or test.csv.
        seed: Of the split and of the conformers of molecules given as SMILES.
        jobs: Processes.
        origin: Folder with the raw files of a named set, or address of a mirror (--from); by
            default they are downloaded from their publishers.
        keep_out: Prepared folders, with commas, whose rows may not be in train, for example
            data/structures/mp-20/test.
        keep_cells: Keep the number of atoms of your crystals, instead of reducing to primitive
            cells.
        max_atoms: Leave out larger structures of your own.
        limit: Read only that many records of each split; of qm7 and qm9, train on that many.
    """
    from gensci.data.structure_preparing import Job, check_folder
    from gensci.data.structure_sets import set_name

    for option, value in (("jobs", jobs), ("max-atoms", max_atoms), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}", "give 1 or more")
    known = set_name(source)
    own = name or known or Path(source).name.split(".")[0] or Path(source).resolve().name
    job = Job(Path(out or FOLDER / own), seed, jobs, origin, limit, tell=print)
    check_folder(job.out)
    if known is None:
        return report(_prepare_own(source, own, job, split, keep_out, keep_cells, max_atoms))
    changes = {"name": name, "keep-out": keep_out, "max-atoms": max_atoms}
    changes |= {"split": None if split == PARTS else split, "keep-cells": keep_cells or None}
    return report(_prepare_known(known, job, changes))


def _prepare_known(name: str, job: Job, changes: dict[str, Any]) -> Account:
    from gensci.data.structure_preparing import check_recipe, prepare_named

    for option, value in changes.items():
        if value is not None:
            raise UsageError(f"--{option} is not for the named set {name}", "leave it out")
    check_recipe(name, job)
    return prepare_named(name, job)


def _prepare_own(
    source: str,
    name: str,
    job: Job,
    split: str,
    keep_out: str | None,
    keep_cells: bool,
    max_atoms: int | None,
) -> Account:
    from gensci.data.structure_building import Rules
    from gensci.data.structure_preparing import check_recipe, prepare_records
    from gensci.data.structure_readers import read_records
    from gensci.data.structure_sets import SETS

    path = Path(source)
    if not path.exists():
        hint = did_you_mean(source, list(SETS)) or f"named sets: {', '.join(SETS)}"
        raise UsageError(f"SOURCE {source!r} is neither a file nor a named set", hint.strip())
    if job.origin is not None:
        raise UsageError("--from is for named sets", f"{source} is at hand; leave it out")
    rules = Rules(name, primitive=not keep_cells, max_atoms=max_atoms, seed=job.seed)
    parts, apart = fractions(split), [part for part in (keep_out or "").split(",") if part]
    recipe = {
        "source": str(path.resolve()),
        "split": parts,
        "keep_out": [str(Path(folder).resolve()) for folder in apart],
        "keep_cells": keep_cells,
        "max_atoms": max_atoms,
    }
    job = replace(job, recipe=recipe)
    check_recipe(name, job)
    return prepare_records(read_records(path), rules, job, parts, _tables(apart))


def _tables(folders: list[str]) -> list[StructureTable]:
    from gensci.data.structure_table import StructureTable

    return [StructureTable.load(folder) for folder in folders]


def fractions(text: str) -> tuple[float, float, float]:
    """The three parts of `--split`, which sum to one.

    Raises:
        UsageError: they do not.
    """
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not (min(parts) >= 0 and abs(sum(parts) - 1) < 1e-6):
        raise UsageError(
            f"--split {text!r} is not three parts that sum to 1", "write for example 0.8,0.1,0.1"
        )
    return parts[0], parts[1], parts[2]


def report(account: Account) -> int:
    """Print what came of a preparation and return the exit status: 3 where rows are broken."""
    rows = ", ".join(f"{count} {split}" for split, count in account.rows.items())
    print(f"{account.folder}: {rows}")
    broken = account.rejected.get("broken", 0)
    left = {kind: count for kind, count in account.rejected.items() if kind != "broken"}
    if left:
        print("left out: " + ", ".join(f"{count} {kind}" for kind, count in left.items()))
    if broken:
        print(f"{broken} broken rows; {account.folder / 'rejected.csv'} has the reasons")
    return 3 if broken else 0
