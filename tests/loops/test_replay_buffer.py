"""Weights of rows from several proposals: right by hand, unbiased, and never worse than alone."""

import math

import pytest
import torch

from gensci.core.weights import kish_ess
from gensci.loops.replay_buffer import (
    Draws,
    Population,
    fill,
    joined,
    mixture_log_weight,
    tempered,
)

TRUE_Z = 3.0
MEANS, SCALES, COUNTS = torch.tensor([-1.0, 1.5]), torch.tensor([0.5, 0.8]), (60, 25)


def log_target(x):
    """Three times a standard normal density."""
    return math.log(TRUE_Z) - 0.5 * x.square() - 0.5 * math.log(2 * math.pi)


def log_density(x):
    """(n, 2) under both proposals: neither covers the target alone."""
    return torch.distributions.Normal(MEANS.double(), SCALES.double()).log_prob(x[:, None])


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        mean + scale * torch.randn(count, generator=generator, dtype=torch.float64)
        for mean, scale, count in zip(MEANS.double(), SCALES.double(), COUNTS, strict=True)
    ]


def test_mixture_weights_are_those_written_out_by_hand():
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    q = log_density(x).exp()
    mixture = (60 * q[:, 0] + 25 * q[:, 1]) / 85
    expected = log_target(x).exp() / mixture
    found = mixture_log_weight(log_target(x), log_density(x), COUNTS).exp()
    torch.testing.assert_close(found, expected)


def test_mixture_weights_are_unbiased_where_one_proposal_alone_has_no_finite_variance():
    estimates, second, alone = [], [], []
    for seed in range(400):
        parts = drawn(seed)
        x = torch.cat(parts)
        weight = mixture_log_weight(log_target(x), log_density(x), COUNTS).exp()
        estimates.append(weight.mean())
        second.append((weight * x.square()).mean())
        own = torch.cat([log_density(part)[:, k] for k, part in enumerate(parts)])
        alone.append((log_target(x) - own).exp().mean())
    for values, truth in ((estimates, TRUE_Z), (second, TRUE_Z)):
        values = torch.stack(values)
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    assert torch.stack(estimates).std() < 0.5 * torch.stack(alone).std()


def test_draws_of_zero_weight_count_in_the_constant():
    x = torch.cat(drawn(0))
    kept = x < 0.5  # a target that is zero above
    draws = [
        Draws(part[part < 0.5][:, None, None], log_target(part[part < 0.5]), count)
        for part, count in zip(drawn(0), COUNTS, strict=True)
    ]
    buffer = fill(draws, log_density(x[kept]), [], 1)
    weight = mixture_log_weight(log_target(x), log_density(x), COUNTS).exp() * kept
    assert buffer.constant.value == pytest.approx(math.log(float(weight.mean())), abs=1e-12)
    assert buffer.num_draws == int(kept.sum())
    assert buffer.effective == pytest.approx(float(weight.sum() ** 2 / weight.square().sum()))


def test_samples_are_joined_in_proportion_to_their_effective_sizes():
    first, second = torch.tensor([0.0, 1.0]).double(), torch.tensor([5.0, 4.0, 5.0]).double()
    found = joined([(first, 30.0), (second, 10.0), (first, 0.0)]).exp()
    torch.testing.assert_close(found[:2].sum(), torch.tensor(0.75).double())
    torch.testing.assert_close(found[2:5].sum(), torch.tensor(0.25).double())
    torch.testing.assert_close(found[1] / found[0], torch.tensor(math.e).double())
    assert found[5:].sum() == 0


def test_a_population_takes_part_and_moments_stay_those_of_the_target():
    parts = drawn(1)
    x = torch.cat(parts)
    draws = [
        Draws(part[:, None, None], log_target(part), count)
        for part, count in zip(parts, COUNTS, strict=True)
    ]
    exact = torch.randn(4000, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    population = Population(
        exact[:, None, None], log_target(exact), torch.zeros(4000).double(), 4000.0
    )
    buffer = fill(draws, log_density(x), [population], 10)
    weight = torch.softmax(buffer.log_weight, 0)
    assert weight[: len(x)].sum() == pytest.approx(
        buffer.effective / (buffer.effective + 4000), rel=0.2
    )
    second = (weight * buffer.x.flatten().square()).sum()
    assert abs(second - 1) < 0.1


def test_weights_are_flattened_only_where_too_few_rows_count():
    log_weight = 3 * torch.randn(500, generator=torch.Generator().manual_seed(2)).double()
    assert kish_ess(log_weight).count < 40
    flat, power = tempered(log_weight, 40)
    assert 0 < power < 1
    assert kish_ess(flat).count == pytest.approx(40, rel=1e-3)
    torch.testing.assert_close(flat, power * log_weight)
    same, one = tempered(log_weight, 2)
    assert one == 1.0
    assert torch.equal(same, log_weight)
