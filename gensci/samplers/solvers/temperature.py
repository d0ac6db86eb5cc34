"""Temperature for solvers without noise of their own: a score that is scaled by noise level.

Normal data of width s have the score ``-x / (s^2 + sigma^2)`` under noise; sharpened to the width
``temperature * s`` they have ``-x / (temperature^2 s^2 + sigma^2)``. The ratio of the two,

    (s^2 + sigma^2) / (temperature^2 s^2 + sigma^2),

scales the score of any data: 1 where noise hides them, ``1 / temperature^2`` where it is gone. That
is exact for normal data and sharpens each mode of others. It means the same on the torus, where a
narrow wrapped normal becomes narrower; data without structure have no score and stay uniform.

Reference: Ingraham et al. (2023), doi:10.1038/s41586-023-06728-8, supplementary information.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gensci.core.diffusion import Denoiser
from gensci.samplers.solvers.around import Around


def tempered(denoiser: Denoiser, temperature: float) -> Denoiser:
    """Return the denoiser itself at temperature 1, and one with a scaled score otherwise."""
    return denoiser if temperature == 1.0 else Tempered(denoiser, temperature)


def spread_of(denoiser: Denoiser) -> torch.Tensor:
    """Return the (n,) width of the data, as the denoiser tells it or as its noise suggests."""
    spread = getattr(denoiser, "spread", None)
    if spread is not None:
        return spread
    low, high = denoiser.sigma_range
    return (low * high).sqrt()


@dataclass(frozen=True)
class Tempered(Around):
    """A denoiser of sharper data.

    Attributes:
        denoiser: the n distributions.
        temperature: what the width of each mode is multiplied by.
    """

    denoiser: Denoiser
    temperature: float

    def __post_init__(self) -> None:
        square = spread_of(self.denoiser).square()
        object.__setattr__(self, "_warm", square)
        object.__setattr__(self, "_cold", self.temperature**2 * square)

    @property
    def inner(self) -> Denoiser:
        """The denoiser at temperature 1; the prior is its own, since noise drowns any change."""
        return self.denoiser

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) estimates of ``E[x0 | x]`` of the sharper data."""
        variance = sigma * sigma
        scale = (self._warm + variance) / (self._cold + variance)
        return torch.lerp(x, self.denoiser.denoise(x, sigma), scale.to(x.dtype)[:, None])
