"""Chemical formulas to atoms: ``TiO2``, ``Ca(OH)2``, ``[Co(NH3)6]Cl3``, in the order written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import groupby

from gensci.core.elements import NUMBERS
from gensci.core.errors import SystemTextError, UsageError

MAX_ATOMS = 1000
_TOKEN = re.compile(r"(?P<element>[A-Z][a-z]?)|(?P<open>[(\[])|(?P<close>[)\]])")
_COUNT = re.compile(r"[0-9]*")
_BRACKETS = {"(": ")", "[": "]"}
_LIKE = "write it like crystal:TiO2"


@dataclass(frozen=True)
class Composition:
    """How many atoms of which elements.

    Attributes:
        counts: (symbol, count) in the order of first appearance.
    """

    counts: tuple[tuple[str, int], ...]

    @property
    def num_atoms(self) -> int:
        """All atoms together."""
        return sum(count for _, count in self.counts)

    @property
    def units(self) -> int:
        """How many formula units these atoms are: 4 for Ti4O8."""
        return math.gcd(*(count for _, count in self.counts))

    @property
    def numbers(self) -> tuple[int, ...]:
        """One atomic number for every atom, element by element."""
        return tuple(NUMBERS[symbol] for symbol, count in self.counts for _ in range(count))

    @property
    def formula(self) -> str:
        """The formula, with counts of one left out."""
        return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in self.counts)

    def times(self, factor: int) -> Composition:
        """Return the composition of several such units."""
        return Composition(tuple((symbol, count * factor) for symbol, count in self.counts))

    @property
    def reduced(self) -> Composition:
        """The composition of one formula unit."""
        return Composition(tuple((symbol, count // self.units) for symbol, count in self.counts))


def parse_formula(text: str) -> Composition:
    """Read a chemical formula; counts of repeated symbols add up.

    Args:
        text: For example ``TiO2`` or ``Ca(OH)2``, brackets round or square.

    Raises:
        SystemTextError: Anything but whole counts of known elements; the line names the fault.
    """
    _check_signs(text)
    stack: list[dict[str, int]] = [{}]
    brackets: list[str] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise _unread(text, position)
        kind, written = token.lastgroup, token.group()
        position = token.end()
        if kind == "open":
            stack.append({})
            brackets.append(written)
            continue
        count, position = _count(text, position)
        if kind == "element":
            _add(stack[-1], {_known(text, written): 1}, count)
        else:
            if not brackets or _BRACKETS[brackets.pop()] != written:
                raise SystemTextError(f"composition {text!r}: {written!r} closes nothing", _LIKE)
            group = stack.pop()
            if not group:
                raise SystemTextError(f"composition {text!r} has empty brackets", _LIKE)
            _add(stack[-1], group, count)
    if brackets:
        raise SystemTextError(f"composition {text!r}: {brackets[-1]!r} is not closed", _LIKE)
    return _checked(text, stack[0])


def parse_elements(text: str) -> tuple[int, ...]:
    """Atomic numbers of a list such as ``Ti, O`` in rising order.

    Raises:
        UsageError: An entry is no element, or there is none.
    """
    symbols = [part.strip() for part in text.split(",") if part.strip()]
    for symbol in symbols:
        if symbol not in NUMBERS:
            hint = f"did you mean {symbol.capitalize()}? " if symbol.capitalize() in NUMBERS else ""
            raise UsageError(f"--system.elements: no element {symbol!r}", f"{hint}give Ti,O")
    if not symbols:
        raise UsageError("--system.elements is empty", "give for example Ti,O, or leave it out")
    return tuple(sorted({NUMBERS[symbol] for symbol in symbols}))


def recased(text: str) -> str | None:
    """The formula that `text` becomes in the right case, of the fewest symbols: TIO2 -> TiO2.

    Returns:
        None where no case makes it one, or it is one already.
    """
    parts = ["".join(run) for _, run in groupby(text, key=str.isalpha)]
    fixed = [_recased_run(part) if part.isalpha() else part for part in parts]
    if not text.isascii() or any(part is None for part in fixed):
        return None
    joined = "".join(part for part in fixed if part)
    if joined == text or not joined:
        return None
    try:
        return joined if parse_formula(joined) else None
    except SystemTextError:
        return None


def _recased_run(letters: str) -> str | None:
    """Letters split into the fewest symbols, or None."""
    best: list[tuple[str, ...] | None] = [()]
    for end in range(1, len(letters) + 1):
        ways = [
            (*before, symbol)
            for size in (2, 1)
            if size <= end and (before := best[end - size]) is not None
            if (symbol := letters[end - size : end].capitalize()) in NUMBERS
        ]
        best.append(min(ways, key=len) if ways else None)
    found = best[-1]
    return None if found is None else "".join(found)


def _check_signs(text: str) -> None:
    """Refuse what is often written in formulas but is no cell of whole atoms."""
    if not text:
        raise SystemTextError("the composition is empty", _LIKE)
    if re.search(r"[.·*]", text):
        raise SystemTextError(
            f"composition {text!r}: a point may mean a fractional count or water of crystals",
            "give whole numbers, Fe5O8 for Fe2.5O4 and CuSO4(H2O)5 for CuSO4.5H2O",
        )
    if re.search(r"[-+]", text):
        raise SystemTextError(
            f"composition {text!r}: a crystal has no charge", "leave the signs out"
        )
    if re.search(r"\s", text):
        joined = "".join(text.split())
        raise SystemTextError(f"composition {text!r} has blanks", f"write {joined}")


def _unread(text: str, position: int) -> SystemTextError:
    sign = text[position]
    hint = recased(text)
    remedy = f"did you mean {hint}? {_LIKE}" if hint else _LIKE
    if sign in "0123456789":
        return SystemTextError(f"composition {text!r} begins with a number", _LIKE)
    return SystemTextError(f"composition {text!r}: {sign!r} is no element", remedy)


def _known(text: str, symbol: str) -> str:
    if symbol in NUMBERS:
        return symbol
    hint = recased(text)
    remedy = f"did you mean {hint}? {_LIKE}" if hint else _LIKE
    if symbol in ("D", "T") and not hint:
        remedy = "write isotopes of hydrogen as H"
    raise SystemTextError(f"composition {text!r}: unknown element {symbol!r}", remedy)


def _count(text: str, position: int) -> tuple[int, int]:
    """The count that stands at `position`, one where there is none, and where it ends."""
    match = _COUNT.match(text, position)
    digits = match.group() if match else ""
    if digits.startswith("0"):
        raise SystemTextError(
            f"composition {text!r} has the count {digits!r}",
            "leave the element out, or give a count from 1 without leading zeros",
        )
    if len(digits) > 9:
        raise _too_many(text)
    return int(digits or 1), position + len(digits)


def _add(counts: dict[str, int], group: dict[str, int], factor: int) -> None:
    for symbol, count in group.items():
        counts[symbol] = counts.get(symbol, 0) + count * factor


def _checked(text: str, counts: dict[str, int]) -> Composition:
    found = Composition(tuple(counts.items()))
    if found.num_atoms > MAX_ATOMS:
        raise _too_many(text)
    return found


def _too_many(text: str) -> SystemTextError:
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return SystemTextError(
        f"composition {shown!r} has more than {MAX_ATOMS} atoms", "give a smaller cell"
    )
