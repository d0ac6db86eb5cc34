"""Calibration of the surrogates of `gensci infer`: over the prior, or about the observation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gensci.commands.infer_checks import simulate_apart
from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.protocols import Progress, Store, Tensors
from gensci.core.random import stream
from gensci.io.atomic import write_json
from gensci.io.posterior_plots import coverage_plot, rank_plot
from gensci.loops.calibrating import AfterObservation, CalibrationRuns, calibrate
from gensci.loops.many_posteriors import ManyPosteriors, RowLikelihood
from gensci.loops.simulation_store import RowSimulator
from gensci.metrics.calibration import sbc_ranks
from gensci.metrics.calibration_report import CalibrationReport, calibration_report
from gensci.metrics.classifier import LocalC2ST

FEWEST = 20
"""Runs below which nothing can be told."""
FEWEST_LOCAL = 100
"""Runs below which no classifier of local tests is trained."""
PARTICLES = 256


@dataclass(frozen=True)
class Calibration:
    """Many runs of one surrogate, judged.

    Attributes:
        name: `calibration` over the prior, `local-calibration` about the observation.
        words: Which surrogate.
        report: Of all runs.
        ranks: (runs, d).
        local: p-value of the local C2ST at the observation, or None.
        calls: Of the surrogate.
    """

    name: str
    words: str
    report: CalibrationReport
    ranks: Any
    local: float | None
    calls: int

    @property
    def good(self) -> bool:
        """Whether no test rejects."""
        return self.report.calibrated() and (self.local is None or self.local > 0.01)

    def facts(self) -> dict[str, Any]:
        """For `run.json` and the JSON of the diagnostics."""
        local = {} if self.local is None else {"local_c2st_pvalue": self.local}
        return {"surrogate": self.words, **self.report.to_json(), **local}

    def lines(self) -> list[str]:
        """A few lines for the user."""
        first, *rest = self.report.lines()
        if self.local is not None:
            rest.append(f"  local C2ST at the observation: p = {self.local:.2g}")
        return [f"{self.name} of {self.words}, {first}", *rest]

    def write(self, folder: Path) -> None:
        """Write NAME.json, NAME-coverage.png and NAME-ranks.png."""
        write_json(folder / f"{self.name}.json", self.facts())
        curves = {"TARP": self.report.tarp, "highest density": self.report.expected}
        title = f"{self.report.runs} runs of {self.words}"
        coverage_plot(folder / f"{self.name}-coverage.png", curves, title=title)
        ranks = folder / f"{self.name}-ranks.png"
        rank_plot(ranks, self.ranks, self.report.parameters, title=f"Ranks of the truth, {title}")


@dataclass(frozen=True)
class Judged:
    """A surrogate that is to be judged.

    Attributes:
        words: What to call it.
        rows: Its likelihood of data of the simulator, row by row.
        observation: (dim,) data.
        draws: (n, d) equally weighted draws of its posterior of the observation.
        summarise: From data to what local tests look at.
    """

    words: str
    rows: RowLikelihood
    observation: Tensor
    draws: Tensor
    summarise: Any


def check_number(option: str, number: int) -> None:
    """Raise a `UsageError` for a number of runs that tells nothing; 0 is for none."""
    if number and number < FEWEST:
        raise UsageError(f"{option} {number}", f"give {FEWEST} or more, or 0 for none")


def check_calibration(
    judged: Judged,
    prior: Prior,
    number: int,
    store: Store,
    simulator: RowSimulator,
    seed: int,
    *,
    local: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Run the surrogate on `number` data sets and judge it.

    Args:
        judged: The surrogate; where `local` is not set, one of simulations over the whole prior.
        prior: Of the parameters.
        number: Of runs, one simulation each.
        store: Keeps simulations and runs.
        simulator: Makes the data.
        seed: Of all randomness.
        local: Draw the truths from the posterior of the observation, not from the prior.
        progress: Told of simulations.
    """
    name = "local-calibration" if local else "calibration"
    before: Any = prior
    if local:
        before = AfterObservation(prior, judged.rows, judged.observation, judged.draws)
    counted = _Counted(judged.rows)

    def simulate(theta: Tensor, generator: Generator) -> Tensor:
        apart = f"{name}-{number}"
        return simulate_apart(store, apart, theta, simulator, generator, progress).x

    stored = f"{name}-runs-{number}"
    known = store.load_state(stored)
    if known is None:
        posteriors = ManyPosteriors(before, counted, particles=PARTICLES)
        runs = calibrate(before, simulate, posteriors, number, seed=seed)
        known = _packed(runs, counted.calls)
        pvalue = _local_test(judged, known, stream(seed, name, "local"), local)
        known["local"] = torch.tensor(pvalue, dtype=torch.float64)
        store.save_state(stored, known)
    return _judge(name, judged, known, prior, seed)


def _judge(name: str, judged: Judged, runs: Tensors, prior: Prior, seed: int) -> Calibration:
    truth, draws = runs["truth"], runs["draws"]
    report = calibration_report(
        truth, draws, runs["truth_log_prob"], runs["draws_log_prob"],
        stream(seed, name, "ties"), parameters=prior.names, periods=prior.periods,
        failed=int(runs["failed"]),
    )  # fmt: skip
    periods = [float("nan") if period is None else period for period in prior.periods]
    ranks = sbc_ranks(truth, draws, stream(seed, name, "ranks"), periods=periods)
    local = float(runs["local"])
    pvalue = None if math.isnan(local) else local
    return Calibration(name, judged.words, report, ranks, pvalue, int(runs["calls"]))


def _local_test(judged: Judged, runs: Tensors, generator: Generator, local: bool) -> float:
    """p-value of the local C2ST of the surrogate's posterior of the observation; NaN without."""
    if local or len(runs["truth"]) < FEWEST_LOCAL:
        return math.nan
    x = judged.summarise(runs["x"])
    test = LocalC2ST.fit(runs["truth"], runs["draws"][:, 0], x, generator)
    return test.test(judged.draws[:2000], judged.summarise(judged.observation[None])[0]).pvalue


class _Counted:
    """A likelihood of rows that counts them."""

    def __init__(self, rows: RowLikelihood) -> None:
        self.rows, self.calls = rows, 0

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        self.calls += len(theta)
        return self.rows(x, theta)


def _packed(runs: CalibrationRuns, calls: int) -> Tensors:
    names = ("truth", "x", "draws", "truth_log_prob", "draws_log_prob")
    numbers = {"failed": torch.tensor(runs.failed), "calls": torch.tensor(calls)}
    return {name: getattr(runs, name) for name in names} | numbers
