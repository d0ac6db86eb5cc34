"""Response of the LISA constellation to one spherical-harmonic mode, in the frequency domain.

Marsat & Baker 2018 (arXiv 1806.10734) and Marsat, Baker & Dal Canton 2020 (arXiv 2003.00357): the
signal at frequency f leaves when the binary emits f, so the constellation is placed where it is at
that time t(f) and the Fourier-domain transfer functions of the six one-way links follow. The
Fourier transform is h(f) = integral h(t) e^(+2 pi i f t), the observable is fractional frequency
(Doppler), and the time-delay interferometry that of equal arms.

For a mode h_lm = amplitude exp(i phase) the channels are

    transfer x amplitude x exp(i [phase + 2 pi f (time + k . R0(t) / c)]),

where R0 is the constellation's centre and k the propagation direction. Everything that oscillates
is in the exponent; the transfer is smooth.

Geometry in the code: with alpha the orbital angle, the three arms are n1 = -a/2,
n2 = a/4 + (sqrt 3/4) b, n3 = a/4 - (sqrt 3/4) b (arm l faces spacecraft l) and the spacecraft are
at R0 + p_l with p1 = b L / (2 sqrt 3) and the others a third of a turn on,

    a = (sin 2alpha / 2, -3/2 - cos 2alpha / 2, -sqrt 3 sin alpha),
    b = (-3/2 + cos 2alpha / 2, sin 2alpha / 2, -sqrt 3 cos alpha).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .constants import ARM_SECONDS, AU_SECONDS, ORBITAL_FREQUENCY
from .errors import LisaError
from .parameters import Columns

CHANNELS = "AET"
_ROOT3 = math.sqrt(3.0)
# A = (Z - X)/sqrt 2, E = (X - 2Y + Z)/sqrt 6, T = (X + Y + Z)/sqrt 3 written as weights of the
# three arms' common (even) and differential (odd) parts.
_EVEN = {"A": (-1.0, 2.0, -1.0), "E": (-3.0, 0.0, 3.0), "T": (0.0, 0.0, 0.0)}
_ODD = {"A": (1.0, 0.0, -1.0), "E": (-1.0, 2.0, -1.0), "T": (2.0, 2.0, 2.0)}
_NORM = {"A": 1.0 / math.sqrt(2.0), "E": 1.0 / math.sqrt(6.0), "T": 1.0 / _ROOT3}


class ChannelError(LisaError):
    """The channels are not an ordered choice from A, E and T, or the TDI generation not 1 or 2."""


def checked_channels(channels: str, tdi: int) -> str:
    """Returns ``channels`` after checking them and the generation of TDI.

    Raises:
        ChannelError: naming what is wrong.
    """
    if not channels or len(set(channels)) != len(channels) or set(channels) - set(CHANNELS):
        raise ChannelError(f'channels = {channels!r}; give some of "A", "E", "T", each once')
    if tdi not in (1, 2):
        raise ChannelError(f"tdi = {tdi!r}; use 1 (TDI 1.5) or 2 (TDI 2.0)")
    return channels


def polarisation_factors(
    right: Tensor, left: Tensor, polarisation: Tensor
) -> tuple[Tensor, Tensor]:
    """Complex weights Y_plus and Y_cross of the two polarisation tensors, (n, 1).

    Args:
        right: Y_lm at (inclination, phase), spin weight -2.
        left: (-1)^l conj(Y_l,-m) at the same place.
        polarisation: rad.
    """
    turn = torch.polar(torch.ones_like(polarisation), 2.0 * polarisation)
    right, left = right * turn.conj(), left * turn
    return 0.5 * (right + left), 0.5j * (right - left)


def orbital_delay(sky: Columns, alpha: Tensor) -> Tensor:
    """K . R0 / c in seconds when the constellation is at orbital angle ``alpha`` (n, m)."""
    return -AU_SECONDS * _cosine(sky.sin_latitude) * torch.cos(alpha - sky.longitude)


def orbital_angle(time: Tensor, t_ref: float) -> Tensor:
    """Orbital angle (rad) of the constellation ``time`` seconds after ``t_ref``."""
    return ORBITAL_FREQUENCY * (time + t_ref)


def transfer(
    sky: Columns,
    plus: Tensor,
    cross: Tensor,
    alpha: Tensor,
    frequencies: Tensor,
    channels: str,
    tdi: int,
) -> Tensor:
    """Smooth part of the response of ``channels`` to one mode.

    Args:
        sky: barycentre-frame columns.
        plus: weight of the plus tensor, complex (n, 1).
        cross: weight of the cross tensor, complex (n, 1).
        alpha: orbital angle at the time of each frequency, (n, m).
        frequencies: Hz, (m,) or (n, m).
        channels: some of "AET".
        tdi: 1 or 2.

    Returns:
        complex128 (n, len(channels), m).
    """
    x = math.pi * ARM_SECONDS * frequencies
    sin_x, cos_x = torch.sin(x), torch.cos(x)
    even, odd = [], []
    for squared, twice, along, opposite in _arms(sky, alpha):
        reach = torch.complex(torch.cos(x * opposite), -torch.sin(x * opposite))
        arm = reach * (plus * squared + cross * twice)
        ahead, behind = _sinc(x * (1.0 + along)), _sinc(x * (1.0 - along))
        even.append(arm * (cos_x * (ahead + behind)))
        odd.append(arm * (sin_x * (behind - ahead)))
    pieces = [_NORM[c] * (_sum(_EVEN[c], even) + 1j * _sum(_ODD[c], odd)) for c in channels]
    return torch.stack(pieces, dim=1) * _delays(x, tdi).unsqueeze(-2)


def _arms(sky: Columns, alpha: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each arm l: n.P+.n, n.Px.n, k.n and k.p_l / L (the spacecraft opposite); each (n, m)."""
    sin_a, cos_a = torch.sin(alpha), torch.cos(alpha)
    sin_2a, cos_2a = sin_a * cos_a, cos_a * cos_a - 0.5
    trig = (sin_a, cos_a, sin_2a, cos_2a)
    (ka, kb), (ua, ub), (va, vb) = (_along(vector, trig) for vector in _wave_frame(sky))
    arms = []
    for in_a, in_b in ((-0.5, 0.0), (0.25, 0.25 * _ROOT3), (0.25, -0.25 * _ROOT3)):
        u, v = in_a * ua + in_b * ub, in_a * va + in_b * vb
        # Spacecraft l is a quarter turn away from its facing arm in the plane of a and b.
        opposite = (in_b * ka - in_a * kb) / _ROOT3
        arms.append((u * u - v * v, 2.0 * u * v, in_a * ka + in_b * kb, opposite))
    return arms


def _along(
    vector: tuple[Tensor, Tensor, Tensor], trig: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Components of a vector (x, y, z) along a and b of the module's docstring."""
    x, y, z = vector
    sin_a, cos_a, half_sin_2a, half_cos_2a = trig
    along_a = x * half_sin_2a - y * half_cos_2a - 1.5 * y - _ROOT3 * z * sin_a
    along_b = x * half_cos_2a + y * half_sin_2a - 1.5 * x - _ROOT3 * z * cos_a
    return along_a, along_b


def _wave_frame(sky: Columns) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Propagation direction k and the polarisation axes u and v, each as three (n, 1) tensors."""
    sin_l, cos_l = torch.sin(sky.longitude), torch.cos(sky.longitude)
    sin_b = sky.sin_latitude
    cos_b = _cosine(sin_b)
    zero = torch.zeros_like(sin_b)
    return [
        (-cos_b * cos_l, -cos_b * sin_l, -sin_b),
        (sin_l, -cos_l, zero),
        (-sin_b * cos_l, -sin_b * sin_l, cos_b),
    ]


def _delays(x: Tensor, tdi: int) -> Tensor:
    """The interferometer's delays: common factor of X, Y and Z; complex, shape of ``x``."""
    size, turn = -2.0 * x * torch.sin(2.0 * x), 4.0 * x
    if tdi == 2:
        # The second generation adds -2i sin 4x e^(4ix).
        size, turn = size * 2.0 * torch.sin(4.0 * x), turn + 4.0 * x - 0.5 * math.pi
    return torch.complex(size * torch.cos(turn), size * torch.sin(turn))


def _sum(weights: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    return sum(w * t for w, t in zip(weights, terms, strict=True))


def _sinc(x: Tensor) -> Tensor:
    return torch.sinc(x / math.pi)


def _cosine(sine: Tensor) -> Tensor:
    # The floor keeps the derivative finite at the poles.
    return torch.sqrt(torch.clamp(1.0 - sine * sine, min=1e-30))
