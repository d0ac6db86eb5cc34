"""Errors of effective sample sizes, what finetuning costs, and which flow is kept."""

import math

import pytest
import torch

from gensci.core.results import SampleSet
from gensci.loops.finetuning_report import Quality, cost, ess_with_error, judge, plain


def quality(ess, error=0.01, log_z=0.0, log_z_error=0.1):
    return Quality(1000, ess, error, 0.3, log_z, log_z_error, ess)


def test_the_error_of_an_effective_size_is_its_spread_over_repeats():
    generator = torch.Generator().manual_seed(0)
    n, found = 2000, []
    for _ in range(300):
        log_weight = 0.6 * torch.randn(n, generator=generator, dtype=torch.float64)
        alive = torch.rand(n, generator=generator) < 0.8  # the others have zero weight
        found.append(ess_with_error(log_weight[alive], n))
    shares, errors = torch.tensor(found).double().T
    assert shares.mean() == pytest.approx(0.8 * math.exp(-(0.6**2)), rel=0.01)
    assert errors.mean() == pytest.approx(float(shares.std()), rel=0.15)


def test_one_weight_above_all_others_makes_the_size_uncertain_by_itself():
    log_weight = torch.zeros(1000).double()
    log_weight[0] = math.log(300.0)
    share, error = ess_with_error(log_weight, 1000)
    assert error > 0.5 * share


def test_quality_is_of_all_draws_with_nothing_cut():
    log_target = torch.tensor([0.0, 0.5, 7.0]).double()
    samples = SampleSet({"x": torch.zeros(3, 1)}, 0 * log_target, log_target, 0 * log_target)
    found = Quality.of(samples, 5)
    weight = log_target.exp()
    assert found.ess == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()) / 5)
    assert found.log_z == pytest.approx(math.log(float(weight.sum()) / 5))
    assert Quality.of(None, 5).ess == 0.0


def test_the_smoothed_size_is_less_at_the_mercy_of_the_largest_weight():
    generator = torch.Generator().manual_seed(1)
    raw, smooth, shape = [], [], []
    for _ in range(60):
        u = torch.rand(2000, generator=generator, dtype=torch.float64)
        log_target = -0.5 * u.log()  # weights with a tail of shape a half: no finite variance
        zero = torch.zeros_like(log_target)
        found = Quality.of(SampleSet({"x": zero[:, None]}, zero, log_target, zero), 2000)
        shape.append(found.khat)
        raw.append(found.ess)
        smooth.append(found.smoothed)
    assert sum(shape) / len(shape) == pytest.approx(0.5, abs=0.1)
    raw, smooth = torch.tensor(raw), torch.tensor(smooth)
    assert smooth.std() / smooth.mean() < 0.85 * raw.std() / raw.mean()


@pytest.mark.parametrize(
    ("after", "kept", "told"),
    [
        (None, "pretrained", "no round was better"),
        (quality(0.5), "finetuned", "better on independent draws"),
        (quality(0.22), "pretrained", "beyond the errors"),
        (quality(0.1), "pretrained", "beyond the errors"),
        (quality(0.5, log_z=-0.6), "pretrained", "lost a region"),
        (quality(0.5, log_z=+0.6), "finetuned", "better"),
    ],
)
def test_the_finetuned_flow_is_kept_only_where_it_is_better(after, kept, told):
    found = judge(quality(0.2), after)
    assert found.kept == kept
    assert told in found.reason


def test_what_was_spent_is_paid_for_at_the_break_even():
    spent = 30_000
    found = cost(quality(0.1), quality(0.4), spent)
    further = found["break_even"]
    assert 0.4 * further == pytest.approx(0.1 * (further + spent))
    assert found["per_evaluation_after_100k"] == pytest.approx(0.4 * 100 / 130)
    assert cost(quality(0.4), quality(0.1), spent)["break_even"] is None
    assert cost(quality(0.4), None, spent)["per_evaluation_after"] == 0.4


def test_json_has_null_where_a_number_is_not_finite():
    assert plain(Quality.of(None, 5))["log_z"] is None
