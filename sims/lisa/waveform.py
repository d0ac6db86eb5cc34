"""What LISA measures from a massive black-hole binary: :func:`strain` and its smooth pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .frames import DEFAULT_REFERENCE_TIME, checked_frame, in_ssb
from .frequencies import FrequencyError, beside, grid_beside
from .interpolation import POINTS, Stencil
from .parameters import as_rows, checked, columns, physical
from .phenomd import HIGHEST_FREQUENCY, mode22
from .response import (
    checked_channels,
    orbital_angle,
    orbital_delay,
    polarisation_factors,
    transfer,
)

# Values worked on at once: on a CPU, so many that temporaries stay in its cache and the overhead of
# each operation is small beside its work; on a GPU, so many that they fill it.
_CHUNK = {"cpu": 2**14, "cuda": 2**23}
_HARMONIC = math.sqrt(5.0 / (64.0 * math.pi))


@dataclass(frozen=True)
class _Pieces:
    """Smooth functions of frequency that make up the channels.

    Attributes:
        amplitude: |h22|, 1/Hz, (n, m).
        phase: rad, (n, m).
        time: seconds after the merger at which each frequency is emitted, (n, m).
        mass: detector-frame total mass, s, (n, 1).
        transfer: complex (n, c, m).
    """

    amplitude: Tensor
    phase: Tensor
    time: Tensor
    mass: Tensor
    transfer: Tensor


@dataclass(frozen=True)
class _Settings:
    """What the response is to: checked arguments of :func:`strain`."""

    frame: str
    t_ref: float
    tdi: int
    channels: str
    start: float | None = None

    def __post_init__(self) -> None:
        checked_frame(self.frame, self.t_ref)
        checked_channels(self.channels, self.tdi)
        if self.start is not None and not self.start > 0.0:
            raise FrequencyError(
                f"start = {self.start!r}; give seconds before the merger, more than 0, or None"
            )


def strain(
    theta: Tensor,
    frequencies: Tensor,
    *,
    frame: str = "lisa",
    t_ref: float = DEFAULT_REFERENCE_TIME,
    tdi: int = 1,
    channels: str = "AE",
    start: float | None = None,
    check: bool = True,
) -> Tensor:
    """Frequency-domain channels of aligned-spin binaries (IMRPhenomD 22 mode).

    The Fourier transform is h(f) = integral h(t) e^(+2 pi i f t) dt, time zero is ``t_ref``.
    Differentiable in ``theta``; rows are worked on in batches, never one by one.

    Args:
        theta: (n, 11) float64, columns as in :data:`gensci.sims.lisa.PARAMETERS`.
        frequencies: Hz, (m,) for all rows or (n, m), positive.
        frame: "lisa" (sky, polarisation and time in the constellation's frame at the merger) or
            "ssb" (ecliptic, time at the barycentre).
        t_ref: seconds of the orbit at time zero; 0 puts the constellation at ecliptic longitude 0.
        tdi: 1 (TDI 1.5) or 2 (TDI 2.0), equal arms.
        channels: some of "AET", in the order wanted.
        start: seconds before the merger at which the signal begins, as emitted; it is zero at the
            frequencies passed earlier. None keeps every frequency.
        check: raise at parameters outside the physical range; False gives NaN in their rows.

    Returns:
        complex128 (n, len(channels), m): fractional frequency, 1/Hz.

    Raises:
        ParameterRangeError: ``theta`` has another shape, or with ``check`` a value out of range.
        FrequencyError, FrameError, ChannelError: those arguments are wrong.

    References:
        Khan et al. 2016, arXiv 1508.07253; Marsat, Baker & Dal Canton 2020, arXiv 2003.00357.
    """
    settings = _Settings(frame, t_ref, tdi, channels, start)

    def channels_of(rows: Tensor, f: Tensor) -> Tensor:
        pieces = _pieces(rows, f, settings)
        wave = _wave(pieces.amplitude, pieces.phase)
        inside = _in_band(f, pieces.mass, pieces.time, start)
        return pieces.transfer * torch.where(inside, wave, 0.0).unsqueeze(1)

    return torch.cat([channels_of(rows, f) for rows, f in _chunks(theta, frequencies, check)])


def carrier(
    theta: Tensor,
    frequencies: Tensor,
    *,
    frame: str = "lisa",
    t_ref: float = DEFAULT_REFERENCE_TIME,
    tdi: int = 1,
    channels: str = "AE",
    check: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The channels as smooth functions of frequency.

    ``strain = transfer * (amplitude * exp(1j * phase))[:, None]`` below M f = 0.3. All three vary
    slowly enough to be interpolated from a few hundred frequencies.

    Args:
        theta: as in :func:`strain`, like the other arguments.

    Returns:
        amplitude (n, m) 1/Hz, phase (n, m) rad (unwrapped), transfer complex128 (n, c, m).
    """
    settings = _Settings(frame, t_ref, tdi, channels)
    chunks = [_pieces(rows, f, settings) for rows, f in _chunks(theta, frequencies, check)]
    return (
        torch.cat([p.amplitude for p in chunks]),
        torch.cat([p.phase for p in chunks]),
        torch.cat([p.transfer for p in chunks]),
    )


def strain_on_grid(
    theta: Tensor,
    grid: Tensor,
    *,
    nodes: int = 256,
    frame: str = "lisa",
    t_ref: float = DEFAULT_REFERENCE_TIME,
    tdi: int = 1,
    channels: str = "AE",
    start: float | None = None,
    check: bool = True,
) -> Tensor:
    """:func:`strain` on a long grid, interpolated from few frequencies.

    Amplitude, phase and transfer are computed on log-spaced nodes and carried to the grid by cubics
    through four nodes. For the loud reference source on 35,000 bins between 0.1 and 13.5 mHz the
    largest error is 4e-5 of the largest value (0.011 in SNR out of 1,058) with 256 nodes,
    1.3e-5 (0.0012) with 512.

    Args:
        theta: (n, 11), as in :func:`strain`, like the other arguments.
        grid: (M,) Hz, increasing, positive.
        nodes: log-spaced frequencies at which the waveform is computed; a grid with no more than
            these is computed without interpolation.

    Returns:
        complex128 (n, len(channels), M).
    """
    settings = _Settings(frame, t_ref, tdi, channels, start)
    theta = checked(theta) if check else _unphysical_as_nan(theta)
    grid = grid_beside(grid, nodes, POINTS, theta)
    if len(grid) <= nodes:
        options = {"frame": frame, "t_ref": t_ref, "tdi": tdi, "channels": channels}
        return strain(theta, grid, start=start, check=False, **options)
    log_nodes = torch.linspace(
        math.log(grid[0]), math.log(grid[-1]), nodes, dtype=torch.float64, device=grid.device
    )
    stencil = Stencil.at(torch.log(grid), log_nodes)

    def channels_of(rows: Tensor) -> Tensor:
        at_nodes = _pieces(rows, torch.exp(log_nodes), settings)
        wave = _wave(stencil.carry(at_nodes.amplitude), stencil.carry(at_nodes.phase))
        inside = _in_band(grid, at_nodes.mass, stencil.carry(at_nodes.time), start)
        return stencil.carry(at_nodes.transfer) * torch.where(inside, wave, 0.0).unsqueeze(1)

    rows = max(1, _chunk_of(theta) // nodes)
    return torch.cat([channels_of(part) for part in theta.split(rows)])


def _pieces(theta: Tensor, frequencies: Tensor, settings: _Settings) -> _Pieces:
    """Mode, orbit and transfer of rows that are physical."""
    source = columns(in_ssb(theta, settings.frame, settings.t_ref))
    mode = mode22(
        source.ln_chirp_mass, source.mass_ratio, source.chi1, source.chi2, source.distance
    )
    amplitude, phase, time = mode.at(frequencies)
    alpha = orbital_angle(time + source.time, settings.t_ref)
    delay = source.time + orbital_delay(source, alpha)
    cosine = source.cos_inclination
    azimuth = torch.polar(_HARMONIC * torch.ones_like(cosine), 2.0 * source.phase)
    plus, cross = polarisation_factors(
        (1.0 + cosine) ** 2 * azimuth, (1.0 - cosine) ** 2 * azimuth, source.polarisation
    )
    smooth = transfer(source, plus, cross, alpha, frequencies, settings.channels, settings.tdi)
    return _Pieces(amplitude, phase + 2.0 * math.pi * frequencies * delay, time, mode.mass, smooth)


def _wave(amplitude: Tensor, phase: Tensor) -> Tensor:
    return torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))


def _in_band(frequencies: Tensor, mass: Tensor, time: Tensor, start: float | None) -> Tensor:
    inside = mass * frequencies <= HIGHEST_FREQUENCY
    return inside if start is None else inside & (time >= -start)


def _chunks(theta: Tensor, frequencies: Tensor, check: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Checks the arguments and cuts the rows into batches that fit a CPU's cache."""
    theta = checked(theta) if check else _unphysical_as_nan(theta)
    frequencies = beside(frequencies, theta)
    rows = max(1, _chunk_of(theta) // max(1, frequencies.shape[-1]))
    for first in range(0, max(1, len(theta)), rows):
        part = slice(first, first + rows)
        yield theta[part], frequencies if frequencies.dim() == 1 else frequencies[part]


def _chunk_of(theta: Tensor) -> int:
    return _CHUNK.get(theta.device.type, _CHUNK["cuda"])


def _unphysical_as_nan(theta: Tensor) -> Tensor:
    theta = as_rows(theta)
    return torch.where(physical(theta)[:, None], theta, math.nan)
