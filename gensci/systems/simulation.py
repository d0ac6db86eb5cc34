"""What a simulation is made of: its settings, what can be simulated, what is reported of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.sims.dynamics import geometric_ladder
from gensci.sims.forcefield import ForceField

if TYPE_CHECKING:
    from openmm import app

MASSES = ("physical", "hmr", "uniform")
_SNAPSHOTS_PER_SHARD = 64  # at most, so that few ladders lose little when a run is killed
_EXCHANGE_STEPS = 100


class SimulationError(GensciError):
    """A simulation became unusable."""


class Simulable(Protocol):
    """A molecule that can be simulated: a ``PeptideSystem``, or a molecule from files.

    Attributes:
        name: names its folder and its random streams.
        temperature: K.
        bonds: pairs of atom indices.
        force_field_names: for the record.
        positions: (atoms, 3) float64 nm, a reference geometry.
    """

    name: str
    temperature: float

    @property
    def topology(self) -> app.Topology:
        """OpenMM topology."""
        ...

    @property
    def force_field(self) -> ForceField:
        """The potential energy."""
        ...

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Pairs of atom indices."""
        ...

    @property
    def force_field_names(self) -> tuple[str, ...]:
        """Names of the force-field files."""
        ...

    @property
    def positions(self) -> np.ndarray:
        """(atoms, 3) float64 nm."""
        ...

    def natural(self, x: Tensor) -> Tensor:
        """(n,) bool: which conformations (n, atoms, 3) count."""
        ...

    def starts(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, atoms, 3) float32 nm, different relaxed conformations."""
        ...


@dataclass(frozen=True)
class SimulationSettings:
    """What decides the numbers of a simulation, besides the system and the seed.

    Attributes:
        length: ps of each replica, after equilibration. Does not change what comes earlier.
        frame_interval: ps between frames, rounded to whole steps.
        time_step: ps.
        friction: 1/ps.
        masses: ``physical``, ``hmr`` (hydrogens of 3 Da) or ``uniform`` (all of 12 Da).
        ladders: independent ladders; each gives one frame per interval.
        num_temperatures: replicas of a ladder.
        coldest: K; the frames are those of this temperature.
        hottest: K.
        equilibration: ps at the hottest temperature from the starts, and again in the ladder.
        pivots: rotations about bonds, accepted or not, that each replica tries before every
            exchange.
        device: ``cpu`` or ``cuda``; noise is drawn there, so the bits depend on it.
        frames_per_shard: about this many frames go to one file, fewer with few ladders.
    """

    length: float = 100.0
    frame_interval: float = 0.5
    time_step: float = 0.001
    friction: float = 1.0
    masses: str = "physical"
    ladders: int = 16
    num_temperatures: int = 6
    coldest: float = 310.0
    hottest: float = 800.0
    equilibration: float = 20.0
    pivots: int = 8
    device: str = "cpu"
    frames_per_shard: int = 1000

    def __post_init__(self) -> None:
        for name in ("length", "frame_interval", "time_step", "coldest"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} is not positive", "give more than 0")
        for name in ("ladders", "num_temperatures", "frames_per_shard"):
            if getattr(self, name) < 1:
                option = name.removeprefix("num_").replace("_", "-")
                raise UsageError(f"--{option} is {getattr(self, name)}", "give >= 1")
        for name in ("friction", "equilibration", "pivots"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"--{name} is {getattr(self, name)}", "give 0 or more")
        if self.masses not in MASSES:
            raise UsageError(f"--masses {self.masses!r} is unknown", f"use {', '.join(MASSES)}")
        if self.frame_interval < self.time_step or self.length < self.frame_interval:
            raise UsageError(
                f"--length {self.length} ps, --frame-interval {self.frame_interval} ps and "
                f"--time-step {self.time_step} ps do not nest",
                "give length >= frame interval >= time step",
            )
        _ = self.temperatures  # a bad ladder is an error here, before anything is written

    @property
    def key(self) -> dict[str, Any]:
        """All settings but the length: those that a longer run must share."""
        return {name: value for name, value in asdict(self).items() if name != "length"}

    @property
    def temperatures(self) -> tuple[float, ...]:
        """K, rising by a constant ratio."""
        try:
            return geometric_ladder(self.coldest, self.hottest, self.num_temperatures)
        except ValueError as error:
            raise UsageError(f"--coldest, --hottest: {error}") from error

    @property
    def exchanges_per_frame(self) -> int:
        """Exchanges between two frames, about every hundred steps."""
        return max(1, round(self.frame_interval / self.time_step / _EXCHANGE_STEPS))

    @property
    def exchange_interval(self) -> int:
        """Steps between exchanges."""
        return max(1, round(self.frame_interval / self.time_step / self.exchanges_per_frame))

    @property
    def steps_per_frame(self) -> int:
        """Steps between two frames."""
        return self.exchanges_per_frame * self.exchange_interval

    @property
    def snapshots(self) -> int:
        """Frames of each ladder."""
        return max(1, round(self.length / self.frame_interval))

    @property
    def snapshots_per_shard(self) -> int:
        """Frames of each ladder in one shard; the last shard may have fewer."""
        return max(1, min(self.frames_per_shard // self.ladders, _SNAPSHOTS_PER_SHARD))

    @property
    def num_shards(self) -> int:
        """Files of the whole simulation."""
        return -(-self.snapshots // self.snapshots_per_shard)

    def shard_end(self, snapshot: int) -> int:
        """The first snapshot behind the shard that holds ``snapshot``."""
        size = self.snapshots_per_shard
        return min((snapshot // size + 1) * size, self.snapshots)


@dataclass(frozen=True)
class SimulationSummary:
    """What is worth knowing about a simulation so far.

    Attributes:
        snapshots: frames of each ladder, those that were dropped counted.
        frames: kept frames.
        dropped: frames that do not count (a wrong-handed centre), left out.
        acceptance: of exchanges, for each pair of neighbouring temperatures.
        pivot_acceptance: of rotations about bonds, for each temperature.
        round_trips: from the coldest to the hottest temperature and back, all walkers together.
        mixing: ``verdict``, ``reasons`` for a poor one, and ``torsions``, see ``barrier_report``.
    """

    snapshots: int
    frames: int
    dropped: int
    acceptance: tuple[float, ...]
    pivot_acceptance: tuple[float, ...]
    round_trips: int
    mixing: dict[str, Any] = field(default_factory=dict)
