"""Temperature for solvers without noise of their own: a score that is scaled by noise level.

Normal data of width s have the score ``-x / (s^2 + sigma^2)`` under noise; sharpened to the width
``temperature * s`` they have ``-x / (temperature^2 s^2 + sigma^2)``. The ratio of the two,

    (s^2 + sigma^2) / (temperature^2 s^2 + sigma^2) = 1 / (1 - (1 - temperature^2) j),

scales the score of any data (Ingraham et al. 2023, doi:10.1038/s41586-023-06728-8, supplementary
information, with one width s for all). Here ``j = s^2 / (s^2 + sigma^2)`` is the derivative of the
denoised point along the way to it, measured at each point by a second call of the denoiser. So the
width is that of the mode at hand: a mode much narrower than the noise is left alone, where a score
scaled for wider data would carry the point beyond it. It is not taken for more than twice the
geometric mean of the noise levels, because noise that hides several modes, or wraps around the
torus, looks like one mode without end. Exact for normal data up to that width; on the torus a
narrow wrapped normal becomes narrower, and data without structure have no score and stay uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gensci.core.diffusion import Denoiser
from gensci.samplers.solvers.around import Around

PROBE = 0.5  # of the noise level: wide enough to see no wiggle of a network
LARGEST = 400.0  # scale of a score, also at temperature 0
WIDEST = 2.0  # mode, in geometric means of the smallest and the largest noise level


def tempered(denoiser: Denoiser, temperature: float) -> Denoiser:
    """Return the denoiser itself at temperature 1, and one with a scaled score otherwise."""
    return denoiser if temperature == 1.0 else Tempered(denoiser, temperature)


@dataclass(frozen=True)
class Tempered(Around):
    """A denoiser of sharper data; two calls of the inner one for each of its own.

    Attributes:
        denoiser: the n distributions.
        temperature: what the width of each mode is multiplied by.
    """

    denoiser: Denoiser
    temperature: float

    @property
    def inner(self) -> Denoiser:
        """The denoiser at temperature 1; the prior is its own, since noise drowns any change."""
        return self.denoiser

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) estimates of ``E[x0 | x]`` of the sharper data."""
        denoised = self.denoiser.denoise(x, sigma)
        way = denoised - x
        # Square root of a sum that is never zero: densities differentiate this.
        direction = way / (way.square().sum(-1, keepdim=True) + 1e-24).sqrt()
        probe = PROBE * sigma.to(x.dtype)[:, None]
        moved = self.denoiser.denoise(x + probe * direction, sigma) - denoised
        low, high = self.denoiser.sigma_range
        square = WIDEST**2 * low * high
        most = (square / (square + sigma * sigma)).to(x.dtype)[:, None]
        j = ((moved * direction).sum(-1, keepdim=True) / probe).clamp(min=0.0)
        j = torch.minimum(j, most)
        scale = 1.0 / (1.0 - (1.0 - self.temperature**2) * j)
        return torch.lerp(x, denoised, scale.clamp(max=LARGEST))
