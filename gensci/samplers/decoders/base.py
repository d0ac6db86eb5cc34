"""What decoders ask of a model of tokens, what they return, and the call that runs them.

The length of a row counts every token that was drawn, its ``end`` among them, and ``max_tokens`` is
the largest length. A row that reaches it without ``end`` is returned as it is, not finished.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.registry import DECODERS
from gensci.core.results import SampleSet
from gensci.core.weights import kish_ess
from gensci.samplers.decoders.reading import Reader
from gensci.samplers.settings import check_whole, make_registered
from gensci.samplers.verdict import verdict


@runtime_checkable
class TokenModel(Protocol):
    """An autoregressive model of rows of tokens. Its states are opaque and never change.

    A model that reads several tokens in one pass may also offer, together,

    - ``score(state, tokens (m, k), lengths (m,), parents (m,)) -> (log_probs (m, k + 1, V), state
      (m rows))``: row i continues row ``parents[i]`` with its first ``lengths[i]`` tokens (the
      others are padding and leave no trace in the state); entry j is the distribution after j of
      them, and means nothing for j > ``lengths[i]``. Tokens may be disallowed, but are never
      the end; what is said after a disallowed one is not looked at;
    - ``rewind(state, counts (m,), parents (m,)) -> state (m rows)``: row i is row ``parents[i]``
      without its last ``counts[i]`` tokens.

    Rows may then have different lengths. Other models are read token by token
    (:mod:`gensci.samplers.decoders.branching`).

    Attributes:
        vocab_size: the number V of tokens.
        end: the token that ends a row. No decoder continues a row after it.
    """

    vocab_size: int
    end: int

    def start(self, n: int) -> Any:
        """Return the state of ``n`` empty rows."""
        ...

    def log_probs(self, state: Any) -> torch.Tensor:
        """Return (n, V) normalised log-probabilities of the next token, -inf where disallowed."""
        ...

    def advance(self, state: Any, tokens: torch.Tensor, parents: torch.Tensor) -> Any:
        """Return the state of m rows: row i continues row ``parents[i]`` with ``tokens[i]``."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Rows of tokens and their weights, on the device of the generator.

    Attributes:
        tokens: (n, T) int64, padded with ``end``; T is the longest length.
        end: the token that ends a row.
        log_prob: (n,) float64 log-probability under the model itself, at temperature one.
        log_weight: (n,) float64 log-weight that makes the rows a sample of the model, as far as
            the support of the decoder goes.
        log_proposal: (n,) float64 log-probability under the law of the decoder; for draws without
            replacement that of being among them. None where it cannot be had.
        meta: numbers the decoder reports.
    """

    tokens: torch.Tensor
    end: int
    log_prob: torch.Tensor
    log_weight: torch.Tensor
    log_proposal: torch.Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def finished(self) -> torch.Tensor:
        """(n,) booleans: the row holds its ``end``."""
        return (self.tokens == self.end).any(1)

    @property
    def lengths(self) -> torch.Tensor:
        """(n,) int64 tokens that were drawn, ``end`` included."""
        return (self.tokens != self.end).sum(1) + self.finished

    def select(self, rows: torch.Tensor) -> Decoded:
        """Return the given rows: int64 row numbers, or n booleans."""
        proposal = None if self.log_proposal is None else self.log_proposal[rows]
        return replace(
            self,
            tokens=self.tokens[rows],
            log_prob=self.log_prob[rows],
            log_weight=self.log_weight[rows],
            log_proposal=proposal,
        )

    def to_samples(self) -> SampleSet:
        """Return the rows on the CPU: ``x["tokens"]`` (n, T), ``log_prob`` as ``log_target``."""
        return SampleSet(
            {"tokens": self.tokens.cpu()},
            self.log_weight.cpu(),
            log_target=self.log_prob.cpu(),
            log_proposal=None if self.log_proposal is None else self.log_proposal.cpu(),
            meta=dict(self.meta),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Decoded]) -> Decoded:
        """Return the rows of several results in order; numbers in ``meta`` are added up."""
        end, width = parts[0].end, max(part.tokens.shape[1] for part in parts)
        known = [part.log_proposal for part in parts if part.log_proposal is not None]
        return cls(
            torch.cat([pad(part.tokens, (0, width - part.tokens.shape[1]), end) for part in parts]),
            end,
            torch.cat([part.log_prob for part in parts]),
            torch.cat([part.log_weight for part in parts]),
            torch.cat(known) if len(known) == len(parts) else None,
            {name: sum(part.meta[name] for part in parts) for name in parts[0].meta},
        )


@dataclass(frozen=True)
class Decoder(ABC):
    """Settings of a decoder.

    Attributes:
        name: the registered name.
        joint: whether the rows are found together, so that they cannot be made in batches.
        advice: what the rows are good for.
    """

    name: ClassVar[str]
    joint: ClassVar[bool] = False
    advice: ClassVar[str] = "the rows are draws of the model"

    def check_rows(self, n: int) -> None:
        """Raise a UsageError unless ``n`` rows can be asked for at once."""
        check_whole("num_samples", n, 1)

    def decode(
        self, model: TokenModel, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        """Return ``n`` rows; fewer where the rows differ and the model has no more.

        Args:
            model: the tokens' law.
            n: how many rows.
            generator: the source of randomness; the bookkeeping is done on its device.
            max_tokens: the largest length of a row, ``end`` included.

        Raises:
            UsageError: a count or a setting cannot be used.
            GensciError: the model leaves a row without any allowed token.
        """
        self.check_rows(n)
        check_whole("max_tokens", max_tokens, 1)
        with torch.no_grad():
            return self._decode(Reader(model, generator.device), n, generator, max_tokens)

    @abstractmethod
    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded: ...

    def run(
        self, model: TokenModel, n: int, *, seed: int, max_tokens: int, batch_size: int = 256
    ) -> SampleSet:
        """Return ``n`` rows as a sample set on the CPU.

        Args:
            model: the tokens' law.
            n: how many rows; joint decoders may find fewer.
            seed: the same seed and settings give the same rows.
            max_tokens: the largest length of a row.
            batch_size: rows decoded at once, where rows are independent.

        Returns:
            ``x["tokens"]`` (n, T) padded with ``end``, log-weights, and in ``meta`` decoder,
            settings, seed, max_tokens, requested, kept, unfinished, verdict and what the decoder
            reports.

        Raises:
            UsageError: a count or a setting cannot be used.
            GensciError: the model leaves a row without any allowed token.
        """
        check_whole("num_samples", n, 1)
        check_whole("batch_size", batch_size, 1)
        size = n if self.joint else batch_size
        parts = [
            self.decode(model, min(size, n - first), self._stream(seed, first), max_tokens)
            for first in range(0, n, size)
        ]
        decoded = Decoded.concatenate(parts)
        ess = kish_ess(decoded.log_weight)
        return decoded.to_samples().with_meta(
            decoder=self.name,
            settings=self.settings(),
            seed=seed,
            max_tokens=max_tokens,
            requested=n,
            kept=len(decoded),
            unfinished=int((~decoded.finished).sum()),
            verdict=verdict(ess=ess.count, ess_fraction=ess.fraction, advice=self.advice),
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings by name; of a draft model only the name of its class."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = (int, float, str, type(None))
        return {k: v if isinstance(v, plain) else type(v).__name__ for k, v in values.items()}

    def _stream(self, seed: int, first: int) -> torch.Generator:
        return stream(seed, self.name, "decode", first)


def make_decoder(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the decoder of this name with these settings.

    Args:
        name: a registered decoder; case does not matter, dashes equal underscores.
        settings: values by field name, under either spelling; text is read as numbers.

    Raises:
        UsageError: the decoder or a setting is unknown, or a value cannot be used.
    """
    return make_registered(DECODERS, name, settings)


def log_prob(model: TokenModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return the (n,) float64 log-probability of given rows under a model.

    The log-weight that carries draws of a constrained model over to the model itself is the
    difference of two such values.

    Args:
        model: the tokens' law.
        tokens: (n, T) int64, padded with ``end``; a row without ``end`` counts as it is. A row that
            the model cannot give has -inf.

    Raises:
        UsageError: a token is not in the vocabulary.
    """
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < model.vocab_size:
        remedy = f"give numbers from 0 to {model.vocab_size - 1}"
        raise UsageError("tokens hold numbers outside of the vocabulary", remedy)
    reader, total = Reader(model, tokens.device), torch.zeros(len(tokens), dtype=torch.float64)
    total = total.to(tokens.device)
    rows, state = torch.arange(len(tokens), device=tokens.device), model.start(len(tokens))
    with torch.no_grad():
        for step in range(tokens.shape[1]):
            token = tokens[rows, step]
            total[rows] += reader.log_probs(state).gather(1, token[:, None]).squeeze(1)
            going = ((token != model.end) & torch.isfinite(total[rows])).nonzero().squeeze(1)
            if not going.numel():
                break
            state, rows = reader.advance(state, token[going], going), rows[going]
    return total


def finish(tokens: torch.Tensor, end: int, log_prob: torch.Tensor, **given: Any) -> Decoded:
    """Return rows (n, max_tokens) padded with ``end``, cut to T; weights are zero if not given."""
    ended = tokens == end
    longest = int(((~ended).sum(1) + ended.any(1)).max()) if len(tokens) else 0
    decoded = Decoded(tokens[:, :longest], end, log_prob, torch.zeros_like(log_prob))
    return replace(decoded, **given)


def pad(tokens: torch.Tensor, sides: tuple[int, int], end: int) -> torch.Tensor:
    """Return tokens (n, T) with columns of ``end`` added at the left and right."""
    return torch.nn.functional.pad(tokens, sides, value=end)
