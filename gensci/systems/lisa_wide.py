"""A density much wider than the posterior about the best point and its images on the sky.

Student's t with a multiple of Laplace's covariance, cut off at the bounds of the prior, about each
sky that the data allow, and a share of the prior itself. It can be drawn from and its density is
exact, so that simulations may begin there and samplers may temper from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.systems.lisa_coordinates import Images, SimplePrior, closed, from_simple, skies
from gensci.systems.lisa_heterodyne import slopes
from gensci.systems.lisa_likelihood import HeterodynedLikelihood

_TRIES = 400_000  # draws by which the share inside the bounds is known to a few per mille
_SPREAD = 10_000  # draws of the prior that tell its spread
_MOST = 200  # times as many draws as are asked for, before rows are repeated


@dataclass(frozen=True)
class WideSettings:
    """Shape of the density.

    Attributes:
        scale: standard deviations over those of Laplace's approximation.
        tails: degrees of freedom.
        prior_share: of the draws, from the prior.
        nats: skies less likely than the best by more are left out.
    """

    scale: float = 2.0
    tails: float = 5.0
    prior_share: float = 0.05
    nats: float = 100.0


class WideProposal:
    """The density over simple coordinates (`lisa_coordinates`), as `{"theta": (n, 11)}`.

    Args:
        prior: of simple coordinates.
        centre: (11,) point.
        covariance: (11, 11) of the t density.
        images: the skies, a group.
        settings: shape.
    """

    def __init__(
        self,
        prior: SimplePrior,
        centre: Tensor,
        covariance: Tensor,
        images: Images,
        settings: WideSettings,
    ) -> None:
        self.prior, self.centre, self.images, self.settings = prior, centre, images, settings
        self._factor = torch.linalg.cholesky(covariance)
        inside = self._inside(self._noise(_TRIES, stream(0, "wide")))
        share_inside = max(float(inside.double().mean()), 1.0 / _TRIES)
        degrees, dim = settings.tails, len(centre)
        self._constant = (
            math.lgamma(0.5 * (degrees + dim))
            - math.lgamma(0.5 * degrees)
            - 0.5 * dim * math.log(degrees * math.pi)
            - float(self._factor.diagonal().log().sum())
            - math.log(share_inside)
            - math.log(len(images.skies))
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Draw `n` points."""
        moved = self._images_of_centre(n, generator)
        free = torch.rand(n, 1, generator=generator, dtype=torch.float64)
        plain = self.prior.sample(n, generator)
        return {"theta": torch.where(free < self.settings.prior_share, plain, moved)}

    def sample_and_log_prob(self, n: int, generator: torch.Generator) -> tuple[Tensors, Tensor]:
        """Draws and their (n,) log-densities."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensors) -> Tensor:
        """The (n,) log-densities in nats, -inf outside the prior."""
        theta = x["theta"]
        prior, share = self.prior.log_prob(theta), self.settings.prior_share
        # The images are a group: those of a point are also the points whose image it is.
        parts = torch.stack([self._about_centre(image) for image in self.images(theta)])
        wide = parts.logsumexp(0) + math.log1p(-share)
        if share > 0:
            wide = torch.logaddexp(wide, prior + math.log(share))
        return torch.where(prior > -torch.inf, wide, -torch.inf)

    def _images_of_centre(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 11) points about the centre, each moved to one of the skies."""
        kept: list[Tensor] = []
        for _ in range(_MOST):
            noise = self._noise(n + 100, generator)
            kept.append(noise[self._inside(noise)])
            if sum(len(part) for part in kept) >= n:
                break
        noise = torch.cat(kept)
        noise = noise[torch.arange(n) % len(noise)]
        pick = torch.randint(len(self.images.skies), (n,), generator=generator)
        moved = self.images(self.prior.wrap(self.centre + noise))[pick, torch.arange(n)]
        return self.prior.wrap(moved)

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 11) draws of the t density about zero."""
        degrees = self.settings.tails
        normal = torch.randn(n, len(self.centre), generator=generator, dtype=torch.float64)
        alpha = torch.full((n, 1), 0.5 * degrees, dtype=torch.float64)
        gamma = torch._standard_gamma(alpha, generator=generator)
        return (normal @ self._factor.T) * (0.5 * degrees / gamma).sqrt()

    def _inside(self, noise: Tensor) -> Tensor:
        """(n,) whether centre plus noise is within the bounds and within half a turn."""
        low, high = self.prior.bounds.unbind(1)
        place = self.centre + noise
        good = (place >= low) & (place <= high)
        for column, period in enumerate(self.prior.periods):
            if period is not None:
                good[:, column] = noise[:, column].abs() <= 0.5 * period
        return good.all(1) & (self.prior.log_prob(self.prior.wrap(place)) > -torch.inf)

    def _about_centre(self, theta: Tensor) -> Tensor:
        """(n,) log of the t density of one sky, its share included."""
        gap = theta - self.centre
        for column, period in enumerate(self.prior.periods):
            if period is not None:
                turns = torch.round(gap[:, column] / period)
                gap[:, column] = gap[:, column] - period * turns
        white = torch.linalg.solve_triangular(self._factor, gap.T, upper=False)
        degrees, dim = self.settings.tails, len(self.centre)
        square = white.square().sum(0)
        return self._constant - 0.5 * (degrees + dim) * torch.log1p(square / degrees)


def wide_proposal(
    likelihood: HeterodynedLikelihood,
    prior: SimplePrior,
    centre: Tensor,
    settings: WideSettings | None = None,
) -> WideProposal:
    """The density about the best point (11,), in simple coordinates; 19 waveforms.

    Laplace's precision is the Fisher matrix plus that of the prior's own spread.
    """
    settings = settings or WideSettings()
    setting = prior.setting

    def residual(simple: Tensor) -> Tensor:
        return likelihood.residual(from_simple(simple, setting))

    before = likelihood.heterodyne.calls
    slope = slopes(residual, centre)
    likelihood.heterodyne.calls = before + len(centre)
    spread = prior.sample(_SPREAD, stream(0, "spread")).var(0)
    precision = slope.T @ slope + torch.diag(1.0 / spread)
    covariance = settings.scale**2 * torch.linalg.inv(precision)
    numbers = torch.zeros(1, dtype=torch.int64)
    if setting.frame == "lisa":
        value = likelihood(from_simple(skies(centre[None])[:, 0], setting))
        numbers = closed((value > value.max() - settings.nats).nonzero()[:, 0])
    symmetric = 0.5 * (covariance + covariance.T)
    return WideProposal(prior, centre, symmetric, Images(numbers), settings)
