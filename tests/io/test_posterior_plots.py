"""Pictures: what their lines, histograms and titles say, held against the draws."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from gensci.core.errors import UsageError
from gensci.io import posterior_corner, posterior_plots
from gensci.io.figures import TRUTH, Draws
from gensci.io.posterior_summary import Labels

pytest.importorskip("matplotlib")

TURN = 2 * math.pi
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Curve:
    level: np.ndarray
    coverage: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Draw a picture, check that a PNG was written, and return the figure."""

    def draw(plot, *args, **settings):
        module = posterior_corner if plot is posterior_corner.corner_plot else posterior_plots
        kept, save = [], module.save_figure

        def keep(made, path):
            kept.append(made)
            save(made, path)

        monkeypatch.setattr(module, "save_figure", keep)
        plot(tmp_path / "picture.png", *args, **settings)
        assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
        assert len(list(tmp_path.iterdir())) == 1
        return kept[0]

    return draw


def truth_lines(axes):
    """Places of the vertical dashed lines in the colour of the truth."""
    lines = [line for line in axes.lines if line.get_color() == TRUTH]
    return [
        float(np.unique(line.get_xdata())[0]) for line in lines if len(set(line.get_xdata())) == 1
    ]


def weighted_draws(n=6000):
    rng = np.random.default_rng(1)
    theta = np.column_stack([1.5 * rng.standard_normal(n), (0.2 * rng.standard_normal(n)) % TURN])
    weight = np.exp(stats.norm.logpdf(theta[:, 0], 1, 0.5) - stats.norm.logpdf(theta[:, 0], 0, 1.5))
    return theta, weight


def mode_of(axes):
    """Middle of the highest bin of the first histogram."""
    vertices = axes.patches[0].get_path().vertices
    x, y = vertices[:, 0], vertices[:, 1]
    return float(x[y == y.max()].mean())


def test_the_corner_shows_weighted_draws_truth_and_numbers(figure):
    pytest.importorskip("corner")
    theta, weight = weighted_draws()
    labels = Labels(("mass_ratio", "phase"), ("", "rad"), (None, TURN), (1.1, 6.2))
    other = np.column_stack([3 + 0.1 * theta[:, 0], theta[:, 1]])
    posteriors = {"right": Draws(theta, weight), "other": Draws(other)}
    made = figure(posterior_corner.corner_plot, posteriors, labels, title="toy")
    axes = np.array(made.axes).reshape(2, 2)
    assert mode_of(axes[0, 0]) == pytest.approx(1.0, abs=0.3)
    assert abs(mode_of(axes[1, 1])) < 0.2  # about zero, not torn at one turn
    assert truth_lines(axes[0, 0]) == [1.1]
    assert truth_lines(axes[1, 1]) == pytest.approx([6.2 - TURN])
    assert truth_lines(axes[1, 0]) == [1.1]
    low, high = axes[0, 0].get_xlim()
    assert low < 0 and 3 < high < 4.5  # both posteriors are in sight
    tallest = max(patch.get_path().vertices[:, 1].max() for patch in axes[0, 0].patches)
    assert axes[0, 0].get_ylim()[1] >= tallest  # none is cut
    assert "mass ratio" in axes[0, 0].get_title()
    middle = float(axes[0, 0].get_title().split("$")[1].split("^")[0])
    assert middle == pytest.approx(1.0, abs=0.05)
    assert axes[1, 1].get_xlabel() == "phase\n[rad]"
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["right", "other", "truth"]
    assert made.legends[0].get_title().get_text() == "toy"


def test_the_corner_holds_all_labels_of_eleven_parameters(figure):
    pytest.importorskip("corner")
    rng = np.random.default_rng(2)
    labels = Labels(tuple(f"parameter_{k}" for k in range(11)), truth=(0.0,) * 11)
    made = figure(
        posterior_corner.corner_plot, {"a": Draws(rng.standard_normal((500, 11)))}, labels
    )
    made.canvas.draw()
    width, height = made.canvas.get_width_height()
    axes = np.array(made.axes).reshape(11, 11)
    texts = [axes[10, k].xaxis.label for k in range(11)]
    texts += [axes[k, 0].yaxis.label for k in range(1, 11)] + [axes[k, k].title for k in range(11)]
    for text in texts:
        box = text.get_window_extent()
        assert box.width > 10
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    # names below the columns do not run into each other
    boxes = [axes[10, k].xaxis.label.get_window_extent() for k in range(11)]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_coverage_is_drawn_as_given_and_as_difference(figure):
    level = np.linspace(0, 1, 11)
    curve = Curve(level, level**2, level - 0.1, level + 0.1, 50)
    made = figure(posterior_plots.coverage_plot, {"narrow": curve}, title="TARP")
    whole, difference = made.axes
    np.testing.assert_allclose(whole.lines[-1].get_ydata(), level**2)
    np.testing.assert_allclose(difference.lines[-1].get_ydata(), level**2 - level)
    (legend,) = made.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["95 % band, 50 runs", "narrow"]
    # it lies below the panels and covers no curve
    top = legend.get_window_extent().y1
    assert all(top < axes.get_tightbbox().y0 for axes in made.axes)


def test_a_curve_with_a_band_of_its_own_shows_it(figure):
    level = np.linspace(0, 1, 11)
    one, same = (Curve(level, level, level - 0.1, level + 0.1, 50) for _ in range(2))
    wide = Curve(level, level**2, level - 0.3, level + 0.2, 50)
    made = figure(posterior_plots.coverage_plot, {"a": one, "b": same, "c": wide})
    dotted = [line for line in made.axes[1].lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose([line.get_ydata()[1] for line in dotted], [-0.3, 0.2], atol=1e-12)
    assert [text.get_text() for text in made.legends[0].get_texts()][-1].startswith("edges")


def test_rank_histograms_count_the_runs_and_fit_the_picture(figure):
    rng = np.random.default_rng(3)
    ranks = np.column_stack([rng.random(200), rng.beta(0.3, 0.3, 200), rng.random(200)])
    made = figure(posterior_plots.rank_plot, ranks, ["a", "narrow_one", "c"])
    shown = [axes for axes in made.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["a", "narrow one", "c"]
    for axes, column in zip(shown, ranks.T, strict=True):
        counts, edges, _ = axes.patches[-1].get_data()
        np.testing.assert_array_equal(counts, np.histogram(column, edges)[0])
        assert counts.sum() == 200
        assert axes.get_ylim()[1] > counts.max()
    band = shown[1].patches[0].get_extents().transformed(shown[1].transData.inverted())
    assert shown[1].patches[-1].get_data()[0].max() > band.y1


def test_rounds_show_quantiles_and_truth(figure):
    rng = np.random.default_rng(4)
    rounds = {str(k): Draws(1 + 2.0**-k * rng.standard_normal((4000, 2))) for k in range(3)}
    labels = Labels(("a", "b"), ("s", ""), truth=(1.0, 1.2))
    made = figure(posterior_plots.rounds_plot, rounds, labels, title="rounds")
    axes = made.axes[1]
    whole, middle = axes.collections
    for segments, p in ((whole.get_segments(), 0.975), (middle.get_segments(), 0.84)):
        half = [float(np.ptp(segment[:, 1])) / 2 for segment in segments]
        np.testing.assert_allclose(half, stats.norm.ppf(p) * 2.0 ** -np.arange(3), rtol=0.1)
    assert axes.lines[-1].get_ydata()[0] == 1.2
    assert made.axes[0].get_title() == "a [s]"


def test_an_outlier_stands_out_of_the_predictive_band(figure):
    rng = np.random.default_rng(5)
    predicted = 3.0 + 2.0 * rng.standard_normal((4000, 8))
    observed = np.full(8, 3.0)
    observed[5] = 3.0 + 10.0
    made = figure(posterior_plots.predictive_plot, observed, predicted)
    points = made.axes[0].lines[0].get_ydata()
    assert points[5] == pytest.approx(5.0, abs=0.3)
    assert np.abs(np.delete(points, 5)).max() < 0.1


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="no posterior"):
        posterior_plots.rounds_plot(tmp_path / "x.png", {}, Labels(("a",)))
    with pytest.raises(UsageError, match="1 parameters"):
        posterior_plots.rounds_plot(
            tmp_path / "x.png", {"a": Draws(np.zeros((5, 2)))}, Labels(("a",))
        )
    assert list(tmp_path.iterdir()) == []
