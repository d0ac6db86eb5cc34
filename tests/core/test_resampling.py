"""Resampling schemes: unbiased counts, and columns that stay with their rows."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.core.resampling import RESAMPLERS, resample
from gensci.core.results import SampleSet

schemes = pytest.mark.parametrize("scheme", list(RESAMPLERS))


@schemes
def test_expected_counts_are_proportional_to_weights(scheme):
    weight = torch.tensor([0.05, 0.0, 0.5, 0.15, 0.3], dtype=torch.float64)
    counts = torch.zeros(5, dtype=torch.float64)
    repeats, n = 3000, 7
    for seed in range(repeats):
        rows = resample(scheme, weight.log(), n, stream(seed, scheme))
        assert rows.shape == (n,)
        counts += torch.bincount(rows, minlength=5)
    error = (n * weight * (1 - weight) / repeats).sqrt()
    assert ((counts / repeats - n * weight).abs() <= 4.5 * error).all()


@schemes
@given(st.lists(st.floats(-30, 30) | st.just(-math.inf), min_size=1), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_rows_of_zero_weight_are_never_drawn(scheme, values, n):
    log_weight = torch.tensor(values, dtype=torch.float64)
    if torch.isinf(log_weight).all():
        with pytest.raises(GensciError, match="every weight is zero"):
            resample(scheme, log_weight, n, stream(0))
        return
    rows = resample(scheme, log_weight, n, stream(0))
    assert rows.shape == (n,)
    assert torch.isfinite(log_weight[rows]).all()


@pytest.mark.parametrize("scheme", ["systematic", "residual"])
def test_low_variance_schemes_keep_the_whole_part(scheme):
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    rows = resample(scheme, weight.log(), 10, stream(1))
    assert (torch.bincount(rows, minlength=4) - torch.tensor([1, 2, 3, 4])).abs().max() <= 1


@schemes
def test_equal_weights_are_resampled_to_near_equal_counts(scheme):
    rows = resample(scheme, torch.zeros(1000), 1000, stream(2))
    limit = {"multinomial": 8, "stratified": 2, "residual": 1, "systematic": 1}[scheme]
    assert torch.bincount(rows).max() <= limit


def test_unknown_scheme_offers_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'stratified'"):
        resample("stratifed", torch.zeros(3), 3, stream(0))


@schemes
def test_a_resampled_set_keeps_its_columns_together(scheme):
    values = torch.randn(50, generator=stream(3), dtype=torch.float64)
    samples = SampleSet(
        {"positions": values[:, None, None].expand(50, 2, 3)},
        log_weight=2 * values,
        log_target=3 * values,
        log_proposal=values,
        info={"ess": torch.ones(4)},
        meta={"seed": 3},
    )
    drawn = samples.resample(scheme, stream(4), 80)
    x = drawn.x["positions"][:, 0, 0]
    assert torch.equal(drawn.log_target, 3 * x)
    assert torch.equal(drawn.log_proposal, x)
    assert torch.equal(values[drawn.ancestor], x)
    assert (drawn.log_weight == 0).all()
    assert drawn.meta["resampled"]["scheme"] == scheme
    assert drawn.meta["resampled"]["ess_before"] == pytest.approx(samples.ess.count)
    assert drawn.info["ess"].shape == (4,)
