"""Splines against those of normflows, which select the rows inside; and against autograd."""

import pytest
import torch

from gensci.core.random import stream
from gensci.nn.splines import UNIT_SLOPE, num_raw, spline

BINS, BOUND = 6, 3.0


def case(shape, spread=2.0, dtype=torch.float64):
    x = 2 * torch.randn(shape, generator=stream(1, "x"), dtype=dtype)
    raw = spread * torch.randn(num_raw(BINS), *shape, generator=stream(1, "raw"), dtype=dtype)
    return x, raw


@pytest.mark.parametrize("inverse", [False, True])
def test_values_and_slopes_are_those_of_normflows(inverse):
    splines = pytest.importorskip("normflows.utils.splines", reason="compared with normflows")
    x, raw = case((400, 3))
    last = raw.permute(1, 2, 0)
    expected = splines.unconstrained_rational_quadratic_spline(
        x, last[..., :BINS], last[..., BINS : 2 * BINS], last[..., 2 * BINS :] + UNIT_SLOPE,
        inverse=inverse, tail_bound=BOUND,
    )  # fmt: skip
    assert ((x.abs() > BOUND).sum() > 50) and ((x.abs() < BOUND).sum() > 500)
    for found, value in zip(spline(x, raw, BOUND, inverse), expected, strict=True):
        torch.testing.assert_close(found, value, atol=1e-6, rtol=1e-6)


def test_the_inverse_undoes():
    x, raw = case((500, 2), spread=4.0)
    y, log_slope = spline(x, raw, BOUND)
    back, log_back = spline(y, raw, BOUND, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=0)
    torch.testing.assert_close(log_back, -log_slope, atol=1e-5, rtol=0)


def test_slopes_are_derivatives():
    x, raw = case((300,))
    x.requires_grad_()
    y, log_slope = spline(x, raw, BOUND)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope)


def test_nothing_told_is_the_identity():
    x, raw = case((50, 2))
    y, log_slope = spline(x, torch.zeros_like(raw), BOUND)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x))


def test_places_at_the_bound_and_far_away_stay_finite():
    x = torch.tensor([-1e30, -BOUND, BOUND, 1e30, 0.0])
    raw = (30 * torch.randn(num_raw(BINS), 5, generator=stream(2, "raw"))).requires_grad_()
    y, log_slope = spline(x, raw, BOUND)
    torch.testing.assert_close(y[:4], x[:4])
    (y + log_slope).sum().backward()
    assert y.isfinite().all() and raw.grad.isfinite().all()
