"""Coordinates of a binary in which its posterior bends little and the prior has no spike.

Spins. The reduced spin of `lisa_coordinates` has slanted ends, which would be cut out of a flow.
Where a posterior comes near an end of the range of chi1, chi1 takes its place.

Sky. A face-on binary sends one circularly polarised wave, L = 0 for the other one. Amplitudes are
uniform in L, inclinations in their cosine, and so the prior over simple coordinates goes as
|L|^(-3/2): integrable, and no flow without the spike in it has bounded weights there.

With Z = atanh(sin latitude) + i longitude, a point of the sky on Mercator's map, and the two
pattern amplitudes f and s of `lisa_coordinates.to_simple`, L vanishes where

    Z = W,    W = ln(f / s) / 4,

one of four branches, which belong to skies a quarter turn apart. (R, of the other wave, vanishes at
the mirror image of that sky.) With D = exp(Z - W) - 1, stereographic on the sphere with the face-on
sky in its middle, the coordinates are

    V = D (1 + size / |D|)^(3/4),

D itself where |D| is large, and within `size` a multiple of D |D|^(-3/4), whose volume takes the
spike away: d^2V ~ |D|^(-3/2) d^2D. V may be any complex number. A posterior that does not come near
face-on keeps latitude and longitude.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gensci.systems.lisa_coordinates import (
    SimplePrior,
    circular_amplitudes,
    first_spin,
    spin_slopes,
)

_RATIO, _SPIN, _SINE, _LONGITUDE = 1, 2, 9, 10
_NEAREST = 1e-30  # a distance, so that the logarithm of none is finite
_SHARE = 0.5  # of the usual distance, within which the spike is taken away
_STEPS = 60
_NEAR_AN_END, _FEW = 0.015, 1e-3  # share of the range of chi1; share of points
_POLE = 1 - 1e-15
_FACE_ON = 1e-3  # of the weaker to the stronger wave: cos inclination 0.94


class SmoothChart:
    """A chart of simple coordinates: the reduced spin becomes chi1, the sky becomes V.

    Args:
        hand: 1 where binaries are near cos inclination 1 (L vanishes), -1 near -1 (R does).
        branch: longitude of the face-on sky, about which f / s has its branch.
        size: distance |D| within which the spike is taken away.
        first: whether the reduced spin becomes chi1; 1 or 0.
        sky: whether latitude and longitude become V; 1 or 0.
        spins: lowest and highest chi1 of the prior.
    """

    def __init__(
        self,
        hand: float = 1.0,
        branch: float = 0.0,
        size: float = 1.0,
        first: float = 0.0,
        sky: float = 1.0,
        *,
        spins: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        self.hand, self.branch, self.size = hand, branch, size
        self.first, self.sky, self.spins = first, sky, spins

    @classmethod
    def of(cls, prior: SimplePrior) -> SmoothChart:
        """The kind for posteriors under this prior, to be fitted."""
        low, high = prior.binaries.bounds[_SPIN].tolist()
        return cls(spins=(low, high))

    def fitted(self, simple: Tensor) -> SmoothChart:
        """The chart for (n, 11) points of one sky: the likelier hand, its cut where few are.

        Its size is half the median distance of the points from face-on. The first spin is taken
        where some points are near an end of its range, the sky is charted where some are near
        face-on.
        """
        right, left = circular_amplitudes(simple)
        hand = 1.0 if 2 * int((right.abs() > left.abs()).sum()) >= len(simple) else -1.0
        first, second = _patterns(simple)
        quarter = _circular_mean((first * second.conj()).angle()) / 4
        longitude = _circular_mean(simple[:, _LONGITUDE])
        turns = round((longitude - quarter) / (0.5 * math.pi))
        chart = SmoothChart(hand, quarter + turns * 0.5 * math.pi)
        away = (chart._where(simple) - 1).abs().median()
        size = _SHARE * max(float(away), _NEAREST)
        near_an_end = float(self._near_an_end(first_spin(simple)).double().mean())
        weak = torch.minimum(right.abs(), left.abs())
        strong = torch.maximum(right.abs(), left.abs())
        face_on = float((weak < _FACE_ON * strong).double().mean())
        numbers = [hand, chart.branch, size, float(near_an_end > _FEW), float(face_on > _FEW)]
        return self.restored(numbers)

    def numbers(self) -> list[float]:
        """What `restored` makes again."""
        return [self.hand, self.branch, self.size, self.first, self.sky]

    def restored(self, numbers: list[float]) -> SmoothChart:
        """The chart of `numbers`, of the same prior."""
        return SmoothChart(*numbers, spins=self.spins)

    def limits(
        self, bounds: Tensor, periods: tuple[float | None, ...]
    ) -> tuple[Tensor, tuple[float | None, ...]]:
        """Bounds (11, 2) and periods of the charted coordinates; V has none."""
        bounds, free = bounds.clone(), torch.tensor([-math.inf, math.inf]).double()
        if self.first:
            bounds[_SPIN] = torch.tensor(self.spins, dtype=torch.float64)
        if not self.sky:
            return bounds, periods
        bounds[_SINE:] = free
        return bounds, (*periods[:_SINE], None, None)

    def forward(self, simple: Tensor) -> tuple[Tensor, Tensor]:
        """Charted points (n, 11), and ln |d charted / d simple| (n,)."""
        charted, log_det = simple.clone(), simple.new_zeros(len(simple))
        if self.first:
            charted[:, _SPIN] = first_spin(simple)
            log_det = log_det - spin_slopes(simple[:, _RATIO])[0].log()
        if not self.sky:
            return charted, log_det
        where = self._where(simple)
        away = where - 1
        distance = away.abs().clamp_min(_NEAREST)
        stretch = 0.75 * torch.log1p(self.size / distance)
        flat = away * stretch.exp()
        sine = simple[:, _SINE].clamp(-_POLE, _POLE)
        log_det = log_det + 2 * where.abs().log() - torch.log1p(-sine.square())
        log_det = log_det + 2 * stretch + _slope(distance, self.size).log()
        sky = torch.stack([flat.real, flat.imag], 1)
        return torch.cat([charted[:, :_SINE], sky], 1), log_det

    def inverse(self, charted: Tensor) -> Tensor:
        """The (n, 11) simple coordinates of charted points."""
        simple = charted.clone()
        if self.first:
            heavier, lighter = spin_slopes(charted[:, _RATIO])
            simple[:, _SPIN] = heavier * charted[:, _SPIN] + lighter * charted[:, _SPIN + 1]
        if not self.sky:
            return simple
        flat = torch.complex(charted[:, _SINE], charted[:, _LONGITUDE])
        far = flat.abs().clamp_min(_NEAREST)
        where = (1 + flat * (_distance(far, self.size) / far)) * self._face_on(charted)
        square = where.abs().square()
        simple[:, _SINE] = self.hand * (square - 1) / (square + 1)
        simple[:, _LONGITUDE] = torch.remainder(where.angle(), 2 * math.pi)
        return simple

    def _near_an_end(self, spin: Tensor) -> Tensor:
        """(n,) whether chi1 is near an end of its range."""
        low, high = self.spins
        margin = _NEAR_AN_END * (high - low)
        return (spin < low + margin) | (spin > high - margin)

    def _where(self, simple: Tensor) -> Tensor:
        """exp(Z - W) (n,)."""
        sine = (self.hand * simple[:, _SINE]).clamp(-_POLE, _POLE)
        ratio = ((1 + sine) / (1 - sine)).sqrt()
        return torch.polar(ratio, simple[:, _LONGITUDE]) / self._face_on(simple)

    def _face_on(self, points: Tensor) -> Tensor:
        """exp(W) (n,), by the amplitudes in columns 5 to 8."""
        first, second = _patterns(points)
        turn = (first * second.conj()).angle() - 4 * self.branch
        turn = torch.remainder(turn + math.pi, 2 * math.pi) - math.pi
        return torch.polar((first.abs() / second.abs()).pow(0.25), self.branch + turn / 4)


def _slope(distance: Tensor, size: float) -> Tensor:
    """Slope of ln |V| by ln |D|, from 1/4 within the size to 1."""
    return 0.25 + 0.75 * distance / (distance + size)


def _distance(far: Tensor, size: float) -> Tensor:
    """|D| of |V|, by Newton's method in logarithms, where the slope hardly changes."""
    wanted, found = far.log(), far.log()
    for _ in range(_STEPS):
        distance = found.exp()
        error = found + 0.75 * torch.log1p(size / distance) - wanted
        found = found - error / _slope(distance, size)
        if float(error.abs().max()) < 1e-14:
            break
    return found.exp()


def _patterns(points: Tensor) -> tuple[Tensor, Tensor]:
    """The amplitudes f and s, (n,)."""
    a, b, c, d = points[:, 5:9].unbind(1)
    return torch.complex(a, b), torch.complex(c, d)


def _circular_mean(angle: Tensor) -> float:
    return float(torch.atan2(angle.sin().mean(), angle.cos().mean()))
