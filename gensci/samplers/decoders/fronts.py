"""The front of a search over rows: partial rows, ranked, of which the best are extended."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from gensci.core.errors import GensciError
from gensci.samplers.decoders.reading import Reader


@dataclass(frozen=True)
class Front:
    """Partial and ended rows, best first.

    Attributes:
        tokens: (b, max_tokens) int64, padded with the end token.
        log_prob: (b,) log-probability under the model.
        log_law: (b,) log-probability under the law that is searched.
        key: (b,) by which rows are ranked.
        ended: (b,) booleans.
        fresh: (b,) booleans: the last token was chosen just now, and the row was not ended before.
        state: of the model, with one row for each row that is not ended, in order.
    """

    tokens: torch.Tensor
    log_prob: torch.Tensor
    log_law: torch.Tensor
    key: torch.Tensor
    ended: torch.Tensor
    fresh: torch.Tensor
    state: Any

    @property
    def live(self) -> torch.Tensor:
        """(l,) numbers of the rows that are not ended."""
        return (~self.ended).nonzero().squeeze(1)


@dataclass(frozen=True)
class Steps:
    """What each next token (l, V) of the live rows adds, and the key of the row with it.

    Attributes:
        log_prob: under the model.
        log_law: under the law that is searched.
        key: of the extended row, -inf where there is none.
    """

    log_prob: torch.Tensor
    log_law: torch.Tensor
    key: torch.Tensor


def start(model: Reader, max_tokens: int, key: float = 0.0) -> Front:
    """Return the front that holds the empty row alone."""
    zero = torch.zeros(1, dtype=torch.float64, device=model.device)
    tokens = torch.full((1, max_tokens), model.end, device=model.device)
    ended = torch.zeros(1, dtype=torch.bool, device=model.device)
    return Front(tokens, zero, zero, zero + key, ended, ~ended, model.start(1))


def extend(front: Front, steps: Steps, width: int, place: int, model: Reader) -> Front:
    """Return the ``width`` best among ended rows and extensions of live ones.

    Ties go to the better parent, then to the token of lower number.

    Args:
        front: the rows at hand.
        steps: what the next tokens bring.
        width: the most rows to keep.
        place: the column of the next token.
        model: is advanced where rows go on.

    Raises:
        GensciError: no row can go on, and none is ended.
    """
    # An ended row has one extension, its padding, which adds nothing.
    keys = torch.full((len(front.key), model.vocab_size), -math.inf, dtype=torch.float64)
    keys = keys.to(front.key.device)
    keys[:, model.end] = front.key
    keys[front.live] = steps.key
    order = torch.sort(keys.flatten(), descending=True, stable=True).indices[:width]
    order = order[keys.flatten()[order] > -math.inf]
    if not len(order):
        remedy = "loosen the constraints, or use a model that can always end"
        raise GensciError(f"the model allows no token at position {place + 1} of any row", remedy)
    parent, token = order // model.vocab_size, order % model.vocab_size
    tokens = front.tokens[parent]
    tokens[:, place] = token
    grown = Front(
        tokens,
        front.log_prob[parent] + _added(front, steps.log_prob, parent, token),
        front.log_law[parent] + _added(front, steps.log_law, parent, token),
        keys.flatten()[order],
        token == model.end,
        ~front.ended[parent],
        front.state,
    )
    if grown.ended.all() or place + 1 == front.tokens.shape[1]:
        return grown
    source = (torch.cumsum(~front.ended, 0) - 1)[parent]
    return replace(grown, state=model.advance(front.state, token[grown.live], source[grown.live]))


def _added(
    front: Front, steps: torch.Tensor, parent: torch.Tensor, token: torch.Tensor
) -> torch.Tensor:
    table = steps.new_zeros(len(front.key), steps.shape[1])
    table[front.live] = steps
    return table[parent, token]


def head(front: Front, n: int) -> Front:
    """Return the best ``n`` rows; their state is not kept."""
    columns = ("tokens", "log_prob", "log_law", "key", "ended", "fresh")
    return replace(front, state=None, **{name: getattr(front, name)[:n] for name in columns})
