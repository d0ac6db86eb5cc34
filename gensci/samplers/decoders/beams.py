"""Searches for the likeliest rows: beam search, and diverse beam search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.errors import UsageError
from gensci.core.registry import DECODERS
from gensci.samplers.decoders.base import Decoded, Decoder, finish
from gensci.samplers.decoders.fronts import Front, Steps, extend, head, start
from gensci.samplers.decoders.reading import Reader
from gensci.samplers.settings import check_whole


@DECODERS.register("beam")
@dataclass(frozen=True)
class Beam(Decoder):
    """The n likeliest rows that a search of limited width finds, likeliest first.

    Ended rows keep their place in the beam. The log-weight of a row is its ``log_prob``: it is in
    the set with certainty, so that weighted sums miss only the probability of the rows left out.

    Attributes:
        width: rows in the beam, at least as many as are asked for; None for as many.

    Reference: Lowerre (1976), The HARPY speech recognition system (thesis, Carnegie Mellon);
    Sutskever, Vinyals and Le (2014), arXiv:1409.3215.
    """

    width: int | None = None

    name: ClassVar[str] = "beam"
    joint: ClassVar[bool] = True
    advice: ClassVar[str] = "the likeliest rows that were found: weighted sums miss all others"

    def __post_init__(self) -> None:
        if self.width is not None:
            check_whole("width", self.width, 1)

    def check_rows(self, n: int) -> None:
        """Raise a UsageError unless the beam holds ``n`` rows."""
        super().check_rows(n)
        if self.width is not None and self.width < n:
            remedy = f"give width >= {n}"
            raise UsageError(f"width={self.width} is less than num_samples={n}", remedy)

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        front = start(model, max_tokens)
        for place in range(max_tokens):
            front = likeliest(front, self.width or n, place, model)
            if front.ended.all():
                break
        kept = head(front, n)
        return finish(kept.tokens, model.end, kept.log_prob, log_weight=kept.log_prob)


@DECODERS.register("diverse-beam")
@dataclass(frozen=True)
class DiverseBeam(Decoder):
    """Beams in groups, each charged for the tokens that earlier groups chose at the same place.

    The Hamming form: a token costs ``penalty`` for every row of earlier groups that took it at this
    place, and a row keeps what it was charged. Rows come group by group, best first, and those of
    different groups may be equal: only the first of them has weight (its ``log_prob``, as in beam
    search).

    Attributes:
        groups: how many; rows are shared evenly among them. Fewer rows make as many groups.
        penalty: the strength of diversity (lambda), in nats; 0 lets every group search alone.

    Reference: Vijayakumar, Cogswell, Selvaraju, Sun, Lee, Crandall and Batra (2016),
    arXiv:1610.02424.
    """

    groups: int = 4
    penalty: float = 0.5

    name: ClassVar[str] = "diverse-beam"
    joint: ClassVar[bool] = True
    advice: ClassVar[str] = "likely rows that differ: weighted sums miss all others"

    def __post_init__(self) -> None:
        check_whole("groups", self.groups, 1)
        number = isinstance(self.penalty, int | float) and not isinstance(self.penalty, bool)
        if not number or not 0 <= self.penalty < math.inf:
            raise UsageError(f"penalty={self.penalty!r} is not usable", "give 0 or more")

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        groups = min(self.groups, n)
        widths = [n // groups + (g < n % groups) for g in range(groups)]
        fronts = [start(model, max_tokens) for _ in widths]
        for place in range(max_tokens):
            charge = torch.zeros(model.vocab_size, dtype=torch.float64, device=model.device)
            for group, width in enumerate(widths):
                before = fronts[group]
                if before.ended.all():
                    continue
                fronts[group] = likeliest(before, width, place, model, charge)
                taken = fronts[group].tokens[fronts[group].fresh, place]
                charge += self.penalty * torch.bincount(taken, minlength=model.vocab_size)
        tokens = torch.cat([front.tokens for front in fronts])
        log_prob = torch.cat([front.log_prob for front in fronts])
        log_weight = torch.where(is_first(tokens), log_prob, -math.inf)
        return finish(tokens, model.end, log_prob, log_weight=log_weight)


def likeliest(
    front: Front, width: int, place: int, model: Reader, charge: torch.Tensor | None = None
) -> Front:
    """Return the front one token further, ranked by log-probability less the charges (V,)."""
    log_probs = model.log_probs(front.state)
    key = front.key[front.live, None] + log_probs
    if charge is not None:
        key = key - charge
    return extend(front, Steps(log_probs, log_probs, key), width, place, model)


def is_first(tokens: torch.Tensor) -> torch.Tensor:
    """Return (n,) booleans: no earlier row of (n, T) is equal."""
    _, group = torch.unique(tokens, dim=0, return_inverse=True)
    rows = torch.arange(len(tokens), device=tokens.device)
    first = torch.full_like(rows, len(tokens)).scatter_reduce(0, group, rows, "amin")
    return first[group] == rows
