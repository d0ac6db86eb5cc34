"""Which tokens may come next when a new crystal or molecule is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gensci.core.elements import SYMBOLS
from gensci.core.errors import UsageError
from gensci.nn.smiles_grammar import GrammarMask
from gensci.nn.structure_vocabulary import Vocabulary


class Constraint(Protocol):
    """Follows rows of tokens and tells what may come next."""

    def start(self, n: int) -> Any:
        """The state of n empty rows."""
        ...

    def allowed(self, state: Any) -> Tensor:
        """(n, V) booleans."""
        ...

    def advance(self, state: Any, tokens: Tensor, parents: Tensor) -> Any:
        """Row i continues row ``parents[i]`` with ``tokens[i]``."""
        ...


class Written(NamedTuple):
    """What rows (n,) of element tokens hold.

    Attributes:
        atoms: how many atoms.
        last: the element being written.
        run: how many of it.
        least: how many of it there must be before another may follow.
        used: (n, 119) elements that were written.
    """

    atoms: Tensor
    last: Tensor
    run: Tensor
    least: Tensor
    used: Tensor


class ElementConstraint:
    """Elements in the order of training, one token for each atom, and then the coordinates.

    That order (`element_order`) is by count, and by falling atomic number where counts are equal;
    without it one crystal would have many spellings.

    Args:
        vocabulary: of the model.
        elements: atomic numbers that may be used; all by default.
        num_atoms: exactly how many atoms, or None.
        max_atoms: the most where ``num_atoms`` is None.

    Raises:
        UsageError: more atoms are wanted than the model knows.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        elements: Iterable[int] | None,
        num_atoms: int | None,
        max_atoms: int,
    ):
        if num_atoms is not None and not 1 <= num_atoms <= max_atoms:
            raise UsageError(f"num_atoms={num_atoms} is not usable", f"choose 1 to {max_atoms}")
        allowed = set(range(1, len(SYMBOLS) + 1) if elements is None else elements)
        self.numbers = torch.zeros(len(vocabulary), dtype=torch.long)
        for token, number in vocabulary.element_tokens().items():
            self.numbers[token] = number if number in allowed else 0
        self.end, self.num_atoms = vocabulary.coordinates, num_atoms
        self.most = max_atoms if num_atoms is None else num_atoms

    def start(self, n: int) -> Written:
        """No atoms yet."""
        zero = torch.zeros(n, dtype=torch.long)
        return Written(zero, zero, zero, zero, torch.zeros(n, len(SYMBOLS) + 1, dtype=torch.bool))

    def allowed(self, state: Written) -> Tensor:
        """(n, V) booleans."""
        atoms, last, run = (part.unsqueeze(-1) for part in (state.atoms, state.last, state.run))
        enough = run >= state.least.unsqueeze(-1)
        again = (self.numbers == last) & (atoms < self.most)
        needed = run + (self.numbers > last) * (last > 0)  # of a new element
        other = ~state.used[:, self.numbers] & (atoms + needed.clamp(min=1) <= self.most)
        fitting = (self.numbers > 0) & (again | (enough & other))
        whole = state.atoms > 0 if self.num_atoms is None else state.atoms == self.num_atoms
        fitting[:, self.end] = whole & enough.squeeze(-1)
        return fitting

    def advance(self, state: Written, tokens: Tensor, parents: Tensor) -> Written:
        """Count one more atom; a row that ended stays."""
        number, parents = self.numbers[tokens.cpu()], parents.cpu()
        atoms, last, run, least, used = (part[parents] for part in state)
        new, real = number != last, number > 0
        least = torch.where(new & real, run + ((number > last) & (last > 0)), least)
        run = torch.where(new, torch.ones_like(run), run + 1)
        used = used.scatter(1, number.unsqueeze(-1), True)
        used[:, 0] = False
        return Written(
            atoms + real,
            torch.where(real, number, last),
            torch.where(real, run, state.run[parents]),
            least,
            used,
        )


class Spelled(NamedTuple):
    """State of the grammar, and tokens (n,) written so far."""

    grammar: Any
    length: Tensor


class SmilesConstraint:
    """SMILES that parse, of some elements and a bounded length.

    Args:
        vocabulary: of the model.
        pieces: pieces of SMILES that may be used; all that the vocabulary has by default.
        max_tokens: most tokens, the opening of the coordinates included.
        max_atoms: most atoms that are written, or None.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        pieces: Iterable[str] | None,
        max_tokens: int,
        max_atoms: int | None = None,
    ):
        from gensci.nn.smiles_tokens import SMILES_PIECES

        self.mask = GrammarMask(None if pieces is None else list(pieces), max_atoms)
        self.size, self.max_tokens = len(vocabulary), max_tokens
        tokens = [vocabulary.piece(piece) for piece in SMILES_PIECES] + [vocabulary.coordinates]
        self.tokens = torch.tensor(tokens)
        self.pieces = torch.full((self.size,), GrammarMask.end)
        self.pieces[self.tokens] = torch.arange(len(tokens))

    def start(self, n: int) -> Spelled:
        """Empty rows."""
        return Spelled(self.mask.start(n), torch.zeros(n, dtype=torch.long))

    def allowed(self, state: Spelled) -> Tensor:
        """(n, V) booleans."""
        fitting = self.mask.allowed(state.grammar, self.max_tokens - state.length)
        out = torch.zeros(len(fitting), self.size, dtype=torch.bool)
        out[:, self.tokens] = fitting
        return out

    def advance(self, state: Spelled, tokens: Tensor, parents: Tensor) -> Spelled:
        """Follow the grammar; rows that ended stay as they are."""
        parents = parents.cpu()
        grammar = self.mask.advance(state.grammar, self.pieces[tokens.cpu()], parents)
        return Spelled(grammar, state.length[parents] + 1)
