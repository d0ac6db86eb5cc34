"""Dictionaries of the published UniGenX (Zhang et al. 2025, arXiv:2503.06687).

Weights and dictionary are a pair that nothing in the published files ties together; here the
dictionary is part of the settings, under a SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gensci.core.elements import SYMBOLS
from gensci.core.errors import CheckpointError, UsageError

FIRST = ("<pad>", "<bos>", "<eos>", "<unk>")
LAST = ("<mask>", "<coord>", "<sg>")
CRYSTAL_PREFIX, CRYSTAL_MARK = "<m>", "<material>"
MARKERS = (
    "<band>", "<bulk>", "<mag>", "<k_avg_cleaned>", "<E_hill>", "<density>", "<heat_capacity_300K>",
)  # fmt: skip


class PublishedVocabulary:
    """Numbered tokens: four specials, the entries of a dictionary, three specials.

    Args:
        tokens: All of them, in order.

    Raises:
        CheckpointError: The specials are not where they belong, or a token is there twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self._index = {token: i for i, token in enumerate(self.tokens)}
        ends = self.tokens[: len(FIRST)] == FIRST and self.tokens[-len(LAST) :] == LAST
        if not ends or len(self._index) != len(self.tokens):
            raise CheckpointError(
                "this is no vocabulary of the published UniGenX: specials out of place or a token "
                "twice",
                "give the dictionary file that came with the weights",
            )
        self.pad, self.begin, self.end, self.unknown = range(len(FIRST))
        self.slot, self.coordinates, _ = range(len(self.tokens) - len(LAST), len(self.tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of_dictionary(cls, entries: Sequence[str]) -> PublishedVocabulary:
        """The vocabulary of a published dictionary file, given by its lines without specials."""
        if tuple(entries[: len(FIRST)]) == FIRST:
            return cls(entries)
        return cls((*FIRST, *entries, *LAST))

    @classmethod
    def material(cls) -> PublishedVocabulary:
        """Elements and space groups, 355 tokens: crystals of given composition."""
        return cls.of_dictionary([*SYMBOLS, *_space_groups(1)])

    @classmethod
    def conditional_material(cls) -> PublishedVocabulary:
        """The same size, but properties in the place of the first seven space groups."""
        return cls.of_dictionary([*SYMBOLS, *MARKERS, *_space_groups(1 + len(MARKERS))])

    @property
    def sha256(self) -> str:
        """SHA-256 of the tokens, one on a line, in hexadecimal."""
        return hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode()).hexdigest()

    def index(self, token: str) -> int:
        """Number of a token.

        Raises:
            UsageError: It is not in the vocabulary. The published code read it as `<unk>`.
        """
        if token not in self._index:
            raise UsageError(
                f"{token!r} is not in the vocabulary of this model",
                "use weights that were trained with it",
            )
        return self._index[token]

    def crystal_prompt(self, numbers: Sequence[int]) -> list[int]:
        """Tokens before the lattice of a crystal with these atomic numbers, in their order.

        Raises:
            UsageError: An element is not in the vocabulary.
        """
        unified = CRYSTAL_MARK in self._index
        prefix = CRYSTAL_PREFIX if unified else ""
        start = [self.begin, *([self.index(CRYSTAL_MARK)] if unified else [])]
        elements = (f"{prefix}{_symbol(number)}" for number in numbers)
        return [*start, *(self.index(element) for element in elements), self.coordinates]


def _space_groups(first: int) -> list[str]:
    return [f"<sgn>{number}" for number in range(first, 231)]


def _symbol(number: int) -> str:
    """Symbol of an atomic number."""
    if not 1 <= number <= len(SYMBOLS):
        raise UsageError(f"{number} is no atomic number", f"give 1 to {len(SYMBOLS)}")
    return SYMBOLS[number - 1]
