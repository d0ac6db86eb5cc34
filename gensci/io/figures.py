"""What all pictures share: colours, figures without pyplot's state, parameters on the line.

Nothing is left open, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gensci.core.errors import GensciError, UsageError
from gensci.io.atomic import write_atomic
from gensci.io.posterior_summary import Labels, circular_cut, unrolled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray

# dark blue, orange, green, red, violet: told apart in grey and by the colour-blind (Wong 2011)
COLOURS = ("#1f3b73", "#d55e00", "#009e73", "#a6195a", "#7b52ab")
TRUTH = "#c1272d"
BAND = "#c9d3e6"


@dataclass(frozen=True, eq=False)
class Draws:
    """One posterior in a picture.

    Attributes:
        theta: (n, d).
        weight: (n,) not negative, of any sum; equal weights without it.
    """

    theta: Array
    weight: Array | None = None


def on_the_line(
    posteriors: Mapping[str, Draws], labels: Labels
) -> tuple[dict[str, Draws], Array | None]:
    """Draws and truth with periodic parameters on the line, cut at one place for all."""
    if not posteriors:
        raise UsageError("there is no posterior to draw", "give at least one")
    arrays = {name: np.array(draws.theta, np.float64) for name, draws in posteriors.items()}
    weights = {
        name: None if draws.weight is None else np.asarray(draws.weight, np.float64)
        for name, draws in posteriors.items()
    }
    for name, theta in arrays.items():
        if theta.ndim != 2 or theta.shape[1] != len(labels.parameters):
            raise UsageError(
                f"{name} has shape {theta.shape} for {len(labels.parameters)} parameters",
                "give (n, d)",
            )
    truth = None if labels.truth is None else np.array(labels.truth, np.float64)
    name = next(iter(arrays))
    for column, period in enumerate(labels.periods):
        if period is None:
            continue
        cut = circular_cut(arrays[name][:, column], period, weights[name])
        for theta in arrays.values():
            theta[:, column] = unrolled(theta[:, column], cut, period)
        if truth is not None:
            truth[column] = unrolled(truth[column : column + 1], cut, period)[0]
    return {name: Draws(theta, weights[name]) for name, theta in arrays.items()}, truth


def label(labels: Labels, column: int) -> str:
    """Name and unit of a parameter."""
    name, unit = pretty(labels.parameters[column]), labels.units[column]
    return f"{name} [{unit}]" if unit else name


def pretty(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def tidy(axes: Axes) -> None:
    """Leave out the frame at the top and at the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)


def new_figure(width: float, height: float, layout: str | None = "constrained") -> Figure:
    """An empty figure of so many inches.

    Raises:
        GensciError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GensciError(
            "pictures need matplotlib, which is not installed", "pip install 'gensci[report]'"
        ) from error
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, complete or not at all."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
