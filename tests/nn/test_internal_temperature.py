"""Flows steered to another temperature: exact densities, and what the power of a mixture is."""

import math

import pytest
import torch
from named_peptides import named_peptide

from gensci.nn import internal_temperature
from gensci.nn.internal import InternalFlow
from gensci.nn.internal_temperature import (
    Conditionals,
    stretched_normal,
    stretched_von_mises,
    tempered_rotor,
)
from gensci.nn.mixtures import mixture_normal_log_prob, mixture_von_mises_log_prob
from gensci.nn.steric import GRID, torsion_grid
from gensci.nn.tarflow import TarFlowPeptide
from gensci.sims.peptide import build_peptide

RATIO = torch.tensor(400 / 310, dtype=torch.float64)


def components(*rows):
    return Conditionals(*(torch.tensor(row, dtype=torch.float64) for row in rows))


def moments(log_prob, points):
    """Integral, mean and variance of a density on an even grid of points."""
    step = points[1] - points[0]
    density = log_prob.exp() * step
    mean = (density * points).sum()
    return density.sum(), mean, (density * (points - mean).square()).sum()


@pytest.mark.parametrize("ratio", [0.6, 400 / 310])
def test_a_stretched_mixture_keeps_its_mean_and_scales_its_variance(ratio):
    given = components([0.3, -0.5, 0.1], [1.0, 1.2, 0.7], [-2.0, -1.5, -2.5])
    points = torch.linspace(-3, 5, 20001, dtype=torch.float64)
    before = moments(mixture_normal_log_prob(points, *given), points)
    new = stretched_normal(given, torch.tensor(ratio, dtype=torch.float64))
    after = moments(mixture_normal_log_prob(points, *new), points)
    expected = (before[0], before[1], ratio * before[2])
    torch.testing.assert_close(torch.stack(after), torch.stack(expected), rtol=1e-6, atol=1e-9)


def test_one_spring_is_stretched_to_the_boltzmann_density_of_the_new_temperature():
    given = components([0.0], [0.3], [-1.0])
    points = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    powered = mixture_normal_log_prob(points, *given) / RATIO
    powered = powered - torch.logsumexp(powered, 0) - (points[1] - points[0]).log()
    new = mixture_normal_log_prob(points, *stretched_normal(given, RATIO))
    torch.testing.assert_close(new, powered, rtol=0, atol=1e-9)


def test_narrow_torsions_are_stretched_like_springs():
    given = components([0.3, -0.5], [2.00, 2.05], [6.0, 6.5])
    points = torch.linspace(1, 3, 20001, dtype=torch.float64)
    before = moments(mixture_von_mises_log_prob(points, *given), points)
    after = moments(mixture_von_mises_log_prob(points, *stretched_von_mises(given, RATIO)), points)
    assert abs(after[1] - before[1]) < 1e-6
    assert abs(after[2] / before[2] / RATIO - 1) < 5e-3  # von Mises is normal up to 1 / kappa


def test_a_rotor_is_taken_to_the_power_where_its_components_stand_apart():
    """Three wells on the circle: two of free components, one of many cells of the grid."""
    centre = torch.cat((torsion_grid(RATIO), RATIO.new_tensor([-2.0, 2.2])))
    logits = torch.full_like(centre, -40.0)
    well = torch.arange(16, 21)
    logits[well] = -0.5 * ((torsion_grid(RATIO)[well] - 0.087) / 0.2).square()
    logits[-2:] = torch.tensor([3.0, -0.5], dtype=torch.float64)
    width = 0.8 * 2 * math.pi / GRID
    concentration = torch.full_like(centre, -2 * math.log(width))
    concentration[-2:] = torch.tensor([3.5, 5.0], dtype=torch.float64)
    given = Conditionals(logits, centre, concentration)
    points = torch.linspace(-math.pi, math.pi, 7201, dtype=torch.float64)[:-1]
    powered = torch.softmax(mixture_von_mises_log_prob(points, *given) / RATIO, 0)
    new = mixture_von_mises_log_prob(points, *tempered_rotor(given, RATIO, GRID)).exp()
    new = new * (points[1] - points[0])
    torch.testing.assert_close(new.sum(), torch.ones_like(new.sum()), rtol=1e-6, atol=0)
    masses = []
    for density in (powered, new, mixture_von_mises_log_prob(points, *given).softmax(0)):
        cuts = [density[(points - c).abs() < 0.9].sum() for c in (-2.0, 0.087, 2.2)]
        masses.append(torch.stack(cuts))
    torch.testing.assert_close(masses[1], masses[0], rtol=0.06, atol=0)
    assert (masses[2] / masses[0] - 1).abs().max() > 0.15, "at the old temperature they differ"


def flow_and_condition():
    torch.manual_seed(0)
    flow = InternalFlow(channels=32, num_layers=2, num_heads=2, pair_channels=8)
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    cond = InternalFlow.encode(build_peptide("PW"))
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    return flow.double(), cond


@pytest.mark.parametrize("ratio", [0.7, 400 / 310])
def test_internal_draws_at_another_temperature_carry_their_density(ratio):
    flow, cond = flow_and_condition()
    tempered = flow.tempered(cond, ratio)
    x, log_q = flow.sample_and_log_prob(60, tempered, torch.Generator().manual_seed(0))
    closed = x.isfinite().all(-1).all(-1)
    assert closed.sum() > 3
    again = flow.log_prob(x, tempered)
    torch.testing.assert_close(again[closed], log_q[closed], atol=1e-7, rtol=0)
    assert (flow.log_prob(x, cond)[closed] - log_q[closed]).abs().max() > 0.1


def test_internal_density_at_another_temperature_is_normalised():
    """As in test_internal: E_q[q(y) / q(x)] is one only if draws follow a normalised q."""
    flow, cond = flow_and_condition()
    six = {k: v[:6] for k, v in cond.items()}
    six |= {"hops": cond["hops"][:6, :6], "order": torch.arange(6)}
    six["group"] = torch.where(cond["group"][:6] < 6, cond["group"][:6], -1)
    six = flow.tempered(six, 400 / 310)
    generator = torch.Generator().manual_seed(3)
    n = 3000
    x, log_q = flow.sample_and_log_prob(n, six, generator)
    y = x + 0.001 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    ratio = (flow.log_prob(y, six) - log_q).exp()
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(n)
    assert ratio.std() > 0.05


def test_tarflow_noise_has_the_variance_of_the_temperature():
    torch.manual_seed(0)
    settings = {"channels": 16, "num_blocks": 2, "layers_per_block": 1, "head_dim": 8}
    flow = TarFlowPeptide(**settings).double()
    for parameter in flow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    cond = flow.encode(named_peptide("AG"))
    tempered = flow.tempered(cond, 400 / 310)
    x, log_q = flow.sample_and_log_prob(400, tempered, torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.log_prob(x, tempered), log_q, atol=1e-9, rtol=0)
    z, log_det = flow(x / flow.sigma_data, cond)
    assert abs(float(z.detach().square().mean()) / (400 / 310) - 1) < 0.04
    scale = torch.tensor(400 / 310, dtype=torch.float64).sqrt()
    normal = torch.distributions.Normal(0 * scale, scale).log_prob(z).sum((-2, -1))
    expected = normal + log_det - z[0].numel() * math.log(flow.sigma_data)
    torch.testing.assert_close(log_q, expected, atol=1e-9, rtol=0)


def test_at_the_temperature_of_the_training_nothing_changes():
    flow, cond = flow_and_condition()
    one = flow.tempered(cond, 1.0)
    assert internal_temperature.RATIO in one
    draws = [flow.sample_and_log_prob(9, c, torch.Generator().manual_seed(2)) for c in (cond, one)]
    torch.testing.assert_close(draws[0][1], draws[1][1], atol=1e-8, rtol=0, equal_nan=True)
