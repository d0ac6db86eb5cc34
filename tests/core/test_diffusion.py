"""Grids of noise levels against their defining formulas."""

import pytest
import torch

from gensci.core.diffusion import karras_sigmas, log_uniform_sigmas
from gensci.core.errors import UsageError

LOW = torch.tensor([0.002, 0.01], dtype=torch.float64)
HIGH = torch.tensor([80.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("to_zero", [True, False])
def test_karras_levels_are_equally_spaced_in_their_root(to_zero):
    sigmas = karras_sigmas(LOW, HIGH, 9, 5.0, to_zero=to_zero)
    assert sigmas.shape == (10, 2)
    positive = sigmas[:-1] if to_zero else sigmas
    roots = positive ** (1 / 5.0)
    assert torch.allclose(roots.diff(n=2, dim=0), torch.zeros(1).double(), atol=1e-12)
    assert torch.equal(positive[0], HIGH)
    assert torch.equal(positive[-1], LOW)
    assert (sigmas[-1] == 0).all() == to_zero


def test_levels_of_edm_are_those_of_its_equation():
    sigmas = karras_sigmas(LOW, HIGH, 18)
    root = 80.0 ** (1 / 7) + 5 / 17 * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))
    assert sigmas[5, 0].item() == pytest.approx(root**7, rel=1e-12)


@pytest.mark.parametrize("to_zero", [True, False])
def test_log_uniform_levels_have_one_ratio(to_zero):
    sigmas = log_uniform_sigmas(LOW, HIGH, 9, to_zero=to_zero)
    positive = sigmas[:-1] if to_zero else sigmas
    ratios = positive[1:] / positive[:-1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios))
    assert torch.equal(positive[[0, -1]], torch.stack([HIGH, LOW]))


def test_levels_keep_the_type_and_fall():
    for grid in (karras_sigmas, log_uniform_sigmas):
        sigmas = grid(LOW.float(), HIGH.float(), 40)
        assert sigmas.dtype == torch.float32
        assert (sigmas.diff(dim=0) < 0).all()
        assert torch.equal(grid(LOW, HIGH, 1), torch.stack([HIGH, torch.zeros(2).double()]))
        assert torch.equal(grid(LOW, HIGH, 1, to_zero=False), torch.stack([HIGH, LOW]))


def test_no_step_is_an_error():
    with pytest.raises(UsageError, match="num_steps=0"):
        karras_sigmas(LOW, HIGH, 0)
    with pytest.raises(UsageError, match="rho=0"):
        karras_sigmas(LOW, HIGH, 5, 0.0)
