"""Which families a text could belong to, by syntax alone: composition, SMILES, peptide, names."""

from __future__ import annotations

import re

from gensci.core.elements import SYMBOLS
from gensci.core.errors import SystemTextError
from gensci.systems.composition import parse_formula

ELEMENTS = frozenset(SYMBOLS)
# Brackets need a count, else CC(C)O and its like would be formulas too.
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[0-9]*|\((?:[A-Z][a-z]?[0-9]*)+\)[0-9]+)+")
_SMILES_TOKEN = re.compile(
    r"(?P<bracket>\[(?P<element>[0-9]*(?:[A-Z][a-z]?|[a-z]{1,2}|\*))[^\[\]]*\])"
    r"|(?P<atom>Cl|Br|[BCNOPSFI]|[bcnops]|\*)"
    r"|(?P<ring>%[0-9]{2}|[0-9])|(?P<bond>[-=#$:/\\~])|(?P<open>\()|(?P<close>\))|(?P<dot>\.)"
)
_AROMATIC = frozenset("b c n o p s se as te *".split())


def composition(text: str) -> dict[str, int] | None:
    """Atom counts of a chemical formula such as ``TiO2``, or None where it is not one.

    Only what can hardly mean anything else is read; with the prefix ``crystal:`` all that
    ``parse_formula`` knows is.
    """
    if not _FORMULA.fullmatch(text):
        return None
    try:
        return dict(parse_formula(text).counts)
    except SystemTextError:
        return None


def is_smiles(text: str) -> bool:
    """Whether the text obeys the SMILES grammar; see `smiles_fault`."""
    return smiles_fault(text) is None


def smiles_fault(text: str) -> str | None:
    """What breaks the SMILES grammar in a text, or None: atoms, bonds, closed branches and rings.

    Valences are not checked. Reference: Weininger, 1988, doi:10.1021/ci00057a005.
    """
    depth, position = 0, 0
    rings: set[str] = set()
    previous = ""
    while position < len(text):
        token = _SMILES_TOKEN.match(text, position)
        if token is None or not _may_follow(previous, token):
            return f"it cannot be read at position {position} ({text[position]!r})"
        kind = _kind(token)
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            return f"the ) at position {position} closes nothing"
        if kind == "ring":
            rings ^= {token.group().lstrip("%")}
        previous, position = kind, token.end()
    if rings:
        return f"ring bond {min(rings)} is not closed"
    if depth:
        return "a ( is not closed"
    return None if previous in ("atom", "ring", "close") else "it ends before an atom"


def _kind(token: re.Match[str]) -> str:
    kind = token.lastgroup or ""
    return "atom" if kind in ("bracket", "element") else kind


def _may_follow(previous: str, token: re.Match[str]) -> bool:
    """Whether a token may stand behind one of the kind `previous` ("" at the start)."""
    kind = _kind(token)
    element = (token.group("element") or "").lstrip("0123456789")
    if element and element not in ELEMENTS and element not in _AROMATIC:
        return False
    if kind == "atom":
        return True
    if kind in ("ring", "close"):
        return previous in ("atom", "ring", "close") or (kind == "ring" and previous == "bond")
    if kind == "bond":
        return previous in ("atom", "ring", "close", "open")
    return previous in ("atom", "ring", "close")
