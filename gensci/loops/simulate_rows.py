"""Simulations by a function of the user, in parallel, each under a time limit.

Whatever a simulator does (raise, hang, crash its process, return another shape or NaN) costs its
own row only.
"""

from __future__ import annotations

import inspect
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.worker_pool import Outcome, WorkerPool, one_line
from gensci.loops.simulation_store import DONE, FAILED, TIMED_OUT, WRONG_SHAPE, Report

_CODES = {"done": DONE, "failed": FAILED, "timed out": TIMED_OUT}


@dataclass(frozen=True)
class SimulationSettings:
    """How a user's simulator is called.

    Attributes:
        time_limit: Seconds for one call.
        jobs: Worker processes; None for as many as there are cores, 0 for this process, in which
            a time limit ends Python code but no compiled code.
        batched: Whether the simulator takes (n, d) and returns (n, ...), not (d,) and (...).
        rows_per_call: Simulations per call of a batched simulator.
        array: What it is given: "numpy" or "torch" (float64).
    """

    time_limit: float = 60.0
    jobs: int | None = None
    batched: bool = False
    rows_per_call: int = 250
    array: str = "numpy"

    def __post_init__(self) -> None:
        if not self.time_limit > 0:
            raise UsageError(f"time_limit={self.time_limit} is not usable", "give seconds above 0")
        if self.jobs is not None and self.jobs < 0:
            raise UsageError(f"jobs={self.jobs} is not usable", "give 0 (this process) or more")
        if self.rows_per_call < 1:
            raise UsageError(f"rows_per_call={self.rows_per_call} is not usable", "give 1 or more")
        if self.array not in ("numpy", "torch"):
            raise UsageError(f"array={self.array!r} is not usable", "give numpy or torch")


class UserSimulator:
    """A `simulate(theta) -> x` of the user as a simulator of the sequential loop.

    The random numbers of Python, NumPy and torch are seeded before every call; a parameter named
    `seed`, `rng` (NumPy) or `generator` (torch) is given one of its own.

    Args:
        function: The simulator. One that cannot be pickled (a lambda, a function of a notebook)
            runs in this process.
        shape: Of the data of one simulation, that of the observation.
        settings: How it is called.

    Attributes:
        dim: Number of values of one simulation.
        calls: Simulations asked for so far, those included that failed.
        cpu_seconds: What they took in other processes.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Sequence[int],
        settings: SimulationSettings | None = None,
    ) -> None:
        self.settings = settings or SimulationSettings()
        self.dim = int(np.prod(tuple(shape), dtype=int))
        self.calls, self.cpu_seconds = 0, 0.0
        self._call = SimulatorCall(function, tuple(shape), self.settings)
        self._pool: WorkerPool | None = None
        if self.settings.jobs != 0 and _can_travel(self._call):
            limit, jobs = self.settings.time_limit, self.settings.jobs
            self._pool = WorkerPool(self._call, time_limit=limit, jobs=jobs)

    def run(self, theta: Tensor, seeds: Tensor, report: Report) -> None:
        """Simulate (n, d) points; each row is reported once, in any order."""
        size = self.settings.rows_per_call if self.settings.batched else 1
        groups = [list(range(k, min(k + size, len(theta)))) for k in range(0, len(theta), size)]
        again = self._run_groups(groups, theta, seeds, report)
        if again:  # one bad row spoils a batch, so the rows of a spoilt one are tried singly
            self._run_groups([[row] for row in again], theta, seeds, report)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> UserSimulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run_groups(
        self, groups: list[list[int]], theta: Tensor, seeds: Tensor, report: Report
    ) -> list[int]:
        """Call the simulator once per group; return the rows of groups to be split."""
        again: list[int] = []

        def finished(index: int, outcome: Outcome) -> None:
            rows = groups[index]
            self.calls += len(rows)
            self.cpu_seconds += outcome.cpu_seconds if self._pool is not None else 0.0
            x, status, error = self._judge(outcome, len(rows))
            if status in (FAILED, WRONG_SHAPE) and len(rows) > 1:
                again.extend(rows)
            else:
                report(rows, x, [status] * len(rows), error)

        items = [(theta[rows].numpy(), seeds[rows].tolist()) for rows in groups]
        if self._pool is not None:
            self._pool.map(items, finished=finished)
        else:
            for index, item in enumerate(items):
                finished(index, _attempt_here(self._call, item, self.settings.time_limit))
        return sorted(again)

    def _judge(self, outcome: Outcome, count: int) -> tuple[Tensor, int, str]:
        """Data, status and line of one call."""
        nothing = torch.full((count, self.dim), torch.nan, dtype=torch.float64)
        if outcome.status == "timed out":
            line = f"no answer within the time limit of {self.settings.time_limit:g} s"
            return nothing, TIMED_OUT, line
        if outcome.status == "failed":
            return nothing, FAILED, outcome.error
        x, error = outcome.value
        # a copy, since a simulator may return an array that is read-only or that it uses again
        return (nothing, WRONG_SHAPE, error) if error else (torch.tensor(x), DONE, "")


class SimulatorCall:
    """One call of a user's simulator, as a worker makes it."""

    def __init__(
        self, function: Callable[..., Any], shape: tuple[int, ...], settings: SimulationSettings
    ) -> None:
        self.function, self.shape, self.settings = function, shape, settings

    def __call__(self, item: tuple[np.ndarray, list[int]]) -> tuple[np.ndarray | None, str]:
        """Simulate (k, d) points with k seeds.

        Returns:
            (k, dim) float64 and an empty text; or None and what is wrong with the shape.
        """
        theta, seeds = item
        settings = self.settings
        given = theta if settings.batched else theta[0]
        with _seeded(seeds[0]):
            argument = torch.from_numpy(given) if settings.array == "torch" else given
            result = self.function(argument, **_random_sources(self.function, seeds[0]))
        if isinstance(result, Tensor):
            result = result.detach().cpu().numpy()
        values = np.asarray(result, dtype=np.float64)
        expected = (len(theta), *self.shape) if settings.batched else self.shape
        if values.shape != expected and not (values.size == 1 and expected in ((), (1,))):
            return None, f"the simulator returned shape {values.shape}, expected {expected}"
        return values.reshape(len(theta), -1), ""


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch from a seed, and back to what they were.

    Simulators draw from these, and a row must come out the same whichever process makes it.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _random_sources(function: Callable[..., Any], seed: int) -> dict[str, Any]:
    """What the simulator asks for by the names of its parameters."""
    try:
        names = inspect.signature(function).parameters.keys()
    except (TypeError, ValueError):  # built-in functions have none
        return {}
    makers: dict[str, Callable[[], Any]] = {
        "seed": lambda: seed,
        "rng": lambda: np.random.default_rng(seed),
        "generator": lambda: torch.Generator().manual_seed(seed),
    }
    return {name: make() for name, make in makers.items() if name in names}


def _can_travel(call: SimulatorCall) -> bool:
    """Whether other processes can run the simulator."""
    try:
        pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if call.settings.jobs is None:
            return False
        raise UsageError(
            f"the simulator cannot be sent to worker processes ({one_line(error)})",
            "define it at the top of a module, or run it in this process with jobs=0",
        ) from error
    return True


class _Late(BaseException):
    """The time limit passed; no Exception, lest the simulator should catch it."""


def _attempt_here(call: SimulatorCall, item: Any, time_limit: float) -> Outcome:
    """One call in this process."""
    begun = time.process_time()
    try:
        with _alarm(time_limit):
            value = call(item)
    except _Late:
        return Outcome(None, "timed out")
    except Exception as error:
        return Outcome(None, "failed", one_line(error), time.process_time() - begun)
    return Outcome(value, "done", "", time.process_time() - begun)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `_Late` in the block after so many seconds, where the system has such alarms."""
    usable = hasattr(signal, "setitimer")
    if not usable or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
