"""UniGenX as published (Zhang et al. 2025, arXiv:2503.06687): one causal network over tokens and
slots of three numbers, which end in word logits or in a diffusion head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gensci.core.diffusion import Denoiser
from gensci.core.errors import CheckpointError, UsageError
from gensci.core.registry import MODELS
from gensci.nn.ddpm_head import DdpmHead
from gensci.nn.llama import Llama, LlamaCache
from gensci.nn.published_vocabulary import PublishedVocabulary

COORDINATE_WEIGHT = 100.0
LABEL_SMOOTHING = 0.05
REPEATS = 4  # noise draws for every slot of a training sequence
LATTICE_ROWS = 3


class Solver(Protocol):
    """What draws slots; see `gensci.samplers.solvers`."""

    def solve(
        self, denoiser: Denoiser, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Draw (n, 3) points."""
        ...


@dataclass(frozen=True)
class UniGenXSize:
    """Size of the network.

    Attributes:
        hidden: Channels of the causal stack.
        intermediate: Channels inside its transitions.
        num_layers: Its blocks.
        num_heads: Its attention heads.
        head_width: Channels of the diffusion head.
        head_depth: Residual blocks of the diffusion head.
        learn_sigma: Whether the head learns the variance.
        rope_theta: Base of the rotary wavelengths.
        eps: Added to mean squares in the norms.
    """

    hidden: int = 1024
    intermediate: int = 4096
    num_layers: int = 6
    num_heads: int = 16
    head_width: int = 1024
    head_depth: int = 3
    learn_sigma: bool = True
    rope_theta: float = 1e4
    eps: float = 1e-6


PRESETS = {
    "tiny": UniGenXSize(num_layers=2),
    "100m": UniGenXSize(),
    "200m": UniGenXSize(num_layers=12),
    "base": UniGenXSize(num_layers=24, head_depth=12),
    "800m": UniGenXSize(1280, 5120, 32, 20),
    "1.6b": UniGenXSize(2048, 8192, 24, 32),
    "3.3b": UniGenXSize(2560, 10240, 32, 32),
}


class Losses(NamedTuple):
    """Parts of the training loss, and their weighted sum."""

    word: Tensor
    coordinate: Tensor
    total: Tensor


class _Rows(NamedTuple):
    """Rows that still miss slots, while a batch is sampled.

    Attributes:
        row: Row of the result (n,).
        place: Position in the sequence of the state at hand (n,).
        hidden: That state (n, hidden).
        cache: Keys and values of the earlier positions.
    """

    row: Tensor
    place: Tensor
    hidden: Tensor
    cache: LlamaCache

    def select(self, kept: Tensor) -> _Rows:
        """Some of the rows."""
        return _Rows(self.row[kept], self.place[kept], self.hidden[kept], self.cache.select(kept))


@MODELS.register("unigenx-published")
class UniGenX(nn.Module):
    """The published network.

    Args:
        vocabulary: All tokens in order, as the weights number them.
        vocabulary_sha256: What their SHA-256 is to be, where known.
        **size: Fields of :class:`UniGenXSize`.

    Raises:
        CheckpointError: The vocabulary is another than that of the SHA-256.
    """

    def __init__(
        self, vocabulary: Sequence[str], vocabulary_sha256: str | None = None, **size: Any
    ) -> None:
        super().__init__()
        self.size = UniGenXSize(**size)
        self.vocabulary = PublishedVocabulary(vocabulary)
        if vocabulary_sha256 is not None:
            self.check_vocabulary(vocabulary_sha256)
        hidden = self.size.hidden
        self.embedding = nn.Embedding(len(self.vocabulary), hidden)
        self.coordinate = nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.llama = Llama(
            hidden,
            self.size.intermediate,
            self.size.num_layers,
            self.size.num_heads,
            self.size.rope_theta,
            self.size.eps,
        )
        self.words = nn.Linear(hidden, len(self.vocabulary), bias=False)
        self.head = DdpmHead(
            hidden, self.size.head_width, self.size.head_depth, self.size.learn_sigma
        )
        for weight in (self.embedding.weight, self.words.weight):
            nn.init.normal_(weight, std=0.02)

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that build this network again."""
        return {
            "vocabulary": list(self.vocabulary.tokens),
            "vocabulary_sha256": self.vocabulary.sha256,
            **asdict(self.size),
        }

    def check_vocabulary(self, sha256: str) -> None:
        """Refuse tokens that were numbered by another vocabulary.

        Raises:
            CheckpointError: ``sha256`` is not that of this network's vocabulary.
        """
        own = self.vocabulary.sha256
        if sha256 != own:
            raise CheckpointError(
                f"vocabulary {sha256[:12]} is not that of the model ({own[:12]})",
                "use the vocabulary that the weights were trained with",
            )

    def embed(self, ids: Tensor, continuous: Tensor, coordinates: Tensor) -> Tensor:
        """Input vectors (B, L, hidden) of a batch as for :meth:`forward`.

        Raises:
            UsageError: The number of coordinates is not that of the slots.
        """
        if len(coordinates) != (slots := int(continuous.sum())):
            raise UsageError(
                f"{len(coordinates)} coordinates for {slots} slots", "give one row for each slot"
            )
        u = self.embedding(ids)
        # A slot's own token carries nothing: it is replaced, not added to.
        return u.masked_scatter(continuous[..., None], self.coordinate(coordinates).to(u.dtype))

    def forward(
        self, ids: Tensor, continuous: Tensor, coordinates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states and word logits of sequences that are padded on the right.

        Args:
            ids: Tokens (B, L) int64.
            continuous: Whether a slot of three numbers stands here (B, L) bool.
            coordinates: The numbers of all slots (sum, 3) in reading order.

        Returns:
            (B, L, hidden) states, of which that at p conditions a slot at p + 1; and the logits
            (B, L, tokens) of the token at p + 1.
        """
        there = ids != self.vocabulary.pad
        # Only states at padding depend on the mask, but the published loss counts those too.
        mask = None if bool(there.all()) else there
        hidden = self.llama(self.embed(ids, continuous, coordinates), mask)
        return hidden, self.words(hidden)

    def loss(
        self,
        ids: Tensor,
        continuous: Tensor,
        coordinates: Tensor,
        generator: torch.Generator,
        ignore_padding: bool = False,
    ) -> Losses:
        """The published training loss of a batch as for :meth:`forward`.

        Args:
            ids, continuous, coordinates: The batch; no row begins with a slot.
            generator: Source of diffusion steps and noise.
            ignore_padding: Leave padding out of the mean over words. The published loss counts
                it, so that the weight of a word falls with the longest row of the batch.
        """
        hidden, logits = self(ids, continuous, coordinates)
        following, slots = ids[:, 1:], continuous[:, 1:]
        counted = ~slots & (following != self.vocabulary.pad) if ignore_padding else ~slots
        word = F.cross_entropy(
            logits[:, :-1][counted].float(), following[counted], label_smoothing=LABEL_SMOOTHING
        )
        z, x0 = hidden[:, :-1][slots], coordinates
        coordinate = self.head.loss(z.repeat(REPEATS, 1), x0.repeat(REPEATS, 1), generator).mean()
        return Losses(word, coordinate, word + COORDINATE_WEIGHT * coordinate)

    def token_log_prob(self, ids: Tensor, continuous: Tensor, coordinates: Tensor) -> Tensor:
        """Log-probability (B,) of all tokens behind the first, given the slots between them."""
        _, logits = self(ids, continuous, coordinates)
        following = ids[:, 1:, None]
        counted = ~continuous[:, 1:] & (following[..., 0] != self.vocabulary.pad)
        chosen = logits[:, :-1].float().log_softmax(-1).gather(-1, following)[..., 0]
        return chosen.masked_fill(~counted, 0.0).sum(-1)

    @torch.no_grad()
    def sample_crystals(
        self,
        numbers: Tensor,
        solver: Solver,
        generator: torch.Generator,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """Draw cells and coordinates of given compositions.

        Args:
            numbers: Atomic numbers (n, N) int64 in the order of the prompt, 0 for padding, last.
            solver: Draws three numbers from the diffusion head.
            generator: Source of randomness.
            temperature: Handed to the solver.

        Returns:
            `numbers`, `fractional` (n, N, 3) in [0, 1), zero for padding, and `lattice` (n, 3, 3),
            rows in Angstrom.

        Raises:
            UsageError: A composition is empty or has an element that the vocabulary lacks.
        """
        lengths = (numbers > 0).sum(-1)
        if len(lengths) == 0 or int(lengths.min()) == 0:
            raise UsageError("a composition is empty", "give at least one atom for each crystal")
        missing = lengths + LATTICE_ROWS
        slots = numbers.new_zeros((len(numbers), int(missing.max()), 3), dtype=torch.float32)
        rows = self._read_prompts(numbers, int(missing.max()))
        for slot in range(slots.shape[1]):
            x = solver.solve(self.head.denoiser(rows.hidden), generator, temperature)
            slots[rows.row, slot] = x.to(slots.dtype)
            left = missing[rows.row] > slot + 1
            if not bool(left.all()):
                kept = left.nonzero()[:, 0]
                rows, x = rows.select(kept), x[kept]
            if len(x):
                rows = self._append(rows, x)
        there = (numbers > 0)[..., None]
        fractional = slots[:, LATTICE_ROWS:].remainder(1.0)
        # A tiny negative number rounds to one, which is the same place as zero.
        fractional = fractional.masked_fill((fractional >= 1.0) | ~there, 0.0)
        return {"numbers": numbers, "fractional": fractional, "lattice": slots[:, :LATTICE_ROWS]}

    def _read_prompts(self, numbers: Tensor, num_slots: int) -> _Rows:
        """State behind the prompts of compositions (n, N), with room for the slots."""
        prompts = [
            torch.tensor(self.vocabulary.crystal_prompt([n for n in row if n]))
            for row in numbers.tolist()
        ]
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=0)
        ids = ids.to(self.embedding.weight.device)
        hidden, cache = self.llama.prefill(self.embedding(ids), ids.shape[1] + num_slots)
        row = torch.arange(len(ids), device=ids.device)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=ids.device)
        return _Rows(row, last, hidden[row, last], cache)

    def _append(self, rows: _Rows, x: Tensor) -> _Rows:
        """Read the slots ``x`` (n, 3) that were drawn from the states at hand."""
        place = rows.place + 1
        hidden = self.llama.step(self.coordinate(x), rows.cache, place)
        return _Rows(rows.row, place, hidden, rows.cache)
