"""Denoisers whose distributions are known in closed form, in space, on the torus, and mixed."""

import math

import torch

from gensci.core.random import uniform

IMAGES = torch.arange(-5, 6, dtype=torch.float64)


class SpaceMixture:
    """n copies of a mixture of isotropic normals in R^3; its prior is the exact noisy law."""

    def __init__(self, n, weights, centres, widths, low=0.02, high=20.0, dtype=torch.float64):
        self.n, self.dtype = n, dtype
        self.log_weights = torch.tensor(weights, dtype=dtype).log()
        self.centres = torch.tensor(centres, dtype=dtype)
        self.widths = torch.tensor(widths, dtype=dtype)
        self.low, self.high = low, high

    @property
    def sigma_range(self):
        return torch.full((self.n,), self.low).to(self.dtype), torch.full((self.n,), self.high).to(
            self.dtype
        )

    @property
    def mean(self):
        return self.log_weights.exp() @ self.centres

    @property
    def covariance(self):
        weights, offset = self.log_weights.exp(), self.centres - self.mean
        inner = (weights * self.widths.square()).sum() * torch.eye(3).to(self.dtype)
        return inner + torch.einsum("k,ki,kj->ij", weights, offset, offset)

    def _log_parts(self, x, sigma):
        variance = self.widths.square() + sigma.square()[:, None]
        square = (x[:, None] - self.centres).square().sum(-1)
        return self.log_weights - 0.5 * square / variance - 1.5 * (2 * math.pi * variance).log()

    def noisy_log_prob(self, x, sigma):
        return torch.logsumexp(self._log_parts(x, sigma), 1)

    def denoise(self, x, sigma):
        share = self._log_parts(x, sigma).softmax(1)
        noise = sigma.square()[:, None]
        kept = (self.widths.square() / (self.widths.square() + noise))[..., None]
        means = self.centres + kept * (x[:, None] - self.centres)
        return (share[..., None] * means).sum(1)

    def draw(self, n, sigma, generator):
        which = torch.searchsorted(self.log_weights.exp().cumsum(0), uniform(n, generator))
        which = which.clamp(max=len(self.widths) - 1)
        width = (self.widths[which].square() + sigma**2).sqrt()[:, None]
        noise = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(self.dtype)
        return self.centres[which] + width * noise

    def prior(self, generator):
        return self.draw(self.n, self.high, generator)

    def prior_log_prob(self, x):
        return self.noisy_log_prob(x, self.sigma_range[1])

    def wrap(self, x):
        return x


class TorusMixture(SpaceMixture):
    """The same, wrapped onto [0, 1)^3; its uniform prior is exact to 1e-5 at sigma 0.8."""

    def __init__(self, n, weights, centres, widths, low=0.005, high=0.8, dtype=torch.float64):
        super().__init__(n, weights, centres, widths, low, high, dtype)

    def _images(self, x, sigma):
        variance = (self.widths.square() + sigma.square()[:, None])[..., None, None]
        nearest = x[:, None] - self.centres
        offset = (nearest - nearest.round())[..., None] + IMAGES.to(self.dtype)
        return offset, variance, -0.5 * offset.square() / variance

    def _log_parts(self, x, sigma):
        _, variance, logits = self._images(x, sigma)
        per_axis = torch.logsumexp(logits, -1) - 0.5 * (2 * math.pi * variance[..., 0]).log()
        return self.log_weights + per_axis.sum(-1)

    def denoise(self, x, sigma):
        offset, variance, logits = self._images(x, sigma)
        slope = -((logits.softmax(-1) * offset).sum(-1) / variance[..., 0])
        share = self._log_parts(x, sigma).softmax(1)
        return x + sigma.square()[:, None] * (share[..., None] * slope).sum(1)

    def prior(self, generator):
        return torch.rand(self.n, 3, generator=generator, dtype=torch.float64).to(self.dtype)

    def prior_log_prob(self, x):
        return torch.zeros_like(x[:, 0])

    def wrap(self, x):
        return x.remainder(1.0)


class Mixed:
    """Rows of a denoiser in space, then rows of one on the torus."""

    def __init__(self, space, torus):
        self.parts = (space, torus)

    def _each(self, method, *tensors):
        count = self.parts[0].n
        rows = [[t[:count] for t in tensors], [t[count:] for t in tensors]]
        return torch.cat(
            [getattr(part, method)(*r) for part, r in zip(self.parts, rows, strict=True)]
        )

    @property
    def sigma_range(self):
        pairs = [part.sigma_range for part in self.parts]
        return tuple(torch.cat(ends) for ends in zip(*pairs, strict=True))

    def denoise(self, x, sigma):
        return self._each("denoise", x, sigma)

    def noisy_log_prob(self, x, sigma):
        return self._each("noisy_log_prob", x, sigma)

    def prior(self, generator):
        return torch.cat([part.prior(generator) for part in self.parts])

    def prior_log_prob(self, x):
        return self._each("prior_log_prob", x)

    def wrap(self, x):
        return self._each("wrap", x)


SPACE = ([0.3, 0.7], [[1.0, 0.0, -0.5], [-0.6, 0.4, 0.5]], [0.3, 0.5])
TORUS = ([0.4, 0.6], [[0.1, 0.5, 0.9], [0.6, 0.3, 0.4]], [0.08, 0.12])


def mixed(n, dtype=torch.float64):
    """n rows in space and n rows on the torus."""
    return Mixed(SpaceMixture(n, *SPACE, dtype=dtype), TorusMixture(n, *TORUS, dtype=dtype))
