"""The eleven parameters of a massive black-hole binary, their order, units, periods and ranges."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import LisaError

PARAMETERS = (
    "ln_chirp_mass",
    "mass_ratio",
    "chi1",
    "chi2",
    "distance",
    "cos_inclination",
    "phase",
    "longitude",
    "sin_latitude",
    "polarisation",
    "time",
)
"""Order of the columns of ``theta``: ln of the detector-frame chirp mass in solar masses, m1/m2,
the dimensionless spins of the heavier and the lighter hole along the orbital momentum, luminosity
distance in Mpc, cosine of the inclination, azimuth of the observer in the source frame (rad),
longitude (rad), sine of the latitude, polarisation (rad), arrival time of the merger (s)."""

UNITS = ("ln Msun", "1", "1", "1", "Mpc", "1", "rad", "rad", "1", "rad", "s")
"""Unit of each of :data:`PARAMETERS`."""

PERIODS = {"phase": 2.0 * math.pi, "longitude": 2.0 * math.pi, "polarisation": math.pi}
"""Period of each periodic parameter, rad."""

MAX_MASS_RATIO = 20.0
"""IMRPhenomD was calibrated to mass ratio 18 (Khan et al. 2016) and is not used past this one."""

_RANGES = {
    # 1 to 1e13 solar masses: the waveform knows no scale, but float64 and users' slips do.
    "ln_chirp_mass": (0.0, 30.0),
    "mass_ratio": (1.0, MAX_MASS_RATIO),
    "chi1": (-1.0, 1.0),
    "chi2": (-1.0, 1.0),
    "distance": (0.0, math.inf),
    "cos_inclination": (-1.0, 1.0),
    "sin_latitude": (-1.0, 1.0),
}


class ParameterRangeError(LisaError):
    """A parameter is not finite, or outside the range where the waveform has a meaning."""


class Columns(NamedTuple):
    """The columns of ``theta``, each of shape (n, 1) so that they broadcast with frequencies."""

    ln_chirp_mass: Tensor
    mass_ratio: Tensor
    chi1: Tensor
    chi2: Tensor
    distance: Tensor
    cos_inclination: Tensor
    phase: Tensor
    longitude: Tensor
    sin_latitude: Tensor
    polarisation: Tensor
    time: Tensor


def columns(theta: Tensor) -> Columns:
    """Splits ``theta`` (n, 11) into named columns of shape (n, 1)."""
    return Columns(*(theta[:, k : k + 1] for k in range(len(PARAMETERS))))


def physical(theta: Tensor) -> Tensor:
    """True where a row of ``theta`` (n, 11) is finite and in the physical range; shape (n,)."""
    return _physical_entries(theta).all(dim=1)


def checked(theta: Tensor) -> Tensor:
    """Returns ``theta`` as float64 after checking shape and physical range.

    Raises:
        ParameterRangeError: naming the column, the row and the allowed range of the first fault.
    """
    theta = as_rows(theta)
    good = _physical_entries(theta)
    if bool(good.all()):
        return theta
    row, column = (int(k) for k in (~good).nonzero()[0])
    name = PARAMETERS[column]
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    raise ParameterRangeError(
        f"theta: {name} = {float(theta[row, column]):.6g} {UNITS[column]} in row {row} is outside "
        f"[{low:g}, {high:g}]; give physical parameters, or check=False to get NaN in such rows"
    )


def as_rows(theta: Tensor) -> Tensor:
    """Returns ``theta`` as a float64 tensor of shape (n, 11).

    Raises:
        ParameterRangeError: another shape, or not numbers.
    """
    rule = f"give one row of {len(PARAMETERS)} numbers per binary, in the order "
    rule += ", ".join(PARAMETERS)
    try:
        theta = torch.as_tensor(theta, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ParameterRangeError(f"theta is no table of numbers; {rule}") from error
    if theta.dim() != 2 or theta.shape[1] != len(PARAMETERS):
        raise ParameterRangeError(f"theta has shape {tuple(theta.shape)}; {rule}")
    return theta


def _physical_entries(theta: Tensor) -> Tensor:
    """True where an entry is finite and in its range; shape (n, 11)."""
    low = [_RANGES.get(name, (-math.inf, math.inf))[0] for name in PARAMETERS]
    high = [_RANGES.get(name, (-math.inf, math.inf))[1] for name in PARAMETERS]
    bounds = torch.tensor([low, high], dtype=theta.dtype, device=theta.device)
    inside = (theta >= bounds[0]) & (theta <= bounds[1])
    positive = torch.ones_like(inside)
    positive[:, PARAMETERS.index("distance")] = theta[:, PARAMETERS.index("distance")] > 0.0
    return torch.isfinite(theta) & inside & positive
