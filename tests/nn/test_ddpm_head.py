"""The published head: schedule, bound, reverse steps and the two ways to read it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from gensci.core.diffusion import Denoiser, DiscreteDiffusion
from gensci.nn.ddpm_head import DdpmHead, DdpmSchedule, time_features
from gensci.samplers.solvers import make_solver


def head(learn_sigma: bool = True) -> DdpmHead:
    torch.manual_seed(0)
    network = DdpmHead(5, 12, 2, learn_sigma).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    return network


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_schedule_is_the_cosine_one():
    s = DdpmSchedule.cosine()
    t = np.arange(1000)
    curve = np.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(s.signal[:-1], curve[:-1] / start, rtol=1e-10)
    assert float(s.betas[-1]) == 0.999
    np.testing.assert_allclose(s.log_sigmas.exp(), (1 / s.signal - 1).sqrt())
    whole = s.steps_of(s.log_sigmas.exp())
    np.testing.assert_allclose(whole, t, atol=1e-6)
    between = s.steps_of((s.log_sigmas[3:5].mean()).exp()[None])
    np.testing.assert_allclose(between, [3.5], atol=1e-9)


@pytest.mark.parametrize("step", [1, 7, 500, 998])
def test_bound_is_the_divergence_of_the_two_reverse_gaussians(step):
    """Integrated on a line, from Bayes' rule and from the estimated clean point."""
    network, s = head(), DdpmSchedule.cosine()
    x0, eps, z = draw(1, 3), draw(1, 3, seed=2), draw(1, 5, seed=3)
    t = torch.tensor([step])
    beta, signal, before = (float(v) for v in (s.betas[step], s.signal[step], s.signal[step - 1]))
    x = math.sqrt(signal) * x0 + math.sqrt(1 - signal) * eps
    with torch.no_grad():
        out = network(x, t, z)
        bound = network.bound(out[:, :3] - eps, out, x0, t)
    precision = 1 / (1 - before) + (1 - beta) / beta
    clean = (x - math.sqrt(1 - signal) * out[:, :3]) / math.sqrt(signal)

    def reverse_mean(origin):
        return (
            math.sqrt(before) * origin / (1 - before) + math.sqrt(1 - beta) * x / beta
        ) / precision

    share = (out[:, 3:] + 1) / 2
    width = (beta**share * (1 / precision) ** (1 - share)).sqrt()
    nats = []
    for mean_q, mean_p, width_p in zip(
        reverse_mean(x0)[0], reverse_mean(clean)[0], width[0], strict=True
    ):
        q, p = norm(float(mean_q), precision**-0.5), norm(float(mean_p), float(width_p))
        low, high = q.ppf(1e-13), q.isf(1e-13)
        nats.append(quad(lambda y: q.pdf(y) * (q.logpdf(y) - p.logpdf(y)), low, high)[0])  # noqa: B023
    np.testing.assert_allclose(bound, [np.mean(nats) / math.log(2)], rtol=1e-5)


def test_bound_of_the_last_step_counts_grey_levels():
    network, s = head(), DdpmSchedule.cosine()
    x0 = torch.tensor([[0.4, 1.3, -2.0]], dtype=torch.float64)
    error = draw(1, 3) * 0.3
    out = torch.cat((draw(1, 3), draw(1, 3, seed=5)), 1)
    t = torch.zeros(1, dtype=torch.int64)
    bound = network.bound(error, out, x0, t)
    first, second = (float(s.betas[i]) for i in (0, 1))
    posterior = second * (1 - float(s.signal[0])) / (1 - float(s.signal[1]))
    share = (out[0, 3:] + 1) / 2
    width = (first**share * posterior ** (1 - share)).sqrt()
    mean = x0[0] + math.sqrt(1 / float(s.signal[0]) - 1) * error[0]
    levels = [norm(float(m), float(w)) for m, w in zip(mean, width, strict=True)]
    mass = [
        quad(levels[0].pdf, 0.4 - 1 / 255, 0.4 + 1 / 255)[0],
        levels[1].sf(1.3 - 1 / 255),
        levels[2].cdf(-2.0 + 1 / 255),
    ]
    np.testing.assert_allclose(bound, [-np.mean(np.log2(np.maximum(mass, 1e-12)))], rtol=1e-6)


def test_bound_leaves_the_noise_alone_and_the_loss_is_the_sum():
    network, z, x0 = head(), draw(400, 5), draw(400, 3, seed=4)
    loss = network.loss(z, x0, torch.Generator().manual_seed(3))
    plain = head(learn_sigma=False)
    shared = {k: v[:3] if k.startswith("leave") else v for k, v in network.state_dict().items()}
    plain.load_state_dict(shared)
    error = plain.loss(z, x0, torch.Generator().manual_seed(3))
    assert loss.shape == (400,) and bool((loss >= error).all())
    ours = torch.autograd.grad(loss.sum(), network.leave.weight)[0]
    theirs = torch.autograd.grad(error.sum(), plain.leave.weight)[0]
    torch.testing.assert_close(ours[:3], theirs)
    assert bool((ours[3:] != 0).any())


def test_time_features_are_cosines_then_sines():
    features = time_features(torch.tensor([0, 640]))
    assert features[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert features[1, 64] == pytest.approx(math.cos(6.4), abs=1e-5)
    assert features[1, 192] == pytest.approx(math.sin(6.4), abs=1e-5)


def test_elucidated_and_discrete_readings_agree():
    network, x0 = head(), draw(6, 3)
    denoiser = network.denoiser(draw(6, 5, seed=2))
    assert isinstance(denoiser, Denoiser) and isinstance(denoiser.ddpm, DiscreteDiffusion)
    t = torch.tensor([0, 1, 13, 400, 800, 990])
    signal = network.schedule.signal[t]
    sigma = (1 / signal - 1).sqrt()
    x = x0 + sigma[:, None] * draw(6, 3, seed=9)
    eps, log_variance = denoiser.ddpm.noise_and_log_variance(x * signal.sqrt()[:, None], t)
    torch.testing.assert_close(
        denoiser.denoise(x, sigma), x - sigma[:, None] * eps, rtol=1e-6, atol=1e-6
    )
    assert torch.equal(denoiser.wrap(x), x)
    beta = network.schedule.betas[t].log()[:, None]
    plain = head(learn_sigma=False).denoiser(draw(6, 5)).ddpm
    torch.testing.assert_close(plain.noise_and_log_variance(x, t)[1], beta.expand(-1, 3))
    assert log_variance.shape == (6, 3)


class CloudHead(DdpmHead):
    """Knows noise and variance of normal data of width 0.3 around a point."""

    centre = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def respond(self, x, t, c):
        s, noise = self.schedule, np.interp(t, np.arange(1000), self.schedule.log_sigmas)
        signal = 1 / (1 + torch.from_numpy(noise)[:, None].mul(2).exp())
        total = signal * 0.09 + 1 - signal
        eps = (1 - signal).sqrt() * (x - signal.sqrt() * self.centre) / total
        step = t.long().clamp(min=1)
        before = s.signal[step - 1] * 0.09 + 1 - s.signal[step - 1]
        beta = s.betas[step]
        variance = 1 / (1 / before + (1 - beta) / beta)
        share = (variance.log() - s.log_posterior[step]) / (s.log_betas - s.log_posterior)[step]
        return torch.cat((eps, (2 * share - 1)[:, None].expand(-1, 3)), 1)


@pytest.mark.parametrize(("solver", "steps"), [("ddpm", 1000), ("ddpm", 200), ("heun", 150)])
def test_exact_noise_draws_the_exact_cloud(solver, steps):
    network = CloudHead(5, 4, 0).double()
    with torch.no_grad():
        denoiser = network.denoiser(draw(6000, 5))
    generator = torch.Generator().manual_seed(0)
    x = make_solver(solver, {"num_steps": steps}).solve(denoiser, generator)
    error = 5 * 0.3 / math.sqrt(6000)
    np.testing.assert_allclose(x.mean(0), network.centre, atol=error)
    np.testing.assert_allclose(x.std(0), 0.3, atol=0.75 * error)


def test_prior_has_the_width_and_density_it_claims():
    denoiser = head().denoiser(draw(20_000, 5))
    low, high = denoiser.sigma_range
    assert low.shape == high.shape == (20_000,) and 5e-3 < float(low[0]) < 1e-2
    x = denoiser.prior(torch.Generator().manual_seed(0))
    width = math.sqrt(1 + float(high[0]) ** 2)
    assert float(x.std()) == pytest.approx(width, rel=0.01)
    expected = norm(0, width).logpdf(x[:5].numpy()).sum(-1)
    np.testing.assert_allclose(denoiser.prior_log_prob(x)[:5], expected)


def test_fresh_head_predicts_zero():
    fresh = DdpmHead(5, 12, 2)
    out = fresh(torch.ones(2, 3), torch.tensor([3, 5]), torch.ones(2, 5))
    assert torch.equal(out, torch.zeros(2, 6))
