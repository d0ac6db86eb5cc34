"""How long a corpus of simulations still takes, from its pace so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gensci.data.corpora import Entry
from gensci.systems.simulation import SimulationSettings


@dataclass
class Forecast:
    """Work done and left. Work is counted in snapshots, weighted by the cost of a system.

    Attributes:
        settings: of every simulation.
        left: work left, by name.
        work: done by this process.
        done_frames: frames that are there.
        all_frames: frames that are wanted.
        begun: when the first work began, seconds of a monotonic clock.
    """

    settings: SimulationSettings
    left: dict[str, float]
    held: dict[str, int]
    all_frames: int
    work: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls, entries: Sequence[Entry], held: Mapping[str, int], settings: SimulationSettings
    ) -> Forecast:
        """Before any work.

        Args:
            entries: the systems.
            held: snapshots that are there already, by name.
            settings: of every simulation.
        """
        forecast = cls(settings, {}, {}, len(entries) * settings.snapshots * settings.ladders)
        for entry in entries:
            forecast.held[entry.name] = min(held[entry.name], settings.snapshots)
            forecast.left[entry.name] = forecast._work(entry, held[entry.name])
        return forecast

    def _work(self, entry: Entry, snapshots: int) -> float:
        """What is left of a simulation with this many snapshots."""
        start = 0.0 if snapshots else 3 * self.settings.equilibration / self.settings.frame_interval
        return entry.cost * (max(0, self.settings.snapshots - snapshots) + start)

    @property
    def done_frames(self) -> int:
        """Frames that are there, those that were dropped counted."""
        return sum(self.held.values()) * self.settings.ladders

    def reach(self, entry: Entry, snapshots: int) -> None:
        """Note that a simulation has come to this many snapshots."""
        left = self._work(entry, snapshots)
        self.work += self.left[entry.name] - left
        self.left[entry.name] = left
        self.held[entry.name] = min(snapshots, self.settings.snapshots)

    def leave(self, name: str) -> None:
        """Expect no more work on a system: it is finished, was before, or failed."""
        self.left[name] = 0.0

    def text(self) -> str:
        """For example ``about 12 min left``; empty where nothing is left or nothing known."""
        left = sum(self.left.values())
        if not left or self.work <= 0:
            return ""
        return f"about {spelled((time.monotonic() - self.begun) * left / self.work)} left"


def spelled(seconds: float) -> str:
    """A time with two digits or so: ``40 s``, ``12 min``, ``5.5 h``, ``3.1 days``."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"
