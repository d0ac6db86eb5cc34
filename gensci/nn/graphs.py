"""CUDA graphs: a function of one tensor recorded once and played again without its launches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[[Tensor], tuple[Tensor, ...]]
Play = Callable[[], None]


class Graphed:
    """A function of rows recorded for one number of rows and played for that many or fewer.

    The function must do the same to whatever values it is given, and treat rows apart; what it
    reads besides must stay where it was.

    Args:
        function: From a tensor (rows, ...) to tensors (rows, ...).
        record: Runs a call so that it can be played again; the capture of a CUDA graph by default.
    """

    def __init__(
        self, function: Function, record: Callable[[Callable[[], None]], Play] | None = None
    ) -> None:
        self.function = function
        self.record = record or record_cuda_graph
        self.given: Tensor | None = None
        self.results: tuple[Tensor, ...] = ()
        self.play: Play | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Results for rows `x`, in memory of their own."""
        n = len(x)
        if not n:
            return self.function(x)
        if self.given is None or n > len(self.given) or x.shape[1:] != self.given.shape[1:]:
            self._capture(x)
        assert self.given is not None and self.play is not None
        missing = len(self.given) - n
        self.given.copy_(F.pad(x, (0, 0) * (x.dim() - 1) + (0, missing)) if missing else x)
        self.play()
        return tuple(result[:n].clone() for result in self.results)

    def _capture(self, x: Tensor) -> None:
        self.given, self.results, self.play = None, (), None  # memory of an older one goes first
        given = x.clone()

        def call() -> None:
            self.results = self.function(given)

        self.play = self.record(call)
        self.given = given


def record_cuda_graph(call: Callable[[], None]) -> Play:
    """Capture what a call launches; the calls before it let libraries set themselves up."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
