"""Any token model, read several tokens at a time and rewound, by keeping its old states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gensci.samplers.decoders.base import TokenModel

Row = tuple[tuple["Kept", int], ...]
"""Where a row lived after each of its last tokens, the newest last: a state and a row in it."""


class Kept:
    """A state of the model, and its log-probabilities once they were asked for."""

    def __init__(self, model: TokenModel, state: Any) -> None:
        self.state = state
        self._model = model
        self._log_probs: torch.Tensor | None = None

    @property
    def log_probs(self) -> torch.Tensor:
        """(n, V) of the state."""
        if self._log_probs is None:
            self._log_probs = self._model.log_probs(self.state)
        return self._log_probs


class Branching:
    """A token model that offers ``score`` and ``rewind`` through ``advance`` alone.

    Its state is a list of rows that may have different lengths, each a handle on states of the
    model. Rows that share a state are asked for together; rows that have parted are not brought
    together again, so that in the end each may cost a call of its own. It is right for any model
    and fast for none: a model that means to be fast offers ``score`` and ``rewind`` itself.

    Args:
        model: what is read.
        depth: how many tokens can be rewound.
    """

    def __init__(self, model: TokenModel, depth: int) -> None:
        self.model = model
        self.depth = depth
        self.vocab_size, self.end = model.vocab_size, model.end
        self.device = getattr(model, "device", torch.device("cpu"))

    def start(self, n: int) -> list[Row]:
        """Return ``n`` empty rows."""
        kept = Kept(self.model, self.model.start(n))
        return [((kept, row),) for row in range(n)]

    def log_probs(self, state: list[Row]) -> torch.Tensor:
        """Return (n, V) log-probabilities of the next token."""
        parts, order = [], []
        for kept, members, rows in _by_state(state):
            values = kept.log_probs
            parts.append(values[torch.tensor(rows, device=values.device)])
            order += members
        joined = torch.cat(parts)
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return joined[back.to(joined.device)]

    def advance(self, state: list[Row], tokens: torch.Tensor, parents: torch.Tensor) -> list[Row]:
        """Return rows one token longer, as :class:`TokenModel` does."""
        before = [state[parent] for parent in parents.tolist()]
        after: list[Row] = list(before)
        for kept, members, rows in _by_state(before):
            chosen = tokens[torch.tensor(members, device=tokens.device)]
            where = torch.tensor(rows, device=tokens.device)
            new = Kept(self.model, self.model.advance(kept.state, chosen, where))
            for place, member in enumerate(members):
                after[member] = (*before[member], (new, place))[-self.depth - 1 :]
        return after

    def score(
        self, state: list[Row], tokens: torch.Tensor, lengths: torch.Tensor, parents: torch.Tensor
    ) -> tuple[torch.Tensor, list[Row]]:
        """Return (m, k + 1, V) log-probabilities and the rows after their tokens."""
        rows = [state[parent] for parent in parents.tolist()]
        first = self.log_probs(rows)
        values = first.new_full((len(rows), tokens.shape[1] + 1, self.vocab_size), -math.inf)
        values[:, 0] = first
        for place in range(tokens.shape[1]):
            longer = lengths > place
            allowed = values[:, place].gather(1, tokens[:, place, None]).squeeze(1) > -math.inf
            # After a token that the model disallows it is not asked; the row only counts it.
            for row in (longer & ~allowed).nonzero().squeeze(1).tolist():
                rows[row] = (*rows[row], rows[row][-1])[-self.depth - 1 :]
            live = (longer & allowed).nonzero().squeeze(1)
            if not live.numel():
                continue
            after = self.advance(rows, tokens[live, place], live)
            values[live, place + 1] = self.log_probs(after)
            for row, new in zip(live.tolist(), after, strict=True):
                rows[row] = new
        return values, rows

    def rewind(self, state: list[Row], counts: torch.Tensor, parents: torch.Tensor) -> list[Row]:
        """Return rows of ``state`` without their last ``counts`` tokens."""
        pairs = zip(counts.tolist(), parents.tolist(), strict=True)
        return [state[parent][: len(state[parent]) - count] for count, parent in pairs]


def can_score(model: Any) -> bool:
    """Tell whether the model reads several tokens in one pass and forgets them again."""
    return all(callable(getattr(model, name, None)) for name in ("score", "rewind"))


def scoring(model: TokenModel, depth: int) -> Any:
    """Return the model if it can score, else a :class:`Branching` that scores for it."""
    return model if can_score(model) else Branching(model, depth)


def _by_state(rows: list[Row]) -> list[tuple[Kept, list[int], list[int]]]:
    """Return each state with the places of the rows that live in it, and their rows in it."""
    groups: dict[int, tuple[Kept, list[int], list[int]]] = {}
    for place, row in enumerate(rows):
        kept, index = row[-1]
        group = groups.setdefault(id(kept), (kept, [], []))
        group[1].append(place)
        group[2].append(index)
    return list(groups.values())
