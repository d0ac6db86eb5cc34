"""What the C kernels of the networks have in common: built once, told of in a line, shared out."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gensci.core.compiler import NoKernel, load_kernel


def kernel_library(
    source: Path, prepare: Callable[[ctypes.CDLL], str | None] | None = None
) -> Callable[[], ctypes.CDLL | str]:
    """A function that returns the built kernel, or the reason why there is none.

    It builds at its first call and remembers what came of it until ``cache_clear()``.

    Args:
        source: of the kernel.
        prepare: sets up a kernel just built, and returns a reason against it, or None.
    """

    @functools.cache
    def library() -> ctypes.CDLL | str:
        try:
            kernel = load_kernel(source)
        except NoKernel as reason:
            return str(reason)
        against = prepare(kernel) if prepare is not None else None
        return kernel if against is None else against

    return library


def status_line(found: ctypes.CDLL | str, kernel: str = "fused C kernel") -> str:
    """One line on what computes on a CPU: the kernel, or torch and why.

    Args:
        found: what the function of :func:`kernel_library` returned.
        kernel: what to call it.
    """
    return f"torch: {found}" if isinstance(found, str) else kernel


def share(work: Callable[[int], None], threads: int) -> None:
    """Call `work(0)` to `work(threads - 1)` at once; a kernel runs outside of Python's lock."""
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
