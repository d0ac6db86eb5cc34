"""Rows drawn without replacement, in one search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gensci.core.registry import DECODERS
from gensci.samplers.decoders.base import Decoded, Decoder, finish
from gensci.samplers.decoders.fronts import Front, Steps, extend, head, start
from gensci.samplers.decoders.gumbel import gumbel_like, log_inclusion, perturb_below
from gensci.samplers.decoders.independent import tempered
from gensci.samplers.decoders.reading import Reader
from gensci.samplers.settings import check_positive


@DECODERS.register("stochastic-beam")
@dataclass(frozen=True)
class StochasticBeam(Decoder):
    """Different rows: n draws without replacement, by Gumbel-top-k over all rows of the model.

    A beam search whose ranks are log-probabilities with Gumbel noise, drawn top down, finds the n
    largest perturbed values among all rows without visiting them. One row more than asked for is
    searched; its value kappa is the threshold that the n rows exceed. Given kappa a row is included
    with probability ``q = 1 - exp(-exp(log p - kappa))``, which is ``log_proposal``, and
    ``log_weight = log p - log q`` makes ``sum exp(log_weight) f`` an unbiased (Horvitz-Thompson)
    estimate of the mean of f; the weighted mean of a sample set is its normalised form. Rows come
    in the order in which they would be drawn one after the other. Where the model has only n rows
    or fewer, all are returned and each weighs its probability.

    Attributes:
        temperature: rows are drawn from the model at this temperature; weights take it back.

    Reference: Kool, van Hoof and Welling (2019), arXiv:1903.06059; weights after Duffield, Lund and
    Thorup (2007), doi:10.1145/1314690.1314696.
    """

    temperature: float = 1.0

    name: ClassVar[str] = "stochastic-beam"
    joint: ClassVar[bool] = True
    advice: ClassVar[str] = "the rows differ from each other: use them with their weights"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        # The noise of the empty row is the largest of all: without it kappa would not be random
        # enough for the weights to be right.
        noise = gumbel_like(torch.zeros(1, dtype=torch.float64, device=model.device), generator)
        front = start(model, max_tokens, float(noise))
        for place in range(max_tokens):
            front = extend(front, self._steps(front, model, generator), n + 1, place, model)
            if front.ended.all():
                break
        threshold = front.key[n] if len(front.key) > n else front.key.new_tensor(-math.inf)
        kept = head(front, n)
        included = log_inclusion(kept.log_law, threshold)
        weight = kept.log_prob - included
        return finish(
            kept.tokens, model.end, kept.log_prob, log_weight=weight, log_proposal=included
        )

    def _steps(self, front: Front, model: Reader, generator: torch.Generator) -> Steps:
        log_probs = model.log_probs(front.state)
        log_law = tempered(log_probs, self.temperature)
        with_row = front.log_law[front.live, None] + log_law
        return Steps(log_probs, log_law, perturb_below(with_row, front.key[front.live], generator))
