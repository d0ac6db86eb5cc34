"""Higher modes: IMRPhenomXHM of LALSimulation through this package's response.

Needs lalsuite (``pip install 'gensci[lisa]'``). One binary at a time on the CPU and without
derivatives; the 22 mode of :func:`gensci.sims.lisa.strain` is the fast and differentiable path.

Garcia-Quiros et al. 2020 (arXiv 2001.10914) and Pratten et al. 2020 (arXiv 2001.11412).
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from .constants import MEGAPARSEC_SECONDS, SOLAR_MASS_SECONDS
from .frames import DEFAULT_REFERENCE_TIME, in_ssb
from .frequencies import beside
from .harmonics import pair
from .parameters import PARAMETERS, Columns, checked, columns
from .phenomd import HIGHEST_FREQUENCY
from .response import (
    checked_channels,
    orbital_angle,
    orbital_delay,
    polarisation_factors,
    transfer,
)

HIGHER_MODES = ((2, 2), (2, 1), (3, 3), (3, 2), (4, 4))
"""The modes (l, m) that IMRPhenomXHM models."""

_REFERENCE_FREQUENCY = 0.1
# Relative step of the difference that gives the time of each frequency from the phase.
_STEP = 1e-6


class MissingLalsuiteError(ImportError):
    """lalsuite is not installed."""


class ModeError(ValueError):
    """A mode that IMRPhenomXHM does not have."""


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

    Conventions as in :func:`gensci.sims.lisa.strain`, except that time zero is LALSimulation's and
    the modes' phases refer to M f = 0.1 of the 22 mode, so that ``phase`` and ``time`` of the two
    models differ by a constant for each set of masses and spins.

    Args:
        theta: (n, 11) float64, columns as in :data:`gensci.sims.lisa.PARAMETERS`.
        frequencies: Hz, (m,), positive.
        modes: (l, m) with m > 0 from :data:`HIGHER_MODES`; each with its mirror (l, -m).
        frame: "lisa" or "ssb".
        t_ref: seconds of the orbit at time zero.
        tdi: 1 (TDI 1.5) or 2 (TDI 2.0).
        channels: some of "AET".
        release: calibration of the modes' amplitudes, 122022 or 122019 (the published one).

    Returns:
        complex128 (n, len(channels), m): fractional frequency, 1/Hz.

    Raises:
        MissingLalsuiteError: lalsuite is not installed.
        ModeError: an unknown mode.
        ParameterRangeError, FrequencyError, FrameError, ChannelError: those arguments are wrong.
    """
    checked_channels(channels, tdi)
    unknown = [mode for mode in modes if mode not in HIGHER_MODES]
    if unknown or not modes:
        raise ModeError(f"modes = {modes!r}; give some of {HIGHER_MODES}")
    _lalsimulation()
    theta = checked(theta)
    frequencies = beside(frequencies, theta)
    source = columns(in_ssb(theta, frame, t_ref))
    total = 0.0
    for degree, order in modes:
        wave = _mode(theta, frequencies, degree, order, release)
        total = total + _observed(wave, source, frequencies, (degree, order), t_ref, channels, tdi)
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
    theta: Tensor, frequencies: Tensor, degree: int, order: int, release: int
) -> tuple[Tensor, Tensor]:
    """h_lm(f) in 1/Hz and the time (s) at which it passes f, each (n, m)."""
    lalsimulation, settings = _lalsimulation(), _settings(release)

    def evaluate(row: np.ndarray, f: np.ndarray) -> np.ndarray:
        return _lal_mode(lalsimulation, settings, row, f, degree, order)

    values, times = [], []
    f = frequencies.cpu().numpy()
    for row in theta.cpu().numpy():
        here = evaluate(row, f)
        later = evaluate(row, f * (1.0 + _STEP))
        values.append(here)
        # Where the mode ends there is no phase, and no signal that would need the time.
        turned = np.angle(later * here.conj()) * (np.abs(here) > 0.0)
        times.append(turned / (2.0 * math.pi * f * _STEP))
    device = theta.device
    return torch.tensor(np.array(values), device=device), torch.tensor(
        np.array(times), device=device
    )


def _lal_mode(
    lalsimulation: ModuleType,
    settings: object,
    row: np.ndarray,
    frequencies: np.ndarray,
    degree: int,
    order: int,
) -> np.ndarray:
    """One mode of one binary in this package's convention of the Fourier transform."""
    import lal

    chirp, ratio, chi1, chi2, distance = row[: PARAMETERS.index("cos_inclination")]
    eta = ratio / (1.0 + ratio) ** 2
    mass = math.exp(chirp) * eta**-0.6
    # Nominal solar masses: the same product G M as in the 22 mode.
    kilograms = mass * SOLAR_MASS_SECONDS * lal.C_SI**3 / lal.G_SI
    heavy, light = kilograms * ratio / (1.0 + ratio), kilograms / (1.0 + ratio)
    metres = distance * MEGAPARSEC_SECONDS * lal.C_SI
    inside = mass * SOLAR_MASS_SECONDS * frequencies <= 0.5 * order * HIGHEST_FREQUENCY
    points = lal.CreateREAL8Vector(int(inside.sum()))
    points.data = frequencies[inside]
    values = np.zeros(len(frequencies), dtype=np.complex128)
    reference = _REFERENCE_FREQUENCY / (mass * SOLAR_MASS_SECONDS)
    if points.length:
        # LALSimulation's transform is the conjugate, with positive frequencies in the mode of -m.
        series = lalsimulation.SimIMRPhenomXHMFrequencySequenceOneMode(
            points, heavy, light, chi1, chi2, degree, -order, metres, 0.0, reference, settings
        )
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
