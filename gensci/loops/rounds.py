"""What sequential rounds are made of: the problem, their settings, their records, their parts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.protocols import Tensors
from gensci.core.results import SampleSet
from gensci.loops.simulation_store import RowSimulator, Simulations

LogLikelihood = Callable[[Tensor], Tensor]
Draw = Callable[[int, torch.Generator], Tensor]


class Surrogate(Protocol):
    """A learned likelihood of one observation."""

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The (n,) log-likelihood of (n, d) points, in nats."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """What a surrogate learns from.

    Attributes:
        theta: (n, d) points of all rounds.
        x: (n, dim) data; without noise where `noise` is given.
        round: (n,) the round of each row.
        observation: (dim,) what was observed.
        noise: Draws (n, dim) noise to be added anew in every batch; None where `x` has it.
    """

    theta: Tensor
    x: Tensor
    round: Tensor
    observation: Tensor
    noise: Draw | None = None


class Estimator(Protocol):
    """What trains surrogates and turns them into tensors and back."""

    def fit(self, data: TrainingData, previous: Any, seed: int) -> Surrogate:
        """Train on the data, from the surrogate of the round before where there is one."""
        ...

    def pack(self, surrogate: Any) -> Tensors:
        """Everything about a surrogate as named tensors."""
        ...

    def unpack(self, tensors: Tensors) -> Surrogate:
        """The surrogate of these tensors; it must equal the packed one bit for bit."""
        ...


class PosteriorSampler(Protocol):
    """Draws of prior times likelihood to the power of 1 / temperature."""

    def draw(
        self,
        log_likelihood: LogLikelihood,
        n: int,
        *,
        temperature: float,
        seed: int,
        candidates: Tensor,
    ) -> SampleSet:
        """Return `n` rows of `{"theta": (n, d)}`.

        The (m, d) `candidates` are points that may lie in the posterior, for chains to begin at.
        """
        ...


@dataclass(frozen=True)
class LoopSettings:
    """How many rounds of what.

    Attributes:
        rounds: At most so many.
        simulations: Of each round; one number, or one for each round.
        defensive: Share of the points of later rounds that the wide proposal draws.
        temperature: Points of later rounds are drawn from prior times likelihood to the power of
            1 / temperature; above 1 they reach beyond the posterior.
        draws: Of the posterior after each round.
        num_samples: Of the posterior after the last.
        stop_change: Stop where the posterior moved by less than so many nats (the divergence of
            the posterior before from the new one); 0 for never.
        least_rounds: Rounds before the stop rule is asked.
        max_failed: Largest share of failed simulations in a round.
    """

    rounds: int = 5
    simulations: int | tuple[int, ...] = 1000
    defensive: float = 0.1
    temperature: float = 1.0
    draws: int = 2000
    num_samples: int = 10_000
    stop_change: float = 0.02
    least_rounds: int = 2
    max_failed: float = 0.5

    def __post_init__(self) -> None:
        whole = {"rounds": self.rounds, "draws": self.draws, "num_samples": self.num_samples}
        whole |= {"least_rounds": self.least_rounds}
        whole |= {"simulations": min(self.sizes, default=0)}
        for name, value in whole.items():
            if value < 1:
                raise UsageError(f"{name}={value} is not usable", "give 1 or more")
        for name in ("defensive", "max_failed"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)} is not usable", "give 0 to 1")
        if not 0 < self.temperature < math.inf or not self.stop_change >= 0:
            raise UsageError(
                f"temperature={self.temperature}, stop_change={self.stop_change} are not usable",
                "give a temperature above 0 and a change of 0 or more",
            )
        if len(self.sizes) != self.rounds:
            raise UsageError(
                f"simulations={self.simulations} for {self.rounds} rounds",
                "give one number, or one for each round",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Simulations of each round."""
        each = self.simulations
        return (each,) * max(self.rounds, 0) if isinstance(each, int) else tuple(each)


@dataclass(frozen=True)
class InferenceProblem:
    """One observation, what was believed before, and what makes data.

    Attributes:
        prior: Over the parameters.
        observation: (dim,) float64.
        simulator: Makes data of parameters.
        noise: Noise to be added to the simulator's data; None where they have it.
        wide: Draws the points of round 1 and the defensive share; None for the prior.
    """

    prior: Prior
    observation: Tensor
    simulator: RowSimulator
    noise: Draw | None = None
    wide: Draw | None = None


@dataclass(frozen=True)
class RoundRecord:
    """What one round did and took.

    Attributes:
        number: From 0.
        simulator_calls: Those included that failed.
        failed: Number of failed simulations by reason.
        errors: Number of simulations by line of error.
        surrogate_calls: Points at which the surrogate was evaluated.
        change: Nats by which the posterior moved; None in the first round.
        wall_seconds: By part: simulate, train, sample.
        cpu_seconds: By part, worker processes included.
        training: What the estimator has to say of its training.
        verdict: What the sampler has to say of its draws.
    """

    number: int
    simulator_calls: int
    failed: dict[str, int]
    errors: dict[str, int]
    surrogate_calls: int
    change: float | None
    wall_seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    training: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SequentialResult:
    """What the rounds found.

    Attributes:
        posterior: Draws of the last surrogate's posterior, `{"theta": (n, d)}`.
        surrogate: The last one.
        simulations: Of all rounds.
        records: One per round.
        stopped: Why there were no more rounds.
        rounds: The (n, d) draws after each round.
    """

    posterior: SampleSet
    surrogate: Any
    simulations: Simulations
    records: tuple[RoundRecord, ...]
    stopped: str
    rounds: tuple[Tensor, ...]


class CountedLikelihood:
    """A log-likelihood that counts the points it is asked for."""

    def __init__(self, log_likelihood: LogLikelihood, temperature: float = 1.0) -> None:
        self._log_likelihood, self._temperature = log_likelihood, temperature
        self.calls = 0

    def __call__(self, theta: Tensor) -> Tensor:
        """The (n,) log-likelihood."""
        self.calls += len(theta)
        return self._log_likelihood(theta) / self._temperature


def describe(record: RoundRecord) -> str:
    """One line on a round."""
    failed = sum(record.failed.values())
    moved = "" if record.change is None else f", posterior moved by {record.change:.3f} nats"
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in record.wall_seconds.items())
    lost = f" ({failed} failed)" if failed else ""
    return f"round {record.number + 1}: {record.simulator_calls} simulations{lost}{moved}; {parts}"


def posterior_change(new: Tensor, old: Tensor, log_weight: Tensor) -> float:
    """Divergence of the posterior before from the new one, in nats, at draws of the new one.

    Args:
        new: (n,) log-likelihoods of the new surrogate, up to a constant.
        old: (n,) those of the surrogate before, up to another.
        log_weight: (n,) of the draws.
    """
    weight = torch.log_softmax(log_weight.double(), 0)
    # where the old posterior has no mass at all, 50 nats stand for infinity
    moved = (new - old).double().nan_to_num(nan=50.0, posinf=50.0, neginf=-50.0)
    mean = float((weight.exp() * moved).sum())
    return mean + float(torch.logsumexp(weight - moved, 0))


class Clock:
    """Wall and CPU seconds of the parts of a round."""

    def __init__(self, simulator: Any) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._simulator = simulator

    def part(self, name: str) -> _Part:
        """A block whose seconds are entered under this name."""
        return _Part(self, name)

    def read(self) -> tuple[float, float]:
        """Wall and CPU seconds so far, those of the simulator's other processes included."""
        elsewhere = getattr(self._simulator, "cpu_seconds", 0.0)
        return time.monotonic(), time.process_time() + elsewhere


class _Part:
    def __init__(self, clock: Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.begun = self.clock.read()

    def __exit__(self, *_: object) -> None:
        wall, cpu = self.clock.read()
        self.clock.wall[self.name] = round(wall - self.begun[0], 3)
        self.clock.cpu[self.name] = round(cpu - self.begun[1], 3)
