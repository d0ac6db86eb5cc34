"""Sequences continued place by place, with the keys and values of what was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gensci.core.diffusion import Denoiser
from gensci.nn.frames import to_global
from gensci.nn.llama import LlamaCache
from gensci.nn.structure_constraints import Constraint
from gensci.nn.structure_frames import frames_of
from gensci.nn.structure_heads import RestingHead
from gensci.nn.structure_layout import TOKEN
from gensci.nn.structure_sequence import Batch, MoleculeBatch

if TYPE_CHECKING:
    from gensci.nn.structure_network import StructureTransformer

Solve = Callable[[Denoiser], Tensor]
"""Draws (n, 3) of slots from their denoiser."""
Amend = Callable[["Track", Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Turns what was drawn for rows of a track into what is written; may have some drawn again."""


class Track:
    """Rows of sequences whose tokens are known and whose slots are being drawn.

    Args:
        network: the model.
        batch: sequences in full length, with anything for the values to be drawn.
        known: (B, L) which places are given. The first of every row must be.
    """

    def __init__(self, network: StructureTransformer, batch: Batch, known: Tensor):
        self.network, self.batch, self.known = network, _copy(batch), known
        self.head = RestingHead(network.head)
        if batch.molecule is not None:
            self.batch = replace(self.batch, molecule=_copy(batch.molecule))
        length = batch.places[1]
        open_places = (~known).any(0).nonzero()
        self.place, self.last = length, -1
        if len(open_places):
            self.place, self.last = int(open_places[0]), int(open_places[-1])
        # Rows mostly share their prompt, which is then read once.
        kinds, row = _distinct(self.batch, self.place + 1)
        first = network.inputs(self.batch.rows(kinds))[:, : self.place]
        states, cache = network.backbone.prefill(first, length)
        self.cache, self.hidden = cache.select(row), states[row, -1]

    @property
    def finished(self) -> bool:
        """Whether no place is left."""
        return self.place >= self.batch.places[1]

    @property
    def open(self) -> Tensor:
        """(B,) rows whose slot at this place is to be drawn."""
        return ~self.known[:, self.place]

    def denoiser(self, rows: Tensor) -> Denoiser:
        """Of the slots of some rows (n,) int64 at this place."""
        batch, network = self.batch, self.network
        torus = network.on_torus(batch.kind[rows, self.place])
        hint, hinted = batch.hint[rows, self.place], batch.hinted[rows, self.place]
        return self.head.denoiser(self.hidden[rows], torus, hint, hinted)

    def put(self, rows: Tensor, values: Tensor) -> None:
        """Write values (n, 3) into the slots of rows at this place, and read it."""
        self.batch.value[rows, self.place] = values.to(self.batch.value.dtype)
        self._place_atoms(rows)
        if self.place < self.last:  # else no slot asks for the state that follows
            pair = slice(self.place, self.place + 2)
            u = self.network.embedding(_columns(self.batch, pair))[:, 0]
            u = u + self._surroundings(u)
            index = torch.full((len(u),), self.place, dtype=torch.long, device=u.device)
            self.hidden = self.network.backbone.step(u, self.cache, index)
        self.place += 1

    def _place_atoms(self, rows: Tensor) -> None:
        molecule = self.batch.molecule
        if molecule is None:
            return
        atom = self.place - molecule.start[rows]
        if self.network.layout.frames == "global":
            molecule.positions[rows, atom] = self.batch.value[rows, self.place]
            return
        references = molecule.references[rows, atom].unsqueeze(1)
        origin, axes = frames_of(molecule.positions[rows], references)
        x = to_global(self.batch.value[rows, self.place], origin[:, 0], axes[:, 0])
        molecule.positions[rows, atom] = x

    def _surroundings(self, u: Tensor) -> Tensor:
        """What the next atoms find, zero where no atom comes next."""
        molecule = self.batch.molecule
        if molecule is None or self.network.surroundings is None:
            return torch.zeros_like(u)
        atom = self.place + 1 - molecule.start
        inside = (atom >= 0) & (atom < molecule.numbers.shape[1])
        chosen = atom.clamp(0, molecule.numbers.shape[1] - 1).unsqueeze(1)
        real = inside & (molecule.numbers.gather(1, chosen)[:, 0] > 0)
        seen = self.network.look_around(molecule, chosen)[:, 0]
        return torch.where(real.unsqueeze(-1), seen, torch.zeros_like(seen))

    def select(self, rows: Tensor) -> Track:
        """A new track whose row i continues row ``rows[i]``; int64, repeats allowed."""
        other = object.__new__(Track)
        other.network, other.head = self.network, self.head
        other.place, other.last = self.place, self.last
        other.batch, other.known = self.batch.rows(rows), self.known[rows]
        other.cache, other.hidden = self.cache.select(rows), self.hidden[rows]
        return other


def draw_slots(
    track: Track, solve: Solve, others: tuple[Track, ...] = (), amend: Amend | None = None
) -> Batch:
    """Draw all open slots of a track, one place after another.

    Args:
        track: the rows.
        solve: draws slots from their denoiser.
        others: tracks of the same rows under other prompts; ``solve`` is called with the denoisers
            of all, those of ``track`` first, and what it draws is written into every one.
        amend: has a say in what is written.

    Returns:
        The batch with its values drawn.
    """
    while not track.finished:
        draw_slot(track, solve, others, amend)
    return track.batch


def draw_slot(
    track: Track, solve: Solve, others: tuple[Track, ...] = (), amend: Amend | None = None
) -> None:
    """Draw the slots of one place, and read them; see :func:`draw_slots`."""
    rows = track.open.nonzero().squeeze(-1)

    def drawn(rows: Tensor) -> Tensor:
        return solve(*(one.denoiser(rows) for one in (track, *others)))

    values = track.batch.value[rows, track.place]
    if len(rows):
        values = drawn(rows)
        if amend is not None:
            values = amend(track, rows, values, lambda some: drawn(rows[some]))
    for one in (track, *others):
        one.put(rows, values)


class TokenTrack:
    """The model of tokens after a prompt, as decoders ask for it.

    Its states are never changed: reading a token copies the keys and values. A decoded row ends
    with the token that opens the coordinates.

    Args:
        network: the model.
        prompt: one row, where the tokens begin.
        max_tokens: most tokens of a row.
        constraint: tells which tokens may come next, or None for all.
    """

    def __init__(
        self,
        network: StructureTransformer,
        prompt: Batch,
        max_tokens: int,
        constraint: Constraint | None = None,
    ):
        self.network, self.prompt, self.constraint = network, prompt, constraint
        self.vocab_size, self.end = len(network.vocabulary), network.vocabulary.coordinates
        self.capacity = prompt.places[1] + max_tokens + 1
        numbers = torch.zeros(self.vocab_size, dtype=torch.long, device=prompt.ids.device)
        for token, number in network.vocabulary.element_tokens().items():
            numbers[token] = number
        self.numbers = numbers

    def start(self, n: int) -> TokenState:
        """The state of n empty rows."""
        rows = torch.zeros(n, dtype=torch.long, device=self.prompt.ids.device)
        states, cache = self.network.backbone.prefill(
            self.network.inputs(self.prompt), self.capacity
        )
        written = self.constraint.start(n) if self.constraint else None
        return TokenState(states[rows, -1], cache.select(rows), 0, written)

    def log_probs(self, state: TokenState) -> Tensor:
        """(n, V) log-probabilities of the next token, -inf where it is not allowed."""
        logits = self.network.tokens_out(state.hidden).double()
        if self.constraint is not None:
            allowed = self.constraint.allowed(state.written).to(logits.device)
            logits = logits.masked_fill(~allowed, -torch.inf)
        return logits.log_softmax(-1)

    def advance(self, state: TokenState, tokens: Tensor, parents: Tensor) -> TokenState:
        """Row i continues row ``parents[i]`` with ``tokens[i]``."""
        device = state.hidden.device
        tokens, parents = tokens.to(device), parents.to(device)
        cache = state.cache.select(parents)
        u = self.network.embedding.after_token(tokens, self.numbers[tokens], state.length + 1)
        index = torch.full_like(tokens, self.prompt.places[1] + state.length)
        hidden = self.network.backbone.step(u, cache, index)
        written = state.written
        if self.constraint is not None:
            written = self.constraint.advance(written, tokens, parents)
        return TokenState(hidden, cache, state.length + 1, written)


class GuidedTokens:
    """Tokens under a prompt, pressed away from those under another: classifier-free guidance.

    The logits are extrapolated (Sanchez et al. 2023, arXiv:2306.17806). States are pairs.

    Args:
        track: under the prompt.
        free: under the prompt without what is pressed; of the same constraint.
        weight: 1 for ``track`` alone, above 1 to press.
    """

    def __init__(self, track: TokenTrack, free: TokenTrack, weight: float):
        self.track, self.free, self.weight = track, free, weight
        self.vocab_size, self.end = track.vocab_size, track.end

    def start(self, n: int) -> tuple[TokenState, TokenState]:
        """The states of n empty rows."""
        return self.track.start(n), self.free.start(n)

    def log_probs(self, state: tuple[TokenState, TokenState]) -> Tensor:
        """(n, V) log-probabilities of the next token, -inf where it is not allowed."""
        wanted, free = self.track.log_probs(state[0]), self.free.log_probs(state[1])
        pressed = torch.lerp(free, wanted, self.weight)
        return pressed.masked_fill(wanted == -torch.inf, -torch.inf).log_softmax(-1)

    def advance(
        self, state: tuple[TokenState, TokenState], tokens: Tensor, parents: Tensor
    ) -> tuple[TokenState, TokenState]:
        """Row i continues row ``parents[i]`` with ``tokens[i]``."""
        wanted, free = state
        return (
            self.track.advance(wanted, tokens, parents),
            self.free.advance(free, tokens, parents),
        )


class TokenState(NamedTuple):
    """Rows of tokens.

    Attributes:
        hidden: (n, h) states at their last places.
        cache: keys and values.
        length: tokens read after the prompt, the same in all rows.
        written: state of the constraint.
    """

    hidden: Tensor
    cache: LlamaCache
    length: int
    written: Any


def _copy(batch: Batch | MoleculeBatch) -> Batch | MoleculeBatch:
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    copied = {k: v.clone() for k, v in tensors.items() if isinstance(v, Tensor)}
    return replace(batch, **copied)


def _distinct(batch: Batch, length: int) -> tuple[Tensor, Tensor]:
    """Rows (k,) whose first places differ, and for every row (B,) which of them it equals."""
    columns = _columns(batch, slice(length))
    parts = [getattr(columns, f.name) for f in fields(columns) if f.name != "molecule"]
    if batch.molecule is not None:
        parts += [getattr(batch.molecule, f.name) for f in fields(batch.molecule)]
    rows = torch.cat([part.double().flatten(1) for part in (p.unsqueeze(-1) for p in parts)], 1)
    if bool((rows == rows[:1]).all()):
        row = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        return row[:1], row
    _, row = rows.unique(dim=0, return_inverse=True)
    order = torch.arange(len(rows), device=rows.device)
    kinds = torch.full((int(row.max()) + 1,), len(rows), device=rows.device)
    return kinds.scatter_reduce(0, row, order, "amin"), row


def _columns(batch: Batch, places: slice) -> Batch:
    names = [f.name for f in fields(batch) if f.name != "molecule"]
    return Batch(**{name: getattr(batch, name)[:, places] for name in names})


def open_slots(batch: Batch) -> Tensor:
    """(B, L) the slots that are to be drawn: those that training learns."""
    return batch.learn & (batch.kind != TOKEN)
