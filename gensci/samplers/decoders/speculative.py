"""Speculative decoding: a small model drafts, the model itself judges, and the law is exactly its.

Both decoders grow trees of drafted tokens (:mod:`gensci.samplers.decoders.drafts`), let the model
read all of them in one pass, and walk down each tree by rejection sampling.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from gensci.core.errors import UsageError
from gensci.core.random import uniform
from gensci.core.registry import DECODERS
from gensci.samplers.decoders.base import Decoded, Decoder, finish
from gensci.samplers.decoders.branching import scoring
from gensci.samplers.decoders.drafts import TREES, Level, Paths, grow, paths
from gensci.samplers.decoders.reading import Reader, draw, gather, require_tokens
from gensci.samplers.settings import check_choice, check_whole


@dataclass(frozen=True)
class Drafting(Decoder):
    """What both decoders share.

    Attributes:
        draft: a token model over the same vocabulary; None asks the model for its ``draft``.

    ``meta`` of the result counts ``rounds`` (over all rows), ``accepted`` drafted tokens,
    ``drafted`` tokens and ``target_passes`` of the model.
    """

    draft: Any = None

    @abstractmethod
    def _tree(self) -> tuple[int, int, str]:
        """Return depth, width and kind of the trees."""

    def _decode(
        self, model: Reader, n: int, generator: torch.Generator, max_tokens: int
    ) -> Decoded:
        depth, width, tree = self._tree()
        draft = self._checked_draft(model)
        # The last token of a row is read together with the next draft: one more to rewind.
        target = Reader(scoring(model.model, depth + 1), generator.device)
        drafter = Reader(scoring(draft, depth + 1), generator.device)
        rows = _Rows(target, drafter, n, max_tokens)
        while rows.active.numel():
            levels = grow(
                drafter, rows.draft_state, len(rows.active), depth, width, tree, generator
            )
            rows.take_round(levels, generator)
        meta = {name: getattr(rows, name) for name in _COUNTS}
        log_prob = rows.log_prob
        return finish(rows.tokens, model.end, log_prob, log_proposal=log_prob.clone(), meta=meta)

    def _checked_draft(self, model: Reader) -> Any:
        draft = self.draft if self.draft is not None else getattr(model.model, "draft", None)
        if draft is None:
            remedy = "give a small TokenModel over the same vocabulary as draft"
            raise UsageError(f"decoder {self.name!r} needs a draft model", remedy)
        if not hasattr(draft, "log_probs"):
            remedy = "give a TokenModel, made from the checkpoint"
            raise UsageError(f"draft={draft!r} is not usable", remedy)
        ours, theirs = (model.vocab_size, model.end), (draft.vocab_size, draft.end)
        if ours != theirs:
            raise UsageError(
                f"the draft has (vocab_size, end) = {theirs} but the model {ours}",
                "give a draft over the same vocabulary",
            )
        return draft


@DECODERS.register("speculative")
@dataclass(frozen=True)
class Speculative(Drafting):
    """Exact draws of the model, several tokens for each of its passes, drafted by a small model.

    Attributes:
        draft: a token model over the same vocabulary; None asks the model for its ``draft``.
        num_draft: tokens drafted ahead.

    Reference: Leviathan, Kalman and Matias (2023), arXiv:2211.17192.
    """

    num_draft: int = 4

    name: ClassVar[str] = "speculative"

    def __post_init__(self) -> None:
        check_whole("num_draft", self.num_draft, 1)

    def _tree(self) -> tuple[int, int, str]:
        return self.num_draft, 1, "constant"


@DECODERS.register("recursive-speculative")
@dataclass(frozen=True)
class RecursiveSpeculative(Drafting):
    """Exact draws of the model, judged on trees that a small model drafts without replacement.

    Attributes:
        draft: a token model over the same vocabulary; None asks the model for its ``draft``.
        tree: ``constant`` gives each node ``width`` children (RSD-C), ``beam`` keeps the ``width``
            best nodes of each level of a stochastic beam search (RSD-S).
        width: children of a node, or nodes of a level.
        depth: levels of the tree.

    Reference: Jeon, Gagrani, Goel, Park, Lee and Lott (2024), arXiv:2402.14160.
    """

    tree: str = "beam"
    width: int = 3
    depth: int = 4

    name: ClassVar[str] = "recursive-speculative"

    def __post_init__(self) -> None:
        check_choice("tree", self.tree, TREES)
        check_whole("width", self.width, 1)
        check_whole("depth", self.depth, 1)

    def _tree(self) -> tuple[int, int, str]:
        return self.depth, self.width, self.tree


_TINY = torch.finfo(torch.float64).tiny
_COUNTS = ("rounds", "accepted", "drafted", "target_passes")


class _Rows:
    """The rows of one call, and the states of both models for those that are not finished."""

    def __init__(self, target: Reader, draft: Reader, n: int, max_tokens: int) -> None:
        device = target.device
        self.target, self.draft = target, draft
        self.tokens = torch.full((n, max_tokens), target.end, device=device)
        self.log_prob = torch.zeros(n, dtype=torch.float64, device=device)
        self.length = torch.zeros(n, dtype=torch.int64, device=device)
        self.active = torch.arange(n, device=device)
        self.target_state, self.draft_state = target.start(n), draft.start(n)
        # The model has not yet read the last token of a row; at first there is none.
        self.pending: torch.Tensor | None = None
        self.rounds = self.accepted = self.drafted = self.target_passes = 0

    def take_round(self, levels: list[Level], generator: torch.Generator) -> None:
        """Judge one tree for each active row, and append what comes of it."""
        drafts = paths(levels, self.target.end)
        log_probs, state = self._read(drafts)
        length, end = self.length[self.active], self.target.end
        walk = _Walk(levels, drafts, log_probs, length, end, generator)
        self.rounds += len(self.active)
        self.target_passes += 1
        self.drafted += sum(len(level.row) for level in levels[1:])
        self.accepted += int(walk.accepted.sum())
        self._append(walk)
        last = gather(walk.tokens, walk.counts - 1)
        full = self.length[self.active] >= self.tokens.shape[1]
        going = ((last != self.target.end) & ~full).nonzero().squeeze(1)
        if going.numel():
            spare = drafts.lengths[walk.leaf] - walk.accepted
            self.target_state = self.target.rewind(state, spare[going], walk.leaf[going])
            self.draft_state = self.draft.score(
                self.draft_state, walk.tokens[going], walk.counts[going], going
            )[1]
        self.pending, self.active = last[going], self.active[going]

    def _read(self, drafts: Paths) -> tuple[torch.Tensor, Any]:
        """Return the model's (paths, depth + 1, V) log-probabilities along the drafts."""
        tokens, lengths, skip = drafts.tokens, drafts.lengths, 0
        if self.pending is not None:
            tokens = torch.cat([self.pending[drafts.row, None], tokens], 1)
            lengths, skip = lengths + 1, 1
        log_probs, state = self.target.score(self.target_state, tokens, lengths, drafts.row)
        return log_probs[:, skip:], state

    def _append(self, walk: _Walk) -> None:
        for step in range(walk.tokens.shape[1]):
            place = self.length[self.active]
            fits = (walk.counts > step) & (place < self.tokens.shape[1])
            rows = self.active[fits]
            self.tokens[rows, place[fits]] = walk.tokens[fits, step]
            self.log_prob[rows] += walk.log_prob[fits, step]
            self.length[rows] += 1


class _Walk:
    """The way down each tree: which drafts are accepted, and the token that follows them.

    Attributes:
        tokens: (n, depth + 1) int64, of which ``counts`` (n,) are the row's; the last of them is
            the model's own, or the accepted end.
        log_prob: (n, depth + 1) of them under the model.
        accepted: (n,) how many are drafts.
        leaf: (n,) a path that runs through all accepted drafts.
    """

    def __init__(
        self,
        levels: list[Level],
        drafts: Paths,
        log_probs: torch.Tensor,
        length: torch.Tensor,
        end: int,
        generator: torch.Generator,
    ) -> None:
        n = len(levels[0].row)
        shape, device = (n, len(levels)), log_probs.device
        self.tokens = torch.full(shape, end, device=device)
        self.log_prob = torch.zeros(shape, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.accepted = torch.zeros_like(self.counts)
        self.leaf = drafts.through[0].clone()
        rows = node = torch.arange(n, device=device)
        for depth, level in enumerate(levels):
            self.leaf[rows] = drafts.through[depth][node]
            on = ~level.ended[node]
            rows, node = rows[on], node[on]
            if not rows.numel():
                break
            log_target = log_probs[self.leaf[rows], depth]
            require_tokens(log_target, int(length[rows].min()) + depth)
            below = levels[depth + 1] if depth + 1 < len(levels) else None
            token, child = settle(log_target, level, node, below, generator)
            self.tokens[rows, depth] = token
            self.log_prob[rows, depth] = gather(log_target, token)
            self.counts[rows] += 1
            taken = child >= 0
            rows, node = rows[taken], child[taken]
            self.accepted[rows] += 1


def settle(
    log_target: torch.Tensor,
    level: Level,
    node: torch.Tensor,
    below: Level | None,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each row a token whose law is the model's, and the child that holds it.

    Children are tried in order: each is accepted with the probability by which the model's weight
    of its token covers the draft's; a refused one leaves the model with its excess over the draft,
    and the draft without the token. After the last, the token is drawn from what is left.

    Args:
        log_target: (n, V) log-probabilities of the model at the nodes.
        level: the level of the nodes.
        node: (n,) where each row stands.
        below: the level of the children, or None.
        generator: the source of randomness.

    Returns:
        (n,) tokens, and (n,) nodes of ``below``, -1 where the token is no accepted draft.

    Reference: Jeon et al. (2024), arXiv:2402.14160, recursive rejection sampling; with one child
    Leviathan, Kalman and Matias (2023), arXiv:2211.17192.
    """
    n = len(node)
    token = torch.full((n,), -1, device=node.device)
    child = torch.full_like(token, -1)
    target = log_target.exp()
    width = 0 if below is None else level.children.shape[1]
    if below is not None and level.log_draft is not None:
        drafted = level.log_draft[node].exp()
        for rank in range(width):
            candidate = level.children[node, rank]
            open_rows = ((child < 0) & (candidate >= 0)).nonzero().squeeze(1)
            if not open_rows.numel():
                break
            tried = below.token[candidate[open_rows]]
            p, q = gather(target[open_rows], tried), gather(drafted[open_rows], tried)
            passed = uniform(len(open_rows), generator) * q < p
            child[open_rows[passed]] = candidate[open_rows[passed]]
            token[open_rows[passed]] = tried[passed]
            failed, refused = open_rows[~passed], tried[~passed]
            target[failed] = _excess(target[failed], drafted[failed])
            drafted[failed, refused] = 0.0
            drafted[failed] /= drafted[failed].sum(1, keepdim=True).clamp(min=_TINY)
    rest = (child < 0).nonzero().squeeze(1)
    token[rest] = draw(target[rest].log(), generator)
    return token, child


def _excess(target: torch.Tensor, drafted: torch.Tensor) -> torch.Tensor:
    """Return the normalised part (n, V) of the model's weight that exceeds the draft's."""
    excess = (target - drafted).clamp(min=0.0)
    total = excess.sum(1, keepdim=True)
    # Equal distributions refuse nothing but for rounding, which leaves no excess.
    return torch.where(total > 0, excess / total.clamp(min=_TINY), target)
