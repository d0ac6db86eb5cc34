"""Summaries of many glitches, from which any number of noisy observations is drawn in no time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gensci.systems.lisa_heterodyne import Heterodyne
from gensci.systems.lisa_noise import Glitches
from gensci.systems.lisa_setting import Setting

_DECAYS = 64
_SPACING = 300.0  # s, the most between arrivals of one decay


class GlitchBank:
    """Pulses of SNR one on a lattice of decays and arrivals, projected on splines.

    Every decay has its own offset of the arrivals, so that the lattice has no preferred times. All
    arrivals of a decay come from one Fourier transform. Counts, signs, SNRs and the mixing of the
    channels are drawn afresh each time.

    Args:
        heterodyne: splines and their projection.
        setting: of the data.
        kind: rates and ranges.

    Attributes:
        pulses: (b, c, 2K) summaries.
    """

    def __init__(self, heterodyne: Heterodyne, setting: Setting, kind: Glitches) -> None:
        self.setting, self.kind = setting, kind
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(_DECAYS, 2, generator=generator, dtype=torch.float64)
        decays = kind.decays((torch.arange(_DECAYS) + share[:, 0]) / _DECAYS)
        size = 2 ** math.ceil(math.log2(setting.duration / _SPACING))
        spacing = setting.duration / size
        first = kind.begin + spacing * share[:, 1]
        spectra = kind.spectra(first, decays, setting)
        # Later arrivals of a decay are shifts by whole spacings; those past the end are left out.
        late = torch.arange(math.ceil((kind.end - kind.begin) / spacing)) * spacing
        inside = first[:, None] + late < kind.end
        pulses: list[Tensor] = []
        densities = setting.psd(setting.frequencies())
        for channel, density in enumerate(densities):
            if channel and torch.equal(density, densities[channel - 1]):
                pulses.append(pulses[-1])
                continue
            rows = heterodyne.rows(channel)
            shifted = [_shifted(rows * s, setting, size)[: len(late)] for s in spectra]
            kept = torch.stack(shifted)[inside]
            pulses.append(torch.view_as_real(kept).flatten(1))
        self.pulses = torch.stack(pulses, 1)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Summaries (n, 2 c K) of the glitches of `n` observations."""
        counts = self.kind.counts(n, generator)
        owner = torch.repeat_interleave(torch.arange(n), counts)
        which = torch.randint(len(self.pulses), (len(owner),), generator=generator)
        amplitudes = self.kind.amplitudes(len(owner), self.setting, generator)
        pulses = (amplitudes[:, :, None] * self.pulses[which]).flatten(1)
        return torch.zeros(n, pulses.shape[1], dtype=torch.float64).index_add(0, owner, pulses)


def _shifted(products: Tensor, setting: Setting, size: int) -> Tensor:
    """Sums (size, K) over the grid of products (K, M), the pulse delayed by 0, 1, ... spacings."""
    first = setting.first_bin % size
    padded = torch.nn.functional.pad(products, (first, -(first + products.shape[1]) % size))
    folded = padded.unflatten(1, (-1, size)).sum(1)  # bins `size` apart turn alike
    return torch.fft.ifft(folded, norm="forward").T
