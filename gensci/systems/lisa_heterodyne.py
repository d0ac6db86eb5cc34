"""Data and waveforms against one reference waveform: few smooth numbers instead of every frequency.

Zackay, Dai & Venumadhav 2018 (arXiv 1806.08792) and Cornish 2021 (arXiv 2109.02728), with cubic
splines in place of their straight pieces: the channels of a nearby binary, divided by the carrier
of the reference, are smooth in the logarithm of the frequency, so K node values hold them. Inner
products of the data with the K splines are the only thing the Gaussian likelihood needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from gensci.systems.lisa_observation import Observation
from gensci.systems.lisa_spline import SplineBasis

_FLOOR = 1e-6  # of the carrier's loudest whitened amplitude, so that no division is by zero


class Heterodyne:
    """An observation's frequency grid seen through the splines about a reference binary.

    Args:
        observation: grid and noise density; its data are not used here.
        reference: (11,) parameters.
        nodes: number of splines in each channel.

    Attributes:
        calls: waveforms computed so far; the reference itself is one.
    """

    def __init__(self, observation: Observation, reference: Tensor, nodes: int = 64) -> None:
        self.setting = observation.setting
        self.reference = reference
        self.basis = SplineBasis(observation.frequencies, nodes)
        both = torch.cat([observation.frequencies, self.basis.nodes])
        amplitude, phase, _ = self.setting.carrier(reference[None], both)
        whitening = observation.whitening
        amplitude = amplitude[0] + _FLOOR * amplitude[0].max()
        size = len(observation.frequencies)
        self.carrier = torch.polar(amplitude[:size], phase[0, :size])
        self._amplitude, self._phase = amplitude[size:], phase[0, size:]
        self._whitened = self.carrier * whitening
        # Splines where the noise drowns every waveform would leave the matrix singular.
        gram = self.basis.gram(self._whitened.abs().square())
        scale = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        unit = gram / (scale[..., None] * scale[..., None, :])
        lower = torch.linalg.cholesky(unit + 1e-12 * torch.eye(nodes, dtype=gram.dtype))
        self._lower = lower * scale[..., None]
        self._whitening = whitening
        self.calls = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and nodes."""
        return len(self.setting.channels), self.basis.size

    def node_values(self, theta: Tensor) -> Tensor:
        """The (n, c, K) channels of (n, 11) binaries over the reference's carrier; n calls."""
        self.calls += len(theta)
        amplitude, phase, transfer = self.setting.carrier(theta, self.basis.nodes)
        ratio, angle = amplitude / self._amplitude, phase - self._phase
        return transfer * torch.complex(ratio * angle.cos(), ratio * angle.sin())[:, None]

    def whiten(self, values: Tensor) -> Tensor:
        """The (n, c, K) coordinates of node values in which inner products are plain sums."""
        return torch.einsum("ckj,ncj->nck", self._lower.mT.to(values.dtype), values)

    def coordinates(self, theta: Tensor) -> Tensor:
        """The (n, c, K) whitened coordinates of (n, 11) binaries; n calls."""
        return self.whiten(self.node_values(theta))

    def project(self, data: Tensor) -> Tensor:
        """The (..., c, K) whitened coordinates of data (..., c, M).

        Stationary Gaussian noise has independent unit normals as real and imaginary parts.
        """
        sums = self.basis.gather(self._whitened.conj() * (self._whitening * data))
        lower = self._lower.to(sums.dtype)
        return torch.linalg.solve_triangular(lower, sums[..., None], upper=False)[..., 0]

    def rows(self, channel: int) -> Tensor:
        """The (K, M) factors on a channel's data that `project` sums over the grid."""
        unit = torch.eye(self.basis.size, dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(self._lower[channel], unit, upper=False)
        factors = self._whitened[channel].conj() * self._whitening[channel]
        return self.basis.interpolate(inverse) * factors

    def spectrum(self, values: Tensor) -> Tensor:
        """The (..., c, M) channels on the whole grid that node values (..., c, K) stand for."""
        return self.basis.interpolate(values) * self.carrier


def as_real(coordinates: Tensor) -> Tensor:
    """(n, c, K) complex numbers as (n, 2 c K) real ones."""
    return torch.view_as_real(coordinates).flatten(-3)


def slopes(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Derivatives (dim, d) of a map from (1, d) points to (1, dim) numbers at (d,), forward."""
    with warnings.catch_warnings():
        # Torch scripts its forward rules at the first use and deprecates that itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.func.jacfwd(lambda x: function(x[None])[0])(theta)
