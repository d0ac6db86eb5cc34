"""The time that a corpus still takes, from the pace so far."""

import pytest

from gensci.commands import forecast
from gensci.commands.forecast import Forecast, spelled
from gensci.data.corpora import Entry
from gensci.systems.simulation import SimulationSettings

ENTRIES = (Entry("GG"), Entry("AA"), Entry("GGGG"))
SETTINGS = SimulationSettings(length=100, frame_interval=1, ladders=2, equilibration=0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [1000.0]
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now[0])
    return now


def begun(held, settings=SETTINGS):
    forecast = Forecast.of(ENTRIES, held, settings)
    forecast.begun = 1000.0
    return forecast


def test_time_left_follows_from_the_pace_and_the_cost_of_each(clock):
    plan = begun({"GG": 0, "AA": 0, "GGGG": 0})
    assert plan.text() == ""  # nothing is known yet
    clock[0] += 10
    plan.reach(ENTRIES[0], 50)
    # half of a dipeptide took 10 s: half and one whole, and one of twice the length are left
    expected = 10 + 20 + 20 * 2**1.5
    assert plan.text() == f"about {expected:.0f} s left"
    assert (plan.done_frames, plan.all_frames) == (100, 600)


def test_what_was_there_before_is_no_work_of_this_process(clock):
    plan = begun({"GG": 100, "AA": 50, "GGGG": 0})
    plan.leave("GGGG")
    clock[0] += 5
    plan.reach(ENTRIES[1], 75)
    assert plan.text() == "about 5 s left"
    plan.leave("AA")
    assert plan.text() == ""


def test_a_run_that_is_longer_than_asked_for_counts_as_whole():
    plan = begun({"GG": 300, "AA": 0, "GGGG": 0})
    assert plan.left["GG"] == 0
    assert plan.done_frames == 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (99, "99 s"), (120, "2 min"), (5940, "99 min"), (19800, "5.5 h"),
     (3 * 86400, "3.0 days")],
)  # fmt: skip
def test_times_have_two_digits_or_so(seconds, text):
    assert spelled(seconds) == text
