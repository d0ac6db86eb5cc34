"""Two frames for sky, polarisation and time: the barycentre's and the constellation's.

Barycentre ("ssb"): ecliptic longitude and latitude, polarisation about the ecliptic pole, arrival
time at the solar-system barycentre. Constellation ("lisa"): the same angles about the plane of the
constellation at the moment of arrival, and the arrival time at its centre (Marsat, Baker & Dal
Canton 2020, arXiv 2003.00357). There posteriors are simple: at low frequency the response has
eight exactly equivalent skies, :func:`sky_images`.

The constellation's frame is the barycentre's, tilted by 60 degrees towards the Sun's direction seen
from the constellation: with alpha its orbital angle, v_lisa = Rz(alpha) Ry(-60 deg) Rz(-alpha)
v_ssb. Times are seconds after ``t_ref``, and t_ref = 0 is when the constellation crosses ecliptic
longitude zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .constants import AU_SECONDS, ORBITAL_FREQUENCY, TILT, YEAR
from .errors import LisaError
from .parameters import PARAMETERS, as_rows

DEFAULT_REFERENCE_TIME = 0.5 * YEAR
"""Half a sidereal year, s."""

_LONGITUDE = PARAMETERS.index("longitude")
_COS_INCLINATION = PARAMETERS.index("cos_inclination")
_COS_TILT, _SIN_TILT = math.cos(TILT), math.sin(TILT)
# The arrival time is a fixed point of a map that contracts by 1e-4: five rounds end at rounding.
_ROUNDS = 5


class FrameError(LisaError):
    """The frame is neither "lisa" nor "ssb", or its reference time not finite."""


def to_ssb(theta: Tensor, t_ref: float = DEFAULT_REFERENCE_TIME) -> Tensor:
    """Converts rows from the constellation's frame to the barycentre's; inverse of `to_lisa`.

    Args:
        theta: (n, 11), columns as in :data:`gensci.sims.lisa.PARAMETERS`; sky, polarisation and
            time in the constellation's frame.
        t_ref: seconds, the moment from which ``time`` counts.

    Returns:
        (n, 11) with longitude in [0, 2 pi) and polarisation in [0, pi).
    """
    theta = as_rows(theta)
    longitude, sine, polarisation, arrival = theta[:, _LONGITUDE:].unbind(1)
    time = arrival
    for _ in range(_ROUNDS):
        time = arrival + _delay_from_lisa(longitude, sine, ORBITAL_FREQUENCY * (time + t_ref))
    alpha = ORBITAL_FREQUENCY * (time + t_ref)
    sky = _rotate(longitude, sine, polarisation, alpha, -_SIN_TILT)
    return torch.cat([theta[:, :_LONGITUDE], torch.stack([*sky, time], dim=1)], dim=1)


def to_lisa(theta: Tensor, t_ref: float = DEFAULT_REFERENCE_TIME) -> Tensor:
    """Converts rows from the barycentre's frame to the constellation's; inverse of `to_ssb`.

    Args:
        theta: (n, 11); sky, polarisation and time in the barycentre's frame.
        t_ref: seconds, the moment from which ``time`` counts.

    Returns:
        (n, 11) with longitude in [0, 2 pi) and polarisation in [0, pi).
    """
    theta = as_rows(theta)
    longitude, sine, polarisation, time = theta[:, _LONGITUDE:].unbind(1)
    alpha = ORBITAL_FREQUENCY * (time + t_ref)
    arrival = time - AU_SECONDS * _cosine(sine) * torch.cos(longitude - alpha)
    sky = _rotate(longitude, sine, polarisation, alpha, _SIN_TILT)
    return torch.cat([theta[:, :_LONGITUDE], torch.stack([*sky, arrival], dim=1)], dim=1)


def to_ssb_log_abs_det_jacobian(theta: Tensor, t_ref: float = DEFAULT_REFERENCE_TIME) -> Tensor:
    """Ln |d theta_ssb / d theta_lisa| at constellation-frame rows ``theta``; (n,).

    The angles turn rigidly, which keeps longitude and sine of latitude uniform, so only the time
    axis stretches: by the orbital velocity along the line of sight, about 1e-4.
    """
    theta = as_rows(theta)
    longitude, sine, _, _ = theta[:, _LONGITUDE:].unbind(1)
    alpha = ORBITAL_FREQUENCY * (to_ssb(theta, t_ref)[:, -1] + t_ref)
    rate = ORBITAL_FREQUENCY * _COS_TILT * _cosine(sine) * torch.sin(longitude - alpha)
    return -torch.log1p(-AU_SECONDS * rate)


def to_lisa_log_abs_det_jacobian(theta: Tensor, t_ref: float = DEFAULT_REFERENCE_TIME) -> Tensor:
    """Ln |d theta_lisa / d theta_ssb| at barycentre-frame rows ``theta``; (n,)."""
    return -to_ssb_log_abs_det_jacobian(to_lisa(theta, t_ref), t_ref)


def sky_images(theta: Tensor) -> Tensor:
    """The eight skies that the constellation at low frequency cannot tell apart.

    Reflection in its plane (latitude -> -latitude, inclination -> pi - inclination, polarisation ->
    pi - polarisation) times four quarter turns (longitude + k pi/2, polarisation + k pi/2). At low
    frequency and while the constellation stays put these are exact (Marsat, Baker & Dal Canton
    2020, arXiv 2003.00357), and in these coordinates all of them preserve volume.

    Args:
        theta: (n, 11) in the constellation's frame.

    Returns:
        (8, n, 11); index 0 is ``theta`` itself with its angles wrapped, 1 to 3 are the quarter
        turns, 4 to 7 the same after the reflection.
    """
    theta = as_rows(theta)
    images = []
    for sign in (1.0, -1.0):
        for quarter in range(4):
            longitude, sine, polarisation, _ = theta[:, _LONGITUDE:].unbind(1)
            turn = quarter * math.pi / 2.0
            sky = (
                torch.remainder(longitude + turn, 2.0 * math.pi),
                sign * sine,
                torch.remainder(sign * polarisation + turn, math.pi),
            )
            image = theta.clone()
            image[:, _LONGITUDE:-1] = torch.stack(sky, dim=1)
            image[:, _COS_INCLINATION] = sign * theta[:, _COS_INCLINATION]
            images.append(image)
    return torch.stack(images)


def checked_frame(frame: str, t_ref: float) -> str:
    """Returns ``frame`` after checking it and its reference time.

    Raises:
        FrameError: naming what is wrong.
    """
    if frame not in ("lisa", "ssb"):
        raise FrameError(f'frame = {frame!r} is unknown; use "lisa" or "ssb"')
    if not math.isfinite(t_ref):
        raise FrameError(f"t_ref = {t_ref!r}; give a finite time in seconds")
    return frame


def in_ssb(theta: Tensor, frame: str, t_ref: float) -> Tensor:
    """Rows in the barycentre's frame, whichever of the two they are given in.

    Raises:
        FrameError: the frame has another name, or ``t_ref`` is not finite.
    """
    return theta if checked_frame(frame, t_ref) == "ssb" else to_ssb(theta, t_ref)


def _cosine(sine: Tensor) -> Tensor:
    # The floor keeps the derivative finite at the poles.
    return torch.sqrt(torch.clamp(1.0 - sine * sine, min=1e-30))


def _delay_from_lisa(longitude: Tensor, sine: Tensor, alpha: Tensor) -> Tensor:
    """Light travel time from the constellation to the barycentre for a constellation-frame sky."""
    radial = _COS_TILT * _cosine(sine) * torch.cos(longitude - alpha) - _SIN_TILT * sine
    return AU_SECONDS * radial


def _rotate(
    longitude: Tensor, sine: Tensor, polarisation: Tensor, alpha: Tensor, sin_tilt: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Turns a sky position and its polarisation by Rz(alpha) Ry(-tilt) Rz(-alpha).

    With ``sin_tilt`` > 0 into the constellation's frame, with < 0 out of it.
    """
    cosine, angle = _cosine(sine), longitude - alpha
    c, s = torch.cos(angle), torch.sin(angle)
    x = _COS_TILT * cosine * c + sin_tilt * sine
    y = cosine * s
    new_sine = _COS_TILT * sine - sin_tilt * cosine * c
    new_longitude = torch.remainder(alpha + torch.atan2(y, x), 2.0 * math.pi)
    # Both poles seen from the source: the angle between them is by how much polarisation turns.
    turn = torch.atan2(sin_tilt * s, _COS_TILT * cosine + sin_tilt * sine * c)
    return new_longitude, new_sine, torch.remainder(polarisation - turn, math.pi)
