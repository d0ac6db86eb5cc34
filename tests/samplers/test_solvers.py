"""Every solver against distributions in closed form, in space and on the torus."""

import math

import pytest
import torch
from analytic_denoisers import SPACE, TORUS, Mixed, SpaceMixture, TorusMixture, mixed

from gensci.core.diffusion import Denoiser, karras_sigmas, log_uniform_sigmas
from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.registry import SOLVERS
from gensci.samplers.solvers import make_solver
from gensci.samplers.solvers.temperature import Tempered

# steps are enough that what is left of their error drowns in the noise of the draws
CASES = {
    "ddpm": ("ddpm", {"num_steps": 120}),
    "ddim": ("ddim", {"num_steps": 100}),
    "dpm-solver++": ("dpm-solver++", {"num_steps": 50}),
    "dpm-solver++-karras": ("dpm-solver++", {"num_steps": 30, "schedule": "karras"}),
    "heun": ("heun", {"num_steps": 20}),
    "heun-churn": ("heun", {"num_steps": 60, "churn": 20.0}),
    "flow-ode": ("flow-ode", {"num_steps": 16}),
    "flow-ode-heun": ("flow-ode", {"num_steps": 24, "method": "heun"}),
}
all_cases = pytest.mark.parametrize("case", CASES)


def make(case):
    name, settings = CASES[case]
    return make_solver(name, settings)


def test_every_solver_has_a_row():
    assert {name for name, _ in CASES.values()} == set(SOLVERS)
    assert all(SOLVERS.get(name).name == name for name in SOLVERS)


@all_cases
def test_moments_and_mode_weights_in_space(case):
    denoiser = SpaceMixture(6000, *SPACE)
    x = make(case).solve(denoiser, stream(1, case))
    spread = denoiser.covariance.diagonal().sqrt()
    assert ((x.mean(0) - denoiser.mean).abs() / spread).max() < 4.5 / 6000**0.5
    assert torch.allclose(x.T.cov(), denoiser.covariance, atol=0.035)
    # a point belongs to the mode that the exact posterior gives more than half
    points = denoiser.draw(60_000, denoiser.low, stream(2, "truth"))
    shares = [
        denoiser._log_parts(y, torch.zeros(len(y))).softmax(1)[:, 0].gt(0.5).double().mean()
        for y in (x, points)
    ]
    assert abs(shares[0] - shares[1]) < 4.5 * (0.25 / 6000) ** 0.5


@all_cases
def test_histograms_on_the_torus(case):
    n, bins = 3000, 12
    denoiser = TorusMixture(n, *TORUS)
    x = make(case).solve(denoiser, stream(3, case))
    assert ((x >= 0) & (x < 1)).all()
    for axis in range(3):
        expected = n * axis_masses(denoiser, axis, bins)
        observed = torch.histc(x[:, axis], bins, 0.0, 1.0)
        enough = expected > 5
        chi_squared = ((observed - expected).square() / expected)[enough].sum()
        assert chi_squared < bins + 5 * (2 * bins) ** 0.5
        assert observed[~enough].sum() < 5 * (~enough).sum() + 5


def axis_masses(denoiser, axis, bins):
    """Mass in equal bins of one coordinate of a wrapped mixture, by the error function."""
    edges = torch.linspace(0, 1, bins + 1).double()[:, None, None]
    offset = edges - denoiser.centres[:, axis, None] + torch.arange(-4, 5)
    cumulative = 0.5 * (1 + torch.erf(offset / (2**0.5 * denoiser.widths[:, None])))
    masses = (cumulative[1:] - cumulative[:-1]).sum(-1)
    return masses @ denoiser.log_weights.exp()


@all_cases
@pytest.mark.parametrize("kind", ["space", "torus"])
def test_temperature_scales_the_width_of_normal_data(case, kind):
    width, n = (0.5, 3000) if kind == "space" else (0.03, 3000)
    cls = SpaceMixture if kind == "space" else TorusMixture
    denoiser = cls(n, [1.0], [[0.4, 0.5, 0.6]], [width], low=0.03 * width)
    for temperature in (0.4, 1.3):
        x = make(case).solve(denoiser, stream(4, case), temperature)
        wanted = temperature * width
        if case.startswith("flow"):  # these end at the smallest noise
            wanted = math.hypot(wanted, denoiser.low)
        assert (x - denoiser.centres).square().mean().sqrt() == pytest.approx(
            wanted, rel=0.06 if case == "ddim" else 0.035
        )


@all_cases
def test_same_seed_same_bits_and_rows_of_two_kinds_do_not_meet(case):
    denoiser, solver = mixed(50), make(case)
    first, second = (solver.solve(denoiser, stream(5, case)) for _ in range(2))
    other = solver.solve(denoiser, stream(6, case))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    if "churn" not in case and case != "ddpm":  # those share noise out among rows
        space = denoiser.parts[0]
        alone = solver.solve(space, stream(5, case))
        assert torch.allclose(first[:50], alone, atol=1e-12)


@all_cases
def test_float32_keeps_its_type_and_follows_float64(case):
    wide, narrow = (
        make(case).solve(mixed(200, dtype), stream(7, case))
        for dtype in (torch.float64, torch.float32)
    )
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    assert narrow.isfinite().all()
    if "churn" not in case and case != "ddpm":  # the stream gives other normals to float32
        away = (wide - narrow).abs()
        away[200:] = torch.minimum(away[200:], 1 - away[200:])
        assert away.median() < 1e-5
        assert away.quantile(0.99) < 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "order"),
    [
        ("ddim", {}, 1),
        ("heun", {}, 2),
        ("dpm-solver++", {}, 2),
        ("flow-ode", {"method": "heun"}, 2),
        ("flow-ode", {}, 4),
    ],
)
@pytest.mark.parametrize("kind", ["space", "torus"])
def test_order_of_convergence_by_halving_steps(name, settings, order, kind):
    """Twice the steps divide the error at a fixed smallest level by two to the order."""
    cls, parameters = (SpaceMixture, SPACE) if kind == "space" else (TorusMixture, TORUS)
    denoiser = cls(40, *parameters, low=0.1, high=4.0 if kind == "space" else 0.8)
    start = denoiser.prior(stream(8, "order"))
    grid = log_uniform_sigmas if name == "dpm-solver++" else karras_sigmas

    def end(solver, steps):
        sigmas = grid(*denoiser.sigma_range, steps, to_zero=False)
        with torch.no_grad():
            return solver.integrate(denoiser, start, sigmas, stream(0))

    sigmas = karras_sigmas(*denoiser.sigma_range, 400, to_zero=False)
    with torch.no_grad():
        exact = make_solver("flow-ode").integrate(denoiser, start, sigmas, stream(0))
    solver, steps = make_solver(name, settings), 64 if order < 4 else 24
    errors = [(end(solver, k * steps) - exact).square().mean().sqrt().item() for k in (1, 2)]
    assert errors[1] < 2e-2
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_one_normal_is_carried_along_its_known_path():
    """x(sigma) = mean + (x_T - mean) sqrt((s^2 + sigma^2) / (s^2 + sigma_T^2))."""
    denoiser = SpaceMixture(5, [1.0], [[0.3, -0.2, 0.1]], [0.7])
    start = denoiser.prior(stream(9, "path"))
    end = make_solver("flow-ode", {"num_steps": 60}).solve(denoiser, stream(9, "path"))
    shrink = ((0.49 + denoiser.low**2) / (0.49 + denoiser.high**2)) ** 0.5
    assert torch.allclose(end, denoiser.centres + shrink * (start - denoiser.centres), atol=1e-6)


def test_a_tempered_denoiser_of_a_normal_is_that_of_a_narrower_one():
    warm, cold = (SpaceMixture(20, [1.0], [[0.1, 0.2, 0.3]], [s]) for s in (0.8, 0.4))
    x, sigma = torch.randn(20, 3).double(), torch.linspace(0.02, 20, 20).double()
    assert torch.allclose(Tempered(warm, 0.5).denoise(x, sigma), cold.denoise(x, sigma))


@pytest.mark.parametrize("width", [0.004, 0.03, 0.3])
@pytest.mark.parametrize("name", ["dpm-solver++", "heun"])
def test_few_steps_sharpen_modes_of_any_width(name, width):
    """A score scaled for wider data would carry points beyond narrow modes in such long steps."""
    denoiser = SpaceMixture(4000, [0.5, 0.5], [[0.1, 0.2, 0.3], [-2.0, 0.0, 1.0]], [width] * 2)
    x = make_solver(name, {"num_steps": 16}).solve(denoiser, stream(12, name), 0.4)
    nearest = torch.cdist(x, denoiser.centres.to(x)).min(1).values
    found = (nearest.square().mean() / 3).sqrt()
    assert found < 0.75 * width


def test_data_without_structure_stay_uniform_at_any_temperature():
    denoiser = TorusMixture(4000, [1.0], [[0.5, 0.5, 0.5]], [1.5])
    x = make("heun").solve(denoiser, stream(10, "uniform"), 0.3)
    counts = torch.histc(x, 10, 0.0, 1.0)
    assert ((counts - 1200).square() / 1200).sum() < 9 + 5 * 18**0.5


def test_one_step_gives_the_first_denoised_point():
    denoiser = mixed(10)
    start = denoiser.prior(stream(11, "one"))
    wanted = denoiser.wrap(denoiser.denoise(start, denoiser.sigma_range[1]))
    for name in ("ddpm", "ddim", "dpm-solver++", "heun"):
        x = make_solver(name, {"num_steps": 1}).solve(denoiser, stream(11, "one"))
        assert torch.allclose(x, wanted, atol=1e-12), name


def test_churn_lifts_levels_only_between_its_bounds_and_never_above_the_largest():
    solver = make_solver(
        "heun", {"churn": 8, "num_steps": 10, "churn_high": 0.5, "churn_low": 0.01}
    )
    sigmas = karras_sigmas(torch.tensor([0.01, 0.1]), torch.tensor([10.0, 1.0]), 10)
    raised, start = solver.raised_levels(sigmas), sigmas[:-1]
    inside = (start <= 0.5 * start[0]) & (start >= 0.01 * start[0])
    assert torch.equal(raised[~inside], start[~inside])
    assert torch.allclose(raised[inside], start[inside] * 2**0.5)
    always = make_solver("heun", {"churn": 8, "num_steps": 10})
    assert torch.equal(always.raised_levels(sigmas)[0], sigmas[0])


def test_the_analytic_denoisers_are_denoisers_with_the_right_score():
    denoiser = mixed(6)
    assert isinstance(denoiser, Denoiser)
    sigma = torch.rand(12, generator=stream(0, "s"), dtype=torch.float64) * 0.5 + 0.05
    x = torch.randn(12, 3, generator=stream(0, "x"), dtype=torch.float64).requires_grad_(True)
    (score,) = torch.autograd.grad(denoiser.noisy_log_prob(x, sigma).sum(), x)
    estimate = (denoiser.denoise(x, sigma) - x) / sigma.square()[:, None]
    assert torch.allclose(estimate, score, atol=1e-9)
    assert isinstance(Mixed(*denoiser.parts), Denoiser)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("huen", {}, "did you mean 'heun'"),
        ("ddim", {"num_step": 3}, "did you mean 'num_steps'"),
        ("ddim", {"num-steps": 0}, "num_steps=0"),
        ("ddim", {"num_steps": "many"}, "give a whole number"),
        ("ddim", {"schedule": "karas"}, "did you mean 'karras'"),
        ("heun", {"churn": -1.0}, "churn=-1"),
        ("heun", {"churn_low": 0.5, "churn_high": 0.4}, "churn_low=0.5"),
        ("heun", {"rho": "-7"}, "rho=-7"),
        ("flow-ode", {"method": "rk5"}, "did you mean 'rk4'"),
    ],
)
def test_bad_settings_name_the_setting(name, settings, message):
    with pytest.raises(UsageError, match=message):
        make_solver(name, settings)


@pytest.mark.parametrize("temperature", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["heun", "ddpm", "flow-ode"])
def test_bad_temperatures_are_refused(name, temperature):
    with pytest.raises(UsageError, match="temperature="):
        make_solver(name).solve(mixed(2), stream(0), temperature)


def test_text_settings_are_read():
    solver = make_solver("HEUN", {"num-steps": "12", "churn": "3", "schedule": "log-snr"})
    assert (solver.num_steps, solver.churn, solver.schedule) == (12, 3.0, "log-snr")
