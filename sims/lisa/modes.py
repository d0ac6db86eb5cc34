"""Higher modes: IMRPhenomXHM of LALSimulation through this package's response.

Needs lalsuite (``pip install 'gensci[lisa]'``). One binary at a time on the CPU and without
derivatives; the 22 mode of :func:`gensci.sims.lisa.strain` is the fast and differentiable path.

Garcia-Quiros et al. 2020 (arXiv 2001.10914) and Pratten et al. 2020 (arXiv 2001.11412).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .constants import MEGAPARSEC_SECONDS, SOLAR_MASS_SECONDS
from .errors import LisaError
from .frames import DEFAULT_REFERENCE_TIME, in_ssb
from .frequencies import FrequencyError, beside
from .harmonics import pair
from .parameters import Columns, checked, columns
from .phenomd import HIGHEST_FREQUENCY, mode22
from .response import (
    checked_channels,
    orbital_angle,
    orbital_delay,
    polarisation_factors,
    transfer,
)

HIGHER_MODES = ((2, 2), (2, 1), (3, 3), (3, 2), (4, 4))
"""The modes (l, m) that IMRPhenomXHM models."""

RELEASES = (122022, 122019)
"""Calibrations of the modes' amplitudes in LALSimulation; 122019 is the published one."""

# Relative step of the difference that gives the time of each frequency from the phase.
_STEP = 1e-6
# LALSimulation's phase of the 22 mode at the reference frequency, in our transform.
_REFERENCE_PHASE = -0.25 * math.pi


@dataclass(frozen=True)
class _Binary:
    """One binary as LALSimulation takes it.

    Attributes:
        kilograms: masses of the heavier and the lighter hole.
        spins: their aligned spins.
        metres: luminosity distance.
        mass: detector-frame total mass, s.
        peak: frequency of IMRPhenomD's peak, Hz, where phases refer to.
        options: LALSimulation's dictionary.
    """

    kilograms: tuple[float, float]
    spins: tuple[float, float]
    metres: float
    mass: float
    peak: float
    options: object


class MissingLalsuiteError(ImportError):
    """lalsuite is not installed."""

    exit_status = 1


class ModeError(LisaError):
    """A mode or a calibration that IMRPhenomXHM does not have."""


def strain_higher_modes(
    theta: Tensor,
    frequencies: Tensor,
    *,
    modes: tuple[tuple[int, int], ...] = HIGHER_MODES,
    frame: str = "lisa",
    t_ref: float = DEFAULT_REFERENCE_TIME,
    tdi: int = 1,
    channels: str = "AE",
    release: int = 122022,
) -> Tensor:
    """Channels of aligned-spin binaries with higher modes (IMRPhenomXHM).

    Conventions as in :func:`gensci.sims.lisa.strain`: time and phase of the 22 mode are zero at the
    frequency where IMRPhenomD's amplitude peaks, so that ``time`` and ``phase`` mean the same in
    both models. (LALSimulation's own time zero is about ten total masses earlier.)

    Args:
        theta: (n, 11) float64, columns as in :data:`gensci.sims.lisa.PARAMETERS`.
        frequencies: Hz, (m,), positive.
        modes: (l, m) with m > 0 from :data:`HIGHER_MODES`; each with its mirror (l, -m).
        frame: "lisa" or "ssb".
        t_ref: seconds of the orbit at time zero.
        tdi: 1 (TDI 1.5) or 2 (TDI 2.0).
        channels: some of "AET".
        release: calibration of the modes' amplitudes, from :data:`RELEASES`.

    Returns:
        complex128 (n, len(channels), m): fractional frequency, 1/Hz.

    Raises:
        MissingLalsuiteError: lalsuite is not installed.
        ModeError: an unknown mode or release, or a mode given twice.
        ParameterRangeError, FrequencyError, FrameError, ChannelError: those arguments are wrong.
    """
    checked_channels(channels, tdi)
    if not modes or len(set(modes)) < len(modes) or set(modes) - set(HIGHER_MODES):
        raise ModeError(f"modes = {modes!r}; give some of {HIGHER_MODES}, each once")
    if release not in RELEASES:
        raise ModeError(f"release = {release!r}; give one of {RELEASES}")
    _lalsimulation()
    theta = checked(theta)
    frequencies = beside(frequencies, theta)
    if frequencies.dim() != 1:
        raise FrequencyError("higher modes take one row of frequencies (m,) for all binaries")
    source = columns(in_ssb(theta, frame, t_ref))
    total = 0.0
    for mode in modes:
        wave = _mode(theta, frequencies, mode, release)
        total = total + _observed(wave, source, frequencies, mode, t_ref, channels, tdi)
    return total


def _observed(
    wave: tuple[Tensor, Tensor],
    source: Columns,
    frequencies: Tensor,
    mode: tuple[int, int],
    t_ref: float,
    channels: str,
    tdi: int,
) -> Tensor:
    """One mode and its mirror image through the constellation."""
    values, time = wave
    alpha = orbital_angle(time + source.time, t_ref)
    delay = source.time + orbital_delay(source, alpha)
    right, left = pair(*mode, source.cos_inclination, source.phase)
    plus, cross = polarisation_factors(right, left, source.polarisation)
    smooth = transfer(source, plus, cross, alpha, frequencies, channels, tdi)
    turn = torch.polar(torch.ones_like(delay), 2.0 * math.pi * frequencies * delay)
    return smooth * (values * turn).unsqueeze(1)


def _mode(
    theta: Tensor, frequencies: Tensor, mode: tuple[int, int], release: int
) -> tuple[Tensor, Tensor]:
    """h_lm(f) in 1/Hz and the time (s) at which it passes f, each (n, m)."""
    f = frequencies.cpu().numpy()
    rows = [_aligned(binary, f, mode) for binary in _binaries(theta, release)]
    shape = (len(theta), len(f))
    values = np.array([row[0] for row in rows], dtype=np.complex128).reshape(shape)
    times = np.array([row[1] for row in rows], dtype=np.float64).reshape(shape)
    return torch.tensor(values, device=theta.device), torch.tensor(times, device=theta.device)


def _aligned(
    binary: _Binary, frequencies: np.ndarray, mode: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One mode and its times, with the 22 mode's time and phase zero at the peak frequency."""
    order = mode[1]
    _, late = _with_times(binary, np.array([binary.peak]), (2, 2))
    values, times = _with_times(binary, frequencies, mode)
    # A shift in time, and the turn of the source about its axis that leaves the 22 mode at zero.
    shift = -2.0 * math.pi * late[0] * (frequencies - 0.5 * order * binary.peak)
    turn = shift - 0.5 * order * _REFERENCE_PHASE
    return values * np.exp(1j * turn), times - late[0]


def _with_times(
    binary: _Binary, frequencies: np.ndarray, mode: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One mode as LALSimulation gives it, and the time (s) of each frequency from its phase."""
    here = _lal_mode(binary, frequencies, mode)
    later = _lal_mode(binary, frequencies * (1.0 + _STEP), mode)
    # Where the mode ends there is no phase, and no signal that would need the time.
    turned = np.angle(later * here.conj()) * (np.abs(here) > 0.0)
    return here, turned / (2.0 * math.pi * frequencies * _STEP)


def _binaries(theta: Tensor, release: int) -> Iterator[_Binary]:
    """The rows of ``theta`` as LALSimulation takes them."""
    import lal

    peaks = mode22(*columns(theta)[:5]).amplitude.peak[:, 0].tolist()
    options = _settings(release)
    for (chirp, ratio, chi1, chi2, distance), peak in zip(
        theta[:, :5].tolist(), peaks, strict=True
    ):
        mass = math.exp(chirp) * (ratio / (1.0 + ratio) ** 2) ** -0.6 * SOLAR_MASS_SECONDS
        # Nominal solar masses: the same product G M as in the 22 mode.
        kilograms = mass * lal.C_SI**3 / lal.G_SI
        masses = kilograms * ratio / (1.0 + ratio), kilograms / (1.0 + ratio)
        metres = distance * MEGAPARSEC_SECONDS * lal.C_SI
        yield _Binary(masses, (chi1, chi2), metres, mass, peak / mass, options)


def _lal_mode(binary: _Binary, frequencies: np.ndarray, mode: tuple[int, int]) -> np.ndarray:
    """One mode of one binary in this package's convention of the Fourier transform."""
    import lal

    degree, order = mode
    inside = binary.mass * frequencies <= 0.5 * order * HIGHEST_FREQUENCY
    points = lal.CreateREAL8Vector(int(inside.sum()))
    points.data = frequencies[inside]
    values = np.zeros(len(frequencies), dtype=np.complex128)
    if points.length:
        # LALSimulation's transform is the conjugate, with positive frequencies in the mode of -m.
        series = _lalsimulation().SimIMRPhenomXHMFrequencySequenceOneMode(
            points, *binary.kilograms, *binary.spins, degree, -order, binary.metres, 0.0,
            binary.peak, binary.options,
        )  # fmt: skip
        values[inside] = (-1) ** degree * series.data.data[-points.length :].conj()
    return values


def _settings(release: int) -> object:
    """LALSimulation's dictionary of options."""
    import lal

    options = lal.CreateDict()
    _lalsimulation().SimInspiralWaveformParamsInsertPhenomXHMReleaseVersion(options, release)
    return options


def _lalsimulation() -> ModuleType:
    try:
        import lalsimulation
    except ImportError as error:
        raise MissingLalsuiteError(
            "higher modes need lalsuite, which is not installed; pip install 'gensci[lisa]'"
        ) from error
    return lalsimulation
