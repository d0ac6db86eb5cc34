"""A pool of processes in which every single item stands under a time limit.

Graph searches over crystals and molecules now and then take minutes for one odd structure. Here a
worker that is late with an item is killed, the item is marked, and a fresh worker goes on; all
others are reused. What comes back does not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from gensci.core.errors import GensciError, UsageError

Status = Literal["done", "timed out", "failed"]
_CHUNK = 32  # items that a worker has at hand, so that it need not wait for the next one
_START_SECONDS = 300.0  # a worker that has not imported its libraries by then never will
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How one item ended.

    Attributes:
        value: what the function returned, None where it did not.
        status: done, timed out or failed.
        error: one line where it failed.
        cpu_seconds: what the function took of a core; 0 where its process was ended.
    """

    value: Any = None
    status: Status = "done"
    error: str = ""
    cpu_seconds: float = 0.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    queue: deque[int] = field(default_factory=deque)  # items sent, the first one is being worked on
    since: float = field(default_factory=time.monotonic)
    ready: bool = False

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def timed_map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    time_limit: float,
    jobs: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Outcome]:
    """Apply a function to every item in parallel, each under a time limit.

    Args:
        function: can be pickled (of a module, or a partial of one); runs in other processes.
        items: can be pickled.
        time_limit: wall-clock seconds for one item.
        jobs: worker processes; as many as there are cores where None.
        progress: told how many of how many items are finished, now and then.

    Returns:
        The outcomes in the order of the items.

    Raises:
        UsageError: a limit or a number of jobs that is not positive.
        GensciError: a worker cannot start.
    """
    pool = WorkerPool(function, time_limit=time_limit, jobs=jobs)
    with pool:
        return pool.map(items, progress=progress)


class WorkerPool:
    """Workers that stay for several calls of `map`; the block of a `with` ends them.

    Args:
        function: can be pickled (of a module, or a partial of one); runs in other processes.
        time_limit: wall-clock seconds for one item.
        jobs: worker processes; as many as there are cores where None.

    Raises:
        UsageError: a limit or a number of jobs that is not positive.
    """

    def __init__(
        self, function: Callable[[Any], Any], *, time_limit: float, jobs: int | None = None
    ) -> None:
        if not time_limit > 0:
            raise UsageError(f"time_limit={time_limit} is not usable", "give seconds above 0")
        if jobs is not None and jobs < 1:
            raise UsageError(f"jobs={jobs} is not usable", "give 1 or more")
        self._function = pickle.dumps(function)
        self._time_limit = time_limit
        self._jobs = jobs or available_cores()
        self._workers: list[_Worker] = []

    def map(
        self,
        items: Sequence[Any],
        *,
        progress: Callable[[int, int], object] | None = None,
        finished: Callable[[int, Outcome], object] | None = None,
    ) -> list[Outcome]:
        """Apply the function to every item.

        Args:
            items: can be pickled.
            progress: told how many of how many items are finished, now and then.
            finished: told the number and the outcome of each item, as soon as there is one; what
                it raises ends the call.

        Returns:
            The outcomes in the order of the items.

        Raises:
            GensciError: a worker cannot start.
        """
        run = _Run(self._function, items, self._time_limit, self._jobs, self._workers)
        run.progress, run.finished = progress, finished
        try:
            return run.outcomes()
        except BaseException:
            self.close()  # what the workers still have at hand is of no use to the next call
            raise

    def close(self) -> None:
        """End every worker."""
        while self._workers:
            self._workers.pop().stop()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run:
    """One call of ``WorkerPool.map``."""

    def __init__(
        self,
        function: bytes,
        items: Sequence[Any],
        time_limit: float,
        jobs: int,
        workers: list[_Worker],
    ) -> None:
        self.function, self.items, self.time_limit = function, items, time_limit
        self.jobs = min(jobs, -(-len(items) // 4) or 1)
        self.waiting = deque(range(len(items)))
        self.found: dict[int, Outcome] = {}
        self.workers = workers
        self.progress: Callable[[int, int], object] | None = None
        self.finished: Callable[[int, Outcome], object] | None = None

    def outcomes(self) -> list[Outcome]:
        while len(self.found) < len(self.items):
            self._hire()
            self._listen()
            self._dismiss_late()
        return [self.found[i] for i in range(len(self.items))]

    def _hire(self) -> None:
        """Keep as many workers as there is work for, and work at hand for each."""
        context = multiprocessing.get_context("spawn")
        while self.waiting and len(self.workers) < self.jobs:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, self.function), daemon=True)
            process.start()
            there.close()
            self.workers.append(_Worker(process, here))
        for worker in self.workers:
            if worker.ready and len(worker.queue) < 2:
                self._send(worker)

    def _send(self, worker: _Worker) -> None:
        count = max(1, min(_CHUNK, len(self.waiting) // (2 * len(self.workers))))
        batch = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        if not batch:
            return
        if not worker.queue:
            worker.since = time.monotonic()
        worker.queue.extend(batch)
        try:
            worker.pipe.send([self.items[i] for i in batch])
        except OSError:
            self._lose(worker, Outcome(status="failed", error="the worker process ended"))

    def _listen(self) -> None:
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), timeout=self._patience()):
            worker = by_pipe[pipe]
            try:
                outcome = worker.pipe.recv()
            except (EOFError, OSError):
                self._lose(worker, Outcome(status="failed", error="the worker process ended"))
                continue
            worker.since = time.monotonic()
            if worker.ready:
                self._finish(worker.queue.popleft(), outcome)
            worker.ready = True

    def _patience(self) -> float:
        """Seconds until the first worker can be late."""
        now = time.monotonic()
        return max(0.0, min((self._limit(w) - (now - w.since) for w in self.workers), default=0.0))

    def _limit(self, worker: _Worker) -> float:
        if not worker.ready:
            return _START_SECONDS
        return self.time_limit if worker.queue else _START_SECONDS

    def _dismiss_late(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            # an answer in the pipe was given in time, only read late
            if now - worker.since > self._limit(worker) and not worker.pipe.poll():
                self._lose(worker, Outcome(status="timed out"))

    def _lose(self, worker: _Worker, outcome: Outcome) -> None:
        """End a worker; the item it was at has this outcome, the others wait again."""
        if worker not in self.workers:
            return
        self.workers.remove(worker)
        worker.stop()
        if not worker.ready:
            raise GensciError(
                "a worker process could not start",
                'put the call of a script under `if __name__ == "__main__":`',
            )
        if worker.queue:
            self._finish(worker.queue.popleft(), outcome)
        self.waiting.extendleft(reversed(worker.queue))

    def _finish(self, index: int, outcome: Outcome) -> None:
        self.found[index] = outcome
        if self.finished is not None:
            self.finished(index, outcome)
        if self.progress is not None and (len(self.found) % 64 == 0 or len(self.found) == 1):
            self.progress(len(self.found), len(self.items))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(pipe: Connection, pickled: bytes) -> None:
    """The life of a worker: lists of items in, one outcome per item out."""
    for name in _THREADS:
        os.environ[name] = "1"
    function = pickle.loads(pickled)
    pipe.send(None)
    try:
        while True:
            for item in pipe.recv():
                pipe.send(_attempt(function, item))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _attempt(function: Callable[[Any], Any], item: Any) -> Outcome:
    begun = time.process_time()
    try:
        value = function(item)
    except Exception as error:
        return Outcome(None, "failed", one_line(error), time.process_time() - begun)
    return Outcome(value, "done", "", time.process_time() - begun)


def one_line(error: BaseException) -> str:
    """The kind and the text of an error in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
