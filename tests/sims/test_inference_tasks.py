"""The benchmark's tasks against analytic posteriors, scipy, and the files that sbibm ships."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from gensci.core.priors import Prior
from gensci.core.random import stream
from gensci.sims.inference_tasks import (
    TASKS,
    IntegrationError,
    TaskError,
    benchmark_folder,
    integrate,
    load_observation,
    load_reference,
    load_task,
    load_truth,
)
from gensci.sims.inference_tasks.bernoulli import design_matrix
from gensci.sims.inference_tasks.populations import lotka_volterra_log_populations, sir_infected
from gensci.sims.inference_tasks.slcp import distractors, draw_distractors, informative

needs_files = pytest.mark.skipif(
    benchmark_folder() is None, reason="sbibm is not installed (pip install --no-deps sbibm)"
)
every_task = pytest.mark.parametrize("name", sorted(TASKS))


def draw_prior(task, n, *names):
    prior = Prior.from_json({**task.prior, "names": list(task.parameters)})
    return prior.sample(n, stream(7, task.name, *names))


def log_posterior(task, x):
    prior = Prior.from_json({**task.prior, "names": list(task.parameters)})

    def log_prob(theta):
        value = prior.log_prob(theta)
        inside = value.isfinite()
        value[inside] += task.log_likelihood(theta[inside], x)
        return value

    return log_prob


def moment_gap(x, y):
    """Greatest difference of first and second moments, in standard errors."""
    centre, scale = x.mean(0), x.std(0)
    features = []
    for draws in (x, y):
        z = (draws - centre) / scale
        i, j = torch.triu_indices(z.shape[1], z.shape[1])
        features.append(torch.cat([z, z[:, i] * z[:, j]], 1))
    error = sum(f.var(0) / len(f) for f in features).sqrt()
    return float(((features[0].mean(0) - features[1].mean(0)) / error).abs().max())


@every_task
def test_simulations_repeat_with_the_stream_and_each_row_has_its_own_noise(name):
    task = load_task(name)
    theta = draw_prior(task, 1).expand(64, -1)
    first, again = (task.simulate(theta, stream(3, "x")) for _ in range(2))
    assert first.shape == (64, task.dim_x) and first.dtype == torch.float64
    assert torch.equal(first, again)
    assert len(first.unique(dim=0)) > 1
    assert not torch.equal(first, task.simulate(theta, stream(4, "x")))


# the moons' likelihood has an edge, so its score does not average to zero; the populations are
# held against scipy and the reference draws below
@pytest.mark.parametrize("name", sorted(set(TASKS) - {"two_moons", "lotka_volterra", "sir"}))
def test_a_likelihood_explains_what_its_simulator_draws(name):
    """E[d log p(x|theta) / d theta] = 0 at the theta that made x, whatever the prior."""
    task = load_task(name)
    theta = draw_prior(task, 1, "score")
    x = task.simulate(theta.expand(600, -1), stream(5, name))
    step = 1e-4 * theta.abs().clamp_min(1.0)
    shifts = torch.diag(step[0])
    points = torch.cat([theta + shifts, theta - shifts])
    values = torch.stack([task.log_likelihood(points, row) for row in x])
    score = (values[:, : task.dim] - values[:, task.dim :]) / (2 * step)
    z = score.mean(0) / (score.std(0) / len(x) ** 0.5)
    assert z.abs().max() < 4.0


@pytest.mark.parametrize("name", ["two_moons", "gaussian_mixture"])
def test_planar_likelihoods_are_normalised_densities_of_the_data(name):
    task = load_task(name)
    theta = draw_prior(task, 1)
    # x - theta's image spans the grid; the log-likelihood depends on the difference only
    x = task.simulate(theta.expand(20_000, -1), stream(6, name))
    low, high = x.min(0).values - 0.3, x.max(0).values + 0.3
    axes = [torch.linspace(a, b, 1501, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    # a shift of the data stands for one of theta: both tasks move rigidly with their centre
    centre = task.simulator.__globals__["moon_centre"](theta) if name == "two_moons" else theta
    moved = centre + grid[0] - grid  # where the centre would be for data at grid[0]
    if name == "two_moons":
        # of the two thetas that share a centre either will do, if the centre is on the left
        left = moved[:, 0] <= 0
        total, difference = moved.unbind(1)
        moved = torch.stack([-total - difference, -total + difference], 1) / math.sqrt(2)
        moved = moved[left]
    density = task.log_likelihood(moved, grid[0]).exp()
    area = math.prod(float(axis[1] - axis[0]) for axis in axes)
    assert float(density.sum() * area) == pytest.approx(1.0, abs=0.01)


def test_the_student_distractors_have_their_quartiles():
    """Along any direction a Student with two degrees of freedom has quartiles at 0.8165 scales."""
    centres, scales, order = distractors()
    assert sorted(order.tolist()) == list(range(100))
    x = draw_distractors(40_000, stream(8, "distractors"))
    widths = scales.square().sum(-1).sqrt()  # (20, 92)
    column = 17
    inside = ((x[:, None, column] - centres[:, column]) / widths[:, column]).abs()
    # the expected share within 0.8165 scales of component k, over the mixture
    gaps = (centres[:, None, column] - centres[None, :, column]) / widths[None, :, column]
    edge = math.sqrt(2 / 3)
    ratio = widths[None, :, column] / widths[:, None, column]

    def cdf(t):
        return 0.5 + t / (2 * (2 + t.square()).sqrt())

    up, down = cdf(edge / ratio + (gaps)), cdf(-edge / ratio + (gaps))
    expected = (up - down).mean(1)
    observed = (inside < edge).double().mean(0)
    assert (observed - expected).abs().max() < 4 * math.sqrt(0.25 / len(x))


@pytest.mark.parametrize("name", ["lotka_volterra", "sir"])
def test_population_solutions_equal_scipys(name):
    theta = draw_prior(load_task(name), 6, "ode")
    start, rate, times, mine = {
        "lotka_volterra": (
            [30.0, 1.0],
            lambda y, p: [p[0] * y[0] - p[1] * y[0] * y[1], p[3] * y[0] * y[1] - p[2] * y[1]],
            2.1 * np.arange(10),
            lotka_volterra_log_populations,
        ),
        "sir": (
            [1e6 - 1, 1.0],
            lambda y, p: [-p[0] * y[0] * y[1] / 1e6, p[0] * y[0] * y[1] / 1e6 - p[1] * y[1]],
            17.0 * np.arange(10),
            lambda theta: sir_infected(theta) + math.log(1e6),
        ),
    }[name]
    for row, logs in zip(theta.numpy(), mine(theta).numpy(), strict=True):
        truth = solve_ivp(
            lambda _, y, p=row: rate(y, p), (0, times[-1]), start, method="DOP853",
            rtol=1e-11, atol=1e-18, t_eval=times,
        ).y  # fmt: skip
        wanted = truth.ravel() if name == "lotka_volterra" else truth[1]
        assert np.abs(np.log(wanted) - logs).max() < 3e-5


def test_the_integrator_keeps_its_tolerance_on_rows_of_very_different_speed():
    theta = torch.tensor([[0.1], [1.0], [40.0]], dtype=torch.float64)

    def turn(y, theta):
        return theta * torch.stack([y[:, 1], -y[:, 0]], 1)

    start = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(3, -1)
    times = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    solution = integrate(turn, start, theta, times, tolerance=1e-9)
    assert torch.allclose(solution[..., 0], (theta * times).sin(), atol=1e-6, rtol=0)
    with pytest.raises(IntegrationError, match="row 2 needs more than 50 steps"):
        integrate(turn, start, theta, times, tolerance=1e-9, max_steps=50)


def test_wrong_shapes_and_names_are_refused():
    task = load_task("sir")
    with pytest.raises(TaskError, match=r"theta must be \(n, 2\), not \(3,\)"):
        task.simulate(torch.ones(3), stream(0, "x"))
    with pytest.raises(TaskError, match="has 10 numbers, not 4"):
        task.log_likelihood(torch.ones(1, 2), torch.ones(4))
    with pytest.raises(TaskError, match="the tasks are two_moons"):
        load_task("three_moons")


@needs_files
def test_observations_outside_the_ten_are_refused():
    with pytest.raises(TaskError, match="observation 11 is not one of 1 to 10"):
        load_observation(load_task("sir"), 11)


@needs_files
@every_task
def test_files_have_the_tasks_shapes_and_the_benchmark_is_not_imported(name):
    import sys

    task = load_task(name)
    assert load_observation(task, 10).shape == (task.dim_x,)
    assert load_truth(task, 10).shape == (task.dim,)
    assert load_reference(task, 10).shape == (10_000, task.dim)
    assert "sbibm" not in sys.modules


@needs_files
def test_frozen_noise_is_the_files():
    """The distractors' tensors and the stimulus stand in the pickles' raw bytes; none is run."""
    files = benchmark_folder()
    blob = (files / "slcp" / "files" / "gmm.torch").read_bytes()
    centres, scales, order = distractors()
    for tensor in (centres, scales):
        at = blob.rfind(np.int64(tensor.numel()).tobytes()) + 8  # torch writes the count first
        stored = np.frombuffer(blob[at : at + 8 * tensor.numel()], np.float64)
        np.testing.assert_allclose(stored, tensor.numpy().ravel(), atol=1e-13)
    assert order.numpy().tobytes() in (files / "slcp/files/permutation_idx.torch").read_bytes()
    frozen = (files / "bernoulli_glm" / "files" / "design_matrix.pt").read_bytes()
    assert design_matrix().float().numpy().tobytes() in frozen


@needs_files
@pytest.mark.parametrize("observation", [1, 5, 10])
def test_paired_observations_hold_the_same_information(observation):
    eight = informative(load_observation(load_task("slcp_distractors"), observation))
    assert torch.allclose(eight, load_observation(load_task("slcp"), observation))
    spikes = load_observation(load_task("bernoulli_glm_raw"), observation)
    statistics = load_observation(load_task("bernoulli_glm"), observation)
    assert torch.allclose(spikes @ design_matrix(), statistics, atol=1e-5)


@needs_files
def test_the_linear_reference_is_the_analytic_posterior():
    task = load_task("gaussian_linear")
    reference = load_reference(task, 1)
    mean = 0.5 * load_observation(task, 1)
    assert ((reference.mean(0) - mean) / math.sqrt(0.05 / len(reference))).abs().max() < 4.0
    assert torch.allclose(reference.var(0), torch.full((10,), 0.05).double(), rtol=0.06)


@needs_files
@every_task
def test_reference_draws_stay_put_under_chains_on_our_likelihood(name):
    """Metropolis chains on our exact posterior leave the reference's law unchanged."""
    task = load_task(name)
    slow = name in ("lotka_volterra", "sir")
    chains, steps = (200, 25) if slow else (2000, 100)
    reference = load_reference(task, 2)
    order = torch.randperm(len(reference), generator=stream(2, "order"))
    start, other = reference[order[:chains]], reference[order[chains:]]
    generator = stream(2, name)
    log_prob = log_posterior(task, load_observation(task, 2))
    x, value = start.clone(), log_prob(start)
    factor = 2.38 / (2 * task.dim) ** 0.5
    moved = torch.zeros(chains)
    for step in range(steps):
        # differences of reference draws: a fixed, symmetric proposal; whole jumps join modes
        pairs = torch.randint(len(other), (2, chains), generator=generator)
        gamma = 1.0 if step % 5 == 4 else factor * torch.rand(chains, 1, generator=generator)
        trial = x + gamma * (other[pairs[0]] - other[pairs[1]])
        new = log_prob(trial)
        keep = torch.rand(chains, generator=generator).double().log() < new - value
        x, value = torch.where(keep[:, None], trial, x), torch.where(keep, new, value)
        moved += keep
    assert moved.mean() > 1
    assert moment_gap(x, other) < 4.5


def test_sbibm_is_found_by_path_only():
    assert (benchmark_folder() is None) == (importlib.util.find_spec("sbibm") is None)
