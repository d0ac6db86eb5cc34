"""Reductions of a LISA observation to few numbers, all linear in the data.

Whitened so that stationary Gaussian noise has independent unit normals, each summary is the
signal's plus the noise's, and the noise is redrawn without a waveform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.systems.lisa_heterodyne import Heterodyne, as_real, slopes
from gensci.systems.lisa_noise import Gap, Gaussian, Glitches, NoiseKind, TimeGrid
from gensci.systems.lisa_observation import Observation

_BANK = 2048  # arrival times and shapes of glitches kept; amplitudes are always fresh
_BATCH = 64


class HeterodynedBins:
    """Inner products of the data with all splines about a reference binary, whitened.

    Args:
        observation: the data.
        reference: (11,) parameters, near the best point.
        nodes: splines in each channel; two real numbers each.
        noise: what really disturbs the signal; stationary Gaussian noise by default.

    Attributes:
        dim: 2 c K numbers.
    """

    def __init__(
        self,
        observation: Observation,
        reference: Tensor,
        nodes: int = 64,
        noise: NoiseKind | None = None,
    ) -> None:
        self.observation = observation
        self.reference = reference
        self.heterodyne = Heterodyne(observation, reference, nodes)
        self.dim = 2 * nodes * len(observation.setting.channels)
        self.kind = noise or Gaussian()
        self._data = as_real(self.heterodyne.project(observation.data))
        self._bank: Tensor | None = None
        window = self.kind.window(observation.setting)
        self._windowed = None if window is None else self._through(window)
        self._factor = self._noise_factor() if isinstance(self.kind, Gap) else None

    @property
    def calls(self) -> int:
        """Waveforms computed so far."""
        return self.heterodyne.calls

    def signal(self, theta: Tensor) -> Tensor:
        """The (n, dim) noise-free summaries of (n, 11) points; n waveforms."""
        values = self.heterodyne.node_values(theta)
        if self._windowed is None:
            return as_real(self.heterodyne.whiten(values))
        return torch.einsum("cij,ncj->nci", self._windowed, _real_then_imaginary(values)).flatten(1)

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, dim) summaries of the noise."""
        white = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        if isinstance(self.kind, Glitches):
            return white + self._glitches(self.kind, n, generator)
        if self._factor is None:
            return white
        parts = white.reshape(n, *self._factor.shape[:2])
        return torch.einsum("cij,ncj->nci", self._factor, parts).flatten(1)

    def data(self) -> Tensor:
        """The (dim,) summary of the observation."""
        return self._data

    def _through(self, window: Tensor) -> Tensor:
        """The (c, 2K, 2K) real matrices from node values to summaries of the windowed series."""
        channels, nodes = self.heterodyne.shape
        units = torch.eye(2 * nodes, dtype=torch.float64)
        rows = torch.complex(units[:, :nodes], units[:, nodes:])
        parts = [self._cut(batch, window) for batch in rows.split(_BATCH)]
        # Row i holds the image of unit i; the matrix acts on columns.
        return torch.cat(parts).permute(1, 2, 0).contiguous().reshape(channels, -1, 2 * nodes)

    def _cut(self, values: Tensor, window: Tensor) -> Tensor:
        """Summaries (b, c, 2K) of the windowed series that node values (b, K) stand for."""
        setting = self.observation.setting
        grid = TimeGrid.of(setting)
        series = grid.to_time(self.heterodyne.spectrum(values), setting.first_bin) * window
        spectrum = grid.to_frequency(series, setting.first_bin, setting.num_bins)
        both = spectrum[:, None].expand(-1, len(setting.channels), -1)
        return torch.view_as_real(self.heterodyne.project(both)).flatten(-2)

    def _noise_factor(self) -> Tensor:
        """Cholesky factors (c, 2K, 2K) of the covariance of cut stationary noise."""
        setting, nodes = self.observation.setting, self.heterodyne.basis.size
        grid, window = TimeGrid.of(setting), self.kind.window(setting)
        bins = torch.arange(1, grid.size // 2, dtype=torch.float64)
        level = (0.25 * setting.duration * setting.psd(bins / setting.duration)).sqrt()
        factors = []
        generator = torch.Generator().manual_seed(0)
        for channel in range(len(setting.channels)):
            total = torch.zeros(2 * nodes, 2 * nodes, dtype=torch.float64)
            draws = 0
            while draws < 16 * nodes:
                noise = torch.randn(_BATCH, len(bins), 2, generator=generator, dtype=torch.float64)
                series = grid.to_time(torch.view_as_complex(noise) * level[channel], 1) * window
                cut = grid.to_frequency(series, setting.first_bin, setting.num_bins)
                both = cut[:, None].expand(-1, len(setting.channels), -1)
                rows = torch.view_as_real(self.heterodyne.project(both)).flatten(-2)[:, channel]
                total, draws = total + rows.T @ rows, draws + _BATCH
            factors.append(torch.linalg.cholesky(total / draws))
        return torch.stack(factors)

    def _glitches(self, kind: Glitches, n: int, generator: torch.Generator) -> Tensor:
        """Summaries (n, dim) of the glitches of `n` observations."""
        if self._bank is None:
            self._bank = self._make_bank(kind)
        setting = self.observation.setting
        counts = kind.counts(n, generator)
        owner = torch.repeat_interleave(torch.arange(n), counts)
        which = torch.randint(len(self._bank), (len(owner),), generator=generator)
        amplitudes = kind.amplitudes(len(owner), setting, generator)
        pulses = (amplitudes[:, :, None] * self._bank[which]).flatten(1)
        return torch.zeros(n, self.dim, dtype=torch.float64).index_add(0, owner, pulses)

    def _make_bank(self, kind: Glitches) -> Tensor:
        """Summaries (b, c, 2K) of pulses of SNR one in each channel."""
        setting = self.observation.setting
        generator = torch.Generator().manual_seed(0)
        parts = []
        for _ in range(_BANK // _BATCH):
            pulses = kind.pulses(_BATCH, setting, generator)
            both = pulses[:, None].expand(-1, len(setting.channels), -1)
            parts.append(torch.view_as_real(self.heterodyne.project(both)).flatten(-2))
        return torch.cat(parts)


def _real_then_imaginary(values: Tensor) -> Tensor:
    """(n, c, K) complex node values as (n, c, 2K) real ones."""
    return torch.cat([values.real, values.imag], -1)


class Projection:
    """Orthonormal directions of other summaries; white noise stays white.

    Args:
        bins: what is projected.
        directions: (dim, bins.dim) orthonormal rows.
        offset: (bins.dim,) subtracted first.
    """

    def __init__(self, bins: HeterodynedBins, directions: Tensor, offset: Tensor) -> None:
        self.bins = bins
        self.directions = directions
        self.offset = offset
        self.dim = len(directions)

    @property
    def calls(self) -> int:
        """Waveforms computed so far."""
        return self.bins.calls

    def signal(self, theta: Tensor) -> Tensor:
        """The (n, dim) noise-free summaries of (n, 11) points; n waveforms."""
        return (self.bins.signal(theta) - self.offset) @ self.directions.T

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, dim) summaries of the noise."""
        return self.bins.noise(n, generator) @ self.directions.T

    def data(self) -> Tensor:
        """The (dim,) summary of the observation."""
        return (self.bins.data() - self.offset) @ self.directions.T


class PrincipalComponents(Projection):
    """The leading principal components of simulated signals, the published choice.

    Args:
        bins: whitened summaries.
        signals: (n, bins.dim) simulated signals the components are fitted on.
        dim: number of components.
    """

    def __init__(self, bins: HeterodynedBins, signals: Tensor, dim: int) -> None:
        mean = signals.mean(0)
        _, _, components = torch.linalg.svd(signals - mean, full_matrices=False)
        super().__init__(bins, components[:dim], mean)


class ScoreCompression(Projection):
    """Eleven numbers that keep all first-order information about a point (Alsing & Wandelt 2018,
    arXiv 1712.00012): an orthonormal basis of the signal's derivatives there.

    Args:
        bins: whitened summaries.
        theta: (11,) the point, usually the best one known; 11 waveforms for the derivatives.
    """

    def __init__(self, bins: HeterodynedBins, theta: Tensor) -> None:
        derivatives = jacobian(bins, theta)
        directions, _ = torch.linalg.qr(derivatives / derivatives.norm(dim=0))
        super().__init__(bins, directions.T.contiguous(), bins.signal(theta[None])[0])


def jacobian(summary: HeterodynedBins | Projection, theta: Tensor) -> Tensor:
    """Derivatives (dim, 11) of a summary's signal at (11,) parameters; 11 waveforms."""
    bins = summary.bins if isinstance(summary, Projection) else summary
    before = bins.heterodyne.calls
    derivative = slopes(summary.signal, theta)
    bins.heterodyne.calls = before + len(theta)
    return derivative


def information_lost(summary: HeterodynedBins | Projection, theta: Tensor) -> tuple[Tensor, float]:
    """Fisher information of a summary beside that of the bins it is made of, in white noise.

    Returns:
        (11,) standard deviations over those without compression, and half the difference of the
        log-determinants in nats.
    """
    bins = summary.bins if isinstance(summary, Projection) else summary
    full, kept = (jacobian(s, theta) for s in (bins, summary))
    scale = full.norm(dim=0)
    fisher = [(j / scale).T @ (j / scale) for j in (full, kept)]
    sigma = [torch.linalg.inv(f).diagonal().sqrt() for f in fisher]
    return sigma[1] / sigma[0], float(0.5 * (fisher[0].logdet() - fisher[1].logdet()))
