"""Schedules start at 0 and end at exactly 1; adaptive steps keep the conditional ESS."""

import math

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.schedules import conditional_ess, linear_grid, next_temperature, power_grid


@pytest.mark.parametrize("steps", [1, 3, 7, 64, 1000])
@pytest.mark.parametrize("grid", [linear_grid, power_grid])
def test_grids_start_at_zero_and_end_at_one(grid, steps):
    values = grid(steps)
    assert values.shape == (steps + 1,)
    assert values[0] == 0.0
    assert values[-1].item() == 1.0
    assert (values.diff() > 0).all()


def test_grids_refuse_what_is_no_schedule():
    with pytest.raises(UsageError, match="num_steps=0"):
        linear_grid(0)
    with pytest.raises(UsageError, match="power="):
        power_grid(4, 0.0)


def test_conditional_ess_equals_its_definition():
    weight = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    grow = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    expected = (weight * grow).sum() ** 2 / (weight * grow**2).sum()
    assert conditional_ess(weight.log() + 5.0, grow.log()) == pytest.approx(expected.item())


@pytest.mark.parametrize("scale", [3.0, 300.0, 1e12])
def test_an_adaptive_step_keeps_the_target(scale):
    ratio = scale * torch.randn(500, generator=stream(0), dtype=torch.float64)
    zero = torch.zeros(500, dtype=torch.float64)
    for start in (0.0, 0.25):
        found = next_temperature(zero, ratio, start, 0.9)
        assert start < found <= 1.0 or scale == 1e12
        if found - start > 1e-9:
            assert conditional_ess(zero, (found - start) * ratio) == pytest.approx(0.9, abs=1e-4)


def test_adaptive_schedule_reaches_exactly_one():
    ratio = 20.0 * torch.randn(400, generator=stream(1), dtype=torch.float64)
    weight, temperature, count = torch.zeros(400, dtype=torch.float64), 0.0, 0
    while temperature < 1.0:
        new = next_temperature(weight, ratio, temperature, 0.8)
        assert new > temperature
        weight, temperature, count = weight + (new - temperature) * ratio, new, count + 1
    assert temperature == 1.0
    assert 3 < count < 200


def test_rows_of_zero_density_do_not_stop_the_schedule():
    ratio = torch.randn(100, generator=stream(2), dtype=torch.float64)
    ratio[:60] = -math.inf
    assert next_temperature(torch.zeros(100), 0.01 * ratio, 0.0, 0.9) == 1.0
    assert next_temperature(torch.zeros(5), torch.full((5,), -math.inf), 0.0, 0.9) == 1.0
