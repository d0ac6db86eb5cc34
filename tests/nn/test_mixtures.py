"""Mixture densities against SciPy and numerical integrals; draws against their own density."""

import math

import pytest
import scipy.stats
import torch

from gensci.nn.mixtures import (
    mixture_normal_log_prob,
    mixture_von_mises_log_prob,
    sample_mixture_normal,
    sample_mixture_von_mises,
    sample_von_mises,
)


def parameters(rows=1):
    logits = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64).expand(rows, 3)
    centre = torch.tensor([[-2.0, 0.3, 3.0]], dtype=torch.float64).expand(rows, 3)
    log_scale = torch.tensor([[0.1, 1.5, 2.5]], dtype=torch.float64).expand(rows, 3)
    return logits, centre, log_scale


@pytest.mark.parametrize("log_prob", [mixture_normal_log_prob, mixture_von_mises_log_prob])
def test_density_equals_scipy(log_prob):
    logits, centre, log_scale = parameters()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    weights = torch.softmax(logits[0], 0)
    expected = 0.0
    for w, m, s in zip(weights, centre[0], log_scale[0].exp(), strict=True):
        peer = (
            scipy.stats.norm(m, s)
            if log_prob is mixture_normal_log_prob
            else scipy.stats.vonmises(loc=m, kappa=s)
        )
        expected = expected + w * torch.as_tensor(peer.pdf(x.numpy()))
    torch.testing.assert_close(log_prob(x, logits, centre, log_scale).exp(), expected)


def test_von_mises_is_exact_in_float32_at_high_concentration():
    kappa = 3000.0
    x = torch.tensor([0.001, 0.01, 0.05])
    row = torch.zeros(3, 1)
    got = mixture_von_mises_log_prob(x, row, row, row + math.log(kappa))
    expected = torch.as_tensor(scipy.stats.vonmises(kappa).logpdf(x.double().numpy()))
    torch.testing.assert_close(got.double(), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kappa", [1e-4, 0.5, 20.0, 5e3, 5e4])
def test_von_mises_draws_follow_the_density(kappa):
    generator = torch.Generator().manual_seed(1)
    draws = sample_von_mises(torch.full((4000,), kappa), generator).numpy()
    assert scipy.stats.kstest(draws, scipy.stats.vonmises(kappa).cdf).pvalue > 1e-3


def test_mixture_draws_follow_the_density():
    generator = torch.Generator().manual_seed(2)
    angles = sample_mixture_von_mises(*parameters(20000), generator)
    edges = torch.linspace(-math.pi, math.pi, 41, dtype=torch.float64)
    middle = 0.5 * (edges[1:] + edges[:-1])
    fine = torch.linspace(-math.pi, math.pi, 8001, dtype=torch.float64)[:-1]
    density = mixture_von_mises_log_prob(fine, *parameters()).exp()
    expected = density.reshape(40, 200).mean(1) * (edges[1] - edges[0])
    observed = torch.histc(angles, 40, -math.pi, math.pi) / 20000
    error = torch.sqrt(expected * (1 - expected) / 20000)
    assert ((observed - expected).abs() < 5 * error + 1e-4).all(), middle
    normal = sample_mixture_normal(*parameters(20000), generator)
    weights = torch.softmax(parameters()[0][0], 0)
    mean = (weights * parameters()[1][0]).sum()
    assert (normal.mean() - mean).abs() < 5 * normal.std() / math.sqrt(20000)
