"""Typical bond lengths in pm and valences, by which EDM decides whether an atom is stable.

Ref: Hoogeboom et al. 2022, arXiv:2203.17003, appendix C.2; a bond of order 1, 2 or 3 is at most
10, 5 or 3 pm longer than the table says. The published file knows C=S for one order of the two
atoms only; here the order does not matter.
"""

from __future__ import annotations

import functools

import numpy as np

from gensci.core.elements import NUMBERS

MARGINS = (10.0, 5.0, 3.0)
"""pm above the lengths of single, double and triple bonds."""

_SINGLE = """
H: H 74 C 109 N 101 O 96 F 92 B 119 Si 148 P 144 As 152 S 134 Cl 127 Br 141 I 161
C: C 154 N 147 O 143 F 135 Si 185 P 184 S 182 Cl 177 Br 194 I 214
N: N 145 O 140 F 136 Cl 175 Br 214 S 168 I 222 P 177
O: O 148 F 142 Br 172 S 151 P 163 Si 163 Cl 164 I 194
F: F 142 S 158 Si 160 Cl 166 Br 178 P 156 I 187
B: Cl 175
Si: Si 233 S 200 Cl 202 Br 215 I 243
Cl: Cl 199 P 203 S 207 Br 214
S: S 204 Br 225 P 210 I 234
Br: Br 228 P 222
P: P 221
I: I 266
"""
_DOUBLE = """
C: C 134 N 129 O 120 S 160
N: N 125 O 121
O: O 121 P 150
P: S 186
"""
_TRIPLE = """
C: C 120 N 116 O 113
N: N 110
"""
_VALENCES = {
    "H": (1,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "B": (3,), "Al": (3,), "Si": (4,),
    "P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2),
    "Bi": (3, 5),
}  # fmt: skip
_MOST_VALENCE = 12


@functools.lru_cache(maxsize=1)
def bond_limits() -> np.ndarray:
    """Greatest lengths (3, 119, 119) in pm of bonds of order 1, 2, 3; zero where there is none."""
    limits = np.zeros((3, 119, 119))
    tables = (_SINGLE, _DOUBLE, _TRIPLE)
    for order, (text, margin) in enumerate(zip(tables, MARGINS, strict=True)):
        for line in text.strip().splitlines():
            first, _, rest = line.partition(":")
            words = rest.split()
            for second, length in zip(words[::2], words[1::2], strict=True):
                a, b = NUMBERS[first], NUMBERS[second]
                limits[order, a, b] = limits[order, b, a] = float(length) + margin
    return limits


@functools.lru_cache(maxsize=1)
def allowed_valences() -> np.ndarray:
    """Whether an element may have a sum of bond orders: (119, 13) booleans."""
    allowed = np.zeros((119, _MOST_VALENCE + 1), dtype=bool)
    for symbol, valences in _VALENCES.items():
        allowed[NUMBERS[symbol], list(valences)] = True
    return allowed
