"""The corner plot: every parameter against every other, weighted, with lines at the truth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gensci.core.errors import GensciError
from gensci.io.figures import (
    COLOURS,
    TRUTH,
    Draws,
    label,
    new_figure,
    on_the_line,
    pretty,
    save_figure,
)
from gensci.io.posterior_summary import Labels, weighted_quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray

_LEVELS = (0.393, 0.865)  # mass within one and two standard deviations of a plane Gaussian


def corner_plot(
    path: Path, posteriors: Mapping[str, Draws], labels: Labels, *, title: str = ""
) -> None:
    """Every parameter against every other, with lines at the truth.

    Contours hold 39 % and 86 % (one and two sigma of a plane Gaussian). Periodic parameters are cut
    open where they are rarest. Above each column stand median and 68 % interval of the first
    posterior.

    Args:
        path: of the PNG.
        posteriors: by name, the first on top of the titles; more are drawn over it.
        labels: names, units, periods, truth.
        title: above the legend.

    Raises:
        UsageError: no posterior, or columns that do not fit the labels.
        GensciError: corner or matplotlib is not installed.
    """
    corner = _corner()
    turned, truth = on_the_line(posteriors, labels)
    d = len(labels.parameters)
    ranges = [_range(list(turned.values()), column) for column in range(d)]
    panel = 1.4 if d > 6 else 1.9
    # beside the panels: names and ticks at left and below, the heading above the first
    figure = new_figure(panel * d + 1.6, panel * d + 1.7, layout=None)
    for number, draws in enumerate(turned.values()):
        colour = COLOURS[number % len(COLOURS)]
        _one_corner(corner, figure, draws, ranges, colour, first=number == 0)
    axes = np.array(figure.axes).reshape(d, d)
    _truth_lines(axes, truth)
    _label_corner(axes, labels, next(iter(turned.values())))
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        1.2 / width, 1.0 / height, 1 - 0.4 / width, 1 - 0.7 / height, wspace=0.06, hspace=0.06
    )
    _legend(figure, list(posteriors), title, truth is not None, beside=d > 1)
    save_figure(figure, path)


def _one_corner(
    corner: Any,
    figure: Figure,
    draws: Draws,
    ranges: list[tuple[float, float]],
    colour: str,
    *,
    first: bool,
) -> None:
    tallest = [axes.get_ylim()[1] for axes in figure.axes]
    corner.corner(
        draws.theta,
        bins=int(np.clip(math.sqrt(len(draws.theta)) / 3, 15, 30)),
        range=ranges,
        weights=draws.weight,
        color=colour,
        smooth=0.9,
        fig=figure,
        max_n_ticks=3,
        levels=_LEVELS,
        plot_datapoints=False,
        plot_density=False,
        fill_contours=first,
        no_fill_contours=not first,
        contour_kwargs={"linewidths": 1.1},
        hist_kwargs={"density": True, "linewidth": 1.3},
        quiet=True,
    )
    # corner gives the axes the height of the last histogram, which may cut the earlier ones
    d = draws.theta.shape[1]
    for diagonal in range(0, d * d, d + 1) if tallest else ():
        axes = figure.axes[diagonal]
        axes.set_ylim(0, max(axes.get_ylim()[1], tallest[diagonal]))


def _label_corner(axes: Array, labels: Labels, first: Draws) -> None:
    from matplotlib.ticker import ScalarFormatter

    d = len(axes)
    size = 10.5 if d > 6 else 11
    for row in range(d):
        for column in range(row + 1):
            for axis in (axes[row, column].xaxis, axes[row, column].yaxis):
                if row == d - 1 or column == 0:
                    axis.set_major_formatter(ScalarFormatter(useOffset=False))
            axes[row, column].tick_params(labelsize=size - 1.5, length=2.5, pad=1.5)
            axes[row, column].tick_params(
                labelbottom=row == d - 1, labelleft=column == 0 and row > 0
            )
        name = label(labels, row).replace(" [", "\n[")
        axes[d - 1, row].set_xlabel(name, fontsize=size)
        axes[d - 1, row].xaxis.set_label_coords(0.5, -0.45 if d > 6 else -0.24)
        if row > 0:
            axes[row, 0].set_ylabel(name, fontsize=size)
            axes[row, 0].yaxis.set_label_coords(-0.5 if d > 6 else -0.32, 0.5)
        text = _interval(first.theta[:, row], first.weight)
        heading = f"{pretty(labels.parameters[row])}\n{text}"
        axes[row, row].set_title(heading, fontsize=size, linespacing=1.3)


def _range(posteriors: list[Draws], column: int) -> tuple[float, float]:
    """Limits of an axis: all but two thousandths of each posterior at either end, with a margin."""
    ends = [
        weighted_quantile(draws.theta[:, column], (0.002, 0.998), draws.weight)
        for draws in posteriors
    ]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    margin = 0.06 * (high - low) or max(1e-6, 1e-6 * abs(low))
    return float(low - margin), float(high + margin)


def _truth_lines(axes: Array, truth: Array | None) -> None:
    if truth is None:
        return
    style = {"color": TRUTH, "lw": 1.0, "ls": "--", "zorder": 5}
    for row in range(len(truth)):
        axes[row, row].axvline(truth[row], **style)
        for column in range(row):
            axes[row, column].axvline(truth[column], **style)
            axes[row, column].axhline(truth[row], **style)


def _interval(values: Array, weight: Array | None) -> str:
    """Median and distances to the 16 % and 84 % quantiles, with two digits of the distances."""
    low, middle, high = weighted_quantile(values, (0.16, 0.5, 0.84), weight)
    smallest = min(high - middle, middle - low)
    digits = 1 - math.floor(math.log10(smallest)) if smallest > 0 else 2
    digits = int(np.clip(digits, 0, 8))
    return f"${middle:.{digits}f}^{{+{high - middle:.{digits}f}}}_{{-{middle - low:.{digits}f}}}$"


def _legend(figure: Figure, names: list[str], title: str, truth: bool, *, beside: bool) -> None:
    """Top right, where a corner plot is empty; within the only panel of a single parameter."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=COLOURS[i % len(COLOURS)], lw=3) for i in range(len(names))]
    if truth:
        lines.append(Line2D([], [], color=TRUTH, lw=1.5, ls="--"))
        names = [*names, "truth"]
    size = float(np.clip(0.9 * figure.get_size_inches()[0], 9, 16)) if beside else 7
    place = (0.98, 0.98) if beside else (0.88, 0.81)
    figure.legend(
        lines, names, title=title or None, title_fontsize=size + 1, fontsize=size,
        loc="upper right", bbox_to_anchor=place, frameon=False, alignment="left",
        handlelength=1.6,
    )  # fmt: skip


def _corner() -> Any:
    try:
        with warnings.catch_warnings():
            # corner imports ArviZ, which tells once a day that a later one will be another
            warnings.simplefilter("ignore", FutureWarning)
            import corner
    except ImportError as error:
        raise GensciError(
            "corner.png needs corner, which is not installed", "pip install 'gensci[posterior]'"
        ) from error
    return corner
