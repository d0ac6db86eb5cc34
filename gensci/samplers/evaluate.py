"""Evaluate targets and proposals in micro-batches that shrink when memory runs out.

Everything a sampler sees goes through here, so that a value that is not finite is zero density and
log-densities are float64 on the CPU, wherever the samples live and whatever the target does: one
number for each row is cheap to move, and not every device knows float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from gensci.core.errors import GensciError
from gensci.core.protocols import Tensors
from gensci.core.results import finite_rows, join_rows

T = TypeVar("T")


class MicroBatch:
    """The largest number of rows that is evaluated at once; halved whenever memory runs out.

    Args:
        size: rows to begin with.
        on_change: called with the new size after each halving.
    """

    def __init__(self, size: int, on_change: Callable[[int], None] | None = None) -> None:
        self.size = size
        self._on_change = on_change

    def map(self, n: int, work: Callable[[int, int], T]) -> list[T]:
        """Return the results of ``work(start, stop)`` over ranges that cover ``n`` rows."""
        results: list[T] = []
        start = 0
        while start < n:
            stop = min(start + self.size, n)
            try:
                results.append(work(start, stop))
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(stop - start, error)
                continue
            start = stop
        return results

    def _halve(self, rows: int, error: Exception) -> None:
        if rows == 1:
            raise GensciError(
                "one sample alone does not fit in memory", "use a machine with more memory"
            ) from error
        self.size = max(1, rows // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._on_change is not None:
            self._on_change(self.size)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


class Density:
    """A log-density whose rows are evaluated in micro-batches and cleaned.

    Args:
        subject: has ``log_prob`` and perhaps ``log_prob_and_grad``.
        batch: the shared micro-batch.
    """

    def __init__(self, subject: Any, batch: MicroBatch) -> None:
        self.subject = subject
        self.batch = batch

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return (n,) float64 nats on the CPU; -inf where anything is unfit."""

        def work(start: int, stop: int) -> torch.Tensor:
            rows = {name: value[start:stop] for name, value in x.items()}
            return _clean_log_prob(self.subject.log_prob(rows), rows)

        with torch.no_grad():
            return torch.cat(self.batch.map(num_rows(x), work))

    def log_prob_and_grad(self, x: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Return the log-density and its gradient in every floating tensor of ``x``.

        Where the density is zero or the gradient is not finite, the gradient is zero.
        """

        def work(start: int, stop: int) -> tuple[torch.Tensor, Tensors]:
            rows = {name: value[start:stop] for name, value in x.items()}
            value, grad = self._raw_gradient(rows)
            value = _clean_log_prob(value, rows)
            return value, _clean_gradient(value, grad, rows)

        parts = self.batch.map(num_rows(x), work)
        grads = {name: torch.cat([grad[name] for _, grad in parts]) for name in floating(x)}
        return torch.cat([value for value, _ in parts]), grads

    def _raw_gradient(self, x: Tensors) -> tuple[torch.Tensor, Tensors]:
        fused = getattr(self.subject, "log_prob_and_grad", None)
        if fused is not None:
            with torch.no_grad():
                return fused(x)
        names = list(floating(x))
        with torch.enable_grad():
            leaves = {name: value.detach().clone() for name, value in x.items()}
            for name in names:
                leaves[name].requires_grad_(True)
            value = self.subject.log_prob(leaves)
            # Rows are independent, so the gradient of the sum holds that of each row; a row of zero
            # density must not put NaN into the sum.
            total = torch.where(torch.isfinite(value), value, torch.zeros_like(value)).sum()
            if not total.requires_grad:
                return value, {name: torch.zeros_like(leaves[name]) for name in names}
            grads = torch.autograd.grad(
                total, [leaves[name] for name in names], allow_unused=True, materialize_grads=True
            )
        return value.detach(), dict(zip(names, grads, strict=True))


class Draws(Density):
    """A proposal whose draws are made in micro-batches, and whose density, if any, is cleaned."""

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Return ``n`` draws."""
        if getattr(self.subject, "sample", None) is None:
            return self.sample_and_log_prob(n, generator)[0]
        return join_rows(self._draw(n, generator, self.subject.sample))

    def sample_and_log_prob(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return ``n`` draws and their (n,) float64 log-density; -inf where a draw is unfit."""
        parts = self._draw(n, generator, self.subject.sample_and_log_prob)
        values = [_clean_log_prob(value, x) for x, value in parts]
        return join_rows([x for x, _ in parts]), torch.cat(values)

    def _draw(
        self, n: int, generator: torch.Generator, draw: Callable[[int, torch.Generator], T]
    ) -> list[T]:
        def work(start: int, stop: int) -> T:
            before = generator.get_state()
            try:
                return draw(stop - start, generator)
            except (MemoryError, RuntimeError):
                # The same noise is drawn again, so a retry is as reproducible as a first try.
                generator.set_state(before)
                raise

        with torch.no_grad():
            return self.batch.map(n, work)


def wrapped(x: Tensors, density: Density) -> Tensors:
    """Return the points with each angle within one period, where the density knows any."""
    wrap = getattr(density.subject, "wrap", None)
    return x if wrap is None else wrap(x)


def floating(x: Tensors) -> Tensors:
    """Return the tensors that can be moved: those of floating type."""
    return {name: value for name, value in x.items() if value.is_floating_point()}


def num_rows(x: Tensors) -> int:
    """Return the number of samples."""
    return next(iter(x.values())).shape[0]


def take(x: Tensors, rows: torch.Tensor) -> Tensors:
    """Return the chosen rows of every tensor."""
    return {name: value[rows.to(value.device)] for name, value in x.items()}


def choose(mask: torch.Tensor, new: Tensors, old: Tensors) -> Tensors:
    """Return ``new`` in the rows where ``mask`` (n,) holds, and ``old`` elsewhere."""
    return {k: torch.where(expand(mask, old[k]), new[k], old[k]) for k in old}


def expand(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return (n,) values shaped (n, 1, ...) to broadcast against ``like``, on its device."""
    return rows.to(like.device).reshape(-1, *[1] * (like.dim() - 1))


def device_of(x: Tensors) -> torch.device:
    """Return the device of the samples."""
    return next(iter(x.values())).device


def _clean_log_prob(value: torch.Tensor, x: Tensors) -> torch.Tensor:
    value = value.detach().cpu().to(torch.float64)
    fit = torch.isfinite(value) & finite_rows(x)
    return torch.where(fit, value, -math.inf)


def _clean_gradient(value: torch.Tensor, grad: Tensors, x: Tensors) -> Tensors:
    cleaned = {}
    for name, leaf in floating(x).items():
        slope = grad[name].detach().to(leaf)
        fit = finite_rows({name: slope}) & torch.isfinite(value)
        cleaned[name] = torch.where(expand(fit, slope), slope, torch.zeros_like(slope))
    return cleaned
