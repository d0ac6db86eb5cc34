"""Pictures of calibration, of rounds and of predictive checks, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gensci.io.figures import (
    BAND,
    COLOURS,
    TRUTH,
    Draws,
    label,
    new_figure,
    on_the_line,
    pretty,
    save_figure,
    tidy,
)
from gensci.io.posterior_summary import Labels, weighted_quantile

Array = np.ndarray

LEGEND_COLUMNS = 3
SEEN = 0.01


class Curve(Protocol):
    """What ``coverage_plot`` draws; ``gensci.metrics.calibration.CoverageCurve`` is one."""

    level: Array
    coverage: Array
    low: Array
    high: Array
    runs: int


def coverage_plot(
    path: Path, curves: Mapping[str, Curve], *, title: str = "", kind: str = "coverage"
) -> None:
    """Coverage against credibility, and their difference where one sees it better.

    Args:
        path: of the PNG.
        curves: by name; the band is that of the first, the edges of others are dotted lines where
            they are not the same.
        title: above the picture.
        kind: label of the vertical axis.
    """
    figure = new_figure(8.4, 4.2 + 0.2 * math.ceil((len(curves) + 1) / LEGEND_COLUMNS))
    whole, difference = figure.subplots(1, 2)
    first = next(iter(curves.values()))
    for axes, base in ((whole, 0.0), (difference, first.level)):
        axes.fill_between(
            first.level, first.low - base, first.high - base, color=BAND, lw=0,
            label=f"95 % band, {first.runs} runs",
        )  # fmt: skip
        axes.plot(first.level, first.level - base, color="0.45", lw=1, ls="--")
        for number, (name, curve) in enumerate(curves.items()):
            own = curve.level if axes is difference else 0.0
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(curve.level, curve.coverage - own, color=colour, lw=1.6, label=name)
            if axes is difference and _other_band(curve, first):
                for edge in (curve.low, curve.high):
                    axes.plot(curve.level, edge - own, color=colour, lw=1, ls=":")
        axes.set_xlabel("credibility level")
        axes.set_xlim(0, 1)
        tidy(axes)
    whole.set_ylabel(kind)
    whole.set_ylim(0, 1)
    whole.set_aspect("equal")
    difference.set_ylabel(f"{kind} − level")
    # below both panels, where it covers no curve
    handles, names = whole.get_legend_handles_labels()
    dotted = [line for line in difference.lines if line.get_linestyle() == ":"]
    if dotted:
        handles, names = [*handles, dotted[0]], [*names, "edges of a curve's own band"]
    figure.legend(
        handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=LEGEND_COLUMNS
    )
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _other_band(curve: Curve, first: Curve) -> bool:
    """Whether a picture shows the difference of two bands."""
    pairs = ((curve.low, first.low), (curve.high, first.high))
    return any(np.abs(a - b).max() > SEEN for a, b in pairs)


def rank_plot(path: Path, ranks: Array, parameters: Sequence[str], *, title: str = "") -> None:
    """Histograms of the ranks (runs, d) in [0, 1] of true parameters among posterior draws.

    The band holds each bar of a right posterior with 99 %. A heap in the middle means too wide a
    posterior, heaps at both ends too narrow a one, a slope a shifted one.
    """
    from scipy import stats

    runs, d = ranks.shape
    bins = min(20, max(5, runs // 20))
    low, high = stats.binom.interval(0.99, runs, 1 / bins)
    columns = min(4, d)
    rows = math.ceil(d / columns)
    figure = new_figure(2.6 * columns + 0.4, 2.0 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[d:]:
        axes.set_visible(False)
    tallest = high
    for column, (axes, name) in enumerate(zip(grid.flat, parameters, strict=False)):
        axes.axhspan(low, high, color=BAND, lw=0)
        axes.axhline(runs / bins, color="0.45", lw=1, ls="--")
        counts, edges = np.histogram(ranks[:, column], bins, (0.0, 1.0))
        axes.stairs(counts, edges, color=COLOURS[0], lw=1.6)
        axes.set_title(pretty(name), fontsize=10)
        axes.set_xlim(0, 1)
        tallest = max(tallest, counts.max())
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if column >= d - columns:
            axes.set_xlabel("rank of the truth", fontsize=9)
            axes.tick_params(labelbottom=True)
        tidy(axes)
    grid[0, 0].set_ylim(0, 1.1 * tallest)
    figure.suptitle(title or f"Ranks of the truth, {runs} runs", fontsize=12)
    save_figure(figure, path)


def rounds_plot(
    path: Path, rounds: Mapping[str, Draws], labels: Labels, *, title: str = ""
) -> None:
    """Median, 68 % and 95 % of every parameter from round to round, with the truth.

    Args:
        path: of the PNG.
        rounds: by name, in order; the reference or the reweighted posterior may be the last.
        labels: names, units, periods, truth.
        title: above the picture.
    """
    turned, truth = on_the_line(rounds, labels)
    d = len(labels.parameters)
    columns = min(3, d)
    rows = math.ceil(d / columns)
    figure = new_figure(3.4 * columns + 0.4, 1.9 * rows + 0.9)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[d:]:
        axes.set_visible(False)
    place = np.arange(len(turned))
    for column, axes in zip(range(d), grid.flat, strict=False):
        five = np.stack([_five(draws, column) for draws in turned.values()])
        axes.vlines(place, five[:, 0], five[:, 4], color=COLOURS[0], lw=1.2)
        axes.vlines(place, five[:, 1], five[:, 3], color=COLOURS[0], lw=5, alpha=0.55)
        axes.plot(place, five[:, 2], "o", color="white", mec=COLOURS[0], ms=5)
        if truth is not None:
            axes.axhline(truth[column], color=TRUTH, lw=1.1, ls="--")
        axes.set_title(label(labels, column), fontsize=10)
        axes.set_xticks(place, list(turned), fontsize=9)
        axes.set_xlim(-0.5, len(turned) - 0.5)
        axes.tick_params(labelbottom=column >= d - columns)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="y", nbins=4)
        tidy(axes)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def predictive_plot(
    path: Path,
    observed: Array,
    predicted: Array,
    weight: Array | None = None,
    *,
    title: str = "",
    data: str = "datum",
) -> None:
    """The observation (dim,) among data (n, dim) simulated from the posterior.

    Args:
        path: of the PNG.
        observed: the observation.
        predicted: the simulated data.
        weight: (n,) of the simulated data.
        title: above the picture.
        data: what one of the dim numbers is called.
    """
    quantiles = (0.025, 0.16, 0.5, 0.84, 0.975)
    bands = np.stack([weighted_quantile(column, quantiles, weight) for column in predicted.T], 1)
    centre = bands[2]
    scale = np.where(bands[3] > bands[1], 0.5 * (bands[3] - bands[1]), 1.0)
    number = len(observed)
    edges = np.arange(number + 1) - 0.5  # a datum's step reaches half way to its neighbours
    figure = new_figure(8.4, 3.4)
    axes = figure.subplots()
    low, below, _, above, high = (bands - centre) / scale
    for bottom, top, colour, name in (
        (low, high, BAND, "95 % of replicas"),
        (below, above, "#8fa3cc", "68 %"),
    ):
        ends = [np.append(side, side[-1]) for side in (bottom, top)]
        axes.fill_between(edges, *ends, color=colour, lw=0, step="post", label=name)
    size = 8 if number <= 30 else 5
    axes.plot(
        np.arange(number), (observed - centre) / scale, ".", color=TRUTH, ms=size, label="observed"
    )
    axes.set_xlabel(f"number of the {data}")
    axes.set_ylabel(f"({data} − median) / sd")
    axes.set_xlim(-0.5, number - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper right")
    axes.margins(y=0.25)
    tidy(axes)
    figure.suptitle(title, fontsize=12)
    save_figure(figure, path)


def _five(draws: Draws, column: int) -> Array:
    probabilities = (0.025, 0.16, 0.5, 0.84, 0.975)
    return weighted_quantile(draws.theta[:, column], probabilities, draws.weight)
