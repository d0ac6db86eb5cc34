"""Draws of many posteriors at once: one prior, one likelihood, a row of data for each posterior.

Calibration needs hundreds of posteriors of a surrogate whose evaluation costs microseconds a row,
so that the work around it would cost more than itself were they sampled one by one. Here all
populations descend from the prior side by side, each at its own pace: tempered sequential Monte
Carlo whose moves are guided by a Student density fitted to each population.

Reference: Del Moral, Doucet and Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x; the moves are
the t-preconditioned Crank-Nicolson ones of Grumitt, Karamanis and Seljak (2024), arXiv:2407.07781.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from gensci.core.errors import UsageError

RowLikelihood = Callable[[Tensor, Tensor], Tensor]
"""From (m, dim) data and (m, d) points, row by row, to (m,) log-likelihoods in nats."""

DEGREES = 5
"""Of freedom of the Student density that guides the moves."""
AIM = 0.3
"""Acceptance that the step is adapted to."""
BISECTIONS = 40
REFIT = 4
"""Moves between two fits."""
FORGOTTEN, MOST_TIMES = 0.15, 24
"""Correlation with their places before the last moves at which draws count as independent of them,
and how often the last moves are made, at most, to reach it."""


class Known(Protocol):
    """What was known before the data: a prior of `gensci.core.priors`, or the like."""

    @property
    def periods(self) -> Sequence[float | None]:
        """Of each parameter, None where it is not periodic."""
        ...

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw (n, d) points."""
        ...

    def log_prob(self, theta: Tensor) -> Tensor:
        """The (n,) log-density up to a constant; -inf where there is none."""
        ...

    def wrap(self, theta: Tensor) -> Tensor:
        """The same (n, d) points with periodic columns where the density is told."""
        ...


@dataclass(frozen=True)
class ManyPosteriors:
    """Posteriors of one prior and one likelihood, for many data at once.

    Attributes:
        prior: what was known before.
        log_likelihood: rows of data and points to nats; not finite for none.
        particles: draws of each posterior.
        moves: of every draw at each temperature.
        last_moves: of every draw at the end, made again until the draws of that posterior have
            forgotten their places.
        ess_target: share of effective draws that a change of temperature keeps.
        at_once: posteriors side by side; memory grows with it.
    """

    prior: Known
    log_likelihood: RowLikelihood
    particles: int = 512
    moves: int = 6
    last_moves: int = 20
    ess_target: float = 0.5
    at_once: int = 16

    def __post_init__(self) -> None:
        whole = {"moves": self.moves, "last_moves": self.last_moves, "at_once": self.at_once}
        for name, value in whole.items():
            if value < 1:
                raise UsageError(f"{name}={value} is not usable", "give 1 or more")
        if self.particles < 4:
            raise UsageError(f"particles={self.particles} are too few", "give hundreds")
        if not 0 < self.ess_target < 1:
            raise UsageError(f"ess_target={self.ess_target} is not usable", "give 0 to 1")

    def draw(self, x: Tensor, generator: Generator) -> Tensor:
        """Equally weighted draws (runs, particles, d) of the posteriors of (runs, dim) data.

        A posterior that has no density at any draw of the prior is all NaN.
        """
        parts = [_Populations(self, rows, generator).descend() for rows in x.split(self.at_once)]
        return torch.cat(parts)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """The (runs, m) log-densities of points (runs, m, d), up to a constant of each run."""
        parts = zip(x.split(self.at_once), theta.split(self.at_once), strict=True)
        return torch.cat(
            [self._log_prior(points) + self._log_likelihood(rows, points) for rows, points in parts]
        )

    def _log_prior(self, theta: Tensor) -> Tensor:
        return self.prior.log_prob(theta.flatten(0, 1)).double().reshape(theta.shape[:2])

    def _log_likelihood(self, x: Tensor, theta: Tensor) -> Tensor:
        runs, m, _ = theta.shape
        rows = x[:, None].expand(-1, m, -1).flatten(0, 1)
        with torch.no_grad():
            value = self.log_likelihood(rows, theta.flatten(0, 1)).double().reshape(runs, m)
        return value.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)


_STATE = ("theta", "log_prior", "log_like", "beta", "log_step")


class _Populations:
    """The populations (runs, particles, d) of some posteriors on their way from the prior."""

    def __init__(self, settings: ManyPosteriors, x: Tensor, generator: Generator) -> None:
        self.settings, self.x, self.generator = settings, x, generator
        runs, number = len(x), settings.particles
        theta = settings.prior.sample(runs * number, generator).double()
        self.theta = theta.reshape(runs, number, -1)
        self.log_prior = settings._log_prior(self.theta)
        self.log_like = settings._log_likelihood(x, self.theta)
        self.beta = torch.zeros(runs, dtype=torch.float64)
        dim = self.theta.shape[-1]
        self.log_step = torch.full((runs,), math.log(min(0.9, 2.38 / math.sqrt(dim))))
        self.log_step = self.log_step.double()
        turns = [math.inf if p is None else float(p) for p in settings.prior.periods]
        self.turn = torch.tensor(turns, dtype=torch.float64)

    def descend(self) -> Tensor:
        """The draws at temperature one."""
        dead = ~self.log_like.isfinite().any(1)
        self.log_like[dead] = 0.0
        while (self.beta < 1).any():
            self._cool()
            self._moved(self.settings.moves)
        self._settle()
        self.theta[dead] = math.nan
        return self.theta

    def _settle(self) -> None:
        """Move on until draws have forgotten where they were; fewer and fewer posteriors need it.

        Those that mix badly are few and are not seen in a mean over all.
        """
        begin, left = self.theta.clone(), torch.arange(len(self.x))
        for _ in range(MOST_TIMES):
            part = self._some(left)
            part._moved(self.settings.last_moves)
            for name in _STATE:
                getattr(self, name)[left] = getattr(part, name)
            left = left[part._memory(begin[left]) > FORGOTTEN]
            if not len(left):
                break

    def _some(self, rows: Tensor) -> _Populations:
        """The populations of some posteriors."""
        part = copy(self)
        for name in ("x", *_STATE):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def _cool(self) -> None:
        """Raise each inverse temperature as far as the weights allow, and resample."""
        begin = self.beta
        low, high = begin.clone(), torch.ones_like(begin)
        whole = self._effective(high - begin) >= self.settings.ess_target
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            fine = self._effective(middle - begin) >= self.settings.ess_target
            low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
        # `high` and not `low`: where one step of the floats is too far, it must be taken all the
        # same, or the descent would never end
        self.beta = torch.where(whole, 1.0, high)
        rows = self._comb(self._weights(self.beta - begin))
        self.theta = self.theta.gather(1, rows[..., None].expand_as(self.theta))
        self.log_prior, self.log_like = (
            self.log_prior.gather(1, rows),
            self.log_like.gather(1, rows),
        )

    def _weights(self, rise: Tensor) -> Tensor:
        # nothing times minus infinity is nothing
        grown = torch.where(rise[:, None] > 0, rise[:, None] * self.log_like, 0.0)
        return torch.softmax(grown, 1)

    def _effective(self, rise: Tensor) -> Tensor:
        return 1.0 / (self._weights(rise).square().sum(1) * self.theta.shape[1])

    def _comb(self, weights: Tensor) -> Tensor:
        """Systematic resampling of each row of weights, (runs, particles) numbers."""
        runs, number = weights.shape
        offset = torch.rand(runs, 1, generator=self.generator, dtype=torch.float64)
        places = (torch.arange(number, dtype=torch.float64) + offset) / number
        total = weights.cumsum(1)
        return torch.searchsorted(total / total[:, -1:], places.contiguous()).clamp(max=number - 1)

    def _moved(self, times: int) -> None:
        """Move every draw so many times at the present temperatures.

        One half is moved by what is fitted to the other where it stands now, and the other way
        round: what a draw is proposed must not depend on where it stands or stood.
        """
        half = self.theta.shape[1] // 2
        for first in range(0, times, REFIT):
            for mine, others in (
                (slice(0, half), slice(half, None)),
                (slice(half, None), slice(0, half)),
            ):
                fit = self._fitted(others)
                for _ in range(min(REFIT, times - first)):
                    self._move(mine, *fit)

    def _fitted(self, others: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Where circles are cut open (runs, 1, d), mean (runs, 1, d) and factor (runs, d, d).

        Half of the covariance is the mean over all posteriors that stand side by side: they are
        of one kind, and few draws alone tell little of a matrix.
        """
        theta = self.theta[:, others]
        angle = theta * (2 * math.pi / self.turn)
        mean = torch.atan2(angle.sin().mean(1, keepdim=True), angle.cos().mean(1, keepdim=True))
        cut = torch.where(self.turn.isfinite(), mean * (self.turn / (2 * math.pi)), 0.0)
        free = self._unrolled(theta, cut)
        location = free.mean(1, keepdim=True)
        apart = free - location
        own = apart.mT @ apart / max(1, free.shape[1] - 1)
        covariance = 0.5 * (own + own.mean(0))
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-300)
        correlation = covariance / (scale[:, :, None] * scale[:, None])
        eye = torch.eye(free.shape[-1], dtype=torch.float64)
        factor = torch.linalg.cholesky(correlation + 1e-9 * eye) * scale[..., None]
        return cut, location, factor

    def _memory(self, begin: Tensor) -> Tensor:
        """Correlation (runs,) of draws with where they were, of the coordinates and their squares.

        Squares count since places far out are left and reached last. The larger of the mean over
        coordinates and the worst one, less what as many independent draws show of either.
        """
        cut, location, _ = self._fitted(slice(None))
        now, then = (self._unrolled(theta, cut) - location for theta in (self.theta, begin))
        kept = torch.stack([_correlation(now, then), _correlation(now.square(), then.square())])
        square, (_, number, dim) = kept.square(), now.shape
        mean = square.mean(-1).amax(0) - 1.0 / number
        worst = square.amax(-1).amax(0) - 2.0 * math.log(2 * dim) / number
        return torch.maximum(mean, worst).clamp_min(0.0).sqrt()

    def _unrolled(self, theta: Tensor, cut: Tensor) -> Tensor:
        """Periodic columns within half a period of the cut's far side."""
        turn = torch.where(self.turn.isfinite(), self.turn, 1.0)
        turns = torch.where(self.turn.isfinite(), torch.round((theta - cut) / turn), 0.0)
        return theta - turns * turn

    def _move(self, mine: slice, cut: Tensor, location: Tensor, factor: Tensor) -> None:
        before = self.theta[:, mine]
        apart = self._unrolled(before, cut) - location
        distance = _square(apart, factor)
        runs, number, dim = apart.shape
        normals = torch.randn(
            runs, number, 2 * dim + DEGREES, generator=self.generator, dtype=torch.float64
        )
        # an inverse gamma variable of (dim + DEGREES) / 2 by the sum of that many squares
        spread = (DEGREES + distance) / normals[..., dim:].square().sum(-1)
        step = self.log_step.exp()[:, None, None]
        kick = normals[..., :dim] @ factor.mT * spread.sqrt()[..., None]
        moved = (1 - step.square()).sqrt() * apart + step * kick
        theta = moved + location
        inside = ((theta - cut).abs() <= 0.5 * self.turn).all(-1)
        theta = self._wrapped(theta)
        log_prior = torch.where(inside, self.settings._log_prior(theta), -math.inf)
        # a likelihood may know no points outside the prior
        safe = torch.where(log_prior.isfinite()[..., None], theta, before)
        log_like = self.settings._log_likelihood(self.x, safe)
        old_prior, old_like = self.log_prior[:, mine], self.log_like[:, mine]
        gain = log_prior - old_prior + self.beta[:, None] * (log_like - old_like)
        gain = gain + 0.5 * (dim + DEGREES) * (
            (_square(moved, factor) / DEGREES).log1p() - (distance / DEGREES).log1p()
        )
        dice = torch.rand(runs, number, generator=self.generator, dtype=torch.float64)
        accept = dice.log() < gain.nan_to_num(nan=-math.inf)
        self.theta[:, mine] = torch.where(accept[..., None], theta, before)
        self.log_prior[:, mine] = torch.where(accept, log_prior, old_prior)
        self.log_like[:, mine] = torch.where(accept, log_like, old_like)
        share = accept.double().mean(1)
        self.log_step = (self.log_step + 0.25 * (share - AIM)).clamp(max=math.log(0.999), min=-7.0)

    def _wrapped(self, theta: Tensor) -> Tensor:
        return self.settings.prior.wrap(theta.flatten(0, 1)).reshape(theta.shape)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(runs, d) correlations over the draws (runs, n, d)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    norm = (a.square().sum(1) * b.square().sum(1)).sqrt().clamp_min(1e-300)
    return (a * b).sum(1) / norm


def _square(apart: Tensor, factor: Tensor) -> Tensor:
    """(runs, n) squared distances in units of the factors (runs, d, d) of covariances."""
    white = torch.linalg.solve_triangular(factor, apart.mT, upper=False)
    return white.square().sum(1)
