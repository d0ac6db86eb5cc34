"""Stages of a long run that share one store, with every evaluation of the target counted.

The count of a stage is saved with what it bought, so that a run that was killed and continued tells
the number of an uninterrupted one: work that was lost is done again and counted once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gensci.core.protocols import Store, Tensors

_COUNT = "evaluations"


class CountedTarget:
    """A target that counts the rows it was asked for; all else is that of the target.

    Args:
        target: has ``log_prob`` and perhaps ``log_prob_and_grad``.
    """

    def __init__(self, target: Any) -> None:
        self._target, self.evaluations = target, 0

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density (n,)."""
        self._count(x)
        return self._target.log_prob(x)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != "log_prob_and_grad":
            return found

        def counted(x: Tensors) -> tuple[Tensor, Tensors]:
            self._count(x)
            return found(x)

        return counted

    def _count(self, x: Tensors) -> None:
        self.evaluations += len(next(iter(x.values())))


class CountedStage:
    """A part of a store under a name of its own, for one run of a sampler.

    Args:
        store: of the whole; shards of the stage are states there.
        name: of the stage.
        target: whose evaluations are counted, from now on.
    """

    def __init__(self, store: Store, name: str, target: CountedTarget) -> None:
        self._store, self._name, self._target = store, name, target
        self._before = target.evaluations

    @property
    def evaluations(self) -> int:
        """Those of this stage, in earlier calls too."""
        return self._target.evaluations - self._before

    def load_shard(self, index: int) -> Tensors | None:
        """A finished shard, or None."""
        return self._counted(self._store.load_state(self._shard(index)))

    def save_shard(self, index: int, tensors: Tensors) -> None:
        """Keep a finished shard."""
        self._store.save_state(self._shard(index), self._with_count(tensors))

    def load_state(self, name: str) -> Tensors | None:
        """An unfinished state, or None."""
        return self._counted(self._store.load_state(f"{self._name}-{name}"))

    def save_state(self, name: str, tensors: Tensors) -> None:
        """Keep an unfinished state."""
        self._store.save_state(f"{self._name}-{name}", self._with_count(tensors))

    def drop_state(self, name: str) -> None:
        """Forget a state."""
        self._store.drop_state(f"{self._name}-{name}")

    def _shard(self, index: int) -> str:
        return f"{self._name}-draws-{index:06d}"

    def _with_count(self, tensors: Tensors) -> Tensors:
        return {**tensors, _COUNT: torch.tensor(self.evaluations)}

    def _counted(self, tensors: Tensors | None) -> Tensors | None:
        if tensors is None:
            return None
        tensors = dict(tensors)
        # counts only grow, so the largest that was saved is that of all the work kept
        known = max(int(tensors.pop(_COUNT)), self.evaluations)
        self._target.evaluations = self._before + known
        return tensors
