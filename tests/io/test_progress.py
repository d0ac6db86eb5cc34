"""Progress: sparse lines where nobody watches, a bar on a terminal."""

import io

from gensci.io import progress
from gensci.io.progress import ProgressReport


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_line_a_minute_without_a_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    report = ProgressReport("AA", stream)
    for second in range(0, 181, 10):
        now[0] = float(second)
        report(second, 180, "ess 0.5")
    lines = stream.getvalue().splitlines()
    assert lines == [f"AA: {done} of 180 ess 0.5" for done in (60, 120, 180)]


def test_a_bar_on_a_terminal_shows_the_count():
    stream = Terminal()
    with ProgressReport("AA", stream) as report:
        report(50, 200, "drawing")
    assert "25%" in stream.getvalue()
    assert "50/200" in stream.getvalue()
