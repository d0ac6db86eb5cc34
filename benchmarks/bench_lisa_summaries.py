"""What each summary of a LISA observation costs: information lost, and the posterior it leads to.

For every summary: its size; the standard deviations of the Fisher matrix over those of the whole
grid (worst and median parameter) and half the difference of the log-determinants in nats, both with
the prior's variance added, at the truth of the noise-free problem; and the Jensen-Shannon
divergence of each parameter between the posterior of the data and that of the summary.

The likelihood of a linear summary in Gaussian noise is exact, so the second posterior is the first
reweighted. Draws of the first tell nothing of modes that only the second has: summaries of fewer
than 64 numbers, or where too few draws are left (ESS below 400), are sampled by tempering. The
likelihood of the network is synthetic: Gaussian, with mean and covariance from draws of the noise.
Exact draws are the first run of `bench_lisa_reference.py` where that is there, else tempering here
makes 2,000 (`references/lisa/NAME-short.npz`). Waveforms for PCA and network are 2,000 of the
prior ("prior"), or 5,000 of twice the Laplace width about the best point ("near").

    python benchmarks/bench_lisa_summaries.py loud moderate
    python benchmarks/bench_lisa_summaries.py moderate --information   # without posteriors

Rows that are in the JSON file already are not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results
from torch import Tensor

from gensci.core.posterior import PosteriorTarget
from gensci.core.random import stream
from gensci.core.summaries import WhiteLikelihood
from gensci.metrics.divergence import parameter_divergences
from gensci.models.learned_summary import LearnedSummary, learn_summary
from gensci.samplers.tempering import Tempering
from gensci.systems.lisa_coordinates import COPIES, SimplePrior, from_simple, to_simple
from gensci.systems.lisa_heterodyne import slopes
from gensci.systems.lisa_information import grid_information, information_lost
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_observation import Observation, make_observation
from gensci.systems.lisa_problem import Problem, load_problem
from gensci.systems.lisa_summaries import HeterodynedBins, PrincipalComponents, ScoreCompression
from gensci.systems.lisa_wide import WideSettings, wide_proposal

NAME = "lisa_summaries"
REFERENCES = Path(__file__).parent / "references" / "lisa"
PRIOR_SIGNALS, NEAR_SIGNALS, PRIOR_NODES, NODES = 2000, 5000, 256, 128
DRAWS, NETWORK_DRAWS, NOISE_DRAWS = 10_000, 2000, 256
LEAST_ESS, FEW, ROWS = 400, 64, 2000


@dataclass(frozen=True)
class Case:
    """One problem and what is known of it.

    Attributes:
        problem: The noise-free problem.
        observation: Its data.
        exact: Likelihood at 128 nodes about the truth.
        whole: (11, 11) Fisher information of the grid.
        near: (5000, 11) points about the truth, in its own sky and copy.
    """

    problem: Problem
    observation: Observation
    exact: HeterodynedLikelihood
    whole: Tensor
    near: Tensor


def load_case(name: str) -> Case:
    """The problem and what is computed once."""
    problem = load_problem(name)
    observation = make_observation(problem)
    exact = HeterodynedLikelihood(observation, problem.truth, NODES)
    whole = grid_information(observation, problem.truth)
    return Case(problem, observation, exact, whole, near_points(problem, exact, NEAR_SIGNALS))


def exact_draws(problem: Problem, exact: HeterodynedLikelihood) -> tuple[Tensor, float]:
    """(n, 11) draws of the exact posterior in random order, and how many they are worth."""
    for path in (REFERENCES / f"{problem.name}-{run}.npz" for run in ("1", "short")):
        if path.exists():
            with np.load(path) as file:
                told, theta = json.loads(str(file["told"])), torch.from_numpy(file["theta"])
            order = torch.randperm(len(theta), generator=stream(0, "order"))[: 2 * DRAWS]
            return theta[order].double(), float(told["ess"]) * len(order) / len(theta)
    theta, ess, told = tempered(problem, exact, ROWS)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, theta=theta.numpy().astype(np.float32), told=np.array(json.dumps(told | {"ess": ess}))
    )
    return theta[torch.randperm(len(theta), generator=stream(0, "order"))], ess


def near_points(problem: Problem, exact: HeterodynedLikelihood, n: int) -> Tensor:
    """(n, 11) points of twice the Laplace width about the truth, within the prior."""
    jacobian = slopes(exact.residual, problem.truth)
    width = problem.prior.bounds[:, 1] - problem.prior.bounds[:, 0]
    precision = jacobian.T @ jacobian + (12.0 / width.square()).diag()
    factor = 2.0 * torch.linalg.cholesky(torch.linalg.inv(precision))
    noise = torch.randn(20 * n, 11, generator=stream(0, "near"), dtype=torch.float64)
    theta = problem.truth + noise @ factor.T
    # Angles may run over the ends of their range here; the waveform does not mind.
    turning = torch.tensor([period is not None for period in problem.prior.periods])
    low, high = problem.prior.bounds.unbind(1)
    inside = ((theta >= low) & (theta <= high) | turning).all(1)
    return theta[inside][:n]


def summaries(case: Case) -> dict[str, Callable[[], Any]]:
    """What is compared, made when its turn comes."""
    observation, truth = case.observation, case.problem.truth

    def near() -> tuple[HeterodynedBins, Tensor]:
        bins = HeterodynedBins(observation, truth, NODES)
        return bins, bins.signal(case.near)

    def of_prior(dim: int) -> PrincipalComponents:
        prior = case.problem.prior
        bins = HeterodynedBins(observation, prior.bounds.mean(1), PRIOR_NODES)
        return PrincipalComponents(
            bins, bins.signal(prior.sample(PRIOR_SIGNALS, stream(0, "prior"))), dim
        )

    def learned() -> LearnedSummary:
        bins, signals = near()
        raw = PrincipalComponents(bins, signals, 64)
        inputs = (signals - raw.offset) @ raw.directions.T
        return learn_summary(raw, case.near, inputs)

    table: dict[str, Callable[[], Any]] = {
        "PCA of prior, 11": lambda: of_prior(11),
        "PCA of prior, 32": lambda: of_prior(32),
        "PCA of prior, 128": lambda: of_prior(128),
        "PCA near, 11": lambda: PrincipalComponents(*near(), 11),
        "PCA near, 32": lambda: PrincipalComponents(*near(), 32),
        "PCA near, 128": lambda: PrincipalComponents(*near(), 128),
        "bins, 64 nodes": lambda: HeterodynedBins(observation, truth, 64),
        "bins, 128 nodes": lambda: HeterodynedBins(observation, truth, 128),
        "score": lambda: ScoreCompression(HeterodynedBins(observation, truth, NODES), truth),
        "learned": learned,
    }
    return table


def measure(case: Case, summary: Any, posterior: bool) -> dict[str, Any]:
    """One row of the table."""
    begun = time.process_time()
    problem = case.problem
    lost = information_lost(summary, problem.truth, whole=case.whole, prior=problem.prior)
    record: dict[str, Any] = {
        "dimension": summary.dim, "nats": lost.nats, "sigma_worst": float(lost.sigma_ratio.max()),
        "sigma_median": float(lost.sigma_ratio.median()),
    }  # fmt: skip
    if posterior:
        record |= divergences(case, summary)
    return record | {"cpu_seconds": round(time.process_time() - begun, 1)}


def divergences(case: Case, summary: Any) -> dict[str, Any]:
    """How far the summary's posterior is from the exact one."""
    problem, network = case.problem, isinstance(summary, LearnedSummary)
    theta, ess = exact_draws(problem, case.exact)
    worth, half = ess / len(theta), len(theta) // 2
    likelihood = SyntheticLikelihood(summary) if network else WhiteLikelihood(summary)
    first, second = theta[: NETWORK_DRAWS if network else half], theta[half:]
    weight = _ratio(likelihood(first) - case.exact(first))
    share = float(weight.sum().square() / weight.square().sum()) / len(first)
    record: dict[str, Any] = {
        "draws": len(first), "reweighted_share": share, "ess": share * worth * len(first),
        "by": "reweighted",
    }  # fmt: skip
    if not network and (record["ess"] < LEAST_ESS or summary.dim < FEW):
        residual = _SummaryResidual(summary, case.observation)
        first, record["ess"], told = tempered(problem, residual, ROWS)
        weight = torch.ones(len(first), dtype=torch.float64)
        record |= told | {"by": "tempered"}
    table = parameter_divergences(
        first, second, problem.prior.names, stream(0, "floor"), weight_a=weight,
        ess_a=record["ess"], ess_b=worth * len(second), periods=problem.prior.periods,
    )  # fmt: skip
    values = {name: entry.value for name, entry in table.items()}
    return record | {
        "jsd": values, "jsd_worst": max(values.values()),
        "jsd_median": float(np.median(list(values.values()))),
        "jsd_floor": next(iter(table.values())).floor,
    }  # fmt: skip


def _ratio(log_weight: Tensor) -> Tensor:
    return (log_weight - log_weight.max()).exp()


class SyntheticLikelihood:
    """Gaussian, with the mean and covariance of the network's output at each point."""

    def __init__(self, summary: LearnedSummary) -> None:
        self.summary, self.data = summary, summary.data()
        # The same noise at every point, so that its scatter does not enter the ratios.
        self.noise = summary.noise(NOISE_DRAWS, stream(0, "synthetic"))

    def __call__(self, theta: Tensor) -> Tensor:
        """The (n,) log-likelihoods."""
        return torch.cat([self._rows(part) for part in theta.split(100)])

    def _rows(self, theta: Tensor) -> Tensor:
        signal = self.summary.signal(theta)
        both = (signal[:, None] + self.noise).flatten(0, 1)
        out = self.summary.compress(both).reshape(len(theta), NOISE_DRAWS, -1)
        gap = out - out.mean(1, keepdim=True)
        covariance = gap.mT @ gap / (NOISE_DRAWS - 1)
        normal = torch.distributions.MultivariateNormal(out.mean(1), covariance)
        return normal.log_prob(self.data)


class _SummaryResidual(WhiteLikelihood):
    """A linear summary in the shape of a heterodyned likelihood, for the wide density."""

    def __init__(self, summary: Any, observation: Observation) -> None:
        super().__init__(summary)
        self.observation, self.heterodyne = observation, summary.bins.heterodyne

    def residual(self, theta: Tensor) -> Tensor:
        """The (n, dim) residuals."""
        return self.summary.data() - self.summary.signal(theta)


def tempered(problem: Problem, likelihood: Any, rows: int) -> tuple[Tensor, float, dict[str, Any]]:
    """Draws of a posterior by parallel tempering, what they are worth, and counts."""
    setting = problem.setting
    prior = SimplePrior(problem.prior, setting)
    centre = to_simple(problem.truth[None], setting)[0]
    wide = wide_proposal(likelihood, prior, centre, WideSettings(prior_share=0.2))
    target = PosteriorTarget(prior, lambda x: likelihood(from_simple(x, setting)), wide.images)
    sampler = Tempering(num_walkers=100, warmup=150, thinning=20)
    samples = sampler.run(target, wide, rows, seed=1, batch_size=20_000)
    verdict = samples.meta["verdict"]
    copies = torch.randint(COPIES, (rows,), generator=stream(0, "copies"))
    theta = from_simple(samples.x["theta"], setting, copies)
    told = {"calls": target.calls, "rhat": verdict["rhat"]}
    return theta, float(verdict["ess"]), told


def main() -> None:
    """Print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=["loud", "moderate"])
    parser.add_argument("--information", action="store_true", help="leave the posteriors out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{NAME}.json"
    record = json.loads(path.read_text()) if path.exists() else {"problems": {}}
    for name in chosen.problems:
        known = record["problems"].setdefault(name, {})
        print(
            f"\n{name}\n{'summary':18s} {'dim':>4s} {'sigma worst':>11s} {'median':>7s} "
            f"{'nats':>7s} {'JSD worst':>10s} {'median':>8s} {'floor':>7s} {'by':>10s} "
            f"{'ESS':>6s} {'R-hat':>5s}"
        )
        case: Case | None = None
        for label in LABELS:
            if label not in known:
                case = case or load_case(name)
                known[label] = measure(case, summaries(case)[label](), not chosen.information)
                write_results(NAME, record | {"environment": environment(1)})
            _show(label, known[label])


LABELS = (
    "bins, 64 nodes", "bins, 128 nodes", "score", "PCA near, 11", "PCA near, 32", "PCA near, 128",
    "learned", "PCA of prior, 128", "PCA of prior, 32", "PCA of prior, 11",
)  # fmt: skip


def _show(label: str, row: dict[str, Any]) -> None:
    nats = f"{row['nats']:7.3f}" if math.isfinite(row["nats"]) else "    inf"
    line = (
        f"{label:18s} {row['dimension']:4d} {row['sigma_worst']:11.3f} {row['sigma_median']:7.3f} "
        f"{nats}"
    )
    if "jsd" in row:
        line += (
            f" {row['jsd_worst']:10.5f} {row['jsd_median']:8.5f} {row['jsd_floor']:7.5f} "
            f"{row['by']:>10s} {row['ess']:6.0f} {row.get('rhat', 1.0):5.2f}"
        )
    print(line, flush=True)


if __name__ == "__main__":
    main()
