"""What a gap makes of splines and of stationary noise, exactly.

A window on the time series mixes frequencies, so that the noise is no longer independent between
them: Whittle's likelihood is wrong there. Few summaries have a covariance that can be written down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.systems.lisa_heterodyne import Heterodyne
from gensci.systems.lisa_noise import TimeGrid
from gensci.systems.lisa_setting import Setting

_BATCH = 64


class CutSplines:
    """Summaries of a windowed time series, whitened.

    Node values of the signal are mapped to whitened summaries by one matrix for each channel, and
    the covariance of the noise comes from the rows of the projection carried through the window.

    Args:
        heterodyne: splines and their projection.
        setting: of the data.
        window: (N,) factors on the time series.

    Attributes:
        factor: (c, 2K, 2K) Cholesky factors of the covariance of plain summaries of the noise.

    Raises:
        UsageError: the window hides so much that some summaries hold no noise at all.
    """

    def __init__(self, heterodyne: Heterodyne, setting: Setting, window: Tensor) -> None:
        self.heterodyne, self.setting, self.window = heterodyne, setting, window
        self.grid = TimeGrid.of(setting)
        self.factor = torch.stack(self._noise_factors())
        self._signal = torch.linalg.solve_triangular(self.factor, self._through(), upper=False)

    def whiten(self, summaries: Tensor) -> Tensor:
        """Whitened ones of (c, 2K) plain summaries."""
        return torch.linalg.solve_triangular(self.factor, summaries[..., None], upper=False)[..., 0]

    def signal(self, values: Tensor) -> Tensor:
        """The (n, c, 2K) whitened summaries of signals with node values (n, c, K)."""
        parts = torch.cat([values.real, values.imag], -1)
        return torch.einsum("cij,ncj->nci", self._signal, parts)

    def _through(self) -> Tensor:
        """The (c, 2K, 2K) matrices from real, then imaginary node values to plain summaries."""
        channels, nodes = self.heterodyne.shape
        units = torch.eye(2 * nodes, dtype=torch.float64)
        rows = torch.complex(units[:, :nodes], units[:, nodes:])
        # Row i holds the image of unit i; the matrix acts on columns.
        images = torch.cat([self._image(batch) for batch in rows.split(_BATCH)])
        return images.permute(1, 2, 0).contiguous().reshape(channels, -1, 2 * nodes)

    def _image(self, values: Tensor) -> Tensor:
        """Plain summaries (b, c, 2K) of the windowed series that node values (b, K) stand for."""
        setting, grid = self.setting, self.grid
        series = grid.to_time(self.heterodyne.spectrum(values), setting.first_bin) * self.window
        spectrum = grid.to_frequency(series, setting.first_bin, setting.num_bins)
        both = spectrum[:, None].expand(-1, len(setting.channels), -1)
        return torch.view_as_real(self.heterodyne.project(both)).flatten(-2)

    def _noise_factors(self) -> list[Tensor]:
        """One for each channel; channels of the same noise share it."""
        densities = self.setting.psd(self.setting.frequencies())
        factors: list[Tensor] = []
        for channel, density in enumerate(densities):
            same = channel > 0 and torch.equal(density, densities[channel - 1])
            factors.append(factors[-1] if same else self._noise_factor(channel))
        return factors

    def _noise_factor(self, channel: int) -> Tensor:
        """Cholesky factor (2K, 2K) of the covariance of a channel's cut noise.

        A summary is the sum over time of noise x window x a(t), and a(t) is a row of the projection
        brought to the time domain. By frequency, the noise is independent with known variance.
        """
        setting, grid = self.setting, self.grid
        rows = self.heterodyne.rows(channel).conj()
        both = torch.stack([rows, 1j * rows], 1).flatten(0, 1)  # real and imaginary part in turn
        bins = torch.arange(1, grid.size // 2, dtype=torch.float64)
        density = setting.psd(bins / setting.duration)[channel]
        covariance = torch.zeros(len(both), len(both), dtype=torch.float64)
        series = grid.to_time(both, setting.first_bin) * self.window
        spread = (
            grid.to_frequency(series, 1, len(bins)) * (0.25 * setting.duration * density).sqrt()
        )
        for part in spread.split(len(bins) // 16 + 1, dim=1):  # few columns, little memory
            covariance += (part @ part.mH).real
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise UsageError(
                f"the gap leaves nothing of some of {self.heterodyne.shape[1]} splines",
                "use fewer nodes",
            )
        return factor
