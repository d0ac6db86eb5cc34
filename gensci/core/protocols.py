"""What samplers ask of the things they work with: a target, a proposal, a store, a progress."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import torch

Tensors: TypeAlias = dict[str, torch.Tensor]
"""Named tensors with one leading dimension of samples, in physical units."""


@runtime_checkable
class Target(Protocol):
    """An unnormalised density in nats; ``-U/kT`` for molecules.

    A target may also offer ``log_prob_and_grad(x) -> (log_prob, gradients)``, with gradients named
    as ``x`` is, where a fused kernel is cheaper than automatic differentiation.
    """

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density; a value that is not finite means zero density."""
        ...


@runtime_checkable
class Proposal(Protocol):
    """Something that draws samples."""

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Return ``n`` draws. Noise comes from ``generator``, on the generator's device."""
        ...


@runtime_checkable
class DensityProposal(Proposal, Protocol):
    """A proposal with an exact, normalised log-density.

    It may also offer ``log_prob_and_grad`` as :class:`Target` may.
    """

    def sample_and_log_prob(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return ``n`` draws and their (n,) log-density in nats."""
        ...

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density of given samples in nats."""
        ...


class Store(Protocol):
    """Where a run keeps finished shards and unfinished states.

    What is loaded must equal what was saved, bit for bit. Tensors arrive on the CPU.
    """

    def load_shard(self, index: int) -> Tensors | None:
        """Return a finished shard, or None."""
        ...

    def save_shard(self, index: int, tensors: Tensors) -> None:
        """Keep a finished shard; after a kill it is whole or absent."""
        ...

    def load_state(self, name: str) -> Tensors | None:
        """Return an unfinished state, or None."""
        ...

    def save_state(self, name: str, tensors: Tensors) -> None:
        """Keep an unfinished state; after a kill the old or the new one is there, whole."""
        ...

    def drop_state(self, name: str) -> None:
        """Forget a state; nothing happens if there is none."""
        ...


class Progress(Protocol):
    """Called as samples are finished."""

    def __call__(self, done: int, total: int, message: str) -> None:
        """Report ``done`` of ``total`` samples and what is going on."""
        ...
