"""Calibration runs: parameters from the prior, data simulated from them, draws of the posterior.

Whether the draws are right on average is judged by `gensci.metrics.calibration_report`. A surrogate
that was trained about one observation is only good near it; its runs draw the parameters from what
that observation left (`AfterObservation`) and not from the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.loops.many_posteriors import Known, RowLikelihood

Simulate = Callable[[Tensor, Generator], Tensor]
"""From (n, d) parameters and a generator to (n, dim) data with noise; failed rows are NaN."""


class Posteriors(Protocol):
    """A way to posteriors that is to be judged; `ManyPosteriors` for one."""

    def draw(self, x: Tensor, generator: Generator) -> Tensor:
        """Independent draws (runs, m, d) of the posteriors of (runs, dim) data; NaN for none."""
        ...

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """The (runs, m) log-densities of points (runs, m, d), up to a constant of each run."""
        ...


@dataclass(frozen=True)
class CalibrationRuns:
    """True parameters beside draws of the posterior of their data.

    Attributes:
        truth: (runs, d).
        x: (runs, dim) data.
        draws: (runs, m, d).
        truth_log_prob: (runs,) of the posterior at the truth, up to a constant of each run.
        draws_log_prob: (runs, m) at its draws.
        failed: runs left out, whose simulation failed or whose posterior has no draws.
    """

    truth: Tensor
    x: Tensor
    draws: Tensor
    truth_log_prob: Tensor
    draws_log_prob: Tensor
    failed: int


def calibrate(
    prior: Known, simulate: Simulate, posteriors: Posteriors, num: int, *, seed: int
) -> CalibrationRuns:
    """Make `num` calibration runs.

    Args:
        prior: what parameters are drawn from; it must be the one that the posteriors assume.
        simulate: parameters to data, noise included.
        posteriors: what is judged.
        num: runs.
        seed: of parameters, data and draws.

    Raises:
        UsageError: fewer than one run.
        GensciError: no run came through.
    """
    if num < 1:
        raise UsageError(f"{num} calibration runs", "give 10 or more")
    truth = prior.sample(num, stream(seed, "calibration", "truth")).double()
    x = simulate(truth, stream(seed, "calibration", "data")).double()
    simulated = x.isfinite().all(1)
    truth, x = truth[simulated], x[simulated]
    if not len(x):
        raise GensciError(
            f"all {num} simulations of the calibration failed", "check the simulator at its prior"
        )
    draws = posteriors.draw(x, stream(seed, "calibration", "draws"))
    drawn = draws.isfinite().flatten(1).all(1)
    if not drawn.any():
        raise GensciError(
            f"none of {len(x)} posteriors of the calibration has any density",
            "train the surrogate on simulations of the whole prior",
        )
    truth, x, draws = truth[drawn], x[drawn], draws[drawn]
    return CalibrationRuns(
        truth=truth,
        x=x,
        draws=draws,
        truth_log_prob=posteriors.log_prob(x, truth[:, None])[:, 0],
        draws_log_prob=posteriors.log_prob(x, draws),
        failed=num - len(truth),
    )


@dataclass(frozen=True)
class AfterObservation:
    """What one observation left of the prior, as the prior of calibration runs.

    Parameters are drawn from the posterior of the observation; the posterior of a run knows the
    observation and the run's data. Where the likelihood is right about the observation, such runs
    are calibrated, and only there has a surrogate of sequential rounds been trained.

    Attributes:
        prior: before the observation.
        log_likelihood: of rows.
        observation: (dim,).
        draws: (n, d) equally weighted draws of its posterior.

    Reference: Sailynoja, Schmitt, Burkner and Vehtari (2025), arXiv:2502.03279.
    """

    prior: Known
    log_likelihood: RowLikelihood
    observation: Tensor
    draws: Tensor

    @property
    def periods(self) -> Sequence[float | None]:
        """Of the parameters, None where not periodic."""
        return self.prior.periods

    def wrap(self, theta: Tensor) -> Tensor:
        """Periodic parameters as the prior wants them."""
        return self.prior.wrap(theta)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Rows (n, d) of the draws at random, each at most once where there are enough."""
        number = len(self.draws)
        if n <= number:
            rows = torch.randperm(number, generator=generator)[:n]
        else:
            rows = torch.randint(number, (n,), generator=generator)
        return self.draws[rows].double()

    def log_prob(self, theta: Tensor) -> Tensor:
        """The (n,) log-density of prior times likelihood of the observation."""
        before = self.prior.log_prob(theta).double()
        inside = before.isfinite().nonzero()[:, 0]
        rows = self.observation.expand(len(inside), -1)
        value = self.log_likelihood(rows, theta[inside]).double()
        return before.index_add(0, inside, value)
