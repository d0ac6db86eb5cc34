"""The picture of bench_amortization: distance against time, one panel for each peptide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensci.io.figures import BAND, COLOURS, TRUTH, new_figure, save_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"replicas": "replica exchange (gensci)", "openmm": "one OpenMM simulation, CPU platform"}


def draw_races(races: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG with T-W2 against processor seconds.

    Args:
        races: entries of amortization.json.
        path: of the picture.

    Raises:
        GensciError: matplotlib is not installed.
    """
    names = sorted({entry["name"] for entry in races})
    labels = sorted({entry["label"] for entry in races}, key=lambda label: (label in TITLES, label))
    colours = {label: COLOURS[k % len(COLOURS)] for k, label in enumerate(labels)}
    figure = new_figure(5.2 * len(names), 3.8)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        own = [entry for entry in races if entry["name"] == name]
        _panel(axes, name, sorted(own, key=lambda entry: labels.index(entry["label"])), colours)
    panels[0].set_ylabel("T-W2 from the reference [rad]")
    save_figure(figure, path)


def _panel(axes: Axes, name: str, races: list[dict[str, Any]], colours: dict[str, str]) -> None:
    first = races[0]
    axes.axhspan(first["floor"], first["halves"], color=BAND, lw=0, label="floor to halves")
    axes.axhline(first["level"], color=TRUTH, lw=1, ls="--", label="level")
    for entry in races:
        seen = [look for look in entry["series"] if look["torus_w2"] is not None]
        axes.plot(
            [look["cpu_seconds"] for look in seen],
            [look["torus_w2"] for look in seen],
            marker="o",
            ms=3,
            lw=1.4,
            color=colours[entry["label"]],
            label=TITLES.get(entry["label"], entry["label"]),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("processor seconds, one thread")
    axes.legend(fontsize=7, frameon=False)
    tidy(axes)
