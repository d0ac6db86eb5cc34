"""Trees of drafted tokens: at each node children drawn without replacement from a draft model.

A chain of single draws is the tree of width one. Children of a node are in the order in which they
would be drawn one after the other, which is what rejection sampling along them needs. It is so in
either kind of tree: given the perturbed values, and those of a node decide how many children it
has, the next child of a node is a draw from the draft model among the tokens not yet taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from gensci.samplers.decoders.gumbel import perturb, perturb_below
from gensci.samplers.decoders.reading import Reader

TREES = ("beam", "constant")


@dataclass
class Level:
    """The nodes of all trees at one depth, trees in order.

    Attributes:
        row: (m,) the tree of each node.
        parent: (m,) its parent in the level before; of the roots themselves.
        token: (m,) what was drafted.
        rank: (m,) how many siblings were drawn before it.
        ended: (m,) booleans: the token is the end, so the node has no children.
        log_draft: (m, V) the draft model's distribution after the node; None in the last level.
        children: (m, width) nodes of the next level by rank, -1 where there is none.
    """

    row: torch.Tensor
    parent: torch.Tensor
    token: torch.Tensor
    rank: torch.Tensor
    ended: torch.Tensor
    log_draft: torch.Tensor | None = None
    children: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))


def roots(n: int, device: torch.device) -> Level:
    """Return the level of ``n`` roots, which hold no token."""
    row = torch.arange(n, device=device)
    zero = torch.zeros_like(row)
    return Level(row, row, zero - 1, zero, zero.bool())


def grow(
    draft: Reader,
    state: Any,
    n: int,
    depth: int,
    width: int,
    tree: str,
    generator: torch.Generator,
) -> list[Level]:
    """Return the levels of ``n`` trees, roots first.

    Args:
        draft: the draft model.
        state: its state, with n rows.
        n: how many trees.
        depth: the number of levels below the roots.
        width: children of a node in a ``constant`` tree; nodes of a level in a ``beam`` tree, which
            are the best of a stochastic beam search.
        tree: constant or beam.
        generator: the source of randomness.

    Reference: Jeon, Gagrani, Goel, Park, Lee and Lott (2024), arXiv:2402.14160, RSD-C and RSD-S.
    """
    level = roots(n, draft.device)
    key = phi = torch.zeros(n, dtype=torch.float64, device=draft.device)
    levels = [level]
    for below in range(depth):
        live = (~level.ended).nonzero().squeeze(1)
        if not live.numel():
            break
        log_draft = draft.log_probs(state)
        level.log_draft = log_draft.new_full((len(level.row), draft.vocab_size), -math.inf)
        level.log_draft[live] = log_draft
        if tree == "beam":
            joint = phi[live, None] + log_draft
            keys, segment = perturb_below(joint, key[live], generator), level.row[live]
        else:
            joint = log_draft
            keys, segment = perturb(joint, generator), live
        source, token = best_in_segments(keys, segment, width)
        key, phi = keys[source, token], joint[source, token]
        level, parents = _below(level, live[source], token, width, draft.end), source
        levels.append(level)
        going = (~level.ended).nonzero().squeeze(1)
        if below + 1 < depth and going.numel():
            state = draft.advance(state, token[going], parents[going])
    return levels


def best_in_segments(
    keys: torch.Tensor, segment: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of the largest finite entries of each segment of rows.

    Args:
        keys: (m, V).
        segment: (m,) rows of equal number compete for the same places.
        width: at most so many for each segment.

    Returns:
        Rows and columns of the entries, segments in order and the largest first.
    """
    flat = keys.flatten()
    owner = segment.repeat_interleave(keys.shape[1])
    order = torch.sort(flat, descending=True, stable=True).indices
    order = order[torch.sort(owner[order], stable=True).indices]
    keep = (ranks(owner[order]) < width) & (flat[order] > -math.inf)
    chosen = order[keep]
    return chosen // keys.shape[1], chosen % keys.shape[1]


def ranks(owner: torch.Tensor) -> torch.Tensor:
    """Return (m,) how many entries of equal value stand before each."""
    order = torch.sort(owner, stable=True).indices
    ordered = owner[order]
    first = torch.searchsorted(ordered, ordered)
    result = torch.empty_like(owner)
    result[order] = torch.arange(len(owner), device=owner.device) - first
    return result


def _below(level: Level, parent: torch.Tensor, token: torch.Tensor, width: int, end: int) -> Level:
    """Return the level of new nodes, and enter them as children of ``level``."""
    rank = ranks(parent)
    level.children = torch.full((len(level.row), width), -1, device=parent.device)
    level.children[parent, rank] = torch.arange(len(parent), device=parent.device)
    return Level(level.row[parent], parent, token, rank, token == end)


@dataclass(frozen=True)
class Paths:
    """The tokens from the root to each leaf.

    Attributes:
        tokens: (p, depth) int64, padded with the end token.
        lengths: (p,) of them that count; the end of a row does not.
        row: (p,) the tree of each leaf.
        through: for each level (m,) one leaf below each of its nodes, or the node itself.
    """

    tokens: torch.Tensor
    lengths: torch.Tensor
    row: torch.Tensor
    through: list[torch.Tensor]


def paths(levels: list[Level], end: int) -> Paths:
    """Return the paths to all leaves of the trees."""
    tokens, lengths, rows, leaves = [], [], [], []
    device = levels[0].row.device
    path = torch.full((len(levels[0].row), len(levels) - 1), end, device=device)
    count = 0
    for depth, level in enumerate(levels):
        if depth:
            path = path[level.parent]
            path[:, depth - 1] = level.token
        leaf = ~has_children(level)
        numbers = torch.full_like(level.row, -1)
        numbers[leaf] = torch.arange(count, count + int(leaf.sum()), device=device)
        count += int(leaf.sum())
        leaves.append(numbers)
        tokens.append(path[leaf])
        # Nothing follows the end of a row, so the model need not read it.
        lengths.append(depth - level.ended[leaf].long())
        rows.append(level.row[leaf])
    for depth in reversed(range(len(levels) - 1)):
        inner = leaves[depth] < 0
        leaves[depth][inner] = leaves[depth + 1][levels[depth].children[inner, 0]]
    return Paths(torch.cat(tokens), torch.cat(lengths), torch.cat(rows), leaves)


def has_children(level: Level) -> torch.Tensor:
    """Return (m,) booleans; children fill their places from the first on."""
    if not level.children.numel():
        return torch.zeros_like(level.ended)
    return level.children[:, 0] >= 0
