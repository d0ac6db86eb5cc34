"""Tokens of crystals and molecules: one closed vocabulary with a hash of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from gensci.core.elements import NUMBERS, SYMBOLS
from gensci.core.errors import CheckpointError, UsageError

PAD, BEGIN, END, SLOT, COORDINATES = "<pad>", "<bos>", "<eos>", "<slot>", "<coord>"
TEMPLATE, SAME, OTHER = "<template>", "<same>", "<other>"
SPECIALS = (PAD, BEGIN, END, SLOT, COORDINATES, TEMPLATE, SAME, OTHER)
ELEMENT_PREFIX, PIECE_PREFIX = "el:", "sm:"


class Vocabulary:
    """Numbered tokens: specials, training sets, properties, elements, pieces of SMILES.

    Args:
        tokens: all of them, in order; the specials come first.

    Raises:
        CheckpointError: the specials are not where they belong, or a token is there twice.
    """

    def __init__(self, tokens: Sequence[str]):
        self.tokens = tuple(tokens)
        self._index = {token: i for i, token in enumerate(self.tokens)}
        if self.tokens[: len(SPECIALS)] != SPECIALS or len(self._index) != len(self.tokens):
            raise CheckpointError(
                "this vocabulary does not belong to a gensci structure model",
                "use the vocabulary that came with the checkpoint",
            )
        self.pad, self.begin, self.end, self.slot = (self._index[t] for t in SPECIALS[:4])
        self.coordinates = self._index[COORDINATES]
        self.template, self.same, self.other = (self._index[t] for t in (TEMPLATE, SAME, OTHER))

    @classmethod
    def build(
        cls,
        sets: Iterable[str],
        properties: Iterable[str],
        pieces: Iterable[str] = (),
        elements: bool = True,
    ) -> Vocabulary:
        """The vocabulary of some training sets and properties.

        Args:
            sets: names of the training sets, for example ``perov-5``.
            properties: names of the scalar properties.
            pieces: of SMILES, for models of molecules.
            elements: whether the model writes crystals.
        """
        tokens = [*SPECIALS, *(f"<set:{s}>" for s in sets), *(f"<prop:{p}>" for p in properties)]
        tokens += [f"{ELEMENT_PREFIX}{symbol}" for symbol in SYMBOLS if elements]
        return cls(tokens + [f"{PIECE_PREFIX}{piece}" for piece in pieces])

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sha256(self) -> str:
        """Of the tokens in their order, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()

    def check(self, sha256: str) -> None:
        """Refuse weights that were trained with other tokens.

        Raises:
            CheckpointError: the hashes differ.
        """
        if sha256 != self.sha256:
            raise CheckpointError(
                f"the vocabulary ({self.sha256[:12]}) is not the one that the weights were "
                f"trained with ({sha256[:12]})",
                "use the model.json that came with the weights",
            )

    def __getitem__(self, token: str) -> int:
        return self._index[token]

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def set_token(self, name: str) -> int:
        """The token of a training set.

        Raises:
            UsageError: the model has not seen such a set.
        """
        return self._named("set", "training set", name)

    def property_token(self, name: str) -> int:
        """The token of a property.

        Raises:
            UsageError: the model was not trained with this property.
        """
        return self._named("prop", "property", name)

    def names(self, kind: str) -> list[str]:
        """Names of the tokens of a kind, ``set`` or ``prop``."""
        start = f"<{kind}:"
        return [token[len(start) : -1] for token in self.tokens if token.startswith(start)]

    def element(self, number: int) -> int:
        """The token of an atomic number."""
        return self._index[ELEMENT_PREFIX + SYMBOLS[number - 1]]

    def piece(self, text: str) -> int:
        """The token of a piece of SMILES."""
        return self._index[PIECE_PREFIX + text]

    def spellings(self, number: int) -> list[int]:
        """All tokens that write an atom of an atomic number."""
        symbol = SYMBOLS[number - 1]
        texts = (ELEMENT_PREFIX + symbol, PIECE_PREFIX + symbol, PIECE_PREFIX + symbol.lower())
        return [self._index[text] for text in texts if text in self._index]

    def pieces(self) -> dict[int, str]:
        """Pieces of SMILES by token."""
        return {
            i: token[len(PIECE_PREFIX) :]
            for i, token in enumerate(self.tokens)
            if token.startswith(PIECE_PREFIX)
        }

    def element_tokens(self) -> dict[int, int]:
        """Atomic numbers by token."""
        return {
            i: NUMBERS[token[len(ELEMENT_PREFIX) :]]
            for i, token in enumerate(self.tokens)
            if token.startswith(ELEMENT_PREFIX)
        }

    def _named(self, kind: str, noun: str, name: str) -> int:
        token = f"<{kind}:{name}>"
        if token not in self._index:
            known = ", ".join(self.names(kind)) or "none"
            raise UsageError(f"this model knows no {noun} {name!r}", f"it knows: {known}")
        return self._index[token]
