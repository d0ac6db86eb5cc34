"""Checks of an inference by more simulations: posterior predictive, and calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.protocols import Progress, Store, Tensors
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.io.atomic import write_json
from gensci.io.posterior_plots import predictive_plot
from gensci.loops.simulation_store import RowSimulator, Simulations, SimulationStore
from gensci.metrics.predictive import PredictiveCheck, predictive_check

FEWEST_PREDICTED = 20


class StatesOnly:
    """A store under a name of its own in another, which keeps shards among the states.

    Args:
        store: Of the whole run.
        name: No other user of the store has it.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def load_shard(self, index: int) -> Tensors | None:
        """A finished shard, or None."""
        return self.load_state(f"shard-{index}")

    def save_shard(self, index: int, tensors: Tensors) -> None:
        """Keep a finished shard."""
        self.save_state(f"shard-{index}", tensors)

    def load_state(self, name: str) -> Tensors | None:
        """A state, or None."""
        return self.store.load_state(f"{self.name}-{name}")

    def save_state(self, name: str, tensors: Tensors) -> None:
        """Keep a state."""
        self.store.save_state(f"{self.name}-{name}", tensors)

    def drop_state(self, name: str) -> None:
        """Forget a state."""
        self.store.drop_state(f"{self.name}-{name}")


def simulate_apart(
    store: Store,
    name: str,
    theta: Tensor,
    simulator: RowSimulator,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Simulations:
    """Simulations at (n, d) points that no round trains on, kept under a name."""
    apart = SimulationStore(StatesOnly(store, name), [len(theta)])
    seeds = torch.randint(2**62, (len(theta),), generator=generator)
    return apart.complete(0, theta, seeds, simulator, progress=progress)


@dataclass(frozen=True)
class Predictive:
    """Data simulated from the posterior, and how the observation stands among them.

    Attributes:
        check: The comparison.
        observed: (dim,).
        predicted: (n, dim).
        failed: Simulations left out.
    """

    check: PredictiveCheck
    observed: np.ndarray
    predicted: np.ndarray
    failed: int

    def facts(self) -> dict[str, Any]:
        """For `run.json` and `predictive.json`."""
        rows = {name: asdict(found) for name, found in self.check.statistics.items()}
        return {
            "simulations": len(self.predicted),
            "failed": self.failed,
            "statistics": rows,
            "surprising": self.check.surprising(),
        }

    def line(self) -> str:
        """What to tell the user."""
        surprising = self.check.surprising()
        if surprising:
            return (
                f"the observation is unlike data simulated from the posterior ("
                f"{', '.join(surprising)}): the simulator, the prior or the surrogate is wrong"
            )
        # the least of several p-values, corrected for their number
        least = min(found.two_sided for found in self.check.statistics.values())
        p = min(1.0, least * len(self.check.statistics))
        return f"the observation looks like data simulated from the posterior (p = {p:.2f})"

    def write(self, folder: Path) -> None:
        """Write `predictive.png` and `predictive.json`."""
        more = {"z": self.check.z.tolist(), "quantile": self.check.quantile.tolist()}
        write_json(folder / "predictive.json", {**self.facts(), **more})
        title = f"Observation among {len(self.predicted)} data sets simulated from the posterior"
        predictive_plot(folder / "predictive.png", self.observed, self.predicted, title=title)


def check_predictive(
    samples: SampleSet,
    observation: Tensor,
    number: int,
    store: Store,
    simulator: RowSimulator,
    seed: int,
    progress: Progress | None = None,
) -> Predictive | None:
    """Simulate from posterior draws and compare; None where too few simulations come through."""
    generator = stream(seed, "predictive")
    theta = samples.resample("systematic", generator, number).x["theta"].double()
    # systematic draws of rows that stand in the order of their chains cover all chains
    name = f"predictive-{number}"
    rows = simulate_apart(store, name, theta, simulator, generator, progress)
    usable = rows.x[rows.usable]
    if len(usable) < min(FEWEST_PREDICTED, number):
        return None
    observed, predicted = observation.numpy(), usable.numpy()
    check = predictive_check(observed, predicted)
    return Predictive(check, observed, predicted, number - len(usable))
