"""Which families a text could belong to, by syntax alone: composition, SMILES, peptide, names."""

from __future__ import annotations

import re

ELEMENTS = frozenset(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
    Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho
    Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es
    Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
    """.split()
)
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[0-9]*)+")
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)([0-9]*)")
_SMILES_TOKEN = re.compile(
    r"(?P<bracket>\[(?P<element>[0-9]*(?:[A-Z][a-z]?|[a-z]{1,2}|\*))[^\[\]]*\])"
    r"|(?P<atom>Cl|Br|[BCNOPSFI]|[bcnops]|\*)"
    r"|(?P<ring>%[0-9]{2}|[0-9])|(?P<bond>[-=#$:/\\~])|(?P<open>\()|(?P<close>\))|(?P<dot>\.)"
)
_AROMATIC = frozenset("b c n o p s se as te *".split())


def composition(text: str) -> dict[str, int] | None:
    """Atom counts of a chemical formula such as ``TiO2``, or None where it is not one.

    Repeated symbols add up, as in ``CH3CH2OH``; a count of zero or with a leading zero is refused.
    """
    if not _FORMULA.fullmatch(text):
        return None
    counts: dict[str, int] = {}
    for symbol, number in _FORMULA_PART.findall(text):
        if symbol not in ELEMENTS or number.startswith("0"):
            return None
        counts[symbol] = counts.get(symbol, 0) + int(number or 1)
    return counts


def is_smiles(text: str) -> bool:
    """Whether the text obeys the SMILES grammar: atoms, bonds, closed branches and closed rings.

    Valences are not checked. Reference: Weininger, 1988, doi:10.1021/ci00057a005.
    """
    depth, position = 0, 0
    rings: set[str] = set()
    previous = ""
    while position < len(text):
        token = _SMILES_TOKEN.match(text, position)
        if token is None or not _may_follow(previous, token):
            return False
        kind = _kind(token)
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            return False
        if kind == "ring":
            rings ^= {token.group().lstrip("%")}
        previous, position = kind, token.end()
    return depth == 0 and not rings and previous in ("atom", "ring", "close")


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
