"""What a place of a sequence tells the transformer: tokens, values, the slot to come, the atoms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensci.nn.structure_layout import FRACTION, TOKEN, Layout
from gensci.nn.structure_sequence import Batch

HARMONICS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
ATOMIC_NUMBERS = 119
FAR = 8  # bonds apart beyond which all distances along the graph are alike
BONDS = 5


def tell_apart(*tables: nn.Embedding) -> None:
    """Start embeddings with entries of one half, so that their sums are of order one."""
    for table in tables:
        nn.init.normal_(table.weight, std=0.5)


class ValueEmbedding(nn.Module):
    """Slots of three numbers as channels, periodic for fractional coordinates.

    Args:
        hidden: channels.
        periodic: whether fractional coordinates are read on the torus.
    """

    def __init__(self, hidden: int, periodic: bool = True):
        super().__init__()
        self.periodic = periodic
        harmonics = torch.tensor(HARMONICS, dtype=torch.float32)
        self.register_buffer("harmonics", harmonics, persistent=False)
        self.on_torus = nn.Linear(6 * len(HARMONICS), hidden)
        self.in_space = nn.Linear(6 * len(HARMONICS) + 3, hidden)

    def forward(self, value: Tensor, kind: Tensor) -> Tensor:
        """Channels (n, hidden) of values (n, 3) of kinds (n,)."""
        torus = (kind == FRACTION).unsqueeze(-1) & self.periodic
        angles = torch.where(torus, 2 * math.pi * value, 0.5 * value).unsqueeze(-1) * self.harmonics
        waves = torch.cat((angles.sin().flatten(-2), angles.cos().flatten(-2)), -1)
        space = self.in_space(torch.cat((waves, value), -1))
        return torch.where(torus, self.on_torus(waves), space)


class Surroundings(nn.Module):
    """What the atoms placed so far look like from the frame of the atom to come.

    A sum over atoms of a network of their place in the frame, their element, and how the graph
    relates them to the coming one (Zaheer et al. 2017, arXiv:1703.06114). Nothing in it changes
    when the molecule is turned or shifted.

    Args:
        hidden: channels of the result; ``width`` those inside.
    """

    def __init__(self, hidden: int, width: int = 96):
        super().__init__()
        self.element = nn.Embedding(ATOMIC_NUMBERS, width)
        self.coming = nn.Embedding(ATOMIC_NUMBERS, width)
        self.distance = nn.Embedding(FAR + 1, width)
        self.bond = nn.Embedding(BONDS, width)
        self.role = nn.Embedding(4, width)
        self.stereo = nn.Embedding(9, width)
        tell_apart(self.element, self.coming, self.distance, self.bond, self.role, self.stereo)
        self.place = nn.Linear(3 + 3 + 16, width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, hidden)
        self.register_buffer("centres", torch.linspace(0.8, 8.0, 16), persistent=False)

    def forward(
        self,
        local: Tensor,
        numbers: Tensor,
        coming: Tensor,
        distance: Tensor,
        bond: Tensor,
        role: Tensor,
        stereo: Tensor,
        placed: Tensor,
    ) -> Tensor:
        """Channels (..., hidden) of the atoms to come.

        Args:
            local: (..., N, 3) Angstrom, the other atoms in the frame of the coming one.
            numbers: (..., N) their elements; ``coming`` (...) that of the coming one.
            distance, bond: (..., N) along the graph to the coming one.
            role: (..., N) 1, 2, 3 for the atoms that make the frame, else 0.
            stereo: (...) the handedness and side wanted of the coming atom.
            placed: (..., N) which of them are there.
        """
        radius = local.norm(dim=-1, keepdim=True)
        shells = torch.exp(-2.0 * (radius - self.centres).square())
        where = torch.cat((local / 4, local / (radius + 0.1), shells), -1)
        labels = self.element(numbers) + self.distance(distance.clamp(max=FAR).long())
        labels = labels + self.bond(bond.long()) + self.role(role)
        wanted = self.coming(coming) + self.stereo(stereo)
        u = F.silu(self.place(where) + labels + wanted.unsqueeze(-2))
        u = F.silu(self.inner(u)) * placed.unsqueeze(-1).to(u.dtype)
        return self.outer(u.sum(-2))


class SequenceEmbedding(nn.Module):
    """Input of the transformer at every place: what stands here, and which slot comes next.

    Args:
        tokens: size of the vocabulary.
        hidden: channels.
        max_atoms: most atoms of a structure.
        periodic: whether fractional coordinates are read on the torus.
        coming: whether a place is told which slot comes next.
        kinds: how many kinds of slots there are.
    """

    def __init__(
        self,
        tokens: int,
        hidden: int,
        max_atoms: int,
        periodic: bool = True,
        coming: bool = True,
        kinds: int = Layout().num_kinds,
    ):
        super().__init__()
        self.tells = coming
        self.token = nn.Embedding(tokens, hidden)
        self.value = ValueEmbedding(hidden, periodic)
        self.kind = nn.Embedding(kinds, hidden)
        self.next_kind = nn.Embedding(kinds, hidden) if coming else None
        self.element = nn.Embedding(ATOMIC_NUMBERS, hidden, padding_idx=0)
        self.next_element = nn.Embedding(ATOMIC_NUMBERS, hidden, padding_idx=0) if coming else None
        self.source = nn.Embedding(ATOMIC_NUMBERS, hidden, padding_idx=0)
        self.index = nn.Embedding(max_atoms + 1, hidden, padding_idx=0)
        self.next_index = nn.Embedding(max_atoms + 1, hidden, padding_idx=0) if coming else None
        self.of_template = nn.Embedding(2, hidden)
        self.hint = ValueEmbedding(hidden, periodic)
        for table in self.children():
            if isinstance(table, nn.Embedding):
                tell_apart(table)

    def here(self, batch: Batch) -> Tensor:
        """Channels (B, L, hidden) of what stands at each place."""
        slot = batch.kind != TOKEN
        u = self.token(batch.ids) + self.element(batch.element) + self.index(batch.index)
        u = u + self.kind(batch.kind) + self.source(batch.source)
        u = u + self.of_template(batch.template.long())
        return u.index_put((slot,), self.value(batch.value[slot], batch.kind[slot]).to(u), True)

    def after_token(self, tokens: Tensor, numbers: Tensor, index: int) -> Tensor:
        """Channels (n, hidden) of tokens whose followers are not known.

        Args:
            tokens: (n,) ids.
            numbers: (n,) atomic numbers of element tokens, else 0.
            index: number of the atom, from one.
        """
        zero = torch.zeros_like(tokens)
        place = torch.where(numbers > 0, torch.full_like(tokens, index), zero)
        u = self.token(tokens) + self.element(numbers) + self.index(place) + self.kind(zero)
        return u + self.source(zero) + self.of_template(zero) + self.coming(zero, zero, zero)

    def coming(self, kind: Tensor, element: Tensor, index: Tensor) -> Tensor:
        """Channels (..., hidden) about the slot that follows, or zero; tokens are not told."""
        if not self.tells:
            return self.kind.weight.new_zeros(())
        slot = kind != TOKEN
        zero = torch.zeros_like(element)
        return (
            self.next_kind(kind)
            + self.next_element(torch.where(slot, element, zero))
            + self.next_index(torch.where(slot, index, zero))
        )

    def forward(self, batch: Batch) -> Tensor:
        """Channels (B, L, hidden) of a batch."""
        following = (batch.kind, batch.element, batch.index)
        kind, element, index = (F.pad(column[:, 1:], (0, 1)) for column in following)
        u = self.here(batch) + self.coming(kind, element, index)
        hinted = F.pad(batch.hinted[:, 1:], (0, 1))
        if not bool(hinted.any()):
            return u
        hint = F.pad(batch.hint[:, 1:], (0, 0, 0, 1))[hinted]
        return u.index_put((hinted,), self.hint(hint, kind[hinted]).to(u), True)
