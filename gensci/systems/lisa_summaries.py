"""Reductions of a LISA observation to few numbers, all linear in the data.

Whitened so that Gaussian noise has independent unit normals, each summary is the signal's plus the
noise's, and the noise is redrawn without a waveform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.systems.lisa_cut import CutSplines
from gensci.systems.lisa_glitch_bank import GlitchBank
from gensci.systems.lisa_heterodyne import Heterodyne, as_real
from gensci.systems.lisa_information import jacobian
from gensci.systems.lisa_noise import Gaussian, Glitches, NoiseKind
from gensci.systems.lisa_observation import Observation


class HeterodynedBins:
    """Inner products of the data with all splines about a reference binary, whitened.

    Gaussian noise, stationary or cut by a gap, comes out as independent unit normals; glitches come
    on top. A gap is cut into the signal of every binary as it was into the data; the window of the
    observation counts where the noise brings none.

    Args:
        observation: the data.
        reference: (11,) parameters, near the best point.
        nodes: splines in each channel; two real numbers each.
        noise: what really disturbs the signal; stationary Gaussian noise by default.

    Attributes:
        dim: 2 c K numbers.

    Raises:
        UsageError: the gap hides so much that some numbers hold no noise at all, or the data have
            a window and glitches.
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
        self._bank: GlitchBank | None = None
        window = self.kind.window(observation.setting)
        window = observation.window if window is None else window
        if window is not None and isinstance(self.kind, Glitches):
            raise UsageError(
                "the observation has a window and its noise has glitches",
                "give data without a window: glitches are not carried through one",
            )
        self._cut = (
            None if window is None else CutSplines(self.heterodyne, observation.setting, window)
        )
        data = torch.view_as_real(self.heterodyne.project(observation.data)).flatten(1)
        self._data = (data if self._cut is None else self._cut.whiten(data)).flatten()

    @property
    def calls(self) -> int:
        """Waveforms computed so far."""
        return self.heterodyne.calls

    @property
    def bins(self) -> HeterodynedBins:
        """Itself: what a `Projection` is made of."""
        return self

    def signal(self, theta: Tensor) -> Tensor:
        """The (n, dim) noise-free summaries of (n, 11) points; n waveforms."""
        values = self.heterodyne.node_values(theta)
        if self._cut is None:
            return as_real(self.heterodyne.whiten(values))
        return self._cut.signal(values).flatten(1)

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, dim) summaries of the noise."""
        white = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        if isinstance(self.kind, Glitches):
            if self._bank is None:
                self._bank = GlitchBank(self.heterodyne, self.observation.setting, self.kind)
            return white + self._bank.draw(n, generator)
        return white

    def data(self) -> Tensor:
        """The (dim,) summary of the observation."""
        return self._data


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
