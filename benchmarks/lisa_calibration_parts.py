"""What bench_lisa_calibration.py judges: a prior about moderate, true noise, likelihoods."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from gensci.core.priors import Prior
from gensci.core.random import stream
from gensci.loops.lisa_inference import LEARNED_NOISE
from gensci.loops.lisa_surrogate import PERIODS
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood
from gensci.systems.lisa_coordinates import to_simple
from gensci.systems.lisa_cut import CutSplines
from gensci.systems.lisa_heterodyne import as_real
from gensci.systems.lisa_information import jacobian
from gensci.systems.lisa_noise import Gap, Gaussian
from gensci.systems.lisa_observation import Observation, make_observation
from gensci.systems.lisa_problem import Problem
from gensci.systems.lisa_setting import Setting
from gensci.systems.lisa_summaries import HeterodynedBins

NODES = 40
WIDENED = 3.0
"""Standard deviations of the prior over those of quiet data, in every direction but for caps."""
CAPS = {
    "ln_chirp_mass": 0.01, "mass_ratio": 0.12, "chi1": 0.08, "chi2": 0.15, "distance": 0.1,
    "cos_inclination": 0.06, "phase": 0.1, "longitude": 0.1, "sin_latitude": 0.08,
    "polarisation": 0.12, "time": 10.0,
}  # fmt: skip
"""Largest standard deviations of the prior; that of the distance as a share of the true one."""
AT_ONCE = 25


class LocalPrior(Prior):
    """A normal about one point, cut off where the problem's own prior ends.

    Args:
        problem: whose bounds and names are kept.
        covariance: (11, 11).
    """

    kind = "local"

    def __init__(self, problem: Problem, covariance: Tensor) -> None:
        # No period: the normal lies far within one, and does not go round.
        super().__init__(problem.prior.names, problem.prior.bounds)
        self.centre, self.covariance = problem.truth, covariance
        self._factor = torch.linalg.cholesky(covariance)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw (n, 11) points."""
        found, missing = [], n
        while missing:
            z = torch.randn(missing, self.dim, generator=generator, dtype=torch.float64)
            theta = self.centre + z @ self._factor.T
            found.append(theta[self.inside(theta)])
            missing -= len(found[-1])
        return torch.cat(found)

    def white(self, theta: Tensor) -> Tensor:
        """Points (..., 11) in the coordinates in which the prior is a unit normal."""
        flat = (theta - self.centre).reshape(-1, self.dim).T
        return torch.linalg.solve_triangular(self._factor, flat, upper=False).T.reshape(theta.shape)

    def _log_density(self, theta: Tensor) -> Tensor:
        return -0.5 * self.white(theta).square().sum(1)

    def settings(self) -> dict[str, Any]:
        """Centre and covariance."""
        return {"centre": self.centre.tolist(), "covariance": self.covariance.tolist()}


@dataclass(frozen=True)
class Candidate:
    """A likelihood that is judged.

    Attributes:
        name: of it.
        words: what it takes for granted.
        learned: over simple coordinates.
        setting: of the data.
        folder: where its parts are kept.
    """

    name: str
    words: str
    learned: NeuralLikelihood
    setting: Setting
    folder: Path

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log-likelihoods (n,) of rows of summaries and binaries."""
        return self.learned.log_prob(x, to_simple(theta, self.setting))

    def sample(self, theta: Tensor, generator: Generator) -> Tensor:
        """Summaries (n, dim) of binaries (n, 11)."""
        return self.learned.sample(to_simple(theta, self.setting), generator)

    @torch.no_grad()
    def noise(self, theta: Tensor, generator: Generator) -> Tensor:
        """Draws (n, dim) of the learned noise."""
        member = self.learned.network.members[0]
        simple = to_simple(theta, self.setting)
        mean = member.data.inverse(member.centre.moments(member.features(simple))[0])
        return self.learned.sample(simple, generator) - mean


class Arena:
    """One problem: local prior, summaries of stationary noise, and data in the true one.

    All likelihoods are given the same summaries: splines about the reference, whitened for
    stationary noise.

    Args:
        problem: `glitch` or `gap`.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.setting = problem, problem.setting
        silence = torch.zeros(
            len(self.setting.channels), self.setting.num_bins, dtype=torch.complex128
        )
        observation = Observation(silence, self.setting)
        self.bins = HeterodynedBins(observation, problem.truth, NODES, noise=Gaussian())
        self.glitching = HeterodynedBins(observation, problem.truth, NODES, noise=problem.noise)
        window = problem.noise.window(self.setting)
        self.cut = None
        if isinstance(problem.noise, Gap):
            self.cut = CutSplines(self.bins.heterodyne, self.setting, window)
        self.prior = LocalPrior(problem, self._covariance())

    def _covariance(self) -> Tensor:
        slopes = jacobian(self.bins, self.problem.truth)
        caps = dict(CAPS, distance=CAPS["distance"] * float(self.problem.truth[4]))
        least = torch.tensor([caps[name] ** -2 for name in self.problem.prior.names])
        precision = slopes.T @ slopes / WIDENED**2 + torch.diag(least.double())
        covariance = torch.linalg.inv(precision)
        return 0.5 * (covariance + covariance.T)

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """Summaries (n, dim) of injections at every frequency of the grid, in the true noise."""
        rows = []
        for some in theta.split(AT_ONCE):
            strain = self.setting.strain(some, self.bins.observation.frequencies)
            data = [self.problem.noise.apply(h, self.setting, generator) for h in strain]
            rows.append(as_real(self.bins.heterodyne.project(torch.stack(data))))
        return torch.cat(rows)

    def observed(self) -> Tensor:
        """Summaries (dim,) of the problem's own observation."""
        data = make_observation(self.problem).data
        return as_real(self.bins.heterodyne.project(data[None]))[0]

    def directions(self) -> Tensor:
        """Orthonormal directions (dim, 11) of the summaries in which signals move at the truth."""
        slopes = jacobian(self.bins, self.problem.truth)
        return torch.linalg.qr(slopes / slopes.norm(dim=0))[0]

    def signal(self, theta: Tensor) -> Tensor:
        """Summaries (n, dim) of signals as the true data hold them."""
        if self.cut is None:
            return self.bins.signal(theta)
        white = self.cut.signal(self.bins.heterodyne.node_values(theta))
        return torch.einsum("cij,ncj->nci", self.cut.factor, white).flatten(1)

    def noise(self, n: int, generator: Generator) -> Tensor:
        """Summaries (n, dim) of the true noise."""
        if self.cut is None:
            return self.glitching.noise(n, generator)
        white = self.white(n, generator).reshape(n, *self.cut.factor.shape[:2])
        return torch.einsum("cij,ncj->nci", self.cut.factor, white).flatten(1)

    def white(self, n: int, generator: Generator) -> Tensor:
        """Summaries (n, dim) of stationary Gaussian noise."""
        return torch.randn(n, self.bins.dim, generator=generator, dtype=torch.float64)

    def exact(self, x: Tensor, theta: Tensor) -> Tensor:
        """Exact log-likelihoods (n,) of rows where the true noise is Gaussian (the gap)."""
        white = self.cut.signal(self.bins.heterodyne.node_values(theta))
        data = self.cut.whiten(x.reshape(len(x), *self.cut.factor.shape[:2]))
        return -0.5 * (data - white).square().sum((1, 2))


def candidates(
    arena: Arena, names: Sequence[str], waveforms: int, steps: int, seed: int, work: Path
) -> Iterator[Candidate]:
    """Train the named likelihoods of one problem on the same waveforms, or read them from `work`.

    Mean and noise are learned in the coordinates of `gensci infer`, the noise at as much length,
    where `steps` is not cut short for a look.
    """
    theta = arena.prior.sample(waveforms, stream(seed, "training"))
    simple = to_simple(theta, arena.setting)
    mean = LikelihoodSettings(kind="gaussian", steps=steps, batch=250)
    noise = replace(LEARNED_NOISE, steps=2 * steps, noise_steps=2 * steps)
    plain = arena.bins.signal(theta)
    table: list[tuple[str, str, Tensor, Any, LikelihoodSettings]] = [
        ("neural", "mean and noise learned from simulations",
         arena.signal(theta), arena.noise, noise),
        ("whittle", "stationary Gaussian noise", plain, arena.white, mean),
    ]  # fmt: skip
    if arena.cut is not None:
        table.append(
            ("whittle, gap cut", "stationary Gaussian noise, the gap cut into the signals",
             arena.signal(theta), arena.white, mean)
        )  # fmt: skip
    for name, words, signals, noise_draws, settings in table:
        if name not in names:
            continue
        folder = work / f"{arena.problem.name}-{name.replace(', ', '-').replace(' ', '-')}"
        if not _trained_so(folder, settings):
            cpu = time.process_time()
            learned = NeuralLikelihood.fit(
                simple, signals, noise=noise_draws, periods=PERIODS, settings=settings, seed=seed
            )
            learned.report["cpu_seconds"] = time.process_time() - cpu
            shutil.rmtree(folder, ignore_errors=True)
            learned.save(folder)
        learned = NeuralLikelihood.load(folder)
        report = learned.report
        print(f"  {name}: {report['cpu_seconds']:.0f} CPU-s, noise {report['noise']}", flush=True)
        yield Candidate(name, words, learned, arena.setting, folder)


def _trained_so(folder: Path, settings: LikelihoodSettings) -> bool:
    """Whether an earlier call kept a likelihood of these settings."""
    if not (folder / "model.json").exists():
        return False
    return NeuralLikelihood.load(folder).report.get("settings") == asdict(settings)
