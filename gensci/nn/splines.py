"""Monotone rational-quadratic splines, one for each row and column, all evaluated together.

Reference: Durkan, Bekasov, Murray and Papamakarios (2019), arXiv:1906.04032.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_BIN = 1e-3
"""Of the interval; bins of no width have no slope."""
SMALLEST_SLOPE = 1e-3
UNIT_SLOPE = math.log(math.expm1(1 - SMALLEST_SLOPE))
"""What a raw slope of zero is shifted by, so that it stands for one."""


def num_raw(bins: int) -> int:
    """Numbers that describe a spline: widths, heights and the slopes between bins."""
    return 3 * bins - 1


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Evaluate splines that are the identity beyond the bound, with slope one at it.

    Everything is laid out with the bins first and without masks, so that each operation is one
    pass over whole rows: three times as fast, with gradients, as selecting the rows within.

    Args:
        x: (...) places.
        raw: (3 bins - 1, ...) numbers without bounds; all zero is the identity.
        bound: Half the width of the interval.
        inverse: Solve for the place instead.

    Returns:
        The values (...), and the logarithms of the slopes of the direction taken.
    """
    table = knots(raw.flatten(1), bound)
    flat = x.flatten()
    inside = flat.clamp(-bound, bound)
    index = (inside >= table[1 if inverse else 0, 1:-1]).sum(0).expand(3, 1, -1)
    left, low, slope_low = table.gather(1, index)[:, 0]
    right, high, slope_high = table.gather(1, index + 1)[:, 0]
    width, height = right - left, high - low
    chord = height / width
    bend = slope_low + slope_high - 2 * chord
    if inverse:
        t = _solved(inside - low, height, chord, slope_low, bend)
        value = left + t * width
    else:
        t = (inside - left) / width
    between = t * (1 - t)
    below = chord + bend * between
    if not inverse:
        value = low + height * (chord * t.square() + slope_low * between) / below
    above = slope_high * t.square() + 2 * chord * between + slope_low * (1 - t).square()
    log_slope = 2 * (chord / below).log() + above.log()
    within = flat.abs() < bound
    value = torch.where(within, value, flat).reshape(x.shape)
    log_slope = torch.where(within, log_slope, 0.0).reshape(x.shape)
    return value, -log_slope if inverse else log_slope


def knots(raw: Tensor, bound: float) -> Tensor:
    """(3, bins + 1, m) places, values and slopes at the ends of the bins."""
    bins = (len(raw) + 1) // 3
    shares = raw[: 2 * bins].view(2, bins, -1).softmax(1)
    sums = torch.ones(bins + 1, bins, dtype=raw.dtype, device=raw.device).tril(-1)
    even = torch.linspace(-1.0, 1.0, bins + 1, dtype=raw.dtype, device=raw.device)[:, None]
    # the floor of each bin's share makes an even grid of part of the interval
    floor = SMALLEST_BIN * bins
    ends = bound * (floor * even + (1 - floor) * (2 * (sums @ shares) - 1))
    one = torch.ones_like(raw[:1])
    slopes = SMALLEST_SLOPE + torch.nn.functional.softplus(raw[2 * bins :] + UNIT_SLOPE)
    return torch.cat([ends, torch.cat([one, slopes, one])[None]])


def _solved(rise: Tensor, height: Tensor, chord: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """The share of its bin at which a spline has risen so far: the root of a quadratic."""
    a = rise * bend + height * (chord - slope)
    b = height * slope - rise * bend
    c = -chord * rise
    root = (b.square() - 4 * a * c).clamp_min(0.0).sqrt()
    return (2 * c / (-b - root)).clamp(0.0, 1.0)
