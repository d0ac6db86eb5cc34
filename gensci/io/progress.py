"""Progress of a run: a bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class ProgressReport:
    """Shows `(done, total, message)` on a stream; call it as often as you like.

    Args:
        label: Stands in front of every line, for example the name of the system.
        stream: Where to write; stderr by default.
        interval: Seconds between lines where the stream is not a terminal.
    """

    def __init__(
        self, label: str = "", stream: TextIO | None = None, interval: float = 60.0
    ) -> None:
        self.label = label
        self.stream = stream if stream is not None else sys.stderr
        self.interval = interval
        self._bar: Any = None
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report that `done` of `total` pieces are finished."""
        if self.stream.isatty():
            self._draw(done, total, message)
        elif time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            print(f"{self.label}: {done} of {total} {message}".rstrip(), file=self.stream)
            self.stream.flush()

    def _draw(self, done: int, total: int, message: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=self.label, file=self.stream, leave=False)
        self._bar.total = total
        self._bar.set_postfix_str(message, refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> ProgressReport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
