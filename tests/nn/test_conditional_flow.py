"""Flows of data given parameters: densities against integrals and autograd, both directions."""

import math

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.nn.conditional_flow import ConditionalFlow, FlowEnsemble
from gensci.nn.data_transform import DataTransform
from gensci.nn.parameter_features import (
    BULK,
    ParameterFeatures,
    Polynomial,
    robust_whitening,
    soft_clip,
)

pytest.importorskip("normflows", reason="flows are built from normflows")

FLOWS = {
    "gaussian": {"kind": "gaussian"},
    "correlated": {"kind": "gaussian", "correlated": True},
    "correlated layers": {"kind": "nsf", "layers": 1, "correlated": True},
    "maf": {"kind": "maf", "layers": 3},
    "nsf": {"kind": "nsf", "layers": 2},
    "one layer": {"kind": "nsf", "layers": 1},
    "no context": {"kind": "nsf", "layers": 2, "with_context": False, "unit_noise": True},
    "logarithms": {"kind": "maf", "logarithmic": [True, False, True]},
    "periods": {"periods": [None, math.tau], "round_trip": [False, True]},
}
each_flow = pytest.mark.parametrize("name", FLOWS)


def flow(name, dim=3, dtype=torch.float64):
    """A small flow whose every weight matters."""
    settings = {"hidden": 12, "mean_hidden": 8, "bins": 4, **FLOWS[name]}
    if "logarithmic" in settings:
        settings["logarithmic"] = settings["logarithmic"][:dim]
    model = ConditionalFlow(dim, 2, **settings)
    generator = stream(0, "weights")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
        model.centre.weights.normal_(0.0, 0.3, generator=generator)
        model.data.whiten(
            0.1 * torch.ones(dim).double(), torch.eye(dim).double() + 0.2 * torch.ones(dim, dim)
        )
    return model.requires_grad_(False)


def parameters(n):
    return torch.randn(n, 2, generator=stream(1, "theta"), dtype=torch.float64)


@each_flow
def test_density_is_normalised(name):
    """In one dimension, where the integral is exact on a grid."""
    model, theta = flow(name, dim=1), parameters(3)
    if any(model.data.logarithmic):
        grid = torch.linspace(-40, 40, 40001, dtype=torch.float64).exp()[:, None]
    else:
        grid = torch.linspace(-60, 60, 40001, dtype=torch.float64)[:, None]
    for at in theta:
        density = model.log_prob(grid, at.expand(len(grid), -1)).exp()
        assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=2e-3)


@each_flow
def test_draws_are_mapped_back_to_their_noise(name):
    model, theta = flow(name), parameters(6)
    features = model.features(theta)
    context = model.context(features)
    z = torch.randn(6, 3, generator=stream(2, "z"))
    y, total = z, torch.zeros(6)
    for layer in model.flow.flows:
        y, log_det = layer(y, context)
        total = total + log_det
    back, log_det = y, torch.zeros(6)
    for layer in reversed(model.flow.flows):
        back, part = layer.inverse(back, context)
        log_det = log_det + part
    torch.testing.assert_close(back, z, atol=2e-4, rtol=0)
    torch.testing.assert_close(log_det, -total, atol=2e-3, rtol=0)


@each_flow
def test_density_agrees_with_the_jacobian(name):
    model, theta = flow(name), parameters(4)
    model = model.double()
    features = model.features(theta).double()
    y = torch.randn(4, 3, generator=stream(3, "y"), dtype=torch.float64)

    def noise(row, at):
        residual, _ = model.centre.inverse(row[None], at[None])
        for layer in reversed(model.flow.flows):
            residual, _ = layer.inverse(residual, model.context(at[None]))
        return residual[0]

    for row, at in zip(y, features, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r, at=at: noise(r, at), row)
        normal = -0.5 * noise(row, at).square().sum() - 1.5 * math.log(math.tau)
        expected = normal + torch.linalg.slogdet(jacobian).logabsdet
        found = model.whitened_log_prob(row[None], at[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@each_flow
def test_every_coordinate_depends_on_the_parameters_in_each_layer(name):
    """The first too, which a masked network by itself leaves without context."""
    model, z = flow(name), torch.zeros(2, 3)
    context = model.context(torch.randn(2, model.features.num_features, generator=stream(6, "u")))
    for layer in (layer for layer in model.flow.flows if hasattr(layer, "network")):
        one, two = layer(z, context)[0]
        assert bool((one != two).all()) == model.with_context


@each_flow
def test_gradient_in_theta_agrees_with_differences(name):
    model = flow(name)
    theta = 0.5 * parameters(2)
    x = model.sample(theta, stream(4, "x"))
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, theta).sum(), theta)
    step = 2e-3
    for i in range(2):
        shift = step * torch.eye(2, dtype=torch.float64)[i]
        with torch.no_grad():
            up, down = model.log_prob(x, theta + shift), model.log_prob(x, theta - shift)
        numeric = (up - down) / (2 * step)
        torch.testing.assert_close(gradient[:, i], numeric, atol=0.02, rtol=0.05)


@each_flow
def test_a_new_flow_is_the_gaussian(name):
    settings = {"hidden": 12, "mean_hidden": 8, "bins": 4, **FLOWS[name]}
    model, theta = ConditionalFlow(3, 2, **settings), parameters(5)
    y = torch.randn(5, 3, generator=stream(5, "y"))
    normal = -0.5 * y.square().sum(1) - 1.5 * math.log(math.tau)
    if settings.get("unit_noise"):
        scale = math.sqrt(2)  # noise of one and a spread of one
        normal = -0.5 * (y / scale).square().sum(1) - 1.5 * math.log(math.tau * 2)
    found = model.whitened_log_prob(y, model.features(theta))
    torch.testing.assert_close(found, normal, atol=1e-4, rtol=1e-4)


def test_an_ensemble_is_the_mean_density():
    pair = FlowEnsemble(2, dim=2, num_parameters=2, kind="maf", hidden=8, mean_hidden=8)
    with torch.no_grad():
        pair.members[1].centre.weights.fill_(0.7)
    x, theta = torch.randn(4, 2).double(), parameters(4)
    each = torch.stack([m.log_prob(x, theta).exp() for m in pair.members])
    torch.testing.assert_close(pair.log_prob(x, theta).exp(), each.mean(0))


def test_draws_and_weights_follow_the_seed_alone():
    before = torch.get_rng_state()
    one, two = (ConditionalFlow(3, 2, hidden=8, mean_hidden=8, seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    theta = parameters(3)
    assert torch.equal(one.sample(theta, stream(1, "x")), two.sample(theta, stream(1, "x")))


def test_far_rows_do_not_set_the_scale():
    generator = stream(6, "theta")
    mixing = torch.tensor([[1e-2, 0.0], [3.0, 4.0]], dtype=torch.float64)
    theta = torch.randn(4000, 2, generator=generator, dtype=torch.float64) @ mixing
    theta[:300] = 40 * torch.rand(300, 2, generator=generator, dtype=torch.float64) - 20
    location, matrix = robust_whitening(theta)
    white = (theta[300:] - location) @ matrix
    torch.testing.assert_close(white.T.cov(), torch.eye(2).double(), atol=0.1, rtol=0)


def test_soft_clip_is_the_identity_and_then_slow():
    x = torch.tensor([-1e4, -BULK, 0.0, 3.0, BULK + 1e-4, 1e4])
    clipped = soft_clip(x)
    torch.testing.assert_close(clipped[1:4], x[1:4])
    assert clipped[4].item() == pytest.approx(BULK + 1e-4, abs=1e-5)
    assert clipped[5].item() == pytest.approx(BULK + math.log1p(1e4 - BULK), rel=1e-5)


def test_periods_leave_no_seam():
    """All round: cosine and sine. In a part: the distance from the mean across the join."""
    angle = math.tau * torch.rand(500, 1, generator=stream(7, "a"), dtype=torch.float64)
    narrow = torch.remainder(0.2 * torch.randn(500, 1, generator=stream(8, "a")).double(), math.tau)
    for theta, count in ((angle, 2), (narrow, 1)):
        features = ParameterFeatures.fitted(theta, [math.tau])
        assert features.num_features == count
        torch.testing.assert_close(
            features(theta), features(theta + math.tau), atol=1e-5, rtol=1e-5
        )
    ends = features(torch.tensor([[-0.01], [0.0], [0.01]], dtype=torch.float64))[:, 0]
    assert (ends.diff().abs() < 0.1).all()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_monomials_are_all_there_once(degree):
    u = torch.randn(5, 3, generator=stream(9, "u"), dtype=torch.float64)
    polynomial = Polynomial(3, degree)
    assert polynomial.num_terms == math.comb(3 + degree, degree)
    direction = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    target = (1 + u @ direction) ** degree
    design = polynomial(u.repeat(20, 1) + torch.randn(100, 3, generator=stream(10, "u")).double())
    assert torch.linalg.matrix_rank(design) == polynomial.num_terms
    many = torch.randn(200, 3, generator=stream(11, "u"), dtype=torch.float64)
    weights = torch.linalg.lstsq(polynomial(many), (1 + many @ direction) ** degree).solution
    torch.testing.assert_close(polynomial(u) @ weights, target)


def test_transform_undoes_itself_and_knows_its_volume():
    generator = stream(12, "x")
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    x = torch.stack([(2 * x[:, 0]).exp(), x[:, 1], (5 * x[:, 2]).round()], 1)
    transform = DataTransform.chosen(x)
    assert transform.logarithmic == (True, False, False)
    assert transform.whole == (False, False, True)
    transform.whiten(*robust_whitening(transform.elementwise(x)))
    y, log_det = transform(x)
    torch.testing.assert_close(transform.inverse(y), x)
    for row, value in zip(x[:5], log_det, strict=False):
        jacobian = torch.autograd.functional.jacobian(lambda r: transform(r[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, value)


def test_whole_numbers_are_jittered_by_half():
    x = torch.arange(2000).double()[:, None] % 7
    transform = DataTransform.chosen(x)
    moved = transform.jitter(x, stream(13, "x"))
    assert torch.equal(moved.round(), x)
    assert (moved - x).std().item() == pytest.approx(1 / math.sqrt(12), rel=0.1)


def test_no_density_where_the_logarithm_has_none():
    model = flow("logarithms")
    x = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    value = model.log_prob(x, parameters(2))
    assert value[0].isfinite()
    assert value[1] == -math.inf


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="'glow'; choose from: gaussian, maf, nsf"):
        ConditionalFlow(2, 2, kind="glow")
