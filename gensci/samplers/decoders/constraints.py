"""Rules that the rows of a token model must obey, kept token by token.

A constrained model is a token model again, for any decoder. Tokens that break a rule, or after
which the row could not end in time, get probability zero, and the others are normalised again at
each place. So its law is the product of the model's distributions, each conditioned on the tokens
that are allowed there: every row obeys, but this is not the law of the model given that the whole
row obeys, because a step that had little choice is not held against the row. The log-weight
``log_prob(model, tokens) - log_prob(constrained, tokens)``, by
:func:`gensci.samplers.decoders.base.log_prob`, carries one over to the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gensci.core.errors import UsageError
from gensci.samplers.decoders.base import TokenModel
from gensci.samplers.decoders.branching import can_score
from gensci.samplers.decoders.reading import log_normalised
from gensci.samplers.settings import check_whole

FORBIDDEN = 1 << 40
"""More tokens than any row can hold."""


class Rule(Protocol):
    """A rule on rows. What it must remember of each is one row of an int64 tensor (n, s)."""

    def start(self, model: TokenModel, n: int) -> torch.Tensor:
        """Return the memory (n, s) of empty rows."""
        ...

    def needed(self, model: TokenModel, memory: torch.Tensor) -> torch.Tensor:
        """Return (n, V) int64: the fewest tokens that must follow if this one is next.

        The end of the row is counted among them, and 0 follow it; :data:`FORBIDDEN` where the token
        is not allowed.
        """
        ...

    def advance(
        self, model: TokenModel, memory: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return the memory (n, s) after one more token (n,) of each row."""
        ...


@dataclass(frozen=True)
class AllowedTokens:
    """Only these tokens, and the end.

    Attributes:
        tokens: what may stand in a row.
    """

    tokens: frozenset[int]

    def start(self, model: TokenModel, n: int) -> torch.Tensor:
        """Return nothing to remember."""
        _check_tokens(model, self.tokens)
        return torch.zeros(n, 0, dtype=torch.int64)

    def needed(self, model: TokenModel, memory: torch.Tensor) -> torch.Tensor:
        """Return 1 for allowed tokens: the end can follow at once."""
        needed = torch.full((len(memory), model.vocab_size), FORBIDDEN, device=memory.device)
        needed[:, sorted(self.tokens)] = 1
        needed[:, model.end] = 0
        return needed

    def advance(
        self, model: TokenModel, memory: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return nothing to remember."""
        return memory


@dataclass(frozen=True)
class ExactMultiset:
    """Each counted token exactly so often, in any order: a composition, spelled exactly.

    Attributes:
        counts: how often each token must stand in the row.
        free: tokens that may stand anywhere, any number of times; all others are not allowed.
    """

    counts: Mapping[int, int]
    free: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for token, count in self.counts.items():
            check_whole(f"count of token {token}", count, 0)
        both = sorted(set(self.counts) & set(self.free))
        if both:
            raise UsageError(f"tokens {both} are counted and free", "leave them out of one of them")

    def start(self, model: TokenModel, n: int) -> torch.Tensor:
        """Return how often each token (n, V) must still come."""
        _check_tokens(model, {*self.counts, *self.free})
        missing = torch.zeros(n, model.vocab_size, dtype=torch.int64)
        for token, count in self.counts.items():
            missing[:, token] = count
        return missing

    def needed(self, model: TokenModel, memory: torch.Tensor) -> torch.Tensor:
        """Return the number of tokens that are still missing after each, and the end."""
        total = memory.sum(1, keepdim=True)
        needed = torch.where(memory > 0, total, FORBIDDEN)
        needed[:, sorted(self.free)] = total + 1
        needed[:, model.end] = torch.where(total == 0, 0, FORBIDDEN).squeeze(1)
        return needed

    def advance(
        self, model: TokenModel, memory: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return what is missing after one more token of each row."""
        left = memory.clone()
        left[torch.arange(len(left), device=left.device), tokens] -= 1
        return left.clamp(min=0)


@dataclass(frozen=True)
class Obeying:
    """The state of a constrained model.

    Attributes:
        inner: the state of the model.
        memories: for each rule (n, s), or (n, tokens + 1, s) where rows can be rewound.
        used: (n,) tokens of each row.
    """

    inner: Any
    memories: tuple[torch.Tensor, ...]
    used: torch.Tensor


class Constrained:
    """A token model whose rows obey rules; made by :func:`constrain`.

    Args:
        model: the model.
        rules: what its rows must obey, all of it.
        max_length: the most tokens of a row, its end included, or None.

    Attributes:
        draft: the model's draft under the same rules, for speculative decoding, or None.
    """

    def __init__(
        self, model: TokenModel, rules: Sequence[Rule], max_length: int | None = None
    ) -> None:
        if max_length is not None:
            check_whole("max_length", max_length, 1)
        self.model = model
        self.rules = tuple(rules)
        self.max_length = max_length
        self.vocab_size, self.end = model.vocab_size, model.end
        self.device = getattr(model, "device", torch.device("cpu"))
        self.draft: Constrained | None = None

    def start(self, n: int) -> Obeying:
        """Return ``n`` empty rows.

        Raises:
            UsageError: a rule names a token outside of the vocabulary, or no row obeys the rules
                within ``max_length``.
        """
        memories = tuple(rule.start(self.model, n) for rule in self.rules)
        state = Obeying(self.model.start(n), memories, torch.zeros(n, dtype=torch.int64))
        shortest = 1 + int(self._needed(memories, n).min())
        if self.max_length is not None and shortest > self.max_length:
            told = f"at least {shortest}" if shortest < FORBIDDEN else "other"
            problem = f"max_length={self.max_length} is too short: the rules need {told} tokens"
            raise UsageError(problem, "allow longer rows, or loosen the rules")
        return state

    def log_probs(self, state: Obeying) -> torch.Tensor:
        """Return (n, V) log-probabilities of allowed tokens; all -inf where there is none."""
        return self._masked(self.model.log_probs(state.inner), state.memories, state.used)

    def advance(self, state: Obeying, tokens: torch.Tensor, parents: torch.Tensor) -> Obeying:
        """Return the rows one token longer."""
        rows, chosen = parents.to(state.used.device), tokens.to(state.used.device)
        memories = tuple(
            rule.advance(self.model, memory[rows], chosen)
            for rule, memory in zip(self.rules, state.memories, strict=True)
        )
        inner = self.model.advance(state.inner, tokens, parents)
        return Obeying(inner, memories, state.used[rows] + 1)

    def _masked(
        self, log_probs: torch.Tensor, memories: Sequence[torch.Tensor], used: torch.Tensor
    ) -> torch.Tensor:
        needed = self._needed(memories, len(used))
        limit = FORBIDDEN - 1 if self.max_length is None else self.max_length
        allowed = (used[:, None] + 1 + needed <= limit).to(log_probs.device)
        return log_normalised(torch.where(allowed, log_probs, -math.inf))

    def _needed(self, memories: Sequence[torch.Tensor], n: int) -> torch.Tensor:
        """Return (n, V) the fewest tokens after each that any rule would bear."""
        needed = torch.ones(n, self.vocab_size, dtype=torch.int64)
        needed[:, self.end] = 0
        for rule, memory in zip(self.rules, memories, strict=True):
            needed = torch.maximum(needed, rule.needed(self.model, memory))
        return needed


class ScoringConstrained(Constrained):
    """A constrained model that reads several tokens in one pass, as the model below it does.

    It remembers what the rules knew after every token of a row.
    """

    def start(self, n: int) -> Obeying:
        """Return ``n`` empty rows; as :meth:`Constrained.start`."""
        state = super().start(n)
        memories = tuple(memory[:, None] for memory in state.memories)
        return Obeying(state.inner, memories, state.used)

    def log_probs(self, state: Obeying) -> torch.Tensor:
        """Return (n, V) log-probabilities of allowed tokens; all -inf where there is none."""
        return self._masked(self.model.log_probs(state.inner), _present(state), state.used)

    def advance(self, state: Obeying, tokens: torch.Tensor, parents: torch.Tensor) -> Obeying:
        """Return the rows one token longer."""
        inner = self.model.advance(state.inner, tokens, parents)
        held = _take(state, parents)
        return self._remember(held, inner, tokens, torch.ones_like(held.used))

    def score(
        self, state: Obeying, tokens: torch.Tensor, lengths: torch.Tensor, parents: torch.Tensor
    ) -> tuple[torch.Tensor, Obeying]:
        """Return (m, k + 1, V) log-probabilities and the rows after their tokens."""
        values, inner = self.model.score(state.inner, tokens, lengths, parents)  # type: ignore[attr-defined]
        held = _take(state, parents)
        masked = [self._masked(values[:, 0], _present(held), held.used)]
        for place in range(tokens.shape[1]):
            longer = (lengths > place).to(held.used.device).long()
            held = self._remember(held, inner, tokens[:, place], longer)
            masked.append(self._masked(values[:, place + 1], _present(held), held.used))
        return torch.stack(masked, 1), held

    def rewind(self, state: Obeying, counts: torch.Tensor, parents: torch.Tensor) -> Obeying:
        """Return the rows without their last ``counts`` tokens."""
        held = _take(state, parents)
        inner = self.model.rewind(state.inner, counts, parents)  # type: ignore[attr-defined]
        return Obeying(inner, held.memories, held.used - counts.to(held.used.device))

    def _remember(
        self, held: Obeying, inner: Any, tokens: torch.Tensor, longer: torch.Tensor
    ) -> Obeying:
        """Return rows with what the rules know after ``tokens``, which count where ``longer``."""
        used = held.used + longer
        present, rows = _present(held), torch.arange(len(used))
        memories = []
        for rule, past, now in zip(self.rules, held.memories, present, strict=True):
            after = rule.advance(self.model, now, tokens.to(now.device))
            room = int(used.max()) + 1 - past.shape[1] if len(used) else 0
            table = torch.cat([past, past.new_zeros(len(past), max(room, 0), past.shape[2])], 1)
            table[rows, used] = torch.where(longer[:, None] > 0, after, now)
            memories.append(table)
        return Obeying(inner, tuple(memories), used)


def constrain(
    model: TokenModel, rules: Sequence[Rule], max_length: int | None = None
) -> Constrained:
    """Return a token model whose rows obey rules; it scores if the model does.

    Its distributions are normalised at each place; the module's docstring says what law that is.

    Args:
        model: the model.
        rules: what its rows must obey, all of it.
        max_length: the most tokens of a row, its end included; a decoder with at least as many
            ``max_tokens`` then finishes every row.

    Raises:
        UsageError: ``max_length`` is not a whole number above zero.
    """
    cls = ScoringConstrained if can_score(model) else Constrained
    constrained = cls(model, rules, max_length)
    draft = getattr(model, "draft", None)
    if draft is not None:
        constrained.draft = constrain(draft, rules, max_length)
    return constrained


def _present(state: Obeying) -> tuple[torch.Tensor, ...]:
    rows = torch.arange(len(state.used))
    return tuple(memory[rows, state.used] for memory in state.memories)


def _take(state: Obeying, parents: torch.Tensor) -> Obeying:
    rows = parents.to(state.used.device)
    return Obeying(state.inner, tuple(each[rows] for each in state.memories), state.used[rows])


def _check_tokens(model: TokenModel, tokens: set[int] | frozenset[int]) -> None:
    wrong = sorted(token for token in tokens if not 0 <= token < model.vocab_size)
    if wrong:
        remedy = f"give tokens from 0 to {model.vocab_size - 1}"
        raise UsageError(f"tokens {wrong} of a rule are not in the vocabulary", remedy)
    if model.end in tokens:
        raise UsageError(f"a rule counts the end token {model.end}", "leave it out: it always ends")
