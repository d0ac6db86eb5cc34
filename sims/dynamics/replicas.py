"""Temperature replica exchange of several independent ladders in one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .langevin import GAS_CONSTANT, DynamicsState, Langevin, centred
from .pivots import Rotors, pivot


@dataclass(frozen=True, eq=False)
class ReplicaState:
    """Replica exchange between calls. Row ``ladder * K + k`` is always at temperature ``k``.

    Attributes:
        dynamics: the conformations.
        walker: (n,) int64, which walker sits in each row.
        last_end: (n,) int64 for each walker: the end of the ladder it was at last, 0 for the
            coldest, 1 for the hottest after the coldest, -1 for neither yet.
        round_trips: (n,) int64 for each walker: completed cold to hot to cold journeys.
        attempted: (K - 1,) int64 exchanges tried between neighbouring temperatures.
        accepted: (K - 1,) int64 exchanges made.
        exchanges: () int64, sweeps so far; even and odd pairs take turns.
        pivots: (2, K) int64, rotations about bonds that were offered and accepted, by temperature.
    """

    dynamics: DynamicsState
    walker: Tensor
    last_end: Tensor
    round_trips: Tensor
    attempted: Tensor
    accepted: Tensor
    exchanges: Tensor
    pivots: Tensor


@dataclass(frozen=True)
class ReplicaExchange:
    """Temperature replica exchange of several independent ladders in one batch.

    Reference: Sugita and Okamoto 1999, Chem. Phys. Lett. 314, 141.

    Attributes:
        langevin: the dynamics of each replica.
        temperatures: K, rising.
        exchange_interval: steps between exchanges.
        rotors: bonds to rotate about before every exchange, or None for dynamics alone.
        tries: rotations offered to each replica before every exchange.
    """

    langevin: Langevin
    temperatures: tuple[float, ...]
    exchange_interval: int = 100
    rotors: Rotors | None = None
    tries: int = 0

    def __post_init__(self) -> None:
        pairs = zip(self.temperatures, self.temperatures[1:], strict=False)
        if not self.temperatures or self.temperatures[0] <= 0 or any(a >= b for a, b in pairs):
            raise ValueError(f"temperatures {self.temperatures} K: give rising positive ones")
        if self.exchange_interval < 1:
            raise ValueError(f"exchange_interval is {self.exchange_interval}; give at least 1")
        if self.tries < 0:
            raise ValueError(f"tries is {self.tries}; give zero or more")
        if self.tries and self.rotors is None:
            raise ValueError(f"tries is {self.tries} without rotors; give those of find_rotors")

    @property
    def num_temperatures(self) -> int:
        """Length of a ladder."""
        return len(self.temperatures)

    def row_temperatures(self, n: int) -> Tensor:
        """(n,) float64 K of the rows of a batch.

        Raises:
            ValueError: n is not a multiple of the number of temperatures.
        """
        if n == 0 or n % self.num_temperatures:
            raise ValueError(
                f"{n} replicas do not fill ladders of {self.num_temperatures} temperatures; "
                "give a multiple"
            )
        ladder = torch.tensor(self.temperatures, dtype=torch.float64)
        return ladder.repeat(n // self.num_temperatures)

    def start(self, positions: Tensor, generator: torch.Generator) -> ReplicaState:
        """State at given positions (ladders * K, atoms, 3) nm with thermal velocities."""
        n = len(positions)
        temperature = self.row_temperatures(n).to(positions)
        dynamics = self.langevin.start(positions, temperature, generator)
        rung = torch.arange(n) % self.num_temperatures
        pairs = torch.zeros(self.num_temperatures - 1, dtype=torch.int64)
        return ReplicaState(
            dynamics=dynamics,
            walker=torch.arange(n),
            last_end=torch.where(rung == 0, 0, -1),
            round_trips=torch.zeros(n, dtype=torch.int64),
            attempted=pairs,
            accepted=pairs,
            exchanges=torch.zeros((), dtype=torch.int64),
            pivots=torch.zeros((2, self.num_temperatures), dtype=torch.int64),
        )

    def rows_like(self, state: ReplicaState) -> Tensor:
        """(n,) K of the rows, on the device and in the precision of the state."""
        return self.row_temperatures(len(state.walker)).to(state.dynamics.positions)

    def run(self, state: ReplicaState, steps: int, generator: torch.Generator) -> ReplicaState:
        """Advance by a number of steps, with an exchange after every ``exchange_interval`` of them.

        Conformations are centred on the way: the potential must not know where the origin is, and
        atoms cannot be held in place.
        """
        temperature = self.rows_like(state)
        done = 0
        while done < steps:
            count = min(self.exchange_interval, steps - done)
            dynamics = self.langevin.run(state.dynamics, temperature, count, generator)
            state = replace(state, dynamics=centred(dynamics))
            done += count
            if count == self.exchange_interval:
                state = self.sweep(state, generator)
        return state

    def sweep(self, state: ReplicaState, generator: torch.Generator) -> ReplicaState:
        """What happens between two pieces of dynamics: rotations about bonds, then exchanges."""
        if self.tries:
            state = self._pivoted(state, generator)
        return self.exchange(state, generator)

    def _pivoted(self, state: ReplicaState, generator: torch.Generator) -> ReplicaState:
        rows = self.rows_like(state)
        potential, n = self.langevin.potential, len(rows)
        dynamics, accepted = pivot(
            potential, self.rotors, state.dynamics, rows, self.tries, generator
        )
        offered = torch.full((n,), self.tries)
        counts = torch.stack([offered, accepted.cpu()])
        by_rung = counts.reshape(2, -1, self.num_temperatures).sum(1)
        return replace(state, dynamics=centred(dynamics), pivots=state.pivots + by_rung)

    def exchange(self, state: ReplicaState, generator: torch.Generator) -> ReplicaState:
        """Offer every second neighbouring pair of each ladder to exchange conformations."""
        if self.num_temperatures == 1:
            return state
        n, rungs = len(state.walker), self.num_temperatures
        ladders = n // rungs
        lower = torch.arange(int(state.exchanges) % 2, rungs - 1, 2)
        temperature = torch.tensor(self.temperatures, dtype=torch.float64)
        beta = 1.0 / (GAS_CONSTANT * temperature)
        energy = state.dynamics.energy.double().cpu().reshape(ladders, rungs)
        gain = (beta[lower] - beta[lower + 1]) * (energy[:, lower] - energy[:, lower + 1])
        draw = torch.rand((ladders, len(lower)), generator=generator, dtype=torch.float64,
                          device=generator.device).cpu()  # fmt: skip
        swap = draw.log() < gain
        source = torch.arange(n).reshape(ladders, rungs).clone()
        low, high = source[:, lower].clone(), source[:, lower + 1].clone()
        source[:, lower] = torch.where(swap, high, low)
        source[:, lower + 1] = torch.where(swap, low, high)
        source = source.reshape(-1)
        rows = self.row_temperatures(n)
        scale = (rows / rows[source]).sqrt()[:, None, None]
        ones = torch.full_like(lower, ladders)
        return self._track(
            replace(
                state,
                dynamics=_permuted(state.dynamics, source, scale),
                walker=state.walker[source],
                attempted=state.attempted.index_add(0, lower, ones),
                accepted=state.accepted.index_add(0, lower, swap.sum(dim=0)),
                exchanges=state.exchanges + 1,
            )
        )

    def _track(self, state: ReplicaState) -> ReplicaState:
        """Count round trips: coldest, hottest, coldest again."""
        rung = torch.empty_like(state.walker)
        rung[state.walker] = torch.arange(len(rung)) % self.num_temperatures
        cold, hot = rung == 0, rung == self.num_temperatures - 1
        home = cold & (state.last_end == 1)
        turned = hot & (state.last_end == 0)
        last_end = state.last_end.masked_fill(cold, 0).masked_fill(turned, 1)
        return replace(state, last_end=last_end, round_trips=state.round_trips + home)


def _permuted(dynamics: DynamicsState, source: Tensor, scale: Tensor) -> DynamicsState:
    source = source.to(dynamics.positions.device)
    return DynamicsState(
        positions=dynamics.positions[source],
        velocities=dynamics.velocities[source] * scale.to(dynamics.velocities),
        energy=dynamics.energy[source],
        forces=dynamics.forces[source],
    )


def geometric_ladder(coldest: float, hottest: float, count: int) -> tuple[float, ...]:
    """``count`` temperatures from coldest to hottest with a constant ratio, K."""
    if count < 1 or not 0 < coldest <= hottest or (count > 1 and coldest == hottest):
        raise ValueError(
            f"ladder of {count} temperatures from {coldest} to {hottest} K: give at least one, "
            "rising and positive"
        )
    if count == 1:
        return (float(coldest),)
    ratio = (hottest / coldest) ** (1 / (count - 1))
    return tuple(coldest * ratio**k for k in range(count))
