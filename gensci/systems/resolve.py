"""`--system TEXT` to systems: prefixes, a reading by every family, and files of many systems."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gensci.core.errors import SystemTextError
from gensci.core.registry import did_you_mean, normalise_name
from gensci.sims.molecule import SUFFIXES as MOLECULE_SUFFIXES
from gensci.sims.peptide.parse import parse_peptide
from gensci.sims.toys import TOYS
from gensci.systems.composition import parse_formula, recased
from gensci.systems.spellings import composition, is_smiles, smiles_fault

FAMILIES = ("peptide", "crystal", "smiles", "molecule", "lisa", "toy", "file")
DE_NOVO = "*"
LISA_NAMES = frozenset({"mbhb"})
FILE_SUFFIXES = frozenset({".fasta", ".fa", ".faa", ".txt", ".list", ".csv", ".smi"})
CSV_COLUMNS = {
    "system": "",
    "sequence": "peptide:",
    "peptide": "peptide:",
    "smiles": "smiles:",
    "formula": "crystal:",
    "composition": "crystal:",
}
_EXAMPLES = {
    "crystal": "TiO2",
    "smiles": "CCO",
    "molecule": "* for new molecules (conformers of one: smiles:CCO)",
    "lisa": "mbhb",
    "file": "molecule.prmtop",
}
_MAX_FOLDER = 100
_SPELL_OUT = ", ".join(f"{family}:..." for family in FAMILIES)
_AROMATIC_TEXT = frozenset("bcnops0123456789()")
_FORMULA_LIKE = re.compile(r"(?:[A-Z][a-z]?[0-9]*)*[A-Z][a-z]?[0-9]+")
_PREFIX = re.compile(r"([A-Za-z][A-Za-z_]*):(.*)", re.DOTALL)


@dataclass(frozen=True)
class SystemChoice:
    """One system that was asked for, not built yet.

    Attributes:
        family: One of `FAMILIES`.
        text: Canonical spelling within the family, for example `Ace-A-Nme`; the path of a file.
        label: Name given in a file (the FASTA identifier), or empty.
    """

    family: str
    text: str
    label: str = ""

    @property
    def spelled(self) -> str:
        """The spelling that always means this system, for example `peptide:AA`."""
        return f"{self.family}:{self.text}"

    @property
    def folder(self) -> str:
        """A name for its folder, safe on every file system.

        SMILES that differ only in signs no file name can hold are told apart by a hash.
        """
        name = Path(self.text).stem if self.family == "file" else self.text
        if not self.label and name == DE_NOVO:
            return f"{self.family}-de-novo"
        safe = re.sub(r"[^A-Za-z0-9._+=-]+", "_", self.label or name).strip(".") or "system"
        if self.label or self.family not in ("smiles", "crystal"):
            return safe
        if safe == name and len(safe) <= _MAX_FOLDER:
            return safe
        return f"{safe[:_MAX_FOLDER]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Resolved:
    """What a `--system` text stands for.

    Attributes:
        choices: One system, or those of the file in its order, with distinct folders.
        source: The file they were read from, or None.
    """

    choices: tuple[SystemChoice, ...]
    source: Path | None = None


def resolve(text: str) -> Resolved:
    """Find out what `--system TEXT` means; builds nothing.

    Args:
        text: `family:name`, a name that exactly one family reads, a molecule's file (System XML or
            prmtop), or a file of systems (FASTA, CSV with a column `system`, `sequence` or
            `smiles`, or one text per line).

    Raises:
        SystemTextError: No reading, several readings, or an unusable file. The message says how to
            spell it.
    """
    stripped = text.strip()
    if not stripped:
        raise SystemTextError("--system is empty", "give for example --system AA or peptide:AA")
    if _names_a_file(stripped):
        return read_file(Path(stripped))
    return Resolved((resolve_one(stripped),))


def resolve_one(text: str) -> SystemChoice:
    """The one system that `text` means. See `resolve`; files of systems are not looked for."""
    choice = _prefixed(text) or _only_reading(text)
    if choice.family == "file" and not os.path.isfile(choice.text):
        raise SystemTextError(f"--system {choice.text}: no such file", "check the path")
    return choice


def readings(text: str) -> list[SystemChoice]:
    """How every family reads a text without prefix, in the order of `FAMILIES`."""
    return [SystemChoice(family, name) for family in FAMILIES if (name := _read(family, text))]


def _read(family: str, text: str) -> str | None:
    """Canonical spelling of `text` in a family, or None where it is no spelling there."""
    if family == "peptide":
        try:
            return parse_peptide(text).name
        except ValueError:
            return None
    if family == "crystal":
        return text if text == DE_NOVO or composition(text) else None
    if family == "smiles":
        return text if text != DE_NOVO and is_smiles(text) else None
    if family == "molecule":
        return text if text == DE_NOVO else None
    if family == "lisa":
        return text.lower() if text.lower() in LISA_NAMES else None
    if family == "file":
        return text if is_molecule_file(text) else None
    name = normalise_name(text)
    return name if name in TOYS else None


def is_molecule_file(text: str) -> bool:
    """Whether a text has the suffix of a System XML or prmtop, whether or not it is there."""
    return "\0" not in text and Path(text).suffix.lower() in MOLECULE_SUFFIXES


def _prefixed(text: str) -> SystemChoice | None:
    """The choice of a text such as `peptide:AA`; None where there is no prefix of a family."""
    match = _PREFIX.fullmatch(text)
    if not match:
        return None
    family, name = match.group(1).lower(), match.group(2).strip()
    if family not in FAMILIES:
        if readings(text):  # a SMILES may hold a colon
            return None
        hint = did_you_mean(family, list(FAMILIES))
        raise SystemTextError(
            f"--system {text!r} has the unknown prefix {family!r}", f"{hint}prefixes: {_SPELL_OUT}"
        )
    reading = _read(family, name)
    if family == "crystal" and reading is None and _why_no_crystal(name) is None:
        reading = name
    if reading is None:
        raise SystemTextError(f"--system {text!r}: {_why_not(family, name)}")
    return SystemChoice(family, reading)


def _only_reading(text: str) -> SystemChoice:
    found = readings(text)
    if len(found) == 1:
        return found[0]
    if found:
        spelled = " or ".join(f"--system {choice.spelled}" for choice in found)
        raise SystemTextError(
            f"--system {text!r} is ambiguous, {len(found)} families read it", f"say {spelled}"
        )
    if re.fullmatch(r"[A-Za-z]+|(?i:ace-).*|.*(?i:-nme)", text):
        hint = did_you_mean(text, list(TOYS))
        raise SystemTextError(f"--system {text!r}: {_why_not('peptide', text)}", hint)
    hint = did_you_mean(text, list(TOYS))
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9()]*", text) and not set(text) <= _AROMATIC_TEXT:
        right = recased(text)
        hint = f"did you mean crystal:{right}? " if right else hint
    problem = f"--system {text!r} is neither a system nor a file"
    if composition(text) is None and _FORMULA_LIKE.fullmatch(text):
        problem += f" ({_why_no_crystal(text)})"
    raise SystemTextError(problem, f"{hint}spell it with a prefix: {_SPELL_OUT}")


def _why_no_crystal(text: str) -> str | None:
    """What is wrong with a composition, or None."""
    try:
        parse_formula(text)
    except SystemTextError as error:
        return str(error)
    return None


def _why_not(family: str, name: str) -> str:
    """Why a family cannot read `name`, with the remedy."""
    if family == "peptide":
        try:
            parse_peptide(name)
        except ValueError as error:
            return str(error)
    if family == "toy":
        return f"no such toy; {did_you_mean(name, list(TOYS))}choose from: {', '.join(TOYS)}"
    if family == "crystal" and (reason := _why_no_crystal(name)):
        return reason
    if family == "smiles" and (reason := smiles_fault(name)):
        return f"this is no SMILES: {reason}; write it like smiles:CCO"
    return f"this is not a {family} text; write it like {family}:{_EXAMPLES[family]}"


def _names_a_file(text: str) -> bool:
    """Whether a text means a file: by its suffix, or because it is one and nothing else."""
    if _PREFIX.fullmatch(text) and text.partition(":")[0].lower() in FAMILIES:
        return False
    if is_molecule_file(text):
        return False
    path = Path(text)
    if path.suffix.lower() in FILE_SUFFIXES:
        return True
    try:
        is_file = path.is_file()
    except OSError:  # a text longer than any path
        return False
    if is_file and (found := readings(text)):
        spelled = " or ".join(f"--system {choice.spelled}" for choice in found)
        raise SystemTextError(
            f"--system {text!r} is a system and a file here", f"say {spelled} or --system ./{text}"
        )
    return is_file


def read_file(path: Path) -> Resolved:
    """The systems of a FASTA, CSV or list file, each with its own folder name.

    Raises:
        SystemTextError: The file cannot be read, is empty, or some entry is no system, is there
            twice, or two entries would share a folder. The message names the entry.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SystemTextError(f"--system {path}: cannot read this file ({reason})") from error
    if text.lstrip().startswith(">"):
        entries = _fasta(text)
    elif path.suffix.lower() == ".csv":
        entries = _csv(path, text)
    else:
        entries = _lines(path, text)
    if not entries:
        raise SystemTextError(f"--system {path}: no systems in this file", "one per line")
    choices = tuple(_entry(path, place, label, name) for place, label, name in entries)
    _check_distinct(path, choices)
    return Resolved(choices, path)


def _fasta(text: str) -> list[tuple[str, str, str]]:
    entries = []
    for record in text.lstrip()[1:].split("\n>"):
        header, _, sequence = record.partition("\n")
        label = header.split()[0] if header.split() else f"record-{len(entries) + 1}"
        entries.append((f"record {label!r}", label, "peptide:" + "".join(sequence.split())))
    return entries


def _csv(path: Path, text: str) -> list[tuple[str, str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    columns = {name.strip().lower(): name for name in rows.fieldnames or () if name}
    found = next((name for name in CSV_COLUMNS if name in columns), None)
    if found is None:
        raise SystemTextError(
            f"--system {path}: no column names systems", f"name one of {', '.join(CSV_COLUMNS)}"
        )
    name_column = columns.get("name", "")
    return [
        (f"line {line}", (row.get(name_column) or "").strip(), CSV_COLUMNS[found] + value.strip())
        for line, row in enumerate(rows, start=2)
        if (value := row[columns[found]] or "")
    ]


def _lines(path: Path, text: str) -> list[tuple[str, str, str]]:
    entries = [
        (f"line {number}", "", entry)
        for number, line in enumerate(text.splitlines(), start=1)
        if (entry := line.split(" #")[0].strip()) and not entry.startswith("#")
    ]
    if path.suffix.lower() != ".smi":
        return entries
    # such a file may name a molecule behind its SMILES
    named = [(place, *entry.split(None, 1), "") for place, _, entry in entries]
    return [(place, label.strip(), f"smiles:{smiles}") for place, smiles, label, *_ in named]


def _entry(path: Path, place: str, label: str, text: str) -> SystemChoice:
    try:
        choice = resolve_one(_beside(path, text))
    except SystemTextError as error:
        raise SystemTextError(f"{path}, {place}: {error}") from error
    return SystemChoice(choice.family, choice.text, label)


def _beside(path: Path, text: str) -> str:
    """A molecule's file in a list is looked for beside the list, and nowhere else."""
    name = text.removeprefix("file:").strip()
    return f"file:{path.parent / name}" if is_molecule_file(name) else text


def _check_distinct(path: Path, choices: tuple[SystemChoice, ...]) -> None:
    """Every system gets a folder of its own, also where file names ignore case."""
    taken: dict[str, SystemChoice] = {}
    for choice in choices:
        other = taken.setdefault(choice.folder.lower(), choice)
        if other is not choice:
            raise SystemTextError(
                f"--system {path}: {other.spelled} and {choice.spelled} would both be written to "
                f"the folder {choice.folder!r}",
                "remove one, or give them distinct names (FASTA identifier, CSV column `name`)",
            )
