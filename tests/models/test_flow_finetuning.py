"""Gradient steps of finetuning: each term's gradient, rows in proportion to weights, resuming."""

from dataclasses import replace

import pytest
import torch
from loops.toy_flow import ToyFlow, ToyTarget

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.core.resampling import resample
from gensci.models.flow_finetuning import FitSettings, Fitting, Lesson, loss_terms


def lesson(n=400, shift=0.35, stretch=-0.15, log_z=ToyTarget.LOG_Z):
    """Weighted draws of a flow that is off."""
    flow = ToyFlow(shift, stretch)
    x, log_q = flow.sample_and_log_prob(n, {}, torch.Generator().manual_seed(0))
    log_target = ToyTarget().log_prob({"positions": x})
    return flow, Lesson(x, log_target, log_target - log_q, log_q, torch.arange(n), log_z)


def gradients(flow, value):
    return torch.autograd.grad(value, [flow.mean, flow.log_scale])


def test_gradient_of_the_likelihood_is_the_importance_weighted_one():
    flow, given = lesson()
    weight = torch.softmax(given.log_weight, 0)
    z = (given.x - flow.mean).detach() * torch.exp(-flow.log_scale.detach())
    by_hand = (
        -(weight[:, None, None] * z * torch.exp(-flow.log_scale.detach())).sum(0),
        -(weight[:, None, None] * (z.square() - 1)).sum(0),
    )
    rows = resample("systematic", given.log_weight, 200_000, stream(0, "rows"))
    terms = loss_terms(flow.log_prob(given.x[rows], {}), given, rows, len(rows), 10.0)
    for found, expected in zip(gradients(flow, terms.likelihood), by_hand, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_gradient_of_the_dispersion_is_that_of_the_squared_log_weight():
    flow, given = lesson()
    rows = torch.arange(40, 90)
    terms = loss_terms(flow.log_prob(given.x[rows], {}), given, rows, 20, 1e6)
    residual = flow.log_prob(given.x[rows], {}) - given.log_target[rows] + given.log_z
    score = given.x[rows] - flow.mean
    scale = flow.log_scale.exp()
    by_hand = (
        (2 * residual[:, None, None] * score / scale**2).mean(0),
        (2 * residual[:, None, None] * (score.square() / scale**2 - 1)).mean(0),
    )
    for found, expected in zip(gradients(flow, terms.dispersion), by_hand, strict=True):
        torch.testing.assert_close(found, expected.detach())


def test_the_true_density_has_no_dispersion_and_far_rows_count_linearly():
    flow, given = lesson(shift=0.0, stretch=0.0)
    rows = torch.arange(50)
    log_q = flow.log_prob(given.x, {})
    assert loss_terms(log_q[rows], given, rows, 20, 10.0).dispersion < 1e-20
    off = replace(given, log_z=given.log_z + 7.0)
    spread = loss_terms(log_q[rows], off, rows, 20, 2.0).dispersion
    torch.testing.assert_close(spread, torch.full_like(spread, 2.0**2 + 2 * 2.0 * 5.0))


def test_the_trust_region_begins_at_zero_and_pulls_back():
    flow, given = lesson()
    rows = torch.arange(100)
    assert loss_terms(flow.log_prob(given.x[rows], {}), given, rows, 50, 10.0).trust < 1e-20
    flow.mean.data += 0.1
    terms = loss_terms(flow.log_prob(given.x[rows], {}), given, rows, 50, 10.0)
    assert (gradients(flow, terms.trust)[0] > 0).double().mean() > 0.8


def fitting(settings, flow, given):
    return Fitting(flow, {}, given, settings, seed=3, round=1)


def test_likelihood_alone_ends_at_the_weighted_moments():
    flow, given = lesson()
    settings = FitSettings(steps=150, learning_rate=0.03, dispersion=0.0, trust=0.0)
    weights = fitting(settings, flow, given).run()
    share = torch.softmax(given.log_weight, 0)[:, None, None]
    mean = (share * given.x).sum(0)
    scale = (share * (given.x - mean).square()).sum(0).sqrt()
    torch.testing.assert_close(weights["mean"], mean, atol=0.04, rtol=0)
    torch.testing.assert_close(weights["log_scale"].exp(), scale, atol=0.04, rtol=0)
    assert (mean - 0.35).abs().min() > 0.1


def test_a_strong_trust_region_holds_the_flow_where_it_was():
    flow, given = lesson()
    fitting(FitSettings(steps=40, learning_rate=0.02, trust=100.0), flow, given).run()
    held = (flow.mean - 0.35).abs().max()
    flow, given = lesson()
    fitting(FitSettings(steps=40, learning_rate=0.02, trust=0.0), flow, given).run()
    assert held < 0.3 * (flow.mean - 0.35).abs().max()


def test_a_fit_that_was_stopped_goes_on_to_the_same_bits():
    settings = FitSettings(steps=25, learning_rate=0.02)
    flow, given = lesson()
    truth = fitting(settings, flow, given).run()
    flow, given = lesson()
    states = []

    def save(state):
        states.append({k: v.clone() for k, v in state.items()})
        if len(states) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting(settings, flow, given).run(save, 0.0)
    flow, given = lesson()
    again = fitting(settings, flow, given)
    again.restore(states[-1])
    assert again.taken == 9
    weights = again.run()
    assert all(torch.equal(weights[name], truth[name]) for name in truth)


def test_a_loss_that_is_not_finite_is_told():
    flow, given = lesson()
    broken = replace(given, log_z=float("nan"))
    with pytest.raises(GensciError, match=r"not finite; lower --train.learning_rate"):
        fitting(FitSettings(), flow, broken).run()


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"rows": 2.5}, {"learning_rate": 0.0}, {"trust": -1}, {"ema": 1.0}],
)
def test_settings_that_cannot_be_used(settings):
    with pytest.raises(UsageError, match=f"{next(iter(settings))}="):
        FitSettings(**settings)
