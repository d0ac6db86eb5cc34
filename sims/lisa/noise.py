"""Power spectral densities of the channels' noise, one-sided, fractional frequency, 1/Hz.

Instrument: SciRDv1 of the LISA Science Requirements Document (ESA-L3-EST-SCI-RS-001), the
"proposal" of Amaro-Seoane et al. 2017 (arXiv 1702.00786) and "sangria" of the LISA data challenge
2a, through equal arms with uncorrelated links. Confusion: unresolved white-dwarf binaries of the
Galaxy, in the fit of Karnesis et al. 2021 (arXiv 2103.14598) with the numbers of the LISA data
challenges for a threshold of SNR 7, six links and SciRDv1; it shrinks as years of data resolve
more binaries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import ARM_SECONDS, LIGHT_SPEED
from .errors import LisaError
from .frequencies import positive
from .response import checked_channels

TWO_PI = 2.0 * math.pi


class NoiseModelError(LisaError):
    """The noise model is unknown, or the years observed are outside the fit."""


@dataclass(frozen=True)
class NoiseModel:
    """Levels of the two instrumental noises.

    Attributes:
        acceleration: of a test mass, m s^-2 Hz^-1/2.
        displacement: of the optical metrology, m Hz^-1/2.
    """

    acceleration: float
    displacement: float


NOISE_MODELS = {
    "SciRDv1": NoiseModel(acceleration=3.0e-15, displacement=15.0e-12),
    "proposal": NoiseModel(acceleration=3.0e-15, displacement=10.0e-12),
    "sangria": NoiseModel(acceleration=2.4e-15, displacement=7.9e-12),
}
"""The noise models by name."""

CONFUSION_YEARS = (0.25, 10.0)
"""Years of observation for which the fit of the galactic confusion holds."""


def psd(
    frequencies: Tensor,
    channel: str,
    *,
    model: str = "SciRDv1",
    confusion: float | None = None,
    tdi: int = 1,
) -> Tensor:
    """One-sided power spectral density of a channel's noise.

    Args:
        frequencies: Hz, any shape, positive.
        channel: "A", "E" or "T" (A and E have the same noise).
        model: a name in :data:`NOISE_MODELS`.
        confusion: years observed, for the galactic confusion noise; None leaves it out. T has none.
        tdi: 1 (TDI 1.5) or 2 (TDI 2.0).

    Returns:
        float64, shape of ``frequencies``, 1/Hz in fractional frequency.

    Raises:
        NoiseModelError: an unknown model, or years outside :data:`CONFUSION_YEARS`.
        ChannelError: an unknown channel or generation.
        FrequencyError: a frequency that is not positive and finite.
    """
    checked_channels(channel, tdi)
    levels = _levels(model)
    f = positive(frequencies)
    x = math.pi * ARM_SECONDS * f
    density = _null(f, x, levels) if channel == "T" else _science(f, x, levels, confusion)
    return density * 4.0 * torch.sin(4.0 * x) ** 2 if tdi == 2 else density


def confusion_strain(frequencies: Tensor, years: float) -> Tensor:
    """Strain density (1/Hz) of the unresolved galactic binaries left after ``years``.

    Raises:
        NoiseModelError: years outside :data:`CONFUSION_YEARS`.
    """
    low, high = CONFUSION_YEARS
    if not low <= years <= high:
        raise NoiseModelError(
            f"confusion = {years} years is outside the fit; give {low} to {high}, or None"
        )
    log_years = math.log10(years)
    f1 = 10.0 ** (-0.223499956 * log_years - 2.70408439)
    knee = 10.0 ** (-0.360976122 * log_years - 2.37822436)
    f = positive(frequencies)
    left = torch.exp(-((f / f1) ** 1.629667)) * 0.5 * (1.0 - torch.tanh((f - knee) / 4.81078093e-4))
    return 1.28265531e-44 * f ** (-7.0 / 3.0) * left


def _levels(model: str) -> NoiseModel:
    if model not in NOISE_MODELS:
        raise NoiseModelError(f"model = {model!r} is unknown; use one of {', '.join(NOISE_MODELS)}")
    return NOISE_MODELS[model]


def _instrument(f: Tensor, levels: NoiseModel) -> tuple[Tensor, Tensor]:
    """Densities of test-mass and optical noise as fractional frequency."""
    acceleration = levels.acceleration**2 * (1.0 + (4e-4 / f) ** 2) * (1.0 + (f / 8e-3) ** 4)
    mass = acceleration / (TWO_PI * f * LIGHT_SPEED) ** 2
    optical = levels.displacement**2 * (1.0 + (2e-3 / f) ** 4) * (TWO_PI * f / LIGHT_SPEED) ** 2
    return mass, optical


def _science(f: Tensor, x: Tensor, levels: NoiseModel, confusion: float | None) -> Tensor:
    """A and E: equation for equal arms, and the confusion through their low-frequency response."""
    mass, optical = _instrument(f, levels)
    cos_2x, cos_4x = torch.cos(2.0 * x), torch.cos(4.0 * x)
    links = 2.0 * (3.0 + 2.0 * cos_2x + cos_4x) * mass + (2.0 + cos_2x) * optical
    if confusion is not None:
        links = links + 0.75 * (2.0 * x) ** 2 * confusion_strain(f, confusion)
    return 8.0 * torch.sin(2.0 * x) ** 2 * links


def _null(f: Tensor, x: Tensor, levels: NoiseModel) -> Tensor:
    """T, which at low frequency hears almost nothing but optical noise."""
    mass, optical = _instrument(f, levels)
    sine = torch.sin(x)
    return 32.0 * sine**2 * torch.sin(2.0 * x) ** 2 * (4.0 * sine**2 * mass + optical)
