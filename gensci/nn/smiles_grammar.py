"""The grammar of SMILES, piece by piece: what may come next, for many rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.nn.smiles_size import Affordable, affordable
from gensci.nn.smiles_tokens import (
    AROMATIC,
    BONDS,
    DIGITS,
    ELEMENTS,
    ORGANIC,
    PIECE_INDEX,
    SMILES_PIECES,
)

# Where a row stands. In brackets: after [, isotope digits, symbol, chirality, H, its count, sign,
# and charge complete; outside: see the names.
_START, _ATOM, _BRANCHED, _OPEN, _BOND, _BOND_ONLY, _DOT, _RING, _RING_DIGIT = range(9)
_B_OPEN, _B_ISOTOPE, _B_SYMBOL, _B_CHIRAL, _B_HYDROGEN, _B_COUNT, _B_SIGN, _B_CHARGE = range(9, 17)
_BARE_SYMBOL = 17  # after a symbol that takes neither chirality nor hydrogens: H and *
_DONE = 18
_PHASES = 19
_MAX_RINGS = 100
_MAX_DEPTH = 32
# More than one piece can add to the bound below: a ring of two digits costs 3 pieces and an atom.
_SLACK = 8


@dataclass(frozen=True)
class GrammarState:
    """Where each of n rows stands in the grammar; opaque to callers.

    Attributes:
        phase: (n,) int64.
        depth: (n,) int64, open parentheses.
        atom: (n,) int64, index of the atom that the next one is bonded to; -1 at the start.
        atoms: (n,) int64, atoms so far.
        stack: (n, 32) int64, atoms that carry the open parentheses.
        ring_atom: (n, 100) int64, atom that opened the ring bond; -1 where it is not open.
        ring_bond: (n, 100) int64, piece of the bond written at the opening; -1 for none.
        blocked: (n, 100) bool, the ring bond cannot be closed at the present atom.
        bond: (n,) int64, piece of the bond just written; -1 for none.
        digit: (n,) int64, first digit after %; isotope digits so far inside brackets.
        sign: (n,) int64, piece of the charge sign.
    """

    phase: Tensor
    depth: Tensor
    atom: Tensor
    atoms: Tensor
    stack: Tensor
    ring_atom: Tensor
    ring_bond: Tensor
    blocked: Tensor
    bond: Tensor
    digit: Tensor
    sign: Tensor

    def rows(self, parents: Tensor) -> GrammarState:
        """The states of chosen rows, (k,) int64."""
        return GrammarState(**{name: value[parents] for name, value in vars(self).items()})


@cache
def _indices(pieces: tuple[str, ...]) -> Tensor:
    return torch.tensor([PIECE_INDEX[piece] for piece in pieces])


class GrammarMask:
    """Which pieces may follow, so that every finished row parses as SMILES.

    Brackets hold an isotope, a symbol, a chirality, hydrogens and a charge; parentheses balance;
    ring bonds are closed before the end, never on the atom that opened them nor on one that is
    bonded to it already. Ring bonds follow their atom at once, as RDKit writes them. Chirality
    classes (``@SP1``), atom labels and charges above 9 are read by ``tokenize`` but not proposed.
    Valence is not watched: RDKit decides afterwards.

    Tokens are indices of ``SMILES_PIECES``; ``end`` is one more.

    Args:
        pieces: the pieces that may be used at all; all by default.
        max_atoms: most atoms of a row; any number by default.
    """

    end: int = len(SMILES_PIECES)

    def __init__(self, pieces: Sequence[str] | None = None, max_atoms: int | None = None) -> None:
        unknown = sorted(set(pieces or ()) - set(SMILES_PIECES))
        if unknown:
            raise UsageError(f"pieces {unknown} are no pieces of SMILES", "choose SMILES_PIECES")
        self._table = _phase_table()
        if pieces is not None:
            keep = torch.zeros(self.end + 1, dtype=torch.bool)
            keep[_indices(tuple(pieces))] = True
            keep[self.end] = True
            self._table &= keep
        organic = self._table[_START, _indices(ORGANIC)].any()
        bracket = self._table[_START, PIECE_INDEX["["]] & self._table[_B_OPEN].any()
        if not (organic or (bracket and self._table[_B_SYMBOL, PIECE_INDEX["]"]])):
            raise UsageError("pieces hold no atom", "add an atom such as 'C'")
        self._organic, self.max_atoms = bool(organic), max_atoms

    def start(self, n: int) -> GrammarState:
        """The states of n empty rows."""
        zero, none = torch.zeros(n, dtype=torch.int64), torch.full((n,), -1)
        rings = torch.full((n, _MAX_RINGS), -1)
        return GrammarState(
            phase=zero + _START,
            depth=zero,
            atom=none,
            atoms=zero,
            stack=torch.zeros(n, _MAX_DEPTH, dtype=torch.int64),
            ring_atom=rings,
            ring_bond=rings,
            blocked=torch.zeros(n, _MAX_RINGS, dtype=torch.bool),
            bond=none,
            digit=zero,
            sign=none,
        )

    def allowed(self, state: GrammarState, remaining: Tensor | int | None = None) -> Tensor:
        """What may follow, (n, pieces + 1) bool; the last column is the end.

        Args:
            state: where the rows stand.
            remaining: (n,) or one number, pieces (the end included) that still fit. When it gets
                scarce, only pieces that finish the row remain. None: no bound.
        """
        allowed = self._table[state.phase].clone()
        self._restrict_structure(allowed, state)
        usable = _ring_usable(state)
        if self.max_atoms is not None:
            can = affordable(state, self.max_atoms)
            self._restrict_size(allowed, state, can)
            usable = usable & ((state.ring_atom >= 0) | can.ring[:, None])
        self._restrict_rings(allowed, state, usable)
        if remaining is not None:
            scarce = torch.as_tensor(remaining) <= self._pieces_to_finish(state) + _SLACK
            hurried = allowed & self._finishing(state)
            # A row that cannot finish (a bound too small from the start) goes on as it may.
            allowed = torch.where((scarce & hurried.any(1))[:, None], hurried, allowed)
        return allowed

    def advance(
        self, state: GrammarState, tokens: Tensor, parents: Tensor | None = None
    ) -> GrammarState:
        """Row i continues row parents[i] (row i by default) with tokens[i].

        Args:
            state: where the rows stand.
            tokens: (n,) int64, allowed pieces; rows that have ended stay as they are.
            parents: (n,) int64.
        """
        state = state if parents is None else state.rows(parents)
        before, state = state, _advance_brackets(state, tokens)
        state = _advance_rings(state, before.phase, tokens)
        state = _advance_branches(state, before.phase, tokens)
        placed = (_isin(tokens, ORGANIC) & (before.phase < _RING)) | (tokens == PIECE_INDEX["]"])
        state = _place_atom(state, placed)
        ended = (tokens == self.end) | (before.phase == _DONE)
        return replace(state, phase=torch.where(ended, _DONE, state.phase))

    def _restrict_structure(self, allowed: Tensor, state: GrammarState) -> None:
        closed = state.depth == 0
        allowed[:, PIECE_INDEX[")"]] &= ~closed
        allowed[:, PIECE_INDEX["("]] &= state.depth < _MAX_DEPTH
        allowed[:, PIECE_INDEX["."]] &= closed
        unfinished = ~closed | (state.ring_atom >= 0).any(1)
        allowed[:, self.end] &= ~unfinished | (state.phase == _DONE)
        in_isotope = state.phase == _B_ISOTOPE
        allowed[:, _indices(DIGITS)] &= ~(in_isotope & (state.digit >= 3))[:, None]
        for sign in "+-":
            other = (state.phase == _B_SIGN) & (state.sign != PIECE_INDEX[sign])
            allowed[:, PIECE_INDEX[sign]] &= ~other

    def _restrict_size(self, allowed: Tensor, state: GrammarState, can: Affordable) -> None:
        outside = state.phase < _RING
        growing = _indices((*ORGANIC, *BONDS, "[", "(", "."))
        allowed[:, growing] &= (can.atom | ~outside)[:, None]
        allowed[:, PIECE_INDEX[")"]] &= can.closing | ~outside

    def _restrict_rings(self, allowed: Tensor, state: GrammarState, usable: Tensor) -> None:
        digits = _indices(DIGITS)
        direct = (state.phase == _ATOM) | (state.phase == _BOND)
        allowed[:, digits] &= ~direct[:, None] | usable[:, :10]
        tens = usable.view(-1, 10, 10)
        tens = torch.cat([torch.zeros_like(tens[:, :1]), tens[:, 1:]], 1)
        allowed[:, PIECE_INDEX["%"]] &= tens.any((1, 2))
        allowed[:, digits] &= (state.phase != _RING)[:, None] | tens.any(2)
        second = tens[torch.arange(len(tens)), state.digit.clamp(0, 9)]
        allowed[:, digits] &= (state.phase != _RING_DIGIT)[:, None] | second

    def _pieces_to_finish(self, state: GrammarState) -> Tensor:
        """(n,) upper bound on the pieces that ``_finishing`` needs, the end included."""
        is_open = state.ring_atom >= 0
        digits = is_open[:, :10].sum(1) + 3 * is_open[:, 10:].sum(1)
        atoms = (is_open.sum(1) + 2) * (1 if self._organic else 3)
        return digits + atoms + state.depth + 4

    def _finishing(self, state: GrammarState) -> Tensor:
        """(n, pieces + 1): close rings where possible, else place an atom, then ``)``, then end."""
        pieces = torch.zeros(len(state.phase), self.end + 1, dtype=torch.bool)
        is_open = (state.ring_atom >= 0).any(1)
        closable = (state.ring_atom >= 0) & ~state.blocked & _bonds_agree(state)
        closable &= ((state.phase == _ATOM) | (state.phase == _BOND))[:, None]
        short, long = closable[:, :10], closable[:, 10:].any(1)
        pieces[:, _indices(DIGITS)] = short
        pieces[:, PIECE_INDEX["%"]] = ~short.any(1) & long
        outside = (state.phase < _RING) & ~closable.any(1)
        rest = (state.phase == _ATOM) | (state.phase == _BRANCHED)
        atom = outside & (is_open | ~rest)
        atoms = _indices(ORGANIC) if self._organic else torch.tensor([PIECE_INDEX["["]])
        pieces[:, atoms] = atom[:, None]
        pieces[:, PIECE_INDEX[")"]] = outside & rest & ~is_open
        pieces[:, self.end] = outside & rest & ~is_open | (state.phase == _DONE)
        inside = (state.phase >= _B_SYMBOL) & (state.phase < _DONE)
        pieces[:, PIECE_INDEX["]"]] |= inside
        symbols = (state.phase == _B_OPEN) | (state.phase == _B_ISOTOPE)
        pieces[:, _indices((*ELEMENTS, *AROMATIC, "*"))] |= symbols[:, None]
        ring_digits = self._closing_digits(state)
        pieces[:, _indices(DIGITS)] |= ring_digits
        return pieces

    def _closing_digits(self, state: GrammarState) -> Tensor:
        """(n, 10) the digits that close an open ring bond after %, any digit if there is none."""
        closable = ((state.ring_atom >= 0) & ~state.blocked & _bonds_agree(state)).view(-1, 10, 10)
        second = closable[torch.arange(len(closable)), state.digit.clamp(0, 9)]
        first = closable.any(2) & (torch.arange(10) > 0)
        digits = torch.where((state.phase == _RING)[:, None], first, second)
        digits = torch.where(digits.any(1, keepdim=True), digits, torch.ones_like(digits))
        return digits & ((state.phase == _RING) | (state.phase == _RING_DIGIT))[:, None]


def _phase_table() -> Tensor:
    """(phases, pieces + 1) bool, what may follow by the phase alone."""
    table = torch.zeros(_PHASES, len(SMILES_PIECES) + 1, dtype=torch.bool)
    atoms = ("[", *ORGANIC)
    signs = ("+", "-")
    may_follow = {
        _START: atoms,
        _ATOM: (*atoms, *BONDS, *DIGITS, "%", "(", ")", "."),
        _BRANCHED: (*atoms, *BONDS, "(", ")", "."),
        _OPEN: (*atoms, *BONDS),
        _BOND: (*atoms, *DIGITS, "%"),
        _BOND_ONLY: atoms,
        _DOT: atoms,
        _RING: DIGITS[1:],
        _RING_DIGIT: DIGITS,
        _B_OPEN: (*DIGITS[1:], *ELEMENTS, *AROMATIC, "*"),
        _B_ISOTOPE: (*DIGITS, *ELEMENTS, *AROMATIC, "*"),
        _B_SYMBOL: ("@", "@@", "H", *signs, "]"),
        _BARE_SYMBOL: (*signs, "]"),
        _B_CHIRAL: ("H", *signs, "]"),
        _B_HYDROGEN: (*DIGITS[1:], *signs, "]"),
        _B_COUNT: (*signs, "]"),
        _B_SIGN: (*DIGITS[1:], *signs, "]"),
        _B_CHARGE: ("]",),
    }
    for phase, pieces in may_follow.items():
        table[phase, _indices(pieces)] = True
    table[[_ATOM, _BRANCHED, _DONE], -1] = True
    return table


def _isin(tokens: Tensor, pieces: tuple[str, ...]) -> Tensor:
    return torch.isin(tokens, _indices(pieces))


def _bonds_agree(state: GrammarState) -> Tensor:
    """(n, 100) the bond just written may close the ring bond: both ends say the same, or one."""
    return (
        (state.bond[:, None] < 0)
        | (state.ring_bond < 0)
        | (
            (state.bond[:, None] == state.ring_bond)
            & ~torch.isin(state.ring_bond, _indices(("/", "\\")))
        )
    )


def _ring_usable(state: GrammarState) -> Tensor:
    """(n, 100) ring bonds that may be opened or closed here."""
    one_sided = _isin(state.bond, ("~", "->", "<-"))
    is_open = state.ring_atom >= 0
    return (~is_open | (~state.blocked & _bonds_agree(state))) & ~one_sided[:, None]


def _advance_brackets(state: GrammarState, tokens: Tensor) -> GrammarState:
    """Phases inside of brackets."""
    phase, old = state.phase.clone(), state.phase
    inside = (old >= _B_OPEN) & (old < _DONE)
    is_digit = _isin(tokens, DIGITS)
    is_sign = _isin(tokens, ("+", "-"))
    naming = (old == _B_OPEN) | (old == _B_ISOTOPE)
    hydrogen = tokens == PIECE_INDEX["H"]
    phase[(tokens == PIECE_INDEX["["]) & ~inside] = _B_OPEN
    phase[naming & is_digit] = _B_ISOTOPE
    phase[naming & ~is_digit] = _B_SYMBOL
    phase[naming & _isin(tokens, ("H", "*"))] = _BARE_SYMBOL
    phase[inside & _isin(tokens, ("@", "@@"))] = _B_CHIRAL
    phase[inside & ~naming & hydrogen] = _B_HYDROGEN
    phase[(old == _B_HYDROGEN) & is_digit] = _B_COUNT
    phase[inside & is_sign] = _B_SIGN
    # one sign more, or a number, completes the charge
    phase[(old == _B_SIGN) & (is_sign | is_digit)] = _B_CHARGE
    sign = torch.where(inside & is_sign, tokens, state.sign)
    isotope = torch.where(naming & is_digit, state.digit + 1, state.digit)
    isotope = torch.where(~inside, torch.zeros_like(isotope), isotope)
    digit = torch.where(old == _RING_DIGIT, state.digit, isotope)
    return replace(state, phase=phase, sign=sign, digit=digit)


def _advance_rings(state: GrammarState, old: Tensor, tokens: Tensor) -> GrammarState:
    """Ring bonds: opened, or closed where they are open."""
    value = tokens - PIECE_INDEX["0"]
    is_digit = _isin(tokens, DIGITS)
    direct = ((old == _ATOM) | (old == _BOND)) & is_digit
    second = (old == _RING_DIGIT) & is_digit
    number = torch.where(second, 10 * state.digit + value, value).clamp(0, _MAX_RINGS - 1)
    used = torch.zeros_like(state.blocked)
    used[torch.arange(len(used)), number] = direct | second
    is_open = state.ring_atom >= 0
    closing, opening = used & is_open, used & ~is_open
    partner = torch.where(closing, state.ring_atom, -1).amax(1, keepdim=True)
    # Closed once, the pair is bonded: the other ring bonds of that atom cannot close here.
    blocked = state.blocked | opening | ((partner >= 0) & (state.ring_atom == partner))
    ring_atom = torch.where(closing, -1, state.ring_atom)
    ring_atom = torch.where(opening, state.atom[:, None], ring_atom)
    ring_bond = torch.where(opening, state.bond[:, None], state.ring_bond)
    phase = state.phase.clone()
    phase[((old == _ATOM) | (old == _BOND)) & (tokens == PIECE_INDEX["%"])] = _RING
    phase[(old == _RING) & is_digit] = _RING_DIGIT
    phase[direct | second] = _ATOM
    return replace(
        state,
        phase=phase,
        ring_atom=ring_atom,
        ring_bond=ring_bond,
        blocked=blocked,
        bond=torch.where(direct | second, -1, state.bond),
        digit=torch.where((old == _RING) & is_digit, value, state.digit),
    )


def _advance_branches(state: GrammarState, old: Tensor, tokens: Tensor) -> GrammarState:
    """Parentheses, bonds and dots."""
    outside = old < _RING
    opens = outside & (tokens == PIECE_INDEX["("])
    closes = outside & (tokens == PIECE_INDEX[")"])
    bonds = outside & _isin(tokens, BONDS)
    dots = outside & (tokens == PIECE_INDEX["."])
    rows = torch.arange(len(old))
    stack = state.stack.clone()
    top = state.depth.clamp(max=_MAX_DEPTH - 1)
    stack[rows, top] = torch.where(opens, state.atom, stack[rows, top])
    below = stack[rows, (state.depth - 1).clamp(min=0)]
    phase = state.phase.clone()
    phase[opens], phase[closes], phase[dots] = _OPEN, _BRANCHED, _DOT
    phase[bonds] = torch.where(old[bonds] == _ATOM, _BOND, _BOND_ONLY)
    atom = torch.where(closes, below, state.atom)
    return replace(
        state,
        phase=phase,
        stack=stack,
        depth=state.depth + opens.long() - closes.long(),
        atom=torch.where(dots, -1, atom),
        bond=torch.where(bonds, tokens, state.bond),
    )


def _place_atom(state: GrammarState, placed: Tensor) -> GrammarState:
    """A new atom, bonded to the present one."""
    # Ring bonds opened by the neighbour cannot close here: the two are bonded already.
    blocked = (state.ring_atom >= 0) & (state.ring_atom == state.atom[:, None])
    return replace(
        state,
        phase=torch.where(placed, _ATOM, state.phase),
        atom=torch.where(placed, state.atoms, state.atom),
        atoms=state.atoms + placed.long(),
        blocked=torch.where(placed[:, None], blocked, state.blocked),
        bond=torch.where(placed, -1, state.bond),
    )
