"""The picture of a finetuning: effective sample size by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gensci.io.figures import COLOURS, new_figure, save_figure, tidy


class Point(NamedTuple):
    """An effective sample size as a share, its error, and the energies spent until then."""

    evaluations: int
    ess: float
    error: float


def ess_plot(path: Path, rounds: Sequence[Point], last: Point | None, title: str = "") -> None:
    """Effective sample size of each round's flow on draws it had not seen.

    Args:
        path: of the PNG.
        rounds: the flow as it came, then one of each round.
        last: the best round by further draws, or None.
        title: above the picture.
    """
    figure = new_figure(5.6, 3.6)
    axes = figure.subplots()
    axes.axhline(100 * rounds[0].ess, color="0.6", lw=1, ls="--", label="pretrained")
    _bars(axes, rounds, COLOURS[0], "o-", "rounds")
    if last is not None:
        _bars(axes, [last], COLOURS[1], "s", "best round, further draws")
    axes.set_xlabel("energy evaluations")
    axes.set_ylabel("effective sample size [%]")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, fontsize=11)
    tidy(axes)
    save_figure(figure, path)


def _bars(axes: object, points: Sequence[Point], colour: str, style: str, label: str) -> None:
    finite = [p.error if p.error < 1 else 0.0 for p in points]
    axes.errorbar(
        [p.evaluations for p in points],
        [100 * p.ess for p in points],
        yerr=[100 * error for error in finite],
        fmt=style, color=colour, capsize=3, ms=5, lw=1.4, label=label,
    )  # fmt: skip
