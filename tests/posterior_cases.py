"""Posteriors whose laws, mode weights and evidence are known, with bounds, angles and modes."""

import itertools
import math

import torch

from gensci.core.posterior import PosteriorTarget
from gensci.core.priors import BoxPrior
from gensci.core.random import uniform

TWO_PI = 2 * math.pi
KAPPA = 2.0
GRID = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)


class Banana(PosteriorTarget):
    """A bent Gaussian in (x, y) and an angle that turns with x, so that it often wraps.

    The likelihood is also the density, but for a constant; `scores` maps draws to uniforms.
    """

    def __init__(self):
        prior = BoxPrior(
            ["x", "y", "angle"], [-8.0, -10.0, 1.0], [8.0, 60.0, 1.0 + TWO_PI], [None, None, TWO_PI]
        )
        super().__init__(prior, self._log_likelihood)
        volume = 16.0 * 70.0 * TWO_PI
        bessel = torch.special.i0(torch.tensor(KAPPA, dtype=torch.float64)).item()
        self.log_z = math.log(TWO_PI * 0.5 * TWO_PI * bessel / volume)
        density = (KAPPA * GRID.cos()).exp()
        cdf = torch.cumulative_trapezoid(density, GRID)
        self.cdf = torch.cat((cdf.new_zeros(1), cdf)) / cdf[-1]

    def _log_likelihood(self, theta):
        x, y, angle = theta.unbind(1)
        bent = (y - x.square() + 1.0) / 0.5
        return -0.5 * (x.square() + bent.square()) + KAPPA * (angle - x).cos()

    def draw(self, n, generator):
        x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
        place = torch.searchsorted(self.cdf, uniform(n, generator)).clamp(max=len(GRID) - 1)
        return self.prior.wrap(torch.stack((x, x.square() - 1 + 0.5 * noise, x + GRID[place]), 1))

    def scores(self, theta):
        x, y, angle = theta.unbind(1)
        away = torch.remainder(angle - x + math.pi, TWO_PI) - math.pi
        place = torch.searchsorted(GRID, away).clamp(max=len(GRID) - 1)
        bent = (y - x.square() + 1.0) / 0.5
        return torch.stack((torch.special.ndtr(x), torch.special.ndtr(bent), self.cdf[place]), 1)


class EightModes(PosteriorTarget):
    """A mixture of eight narrow Gaussians at the corners of a cube, with its symmetries or not."""

    log_z = -3 * math.log(20.0)

    def __init__(self, weights=None, jumps=True, width=0.25):
        corners = list(itertools.product((-1.0, 1.0), repeat=3))
        self.corners = torch.tensor(corners, dtype=torch.float64)
        centres = self.corners * torch.tensor([3.0, 4.0, 5.0])
        weights = torch.ones(8) if weights is None else torch.tensor(weights)
        self.weights = (weights / weights.sum()).double()
        prior = BoxPrior(["a", "b", "c"], [-10.0] * 3, [10.0] * 3)
        constant = self.weights.log() - 3 * math.log(width * math.sqrt(TWO_PI))

        def log_likelihood(theta):
            square = (theta[:, None] - centres).square().sum(-1)
            return torch.logsumexp(constant - 0.5 * square / width**2, 1)

        super().__init__(prior, log_likelihood, self.images if jumps else None)

    def images(self, theta):
        return self.corners[:, None] * theta

    def shares(self, samples):
        mode = (samples.x["theta"] > 0).long() @ torch.tensor([4, 2, 1])
        return samples.mean(torch.nn.functional.one_hot(mode, 8).double())


class BoxedGaussian(PosteriorTarget):
    """A correlated Gaussian well within a box."""

    def __init__(self, dim=3, correlation=0.8, side=12.0, spread=0.5):
        std = spread * torch.arange(1, dim + 1, dtype=torch.float64)
        matrix = torch.full((dim, dim), correlation, dtype=torch.float64)
        matrix.fill_diagonal_(1.0)
        self.std, self.centre = std, torch.linspace(-1.0, 1.0, dim, dtype=torch.float64)
        precision = torch.linalg.inv(std[:, None] * matrix * std)
        prior = BoxPrior([f"p{i}" for i in range(dim)], [-side] * dim, [side] * dim)

        def log_likelihood(theta):
            away = theta - self.centre
            return -0.5 * ((away @ precision) * away).sum(1)

        super().__init__(prior, log_likelihood)
        log_det = -torch.linalg.slogdet(precision)[1].item()
        self.log_z = 0.5 * (dim * math.log(TWO_PI) + log_det) - dim * math.log(2 * side)


def farthest_from_uniform(scores):
    """The largest Kolmogorov-Smirnov statistic of the columns, times the root of their length."""
    n = len(scores)
    ordered = scores.sort(0).values
    steps = torch.arange(1, n + 1, dtype=torch.float64)[:, None] / n
    gap = torch.maximum((steps - ordered).abs(), (ordered - steps + 1.0 / n).abs())
    return gap.max().item() * n**0.5
