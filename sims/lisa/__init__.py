"""Massive black-hole binaries as LISA measures them: waveform, response, noise and frames.

Batched in torch, float64, differentiable, on CPU or GPU; no LISA package is used, but lalsuite for
higher modes. Units: ln of
detector-frame solar masses, Mpc, rad, seconds, Hz; channels in fractional frequency.
"""

from .constants import ARM_LENGTH, YEAR
from .errors import LisaError
from .frames import (
    DEFAULT_REFERENCE_TIME,
    FrameError,
    sky_images,
    to_lisa,
    to_lisa_log_abs_det_jacobian,
    to_ssb,
    to_ssb_log_abs_det_jacobian,
)
from .frequencies import FrequencyError
from .modes import HIGHER_MODES, MissingLalsuiteError, ModeError, strain_higher_modes
from .noise import NOISE_MODELS, NoiseModelError, confusion_strain, psd
from .parameters import PARAMETERS, PERIODS, UNITS, ParameterRangeError
from .response import CHANNELS, ChannelError
from .waveform import carrier, strain, strain_on_grid

__all__ = [
    "ARM_LENGTH",
    "CHANNELS",
    "DEFAULT_REFERENCE_TIME",
    "HIGHER_MODES",
    "NOISE_MODELS",
    "PARAMETERS",
    "PERIODS",
    "UNITS",
    "YEAR",
    "ChannelError",
    "FrameError",
    "FrequencyError",
    "LisaError",
    "MissingLalsuiteError",
    "ModeError",
    "NoiseModelError",
    "ParameterRangeError",
    "carrier",
    "confusion_strain",
    "psd",
    "sky_images",
    "strain",
    "strain_higher_modes",
    "strain_on_grid",
    "to_lisa",
    "to_lisa_log_abs_det_jacobian",
    "to_ssb",
    "to_ssb_log_abs_det_jacobian",
]
