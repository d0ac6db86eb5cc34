"""A learned summary against parameters that the data tell, and against data of another width."""

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.models.regression_summary import (
    ColumnChoice,
    RegressionSummary,
    SummarySettings,
    fit_summary,
    telling_columns,
)

pytest.importorskip("pytorch_lightning", reason="Lightning trains the summary")

SETTINGS = SummarySettings(hidden=32, epochs=30, batch=100)
COLUMNS = 60


def simulations(n, name):
    """Sixty noisy looks at two parameters; the mean of all is close to sufficient."""
    theta = 2 * torch.rand(n, 2, generator=stream(0, name), dtype=torch.float64) - 1
    mixing = torch.randn(2, COLUMNS, generator=stream(0, "mixing"), dtype=torch.float64)
    noise = torch.randn(n, COLUMNS, generator=stream(1, name), dtype=torch.float64)
    return theta, theta @ mixing + 0.5 * noise, mixing


@pytest.fixture(scope="module")
def summary():
    theta, x, _ = simulations(2000, "train")
    return fit_summary(theta, x, 3, SETTINGS)


def test_parameters_are_predicted_nearly_as_well_as_by_least_squares(summary):
    theta, x, mixing = simulations(1000, "test")
    train, _, _ = simulations(2000, "train")
    best = torch.linalg.lstsq(mixing.T, x.T).solution.T
    found = summary.summarise(x)[:, :2] * train.std(0) + train.mean(0)
    error, least = (found - theta).square().mean(), (best - theta).square().mean()
    assert found.shape == theta.shape
    assert error < 2.0 * least


def test_squares_are_predicted_too(summary):
    theta, x, _ = simulations(1000, "test")
    both = torch.stack([summary.summarise(x)[:, 2], theta[:, 0].square()])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_one_alone(summary):
    theta, x, _ = simulations(2000, "train")
    before = torch.get_rng_state()
    again = fit_summary(theta, x, 3, SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.summarise(x), summary.summarise(x))


def test_outliers_and_constants_stay_finite():
    theta, x, _ = simulations(300, "wild")
    x[:, 0] = 7.0
    x[::50, 1] = 1e12
    found = fit_summary(theta, x, 1, SummarySettings(hidden=8, epochs=2)).summarise(x)
    assert found.isfinite().all()


@pytest.mark.parametrize("summary", [RegressionSummary(3, 2), ColumnChoice(3, [0, 2])])
def test_data_of_another_width_are_refused(summary):
    with pytest.raises(UsageError, match=r"shape \(4, 5\), the summary was trained on 3 columns"):
        summary.summarise(torch.zeros(4, 5))


def test_columns_that_depend_on_the_parameters_are_told_from_others():
    """By their mean, by their spread alone, or by a square; beside heavy tails and a constant."""
    theta = 2 * torch.rand(3000, 3, generator=stream(5, "theta"), dtype=torch.float64) - 1
    noise = torch.randn(3000, 60, generator=stream(5, "x"), dtype=torch.float64)
    x = noise / noise.roll(1, 0)  # Cauchy
    x[:, 7] = theta[:, 0] + 2 * noise[:, 7]
    x[:, 20] = theta[:, 1].exp() * noise[:, 20]
    x[:, 33] = theta[:, 2].square() + 0.5 * noise[:, 33]
    x[:, 40] = 3.0
    assert telling_columns(theta, x) == [7, 20, 33]
    assert torch.equal(ColumnChoice(60, [7, 33]).summarise(x), x[:, [7, 33]])
