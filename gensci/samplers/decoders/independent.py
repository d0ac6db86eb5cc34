"""Decoders whose rows are drawn token by token, each on its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gensci.core.registry import DECODERS
from gensci.samplers.decoders.base import Decoded, Decoder, finish
from gensci.samplers.decoders.reading import Reader, draw, gather, log_normalised, require_tokens
from gensci.samplers.settings import check_choice, check_positive, check_share, check_whole

Law = Callable[[torch.Tensor], torch.Tensor]
"""(n, V) log-probabilities of the model to those that tokens are drawn from."""


@dataclass(frozen=True)
class OneByOne(Decoder):
    """A decoder that draws each token from a changed distribution, and keeps the weights."""

    @abstractmethod
    def law(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return (n, V) normalised log-probabilities that tokens are drawn from."""

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        return draw_rows(model, n, generator, max_tokens, self.law)


@DECODERS.register("ancestral")
@dataclass(frozen=True)
class Ancestral(OneByOne):
    """Draws token by token from the model, sharpened or flattened by a temperature.

    Attributes:
        temperature: each distribution is raised to the power of its inverse. Weights ``log p - log
            q`` take it back.

    Reference: Bishop (2006), Pattern Recognition and Machine Learning, section 8.1.2; temperature
    as in Ackley, Hinton and Sejnowski (1985), doi:10.1207/s15516709cog0901_7.
    """

    temperature: float = 1.0

    name: ClassVar[str] = "ancestral"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def law(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the distributions at the temperature."""
        return tempered(log_probs, self.temperature)


@DECODERS.register("top-k")
@dataclass(frozen=True)
class TopK(OneByOne):
    """Draws each token among the k likeliest; weights are right on the rows that this can reach.

    Attributes:
        k: how many tokens are kept at each step; of equal ones those of lower number.
        temperature: applied before the cut.

    Reference: Fan, Lewis and Dauphin (2018), arXiv:1805.04833.
    """

    k: int = 10
    temperature: float = 1.0

    name: ClassVar[str] = "top-k"
    advice: ClassVar[str] = "the rows are draws of the model cut to its likeliest tokens"

    def __post_init__(self) -> None:
        check_whole("k", self.k, 1)
        check_positive("temperature", self.temperature)

    def law(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the distributions over the k likeliest tokens."""
        ranked = torch.sort(tempered(log_probs, self.temperature), descending=True, stable=True)
        keep = torch.arange(log_probs.shape[1], device=log_probs.device) < self.k
        return cut(ranked, keep.expand_as(log_probs))


@DECODERS.register("nucleus")
@dataclass(frozen=True)
class Nucleus(OneByOne):
    """Draws each token among the likeliest that together hold a share of the probability.

    Weights are right on the rows that this can reach.

    Attributes:
        p: the share; the smallest set of likeliest tokens that holds at least it is kept.
        temperature: applied before the cut.

    Reference: Holtzman, Buys, Du, Forbes and Choi (2019), arXiv:1904.09751.
    """

    p: float = 0.95
    temperature: float = 1.0

    name: ClassVar[str] = "nucleus"
    advice: ClassVar[str] = TopK.advice

    def __post_init__(self) -> None:
        check_share("p", self.p, one=True)
        check_positive("temperature", self.temperature)

    def law(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the distributions over their nuclei."""
        ranked = torch.sort(tempered(log_probs, self.temperature), descending=True, stable=True)
        weight = ranked.values.exp()
        # A token belongs to the nucleus while those before it do not fill the share; the sum of
        # all weights may round to less than the share of one.
        return cut(ranked, weight.cumsum(1) - weight < self.p - 1e-12)


@DECODERS.register("best-of-n")
@dataclass(frozen=True)
class BestOfN(Decoder):
    """The likeliest of several draws, for each row anew.

    Its law has no closed form: row y is returned with the probability that it is drawn and nothing
    better is. So the rows have no weights, and ``log_proposal`` is None.

    Attributes:
        num_candidates: draws for each row.
        temperature: at which they are drawn; they are judged at temperature one.
        normalise: ``none`` judges by the log-probability, ``length`` by its mean over the tokens,
            which does not favour short rows.

    Reference: Stiennon et al. (2020), arXiv:2009.01325 (best of n by a score); length as in Wu et
    al. (2016), arXiv:1609.08144.
    """

    num_candidates: int = 8
    temperature: float = 1.0
    normalise: str = "none"

    name: ClassVar[str] = "best-of-n"
    advice: ClassVar[str] = "each row is the likeliest of several: no sample of the model"

    def __post_init__(self) -> None:
        check_whole("num_candidates", self.num_candidates, 1)
        check_positive("temperature", self.temperature)
        check_choice("normalise", self.normalise, ("none", "length"))

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        drawn = draw_rows(
            model,
            n * self.num_candidates,
            generator,
            max_tokens,
            lambda log_probs: tempered(log_probs, self.temperature),
        )
        score = drawn.log_prob
        if self.normalise == "length":
            score = score / drawn.lengths
        best = score.reshape(n, self.num_candidates).argmax(1)
        first = torch.arange(n, device=best.device) * self.num_candidates
        kept = drawn.select(first + best)
        return replace(kept, log_weight=torch.zeros_like(kept.log_prob), log_proposal=None)


def draw_rows(
    model: Reader, n: int, generator: torch.Generator, max_tokens: int, law: Law
) -> Decoded:
    """Return ``n`` rows, each token drawn from what ``law`` makes of the model's distribution."""
    tokens = torch.full((n, max_tokens), model.end, device=model.device)
    log_p = torch.zeros(n, dtype=torch.float64, device=model.device)
    log_q = torch.zeros_like(log_p)
    rows, state = torch.arange(n, device=model.device), model.start(n)
    for step in range(max_tokens):
        log_probs = model.log_probs(state)
        require_tokens(log_probs, step)
        log_law = law(log_probs)
        token = draw(log_law, generator)
        tokens[rows, step] = token
        log_p[rows] += gather(log_probs, token)
        log_q[rows] += gather(log_law, token)
        going = (token != model.end).nonzero().squeeze(1)
        if not going.numel() or step + 1 == max_tokens:
            break
        state, rows = model.advance(state, token[going], going), rows[going]
    return finish(tokens, model.end, log_p, log_weight=log_p - log_q, log_proposal=log_q)


def tempered(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return normalised log-probabilities to the power of the inverse temperature."""
    if temperature == 1.0:
        return log_probs
    return log_normalised(log_probs / temperature)


def cut(ranked: torch.return_types.sort, keep: torch.Tensor) -> torch.Tensor:
    """Return normalised log-probabilities of the ranked tokens (n, V) where ``keep`` holds."""
    kept = torch.where(keep, ranked.values, -math.inf)
    log_law = torch.full_like(kept, -math.inf).scatter(1, ranked.indices, kept)
    return log_law - torch.logsumexp(log_law, 1, keepdim=True)
