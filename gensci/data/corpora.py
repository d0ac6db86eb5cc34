"""What `gensci simulate --system` names: corpora of peptides, single ones, and files of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gensci.core.errors import SystemTextError, UsageError
from gensci.core.registry import did_you_mean, normalise_name
from gensci.data.exclusions import canonical_name, published_splits, read_excluded
from gensci.sims.peptide.parse import LETTERS, parse_peptide
from gensci.systems.resolve import FILE_SUFFIXES, read_file

LENGTHS = {"dipeptides": 2, "tripeptides": 3, "tetrapeptides": 4}
LONGER = {"pentapeptides": 5, "hexapeptides": 6, "heptapeptides": 7, "octapeptides": 8}
"""Corpora of too many sequences to list: samples only."""
_SYNONYMS = {"dipeptides-train": "dipeptides"}
MOLECULE_SUFFIXES = frozenset({".xml", ".prmtop", ".parm7"})


@dataclass(frozen=True)
class Entry:
    """One system to be simulated.

    Attributes:
        name: of its folder; for a peptide the canonical spelling.
        path: the file of a molecule that is no peptide by name, or None.
    """

    name: str
    path: Path | None = None

    @property
    def cost(self) -> float:
        """Relative time of a step, to estimate how long a corpus takes: one for a dipeptide."""
        if self.path is not None:
            return 1.0
        spec = parse_peptide(self.name)
        # measured on the C kernel: ten residues take twelve times as long as two
        return (len(spec.residue_names) / 2) ** 1.5


def select_entries(
    system: str,
    *,
    exclude: str | None = None,
    corpus_seed: int = 0,
    include_published: bool = False,
) -> list[Entry]:
    """The systems that a text asks for, each once, in its order.

    Args:
        system: parts with commas between: a corpus (``dipeptides``, ``tripeptides``,
            ``tetrapeptides``, all or as many as in ``tripeptides:200``; ``pentapeptides`` to
            ``octapeptides``, with their number), a peptide, a file with
            peptides (FASTA, CSV, a list), or a molecule's OpenMM XML or Amber prmtop. Corpora leave
            out the published validation and test sequences; what is named itself stays.
        exclude: more to leave out, from everything, see ``read_excluded``.
        corpus_seed: of the samples; the sample of a larger number begins with that of a smaller.
        include_published: let corpora have the published sequences too.

    Raises:
        SystemTextError: a part is none of these.
        UsageError: nothing is left, a corpus has not as many, or ``exclude`` is unusable.
    """
    excluded = read_excluded(exclude)
    hidden = excluded if include_published else excluded | published_splits().keys()
    found: dict[str, Entry] = {}
    for part in system.split(","):
        for entry in _entries(part.strip(), hidden, corpus_seed):
            other = found.setdefault(entry.name, entry)
            if other != entry:
                raise SystemTextError(
                    f"--system: {other.path or other.name} and {entry.path or entry.name} would "
                    f"both be written to the folder {entry.name!r}",
                    "simulate them with another --out each",
                )
    kept = [entry for entry in found.values() if entry.name not in excluded]
    if not kept:
        raise UsageError(f"--exclude leaves nothing of --system {system}", "exclude fewer")
    return kept


def _entries(part: str, hidden: frozenset[str], seed: int) -> Iterator[Entry]:
    key, _, count = part.partition(":")
    corpus = normalise_name(key)
    corpus = _SYNONYMS.get(corpus, corpus)
    if corpus in LENGTHS or corpus in LONGER:
        yield from map(Entry, corpus_names(corpus, _number(part, count), hidden, seed))
    elif Path(part).suffix.lower() in MOLECULE_SUFFIXES:
        yield Entry(Path(part).stem, Path(part))
    elif Path(part).suffix.lower() in FILE_SUFFIXES:
        for choice in read_file(Path(part)).choices:
            yield Entry(canonical_name(choice.spelled, f"--system {part}:"))
    else:
        a_word = key.islower() and corpus != "peptide"
        hint = did_you_mean(key, [*LENGTHS, *LONGER]) if a_word else ""
        if hint:
            raise SystemTextError(f"--system {part!r} is no corpus of peptides", hint.strip())
        yield Entry(canonical_name(part))


def _number(part: str, text: str) -> int | None:
    """The number of ``tripeptides:200``, or None where all are wanted."""
    if ":" not in part:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise UsageError(
            f"--system {part!r} does not say how many",
            f"write for example {part.split(':')[0]}:200",
        )
    return int(text)


def corpus_names(
    corpus: str, count: int | None, hidden: frozenset[str] | set[str], seed: int
) -> list[str]:
    """Sequences of a corpus: all in alphabetical order, or a sample without replacement.

    The sample takes sequences in the order of a hash of seed and sequence, so that it does not
    depend on versions of anything, a larger sample begins with the smaller one of the same seed,
    and leaving out a sequence changes no other.

    Sequences of five residues and more are drawn one after another, each from a hash of its number.

    Raises:
        UsageError: there are not as many, or a corpus of longer ones without a number.
    """
    if corpus in LONGER:
        if count is None:
            raise UsageError(
                f"--system {corpus}: there are too many to take all", f"write {corpus}:100"
            )
        return _drawn(LONGER[corpus], count, hidden, seed)
    spelled = ("".join(letters) for letters in product(LETTERS, repeat=LENGTHS[corpus]))
    names = [name for name in spelled if name not in hidden]
    if count is None:
        return names
    if count > len(names):
        raise UsageError(
            f"--system {corpus}:{count}: there are {len(names)} (published validation and test "
            "sequences and excluded ones left out)",
            "ask for fewer",
        )
    return sorted(names, key=lambda name: _rank(seed, name))[:count]


def _drawn(length: int, count: int, hidden: frozenset[str] | set[str], seed: int) -> list[str]:
    """The first sequences of an endless series that are neither hidden nor repeated."""
    if count > len(LETTERS) ** length // 2:
        raise UsageError(f"{count} sequences of {length} residues", "ask for fewer")
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        digest = hashlib.sha256(f"{seed}:{length}:{number}".encode()).digest()
        # three bytes a residue, so that none is likelier by more than two in a million
        places = [int.from_bytes(digest[3 * i : 3 * i + 3], "big") for i in range(length)]
        name = "".join(LETTERS[place % len(LETTERS)] for place in places)
        if name not in hidden:
            found[name] = None
        number += 1
    return list(found)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
