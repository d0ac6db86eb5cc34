"""A model of tokens as decoders read it: float64, normalised, on the device of the generator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import uniform

if TYPE_CHECKING:
    from gensci.samplers.decoders.base import TokenModel


class Reader:
    """A token model whose answers are checked and brought to one device and type.

    Args:
        model: what is read. One that lives on another device may name it as ``device``.
        device: where the decoder keeps its books.

    Raises:
        UsageError: ``end`` is no token of the model.
    """

    def __init__(self, model: TokenModel, device: torch.device) -> None:
        if not 0 <= model.end < model.vocab_size:
            remedy = f"give a token from 0 to {model.vocab_size - 1}"
            raise UsageError(f"the model's end={model.end} is not in its vocabulary", remedy)
        self.model = model
        self.device = device
        self.end, self.vocab_size = model.end, model.vocab_size
        self._home = getattr(model, "device", device)

    def start(self, n: int) -> Any:
        """Return the state of ``n`` empty rows."""
        return self.model.start(n)

    def log_probs(self, state: Any) -> torch.Tensor:
        """Return (n, V) float64 log-probabilities; a row without any allowed token is -inf."""
        return self._clean(self.model.log_probs(state))

    def advance(self, state: Any, tokens: torch.Tensor, parents: torch.Tensor) -> Any:
        """Return the state whose row i continues row ``parents[i]`` with ``tokens[i]``."""
        return self.model.advance(state, tokens.to(self._home), parents.to(self._home))

    def score(
        self, state: Any, tokens: torch.Tensor, lengths: torch.Tensor, parents: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """Return (m, k + 1, V) float64 log-probabilities and the state after all tokens."""
        rows = (each.to(self._home) for each in (tokens, lengths, parents))
        values, state = self.model.score(state, *rows)  # type: ignore[attr-defined]
        return self._clean(values), state

    def rewind(self, state: Any, counts: torch.Tensor, parents: torch.Tensor) -> Any:
        """Return the state whose row i is row ``parents[i]`` without ``counts[i]`` tokens."""
        rows = (each.to(self._home) for each in (counts, parents))
        return self.model.rewind(state, *rows)  # type: ignore[attr-defined]

    def _clean(self, values: torch.Tensor) -> torch.Tensor:
        # The model tells by its answers where it lives, and wants its tokens there.
        self._home = values.device
        values = values.detach().to(self.device).to(torch.float64)
        # Float32 sums to one within 1e-7 only, and rows multiply many of them.
        return log_normalised(values)


def log_normalised(values: torch.Tensor) -> torch.Tensor:
    """Return (..., V) log-probabilities that sum to one; -inf everywhere where nothing is left."""
    normalised = torch.log_softmax(values, -1)
    # Not nan_to_num, which would make -inf finite.
    return torch.where(torch.isnan(normalised), -math.inf, normalised)


def require_tokens(log_probs: torch.Tensor, step: int) -> None:
    """Raise a GensciError unless every row of (n, V) log-probabilities allows some token."""
    stuck = int((log_probs.amax(1) == -math.inf).sum())
    if stuck:
        raise GensciError(
            f"the model allows no token at position {step + 1} of {stuck} rows",
            "loosen the constraints, or use a model that can always end",
        )


def draw(log_probs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return (n,) tokens drawn from normalised (n, V) log-probabilities, by inversion."""
    weight = log_probs.exp()
    cumulative = weight.cumsum(1)
    quantile = uniform(len(weight), generator)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, quantile, right=True)
    # Rounding may place the quantile at the very end, where tokens of zero probability may lie.
    places = torch.arange(weight.shape[1], device=weight.device)
    last = torch.where(weight > 0, places, 0).amax(1, keepdim=True)
    return torch.minimum(chosen, last).squeeze(1)


def gather(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return (n,) entries of (n, V) values, one token a row."""
    return values.gather(1, tokens[:, None]).squeeze(1)
