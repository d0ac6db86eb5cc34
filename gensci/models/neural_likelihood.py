"""The likelihood of simulated data, learned: for any simulator, and for signals plus noise.

Where the simulator adds noise to a signal (`noise` is given), the mean is trained on the signals
themselves, so that no noise blurs it; then the layers learn the density of the noise, drawn anew
in each batch, and are kept only where they do better than the Gaussian on held-out rows. Else mean
and layers are trained together on the data (Papamakarios, Sterratt & Murray 2019, 1805.07226).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gensci.core.errors import UsageError
from gensci.models.checkpoint import load_network, save_checkpoint
from gensci.nn.conditional_flow import FlowEnsemble

Noise = Callable[[int, Generator], Tensor]
"""From a number and a generator to that many rows of the additive noise of the data."""

ROWS_AT_ONCE = 10_000
FEWEST_ROWS = 20


@dataclass(frozen=True)
class LikelihoodSettings:
    """Sizes of the networks and length of the training.

    Args:
        kind: `nsf`, `maf`, `gaussian`, or `mixture` for noise with bursts.
        layers: Masked layers.
        hidden: Units of each masked network.
        blocks: Residual blocks of each.
        bins: Of each spline; components of each mixture.
        mean_hidden: Units of the network of the mean.
        degree: Highest degree of the polynomial of the mean.
        members: Networks in the ensemble.
        validation: Share of the rows held out.
        epochs: Most passes over the rows in each stage.
        steps: Most optimiser steps in each stage.
        batch: Rows per step.
        learning_rate: Highest.
        patience: Checks without a better validation before training ends.
        noise_steps: Most optimiser steps of layers that learn noise alone; 0 for `steps`.
    """

    kind: str = "nsf"
    layers: int = 2
    hidden: int = 48
    blocks: int = 1
    bins: int = 8
    mean_hidden: int = 64
    degree: int = 3
    members: int = 1
    validation: float = 0.1
    epochs: int = 300
    steps: int = 20_000
    batch: int = 200
    learning_rate: float = 2e-3
    patience: int = 15
    noise_steps: int = 0


class NeuralLikelihood:
    """log p(x | theta) in nats, normalised over x; differentiable in theta.

    Args:
        network: The trained flows.
        observation: (dim,) data at which `log_likelihood` is taken.
        report: What the training told, as JSON can hold it.

    Attributes:
        calls: Rows at which the likelihood was evaluated.
    """

    def __init__(
        self,
        network: FlowEnsemble,
        observation: Tensor | None = None,
        report: dict[str, Any] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.report = dict(report or {})
        self.calls = 0
        self.observation: Tensor | None = None
        if observation is not None:
            self.observe(observation)

    @property
    def dim(self) -> int:
        """Number of data."""
        return self.network.settings["dim"]

    @property
    def num_parameters(self) -> int:
        """Columns of theta."""
        return self.network.settings["num_parameters"]

    @classmethod
    def fit(
        cls,
        theta: Tensor,
        x: Tensor,
        *,
        noise: Noise | None = None,
        periods: Sequence[float | None] | None = None,
        settings: LikelihoodSettings | None = None,
        start: NeuralLikelihood | None = None,
        seed: int = 0,
    ) -> NeuralLikelihood:
        """Learn from simulations.

        Args:
            theta: (n, d) parameters.
            x: (n, dim) data, or noise-free signals where `noise` is given; one row per waveform,
                so that rows held out for validation are waveforms never trained on.
            noise: Draws of the noise that the data add to the signals.
            periods: Of the parameters, None where not periodic.
            settings: Sizes and lengths.
            start: An earlier likelihood of the same data, which is left as it is. Its whitening and
                weights are kept and trained on; where `noise` is given, what it learned of the
                noise is kept, if it still holds, and the mean is learned anew: the closed form is
                cheaper than unlearning.
            seed: The same seed and data give the same bits.

        Raises:
            UsageError: Shapes disagree, a value is not finite, or there are too few rows.
        """
        from gensci.models import likelihood_fitting

        theta, x = check_simulations(theta, x)
        settings = settings or LikelihoodSettings()
        if start is not None:
            start.check_columns(x, theta)
        pieces = likelihood_fitting.Simulations(theta, x, settings, tuple(periods or ()), seed)
        if noise is not None:
            network, report = likelihood_fitting.fit_signals(pieces, noise, start)
        else:
            begin = None if start is None else start.network
            network, report = likelihood_fitting.fit_data(pieces, begin)
        report |= {"rows": len(theta), "settings": asdict(settings)}
        return cls(network, start.observation if start is not None else None, report)

    def observe(self, observation: Tensor) -> NeuralLikelihood:
        """Fix the data at which `log_likelihood` is taken; returns itself.

        Raises:
            UsageError: Another length, or not finite.
        """
        observation = torch.as_tensor(observation, dtype=torch.float64).reshape(-1)
        if len(observation) != self.dim:
            raise UsageError(
                f"the observation has {len(observation)} data, the likelihood was trained on "
                f"{self.dim}",
                "give an observation with the same summary",
            )
        if not observation.isfinite().all():
            bad = int((~observation.isfinite()).nonzero()[0])
            raise UsageError(
                f"the observation's entry {bad} is {observation[bad].item()}",
                "give finite data",
            )
        self.observation = observation
        return self

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """(n,) float64 log-densities of (n, dim) data given (n, d) parameters, one by one.

        Raises:
            UsageError: Shapes disagree.
        """
        theta = torch.as_tensor(theta, dtype=torch.float64)
        x = torch.as_tensor(x, dtype=torch.float64)
        self.check_columns(x, theta)
        self.calls += len(theta)
        rows = zip(x.split(ROWS_AT_ONCE), theta.split(ROWS_AT_ONCE), strict=True)
        parts = [self.network.log_prob(data, at) for data, at in rows]
        return torch.cat(parts) if parts else theta.new_zeros(0)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """(n,) float64 log-likelihood of the observation at (n, d) parameters.

        Raises:
            UsageError: There is no observation yet, or theta has another number of columns.
        """
        if self.observation is None:
            raise UsageError("the likelihood has no observation", "call observe(x) first")
        return self.log_prob(self.observation.to(theta.device).expand(len(theta), -1), theta)

    def sample(self, theta: Tensor, generator: Generator) -> Tensor:
        """(n, dim) float64 data, one row for each of (n, d) parameters (posterior predictive)."""
        return self.network.sample(torch.as_tensor(theta, dtype=torch.float64), generator)

    def check_columns(self, x: Tensor, theta: Tensor) -> None:
        """Refuse data or parameters of other widths than those trained on.

        Raises:
            UsageError: Both numbers are named.
        """
        for name, rows, width in (("x", x, self.dim), ("theta", theta, self.num_parameters)):
            if rows.ndim != 2 or rows.shape[1] != width or len(rows) != len(theta):
                raise UsageError(
                    f"{name} has shape {tuple(rows.shape)}, the likelihood was trained on "
                    f"{width} columns",
                    f"give ({len(theta)}, {width})",
                )

    def save(self, folder: str | Path, meta: dict[str, Any] | None = None) -> Path:
        """Write a checkpoint; the observation, where there is one, goes with it."""
        observation = None if self.observation is None else self.observation.tolist()
        return save_checkpoint(
            folder,
            self.network.state_dict(),
            {"class": "flow-ensemble", "settings": self.network.settings},
            {**(meta or {}), "observation": observation, "report": self.report},
        )

    @classmethod
    def load(cls, source: str | Path) -> NeuralLikelihood:
        """Read a checkpoint by folder or shipped name.

        Raises:
            CheckpointError: As `gensci.models.checkpoint.load_network`.
        """
        network, meta = load_network(source)
        if not isinstance(network, FlowEnsemble):
            raise UsageError(f"{source} holds no likelihood", "give a checkpoint of gensci infer")
        observation = meta.get("observation")
        data = None if observation is None else torch.tensor(observation, dtype=torch.float64)
        return cls(network, data, meta.get("report"))


def check_simulations(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, one row per simulation.

    Raises:
        UsageError: Shapes disagree, a value is not finite, or there are too few rows.
    """
    theta = torch.as_tensor(theta, dtype=torch.float64)
    x = torch.as_tensor(x, dtype=torch.float64)
    if theta.ndim != 2 or x.ndim != 2 or len(theta) != len(x):
        raise UsageError(
            f"theta has shape {tuple(theta.shape)} and x {tuple(x.shape)}",
            "give (n, d) and (n, dim), one row per simulation",
        )
    if len(theta) < FEWEST_ROWS:
        raise UsageError(f"{len(theta)} simulations to learn from", f"give {FEWEST_ROWS} or more")
    for name, rows in (("theta", theta), ("x", x)):
        bad = (~rows.isfinite()).any(1).nonzero()
        if len(bad):
            raise UsageError(
                f"{name}[{int(bad[0])}] is not finite ({len(bad)} such rows)",
                "leave failed simulations out",
            )
    return theta, x


def quick(settings: LikelihoodSettings | None = None) -> LikelihoodSettings:
    """Settings for a first look or a test: seconds instead of minutes."""
    return replace(settings or LikelihoodSettings(), layers=1, hidden=32, steps=300, patience=5)
