"""SMILES as a sequence of pieces from a closed vocabulary.

A piece is what the grammar of SMILES calls a terminal (Weininger 1988, doi:10.1021/ci00057a005;
OpenSMILES 1.0): an element symbol, a digit, a bond, a parenthesis. The vocabulary holds every
element, so that no molecule is ever unknown, and context decides the reading: ``[Sc]`` is scandium,
``Sc`` outside of brackets is sulphur followed by aromatic carbon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gensci.core.elements import SYMBOLS
from gensci.core.errors import UsageError

ELEMENTS = SYMBOLS
ORGANIC: tuple[str, ...] = tuple("B C N O P S F Cl Br I b c n o p s *".split())
AROMATIC: tuple[str, ...] = tuple("b c n o p s se as te si".split())
BONDS: tuple[str, ...] = ("-", "=", "#", "$", ":", "/", "\\", "~", "->", "<-")
DIGITS = tuple("0123456789")
_CLASSES = ("@TH", "@AL", "@SP", "@TB", "@OH")

SMILES_PIECES: tuple[str, ...] = (
    *("[", "]", "(", ")", ".", "%", "@", "@@", *_CLASSES, "+", "*"),
    *BONDS,
    *DIGITS,
    *AROMATIC,
    *ELEMENTS,
)
PIECE_INDEX: dict[str, int] = {piece: k for k, piece in enumerate(SMILES_PIECES)}

_symbols = "|".join(sorted((*ELEMENTS, *AROMATIC), key=len, reverse=True))
_BRACKET = re.compile(
    rf"\[(?P<isotope>\d*)(?P<symbol>{_symbols}|\*)"
    r"(?P<chirality>@(?:TH|AL)[12]|@SP[1-3]|@(?:TB|OH)[1-3]?\d|@@?)?"
    r"(?P<hydrogens>H\d?)?(?P<charge>\++\d{0,2}|-+\d{0,2})?(?P<label>:\d+)?\]"
)
_OUTSIDE = re.compile(r"Cl|Br|[BCNOPSFIbcnops*]|->|<-|[-=#$:/\\~.()\d\[]|%(?=\d\d|\(\d+\))")
_INSIDE = re.compile(r"@(?:TH|AL|SP|TB|OH|@)?|.")


def tokenize(smiles: str) -> list[str]:
    """Cut a SMILES into pieces of ``SMILES_PIECES``; ``join`` gives the text back.

    Brackets are read in full; parentheses must balance. Whether rings close and valences hold is
    for RDKit to say.

    Raises:
        UsageError: the text, with the position (from 0) where reading stops.
    """
    pieces, at, depth = [], 0, 0
    while at < len(smiles):
        found = _BRACKET.match(smiles, at) if smiles[at] == "[" else _OUTSIDE.match(smiles, at)
        depth += {"(": 1, ")": -1}.get(smiles[at], 0)
        if found is None or depth < 0:
            raise _unreadable(smiles, at)
        pieces += _bracket_pieces(found) if smiles[at] == "[" else [found.group()]
        at = found.end()
    if depth or not pieces:
        raise _unreadable(smiles, at)
    return pieces


def join(pieces: Iterable[str]) -> str:
    """The SMILES of its pieces."""
    return "".join(pieces)


def _bracket_pieces(atom: re.Match[str]) -> list[str]:
    before = list(atom["isotope"])
    after = atom.string[atom.end("symbol") : atom.end() - 1]
    return ["[", *before, atom["symbol"], *_INSIDE.findall(after), "]"]


def _unreadable(smiles: str, at: int) -> UsageError:
    what = f"{smiles[at]!r}" if at < len(smiles) else "the end"
    return UsageError(
        f"the SMILES {smiles!r} cannot be read at position {at} ({what})",
        "write the molecule as SMILES, for example CCO or c1ccccc1[N+](=O)[O-]",
    )
