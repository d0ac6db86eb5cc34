"""Classifier tests of Gaussians: right ones are not told apart, wrong ones at the known rate."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.metrics.classifier import ClassifierSettings, LocalC2ST, c2st, fast_c2st

QUICK = ClassifierSettings(hidden=16, steps=150, batch=500, learning_rate=5e-3)


def gaussians(seed, n=3000, d=2, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, n, d))
    b = scale * b
    b[:, 0] += shift
    return a.astype(np.float32), b.astype(np.float32)


def published_c2st():
    """The function of sbibm's file, without importing the package and its dependencies."""
    found = importlib.util.find_spec("sbibm")
    if found is None:
        pytest.skip("sbibm is not installed")
    path = found.submodule_search_locations[0] + "/metrics/c2st.py"
    spec = importlib.util.spec_from_file_location("sbibm_c2st", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.c2st


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_c2st_equals_sbibm(shift):
    pytest.importorskip("sklearn")
    a, b = gaussians(1, n=150, shift=shift)
    ours = c2st(a, b)
    theirs = float(published_c2st()(torch.from_numpy(a), torch.from_numpy(b)))
    assert ours == pytest.approx(theirs, abs=1e-6)


def bayes_of_scales(scale, d):
    """Best accuracy between N(0, 1)^d and N(0, scale^2)^d: the likelihoods cross at one radius."""
    square = 2 * d * math.log(scale) / (1 - scale**-2)
    inside = stats.chi2.cdf(square, d)
    outside = stats.chi2.sf(square / scale**2, d)
    value = 0.5 * (inside + outside)
    return max(value, 1 - value)


@pytest.mark.parametrize(
    ("wrong", "best"),
    [
        ({}, 0.5),
        ({"shift": 0.5}, stats.norm.cdf(0.25)),
        ({"scale": 0.6}, bayes_of_scales(0.6, 2)),
        ({"scale": 1.6}, bayes_of_scales(1.6, 2)),
    ],
)
def test_fast_c2st_reaches_the_best_accuracy(wrong, best):
    a, b = gaussians(2, **wrong)
    found = fast_c2st(a, b, stream(2, "c2st"), settings=QUICK)
    assert found.accuracy == pytest.approx(best, abs=4 * found.sd)
    assert (found.sigma > 4) == bool(wrong)
    assert found.sd == pytest.approx(math.sqrt(0.25 / 6000))


def test_fast_c2st_of_unequal_sizes_is_one_half():
    a, b = gaussians(3)
    found = fast_c2st(a, b[:600], stream(3, "c2st"), settings=QUICK)
    assert abs(found.sigma) < 3


def test_fast_c2st_sees_edges_and_thin_rings():
    rng = np.random.default_rng(4)
    angle = rng.uniform(0, 2 * math.pi, 6000)
    radius = 1 + 0.02 * rng.standard_normal(6000)
    ring = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    blurred = ring[3000:] + 0.08 * rng.standard_normal((3000, 2))
    settings = ClassifierSettings(steps=400)
    found = fast_c2st(ring[:3000], blurred, stream(4, "c2st"), settings=settings)
    assert found.accuracy > 0.7


def test_rows_in_both_samples_are_no_sign_of_either():
    a, _ = gaussians(5)
    found = fast_c2st(a, a, stream(5, "c2st"), settings=QUICK)
    assert found.accuracy < 0.5 + 3 * found.sd


def posterior(kind, x, rng, n=None):
    """Draws of the posterior of theta ~ N(0, 1), x ~ N(theta, 0.25), made wrong."""
    sd = 0.5 / math.sqrt(1.25)
    mean = x / 1.25
    if kind == "shifted":
        mean = mean + 0.6 * sd
    if kind == "wrong on the right":
        mean = np.where(x > 0, mean + sd, mean)
    width = {"narrow": 0.6, "wide": 1.6}.get(kind, 1.0)
    return mean + width * sd * rng.standard_normal((len(x) if n is None else n, 1))


def local_test(kind, seed=6, runs=1000):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((runs, 1))
    x = truth + 0.5 * rng.standard_normal((runs, 1))
    test = LocalC2ST.fit(
        truth, posterior(kind, x, rng), x, stream(seed, "local"), trials=29, settings=QUICK
    )
    return lambda at: test.test(posterior(kind, np.array([at]), rng, 500), np.array([at]))


def test_local_c2st_passes_a_right_posterior():
    judge = local_test("right")
    found = [judge(at) for at in (-1.0, 0.0, 1.0)]
    assert min(result.pvalue for result in found) > 0.05
    assert found[0].null.shape == (29,)


@pytest.mark.parametrize("kind", ["shifted", "narrow", "wide"])
def test_local_c2st_finds_wrong_posteriors(kind):
    judge = local_test(kind)
    for at in (-0.8, 0.8):
        assert judge(at).pvalue <= 0.04


def test_local_c2st_tells_where_the_posterior_is_wrong():
    judge = local_test("wrong on the right", runs=2000)
    left, right = judge(-1.2), judge(1.2)
    assert left.pvalue > 0.05
    assert right.pvalue == 1 / 30
    # The draws lie too high, so true parameters are more likely among the low ones.
    theta = posterior("wrong on the right", np.array([1.2]), np.random.default_rng(6), 500)
    assert np.mean(right.probability) < 0.5
    assert theta.mean() > 1.2 / 1.25


@pytest.mark.slow
def test_local_null_is_uniform_under_the_null():
    # p-values of independent right posteriors: none should cluster at the least value
    found = [local_test("right", seed, 300)(0.3).pvalue for seed in range(12)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_refusals():
    a, b = gaussians(7, n=20)
    generator = stream(7, "c2st")
    with pytest.raises(UsageError, match="do not fit"):
        fast_c2st(a, b[:, :1], generator)
    with pytest.raises(UsageError, match="not finite"):
        c2st(np.full((5, 2), np.nan), b)
    with pytest.raises(UsageError, match=r"runs, k"):
        LocalC2ST.fit(a, b, a[:10], generator)
    judge = LocalC2ST.fit(a, b, a, generator, trials=2, settings=QUICK)
    with pytest.raises(UsageError, match="trained on"):
        judge.test(a, a[0, :1])
