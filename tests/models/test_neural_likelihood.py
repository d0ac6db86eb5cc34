"""Learned likelihoods against exact ones; the same seed gives the same bits."""

import math

import pytest
import torch

from gensci.core.errors import CheckpointError, UsageError
from gensci.core.random import stream
from gensci.models.mean_fitting import fit_polynomial
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood

pytest.importorskip("normflows", reason="flows are built from normflows")
pytest.importorskip("pytorch_lightning", reason="Lightning trains the flows")

SMALL = LikelihoodSettings(kind="maf", layers=1, hidden=16, mean_hidden=16, steps=150, patience=5)
MATRIX = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.4]], dtype=torch.float64)


def draws(n, dim, name, generator=None):
    return torch.randn(n, dim, generator=generator or stream(0, name), dtype=torch.float64)


def curved(theta):
    """A signal with linear, quadratic and cubic parts."""
    a, b = theta.unbind(1)
    return 20 * theta @ MATRIX + torch.stack([3 * a * b, a.square(), 0.5 * b**3], 1)


def white_noise(n, generator):
    return draws(n, 3, "", generator)


def bursts(n, generator):
    """Normal noise, and one draw in five ten times as loud."""
    loud = torch.rand(n, 1, generator=generator, dtype=torch.float64) < 0.2
    return torch.where(loud, 10.0, 1.0) * white_noise(n, generator)


def bursts_log_density(x):
    parts = [
        math.log(share) - 0.5 * (x / scale).square().sum(1) - 3 * math.log(scale)
        for share, scale in ((0.8, 1.0), (0.2, 10.0))
    ]
    return torch.stack(parts).logsumexp(0) - 1.5 * math.log(math.tau)


def test_gaussian_noise_on_a_curved_signal_is_learned_to_a_tenth_of_its_spread():
    """The likelihood is then right to a tenth of a nat over the posterior."""
    theta = draws(800, 2, "theta")
    found = NeuralLikelihood.fit(theta, curved(theta), noise=white_noise, settings=SMALL)
    assert found.report["noise"] == "Gaussian"
    assert found.report["polynomial_degree"] == 3
    test = draws(500, 2, "test")
    mean, log_scale = found.network.members[0].centre.moments(
        found.network.members[0].features(test)
    )
    error = (mean - curved(test)).square().mean(1).sqrt()
    assert error.median() < 0.03
    assert log_scale.exp().median().item() == pytest.approx(1, abs=0.01)
    truth = torch.tensor([0.3, -0.2], dtype=torch.float64)
    posterior = truth + 0.1 * draws(200, 2, "posterior")
    data = curved(truth[None])[0]
    exact = -0.5 * (data - curved(posterior)).square().sum(1)
    missed = found.observe(data).log_likelihood(posterior) - exact
    assert missed.std() < 0.1


def test_far_rows_leave_the_bulk_sharp():
    """A tenth of draws from a wide prior, as the sequential loop has them."""
    theta = draws(900, 2, "theta") * 0.05
    theta[:90] = 8 * torch.rand(90, 2, generator=stream(1, "wide"), dtype=torch.float64) - 4
    found = NeuralLikelihood.fit(theta, curved(theta), noise=white_noise, settings=SMALL)
    member, test = found.network.members[0], 0.05 * draws(300, 2, "test")
    mean, _ = member.centre.moments(member.features(test))
    assert (mean - curved(test)).square().mean().sqrt() < 0.05


def test_noise_that_is_correlated_and_shifted_is_whitened():
    mix = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.7, 0.0], [0.0, 0.1, 3.0]], dtype=torch.float64)
    shift = torch.tensor([4.0, 0.0, -1.0], dtype=torch.float64)
    theta = draws(400, 2, "theta")
    found = NeuralLikelihood.fit(
        theta,
        curved(theta),
        noise=lambda n, g: white_noise(n, g) @ mix + shift,
        settings=SMALL,
    )
    test = draws(300, 2, "test")
    x = curved(test) + white_noise(300, stream(2, "x")) @ mix + shift
    law = torch.distributions.MultivariateNormal(curved(test) + shift, mix.T @ mix)
    assert (found.log_prob(x, test) - law.log_prob(x)).abs().mean() < 0.1


@pytest.mark.parametrize(("kind", "share"), [("nsf", 0.3), ("mixture", 0.1)])
def test_bursts_are_learned_where_a_gaussian_fails(kind, share):
    theta = draws(400, 2, "theta")
    settings = LikelihoodSettings(kind=kind, layers=1, hidden=24, steps=350)
    found = NeuralLikelihood.fit(theta, curved(theta), noise=bursts, settings=settings)
    assert found.report["noise"] == "learned"
    test = draws(2000, 2, "test")
    noise = bursts(2000, stream(3, "x"))
    gap = bursts_log_density(noise) - found.log_prob(curved(test) + noise, test)
    variance = 0.8 + 0.2 * 100
    gaussian = -0.5 * noise.square().sum(1) / variance - 1.5 * math.log(math.tau * variance)
    assert gap.mean() < share * (bursts_log_density(noise) - gaussian).mean()


def test_noise_that_was_learned_is_kept_while_it_holds():
    theta, more = draws(200, 2, "theta"), draws(400, 2, "more")
    settings = LikelihoodSettings(kind="mixture", layers=1, hidden=24, bins=2, steps=400)

    def fit(theta, noise, start=None):
        return NeuralLikelihood.fit(
            theta, curved(theta), noise=noise, settings=settings, start=start, seed=len(theta)
        )

    one = fit(theta, bursts)
    two = fit(more, bursts, one)
    (first, second) = (learned.network.members[0] for learned in (one, two))
    pairs = zip(first.flow.parameters(), second.flow.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert two.report["layers"][0]["kept"] and two.report["noise"] == "learned"
    assert not torch.equal(first.centre.weights, second.centre.weights)
    test = draws(2000, 2, "test")
    noise = bursts(2000, stream(3, "x"))
    gap = bursts_log_density(noise) - two.log_prob(curved(test) + noise, test)
    assert abs(gap.mean()) < 0.2
    louder = fit(theta, lambda n, generator: 1.5 * bursts(n, generator), two)
    assert "kept" not in louder.report["layers"][0]


def test_a_simulator_whose_spread_depends_on_theta():
    """x = A theta + exp(theta_1 / 2) noise, with no noise to be drawn apart."""

    def law(theta):
        spread = (0.5 * theta[:, :1]).exp().expand(-1, 3)
        return torch.distributions.Normal(theta @ MATRIX, spread)

    def simulated(theta, name):
        return law(theta).mean + law(theta).stddev * draws(len(theta), 3, name)

    theta = draws(3000, 2, "theta")
    settings = LikelihoodSettings(kind="maf", layers=1, hidden=24, mean_hidden=32, steps=700)
    found = NeuralLikelihood.fit(theta, simulated(theta, "x"), settings=settings)
    test = draws(2000, 2, "test")
    x = simulated(test, "test x")
    assert (law(test).log_prob(x).sum(1) - found.log_prob(x, test)).mean() < 0.12


def test_correlations_that_depend_on_theta_need_no_layers():
    """Two columns of correlation tanh(2 theta): the triangular matrix meets any Gaussian."""

    def law(theta):
        rho = (2 * theta[:, 0]).tanh()
        covariance = torch.eye(2, dtype=torch.float64).repeat(len(theta), 1, 1)
        covariance[:, 0, 1] = covariance[:, 1, 0] = rho
        return torch.distributions.MultivariateNormal(torch.zeros_like(theta), covariance)

    def simulated(theta, name):
        return (law(theta).scale_tril @ draws(len(theta), 2, name)[:, :, None])[:, :, 0]

    theta, test = 0.7 * draws(3000, 2, "theta"), 0.7 * draws(2000, 2, "test")
    settings = LikelihoodSettings(kind="gaussian", mean_hidden=32, steps=600, learning_rate=4e-3)
    found = NeuralLikelihood.fit(theta, simulated(theta, "x"), settings=settings)
    x = simulated(test, "test x")
    missed = law(test).log_prob(x) - found.log_prob(x, test)
    apart = law(test).log_prob(x) - torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    assert missed.mean() < 0.15 * apart.mean()


def test_one_column_of_bimodal_data():
    """Affine layers alone would give a Gaussian; splines give both modes."""
    theta = draws(2000, 1, "theta")

    def simulated(theta, name):
        side = torch.randint(2, theta.shape, generator=stream(4, name)) * 2 - 1
        return theta + 2 * side + 0.3 * draws(len(theta), 1, name)

    settings = LikelihoodSettings(layers=1, hidden=24, mean_hidden=16, steps=350)
    found = NeuralLikelihood.fit(theta, simulated(theta, "x"), settings=settings)
    at = torch.zeros(3, 1, dtype=torch.float64)
    density = found.log_prob(torch.tensor([[-2.0], [0.0], [2.0]], dtype=torch.float64), at).exp()
    exact = 0.5 / (0.3 * math.sqrt(math.tau))
    assert density[0].item() == pytest.approx(exact, rel=0.25)
    assert density[2].item() == pytest.approx(exact, rel=0.25)
    assert density[1] < 0.1 * exact


def test_counts_are_not_a_comb():
    """Poisson counts: the density at whole numbers is their probability."""
    theta = 1 + 3 * torch.rand(3000, 1, generator=stream(5, "theta"), dtype=torch.float64)
    counts = torch.poisson(theta.exp(), generator=stream(5, "x"))
    settings = LikelihoodSettings(layers=1, hidden=24, mean_hidden=16, steps=350)
    found = NeuralLikelihood.fit(theta, counts, settings=settings)
    test = torch.full((41, 1), 2.7, dtype=torch.float64)
    whole = torch.arange(41).double()[:, None]
    exact = torch.distributions.Poisson(test.exp()).log_prob(whole)[:, 0].exp()
    assert 0.5 * (found.log_prob(whole, test).exp() - exact).abs().sum() < 0.1


def test_same_seed_same_bits_and_warm_start_leaves_the_first_alone():
    theta = draws(300, 2, "theta")
    x = theta @ MATRIX + 0.1 * draws(300, 3, "x")
    one, two = (NeuralLikelihood.fit(theta, x, settings=SMALL, seed=3) for _ in range(2))
    assert torch.equal(one.log_prob(x, theta), two.log_prob(x, theta))
    before = one.log_prob(x, theta)
    louder = theta @ MATRIX + 0.3 * draws(300, 3, "louder")
    warm = NeuralLikelihood.fit(theta, louder, settings=SMALL, start=one, seed=4)
    assert torch.equal(one.log_prob(x, theta), before)
    test = draws(500, 2, "test")
    y = test @ MATRIX + 0.3 * draws(500, 3, "test y")
    assert (warm.log_prob(y, test) - one.log_prob(y, test)).mean() > 1
    exact = torch.distributions.Normal(test @ MATRIX, 0.3).log_prob(y).sum(1)
    assert (exact - warm.log_prob(y, test)).mean() < 0.3


def turned(theta):
    """Two hundred data whose phases the parameters turn."""
    time = torch.linspace(0, 1, 200, dtype=torch.float64)
    return 6 * torch.cos(3 * time + 0.3 * theta[:, :1] + 0.25 * theta[:, 1:] * time)


def test_far_rows_do_not_spoil_a_mean_whose_errors_add_up_over_many_data():
    """No datum is off by a deviation of its noise anywhere near, but all together may be."""
    theta = torch.cat([draws(250, 2, "near"), 3 * draws(250, 2, "far")])
    settings = LikelihoodSettings(kind="gaussian", mean_hidden=16, steps=1, batch=128)
    found = NeuralLikelihood.fit(
        theta, turned(theta), noise=lambda n, generator: draws(n, 200, "", generator),
        settings=settings,
    )  # fmt: skip
    test, member = draws(500, 2, "test"), found.network.members[0]
    error = (member.centre.moments(member.features(test))[0] - turned(test)).norm(dim=1)
    assert error.median() < 0.8  # 1.4 where rows off by less than a deviation count alike


def test_checkpoint_keeps_the_bits_and_the_observation(tmp_path):
    theta = draws(60, 2, "theta")
    x = theta @ MATRIX + 0.1 * draws(60, 3, "x")
    settings = LikelihoodSettings(kind="nsf", layers=1, hidden=8, members=2, steps=20)
    found = NeuralLikelihood.fit(theta, x, periods=[None, math.tau], settings=settings)
    found.observe(x[0]).save(tmp_path / "surrogate", {"made": "for a test"})
    again = NeuralLikelihood.load(tmp_path / "surrogate")
    assert torch.equal(again.log_likelihood(theta), found.log_likelihood(theta))
    assert torch.equal(again.sample(theta, stream(1, "x")), found.sample(theta, stream(1, "x")))
    assert again.report == found.report
    with pytest.raises(CheckpointError, match="nowhere"):
        NeuralLikelihood.load(tmp_path / "nowhere")


def test_the_polynomial_that_made_the_data_is_found():
    u = draws(400, 2, "u")
    y = curved(u)
    held = torch.arange(400) % 10 == 0
    fit = fit_polynomial(u, y, held, most=4)
    assert fit.degree == 3
    assert fit.residual.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda n: n.log_likelihood(torch.zeros(1, 2)), "no observation"),
        (lambda n: n.observe(torch.zeros(5)), "5 data, the likelihood was trained on 3"),
        (lambda n: n.observe(torch.tensor([0.0, math.nan, 0.0])), "entry 1 is nan"),
        (lambda n: n.log_prob(torch.zeros(2, 3), torch.zeros(2, 4)), "theta has shape .2, 4."),
        (lambda n: n.log_prob(torch.zeros(2, 4), torch.zeros(2, 2)), "x has shape .2, 4."),
        (lambda n: n.fit(torch.zeros(5, 2), torch.zeros(5, 3)), "5 simulations"),
        (lambda n: n.fit(torch.zeros(50, 2), torch.zeros(40, 3)), "one row per simulation"),
        (
            lambda n: n.fit(torch.zeros(50, 2), torch.full((50, 3), math.nan)),
            r"x\[0\] is not finite \(50 such rows\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(act, text):
    from gensci.nn.conditional_flow import FlowEnsemble

    empty = NeuralLikelihood(FlowEnsemble(1, dim=3, num_parameters=2, kind="gaussian"))
    with pytest.raises(UsageError, match=text):
        act(empty)
