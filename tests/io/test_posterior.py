"""Posterior files: opened by ArviZ, by csv and by numpy, and held against analytic numbers."""

import csv
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from gensci.core.errors import GensciError, UsageError
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.io.posterior import PosteriorExtras, inference_data, load_posterior, write_posterior
from gensci.io.posterior_summary import (
    COLUMNS,
    Labels,
    circular_cut,
    summary_rows,
    unrolled,
    weighted_quantile,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    arviz = pytest.importorskip("arviz")
pytest.importorskip("h5netcdf")

N = 20_000
TURN = 2 * math.pi
LABELS = Labels(("mass", "phase"), ("Msun", "rad"), (None, TURN), (1.0, 0.1))


def weighted(n=N, seed=1):
    """Draws of N(0, 1.5^2) weighted to N(1, 0.5^2), and a phase about 0 on its circle."""
    rng = np.random.default_rng(seed)
    mass = 1.5 * rng.standard_normal(n)
    theta = np.column_stack([mass, np.mod(0.1 + 0.3 * rng.standard_normal(n), TURN)])
    log_target = stats.norm.logpdf(mass, 1.0, 0.5)
    log_proposal = stats.norm.logpdf(mass, 0.0, 1.5)
    return SampleSet(
        {"theta": torch.from_numpy(theta)},
        log_weight=torch.from_numpy(log_target - log_proposal),
        log_target=torch.from_numpy(log_target),
        log_proposal=torch.from_numpy(log_proposal),
        meta={"parameters": ["mass", "phase"]},
    )


def chains(count=4, length=500, seed=2):
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((count * length, 2))
    return SampleSet(
        {"theta": torch.from_numpy(theta)},
        log_weight=torch.zeros(count * length, dtype=torch.float64),
        chain=torch.arange(count).repeat(length),
    )


def extras(samples):
    return PosteriorExtras(
        log_likelihood=samples.log_target + 2.0,
        log_prior=torch.full((len(samples),), -2.0, dtype=torch.float64),
        khat=0.4,
        evidence=LogZ(-3.0, 0.05),
        observed={"data": np.array([[1 + 2j, 3 - 4j]]), "frequency": np.array([0.1, 0.2])},
        attributes={"system": "toy", "calls": {"waveforms": 12}},
    )


def test_arviz_opens_what_was_written(tmp_path):
    samples = weighted()
    assert write_posterior(tmp_path, samples, LABELS, extras(samples)) == [
        "posterior.nc",
        "summary.csv",
        "samples.npz",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "posterior.nc",
        "summary.csv",
        "samples.npz",
    }
    data = arviz.from_netcdf(str(tmp_path / "posterior.nc"))
    assert set(data.groups()) == {
        "posterior", "sample_stats", "constant_data", "observed_data", "weighted_posterior",
    }  # fmt: skip
    posterior, sample_stats = data.posterior, data.sample_stats
    assert posterior["mass"].dims == ("chain", "draw")
    assert posterior.attrs["khat"] == 0.4
    assert (posterior.attrs["log_z"], posterior.attrs["log_z_error"]) == (-3.0, 0.05)
    assert posterior["mass"].attrs["units"] == "Msun"
    assert posterior["phase"].attrs["period"] == TURN
    # rows of equal weight, as many as the weighted ones are worth, with their own statistics
    rows = sample_stats["row"].values[0]
    assert abs(len(rows) - samples.ess.count) <= 1
    np.testing.assert_array_equal(posterior["mass"].values[0], samples.x["theta"][rows, 0])
    np.testing.assert_array_equal(sample_stats["lp"].values[0], samples.log_target[rows])
    np.testing.assert_array_equal(sample_stats["log_weight"].values[0], samples.log_weight[rows])
    np.testing.assert_allclose(
        sample_stats["log_likelihood"] + sample_stats["log_prior"], sample_stats["lp"]
    )
    assert float(sample_stats["khat"]) == 0.4
    assert float(data.constant_data["mass"]) == 1.0
    observed = data.observed_data
    np.testing.assert_array_equal(observed["data_imag"], [[2.0, -4.0]])
    summary = arviz.summary(data, var_names=["mass"])
    assert summary.loc["mass", "mean"] == pytest.approx(1.0, abs=0.05)
    assert summary.loc["mass", "sd"] == pytest.approx(0.5, abs=0.05)
    every = data.weighted_posterior
    np.testing.assert_array_equal(every["mass"], samples.x["theta"][:, 0])
    np.testing.assert_array_equal(every["log_weight"], samples.log_weight)


def test_chains_stay_chains(tmp_path):
    samples = chains()
    write_posterior(tmp_path, samples, Labels(("a", "b")))
    data = arviz.from_netcdf(str(tmp_path / "posterior.nc"))
    assert "weighted_posterior" not in data.groups()
    assert dict(data.posterior.sizes) == {"chain": 4, "draw": 500}
    np.testing.assert_array_equal(data.posterior["a"].values[1], samples.x["theta"][1::4, 0])
    assert float(arviz.rhat(data)["a"]) == pytest.approx(
        summary_rows(samples, Labels(("a", "b")))[0]["r_hat"], abs=0.01
    )


def test_effective_numbers_of_chains_agree_with_arviz():
    rng = np.random.default_rng(3)
    walk = np.zeros((4, 2000))
    for step in range(1, 2000):
        walk[:, step] = 0.9 * walk[:, step - 1] + rng.standard_normal(4)
    samples = SampleSet(
        {"theta": torch.from_numpy(walk.T.reshape(-1, 1).copy())},
        log_weight=torch.zeros(8000, dtype=torch.float64),
        chain=torch.arange(4).repeat(2000),
    )
    found = summary_rows(samples, Labels(("x",)))[0]
    expected = float(arviz.ess(inference_data(samples, Labels(("x",))), method="mean")["x"])
    assert found["ess"] == pytest.approx(expected, rel=0.1)
    assert found["ess"] < 8000 / 10


def test_the_summary_has_the_moments_of_the_target(tmp_path):
    samples = weighted()
    write_posterior(tmp_path, samples, LABELS)
    with (tmp_path / "summary.csv").open(newline="") as handle:
        rows = {row["parameter"]: row for row in csv.DictReader(handle)}
    assert tuple(rows["mass"]) == COLUMNS
    mass = {name: float(value) for name, value in rows["mass"].items() if name in COLUMNS[2:9]}
    noise = 4 * 0.5 / math.sqrt(samples.ess.count)
    assert mass["mean"] == pytest.approx(1.0, abs=noise)
    assert mass["sd"] == pytest.approx(0.5, abs=noise)
    for name, p in (("q2.5", 0.025), ("q16", 0.16), ("median", 0.5), ("q97.5", 0.975)):
        assert mass[name] == pytest.approx(stats.norm.ppf(p, 1.0, 0.5), abs=3 * noise)
    assert rows["mass"]["r_hat"] == ""
    assert float(rows["mass"]["truth_quantile"]) == pytest.approx(0.5, abs=noise)
    # the phase about zero is not split: mean 0.1 and sd 0.3, and not 3 and 3
    assert float(rows["phase"]["mean"]) == pytest.approx(0.1, abs=0.02)
    assert float(rows["phase"]["sd"]) == pytest.approx(0.3, abs=0.02)
    assert float(rows["phase"]["truth_quantile"]) == pytest.approx(0.5, abs=0.05)


def test_effective_number_of_weights_predicts_the_scatter_of_means():
    means, worth = [], []
    for seed in range(60):
        row = summary_rows(weighted(1000, seed + 100), LABELS)[0]
        means.append(row["mean"])
        worth.append(row["ess"])
    assert np.var(means) == pytest.approx(0.25 / np.mean(worth), rel=0.6)


def test_samples_come_back_to_the_bit(tmp_path):
    samples = weighted(500)
    write_posterior(tmp_path, samples, LABELS, extras(samples))
    back = load_posterior(tmp_path)
    assert back.meta["parameters"] == ["mass", "phase"]
    torch.testing.assert_close(back.x["theta"], samples.x["theta"], rtol=0, atol=0)
    for name in ("log_weight", "log_target", "log_proposal"):
        torch.testing.assert_close(getattr(back, name), getattr(samples, name), rtol=0, atol=0)
    torch.testing.assert_close(back.x["log_likelihood"], samples.log_target + 2.0)
    assert back.chain is None


def test_quantiles_of_weights_are_those_of_copies():
    rng = np.random.default_rng(4)
    values, copies = rng.standard_normal(2000), rng.integers(0, 5, 2000)
    found = weighted_quantile(values, [0.1, 0.5, 0.9], copies.astype(float))
    expected = np.quantile(np.repeat(values, copies), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("centre", [0.0, 1.0, 3.0, 5.0, 6.2])
def test_the_circle_is_cut_where_nothing_lies(centre):
    rng = np.random.default_rng(5)
    values = np.mod(centre + 0.3 * rng.standard_normal(2000), TURN)
    cut = circular_cut(values, TURN)
    line = unrolled(values, cut, TURN)
    assert line.std() == pytest.approx(0.3, abs=0.03)
    assert abs(math.remainder(line.mean() - centre, TURN)) < 0.05
    assert -TURN / 2 <= line.mean() < TURN
    two = np.concatenate([values, np.mod(values + math.pi, TURN)])
    spread = unrolled(two, circular_cut(two, TURN), TURN)
    assert np.ptp(spread) < math.pi + 2.5


def test_refusals_name_the_argument(tmp_path):
    samples = weighted(50)
    with pytest.raises(UsageError, match="units has 1 entries for 2"):
        Labels(("a", "b"), units=("m",))
    with pytest.raises(UsageError, match="3 parameters"):
        write_posterior(tmp_path, samples, Labels(("a", "b", "c")))
    with pytest.raises(UsageError, match="log_prior has shape"):
        write_posterior(tmp_path, samples, LABELS, PosteriorExtras(log_prior=torch.zeros(3)))
    none = SampleSet(samples.x, torch.full((50,), -math.inf, dtype=torch.float64))
    with pytest.raises(GensciError, match="zero weight"):
        write_posterior(tmp_path, none, LABELS)
    with pytest.raises(UsageError, match="no theta"):
        summary_rows(SampleSet({"x": torch.zeros(3, 1)}, torch.zeros(3)))
    with pytest.raises(UsageError, match="holds no posterior"):
        load_posterior(tmp_path)
    assert list(tmp_path.iterdir()) == []
