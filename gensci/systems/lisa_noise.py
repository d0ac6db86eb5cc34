"""What disturbs a LISA signal: nothing, stationary Gaussian noise, glitches, or a gap in the data.

All kinds act linearly on the signal and add noise that does not depend on it. Times are counted
from the setting's reference epoch, where a binary with time 0 merges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean
from gensci.systems.lisa_setting import Setting

_AFTER = 7200.0  # s of data kept after the reference epoch
DAY = 86_400.0


class TimeGrid(NamedTuple):
    """Sampling times of the series whose Fourier transform is on a setting's grid.

    Attributes:
        start: time of the first sample, s.
        step: s.
        size: number of samples, a power of two with at least 1.1 times the Nyquist rate.
    """

    start: float
    step: float
    size: int

    @classmethod
    def of(cls, setting: Setting) -> TimeGrid:
        """The time grid of a setting; it ends two hours (or an eighth) after the epoch."""
        size = 2 ** math.ceil(math.log2(2.2 * (setting.last_bin + 1)))
        after = min(_AFTER, setting.duration / 8)
        return cls(after - setting.duration, setting.duration / size, size)

    @property
    def times(self) -> Tensor:
        """The (N,) sampling times, s."""
        return self.start + self.step * torch.arange(self.size, dtype=torch.float64)

    def to_time(self, spectrum: Tensor, first_bin: int) -> Tensor:
        """The (..., N) real series whose transforms at bins first_bin, ... are (..., M)."""
        padded = torch.zeros(*spectrum.shape[:-1], self.size // 2 + 1, dtype=spectrum.dtype)
        padded[..., first_bin : first_bin + spectrum.shape[-1]] = spectrum
        bins = torch.arange(self.size // 2 + 1, dtype=torch.float64)
        return torch.fft.irfft((padded * self._turn(-bins)).conj(), n=self.size) / self.step

    def to_frequency(self, series: Tensor, first_bin: int, num_bins: int) -> Tensor:
        """The (..., M) transforms, exp(+2 pi i f t), of (..., N) real series at the given bins."""
        bins = torch.arange(first_bin, first_bin + num_bins, dtype=torch.float64)
        spectrum = torch.fft.rfft(series)[..., first_bin : first_bin + num_bins].conj()
        return spectrum * self._turn(bins) * self.step

    def _turn(self, bins: Tensor) -> Tensor:
        """Phase factors of a transform that starts at `start` and not at zero."""
        cycles = torch.remainder(bins * (self.start / (self.size * self.step)), 1.0)
        return torch.polar(torch.ones_like(cycles), 2 * math.pi * cycles)


class NoiseKind:
    """No noise at all; the base of the other kinds."""

    kind: ClassVar[str] = "none"

    def apply(self, signal: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
        """The data (c, M) in which the signal (c, M) appears."""
        return signal.clone()

    def window(self, setting: Setting) -> Tensor | None:
        """The (N,) factors on the time series, or None where nothing is cut."""
        return None


class Gaussian(NoiseKind):
    """Stationary Gaussian noise with the setting's density: what Whittle's likelihood assumes."""

    kind = "gaussian"

    def apply(self, signal: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
        """Add a draw to the signal."""
        return signal + stationary(setting.psd(setting.frequencies()), setting.duration, generator)


@dataclass(frozen=True)
class Glitches(NoiseKind):
    """Gaussian noise and transient glitches.

    Glitches arrive as a Poisson process. Each is a pulse (t / tau) exp(-t / tau) that enters the
    channels A and E with a random mixing angle and sign, as force glitches of LISA Pathfinder do
    (Armano et al. 2022, arXiv 2205.11938). Its SNR and tau are log-uniform.

    Attributes:
        per_day: mean number a day.
        begin: first possible time, s.
        end: last possible time, s.
        min_snr: smallest SNR against the stationary noise in band.
        max_snr: largest.
        min_decay: smallest tau, s.
        max_decay: largest, s.
    """

    per_day: float
    begin: float
    end: float
    min_snr: float
    max_snr: float
    min_decay: float
    max_decay: float
    kind: ClassVar[str] = "glitch"

    @property
    def expected(self) -> float:
        """Mean number in one observation."""
        return self.per_day * (self.end - self.begin) / DAY

    def apply(self, signal: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
        """Add Gaussian noise and glitches to the signal."""
        quiet = Gaussian().apply(signal, setting, generator)
        count = int(self.counts(1, generator)[0])
        pulses = self.pulses(count, setting, generator)
        amplitudes = self.amplitudes(count, setting, generator).to(pulses.dtype)
        return quiet + torch.einsum("nc,nm->cm", amplitudes, pulses)

    def counts(self, n: int, generator: torch.Generator) -> Tensor:
        """How many glitches each of `n` observations has, (n,)."""
        rate = torch.full((n,), self.expected, dtype=torch.float64)
        return torch.poisson(rate, generator=generator).long()

    def amplitudes(self, n: int, setting: Setting, generator: torch.Generator) -> Tensor:
        """Signed SNR (n, c) with which `n` glitches enter the channels; none enters T."""
        draws = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        snr = self.min_snr * (self.max_snr / self.min_snr) ** draws[:, 0]
        angle = 2 * math.pi * draws[:, 1]
        parts = {"A": snr * angle.cos(), "E": snr * angle.sin(), "T": torch.zeros_like(snr)}
        return torch.stack([parts[channel] for channel in setting.channels], 1)

    def pulses(self, n: int, setting: Setting, generator: torch.Generator) -> Tensor:
        """Fourier transforms (n, M) of `n` pulses, each of SNR one against the first channel."""
        draws = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        arrival = self.begin + (self.end - self.begin) * draws[:, 0]
        return self.spectra(arrival, self.decays(draws[:, 1]), setting)

    def decays(self, share: Tensor) -> Tensor:
        """The tau (n,) below which a given share (n,) of glitches lies, s."""
        return self.min_decay * (self.max_decay / self.min_decay) ** share

    def spectra(self, arrival: Tensor, decay: Tensor, setting: Setting) -> Tensor:
        """Fourier transforms (n, M) of pulses of given arrivals (n,) and tau (n,), of SNR one."""
        arrival, decay = arrival[:, None], decay[:, None]
        frequencies = setting.frequencies()
        # The transform of (t / tau) exp(-t / tau) from t = 0 is tau / (1 - 2 pi i f tau)^2.
        angle = 2 * math.pi * frequencies
        shape = 1.0 / torch.complex(torch.ones_like(angle * decay), -angle * decay) ** 2
        weight = 4.0 / (setting.duration * setting.psd(frequencies)[0])
        snr = (shape.abs().square() * weight).sum(1, keepdim=True).sqrt()
        return torch.polar(1.0 / snr.expand_as(shape.real), angle * arrival) * shape


@dataclass(frozen=True)
class Gap(NoiseKind):
    """Gaussian noise, and a stretch of time in which the data are faded to zero.

    Attributes:
        begin: where the fade-out begins, s.
        end: where the fade-in ends, s.
        taper: length of each cosine fade, s.
    """

    begin: float
    end: float
    taper: float
    kind: ClassVar[str] = "gap"

    def window(self, setting: Setting) -> Tensor:
        """The (N,) factors on the time series."""
        times = TimeGrid.of(setting).times
        outside = torch.maximum(self.begin + self.taper - times, times - self.end + self.taper)
        depth = (outside / self.taper).clamp(0.0, 1.0)
        return (0.5 * math.pi * depth).sin().square()

    def apply(self, signal: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
        """Cut the gap into signal and noise, in the time domain."""
        grid = TimeGrid.of(setting)
        bins = torch.arange(1, grid.size // 2, dtype=torch.float64)
        psd = setting.psd(bins / setting.duration)
        series = grid.to_time(stationary(psd, setting.duration, generator), 1)
        series = series + grid.to_time(signal, setting.first_bin)
        window = self.window(setting)
        return grid.to_frequency(series * window, setting.first_bin, setting.num_bins)


def stationary(psd: Tensor, duration: float, generator: torch.Generator) -> Tensor:
    """A draw of stationary noise with one-sided densities `psd` (..., M), same shape, 1/Hz."""
    draws = torch.randn(*psd.shape, 2, generator=generator, dtype=torch.float64)
    return torch.view_as_complex(draws) * (0.25 * duration * psd).sqrt()


KINDS: dict[str, Any] = {k.kind: k for k in (NoiseKind, Gaussian, Glitches, Gap)}


def noise_kind(description: dict[str, Any]) -> NoiseKind:
    """Build a kind of noise from `{"kind": ..., settings}`.

    Raises:
        UsageError: the kind is unknown or a setting is missing.
    """
    settings = dict(description)
    kind = str(settings.pop("kind", "none"))
    if kind not in KINDS:
        hint = did_you_mean(kind, list(KINDS))
        raise UsageError(f"unknown noise {kind!r}", f"{hint}choose from: {', '.join(KINDS)}")
    try:
        return KINDS[kind](**settings)
    except TypeError as error:
        raise UsageError(f"the {kind} noise cannot be built: {error}") from error
