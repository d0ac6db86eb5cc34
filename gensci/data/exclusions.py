"""Sequences that must be left out of training: published ones, and those by file or list.

Imports no Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gensci.core.errors import SystemTextError, UsageError
from gensci.core.registry import normalise_name
from gensci.sims.peptide.parse import parse_peptide

_EXAMPLE = 'e.g. {"test": ["AA"]}'
_PUBLISHED = "published_splits.json"


@cache
def published_splits() -> dict[str, str]:
    """The published sequences that models are judged on, each with its split, ``val`` or ``test``.

    Source: evaluation splits of ManyPeptidesMD, Tan et al. 2025, arXiv:2508.18175.
    """
    content = json.loads((files("gensci.data") / _PUBLISHED).read_text(encoding="utf-8"))
    return {name: split for split in ("val", "test") for name in content[split]}


def canonical_name(text: str, option: str = "--system") -> str:
    """The canonical spelling of a peptide, for example ``Ace-A-Nme`` of ``peptide:ace-A-nme``.

    Args:
        text: what the user gave.
        option: how the user gave it, for messages.

    Raises:
        SystemTextError: the text does not spell a peptide.
    """
    stripped = text.strip()
    family, colon, rest = stripped.partition(":")
    if colon and normalise_name(family) != "peptide":
        raise SystemTextError(f"{option} {stripped!r} is not a peptide", "give for example AA")
    try:
        return parse_peptide(rest if colon else stripped).name
    except ValueError as error:
        raise SystemTextError(f"{option}: {error}") from error


def read_excluded(exclude: str | None, option: str = "--exclude") -> frozenset[str]:
    """Sequences to leave out, of a JSON file (every list of texts in it) or a list with commas.

    Args:
        exclude: path of the file, or the sequences; None for none.
        option: how the user gave it, for messages.

    Raises:
        UsageError: the file cannot be read, or holds no sequences.
        SystemTextError: a text spells no peptide.
    """
    if exclude is None:
        return frozenset()
    if not exclude.lower().endswith(".json") and Path(exclude).is_file():
        raise UsageError(f"{option} {exclude} is a file but no .json", _EXAMPLE)
    if not exclude.lower().endswith(".json"):
        return frozenset(canonical_name(text, option) for text in exclude.split(","))
    try:
        content = json.loads(Path(exclude).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{option} {exclude} cannot be read ({error})", "give a JSON file"
        ) from error
    found = frozenset(canonical_name(name, f"{option} {exclude}") for name in _listed(content))
    if not found:
        raise UsageError(f"{option} {exclude} holds no list of sequences", _EXAMPLE)
    return found


def _listed(content: Any) -> Iterator[str]:
    """The texts of all lists in the content of a JSON file, however deep."""
    if isinstance(content, dict):
        for value in content.values():
            yield from _listed(value)
    elif isinstance(content, list):
        for item in content:
            if isinstance(item, str):
                yield item
            else:
                yield from _listed(item)


def refuse_excluded(
    names: list[str],
    exclude: str | None,
    option: str = "--exclude",
    *,
    published: bool = False,
) -> None:
    """Refuse training sequences that are named in ``exclude``, see ``read_excluded``.

    Args:
        names: those to be trained on.
        exclude: path of a file, or the sequences; None for none.
        option: how the user gave it, for messages.
        published: refuse the published validation and test sequences too.

    Raises:
        UsageError: some are there, or ``exclude`` cannot be read.
    """
    found = sorted(read_excluded(exclude, option).intersection(names))
    if found:
        raise UsageError(
            f"training folder holds excluded sequences {', '.join(found[:5])}", "remove them"
        )
    known = sorted(published_splits().keys() & set(names)) if published else []
    if known:
        raise UsageError(
            f"training folder holds published validation or test sequences {', '.join(known[:5])}",
            "remove them, or say --data.include_published true",
        )
