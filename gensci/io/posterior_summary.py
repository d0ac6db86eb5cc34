"""What the columns of a posterior are called, and their weighted moments and quantiles."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensci.core.chains import chain_ess, split_rhat
from gensci.core.errors import GensciError, UsageError
from gensci.core.results import SampleSet
from gensci.io.atomic import write_atomic

Array = np.ndarray

QUANTILES = {"q2.5": 0.025, "q16": 0.16, "median": 0.5, "q84": 0.84, "q97.5": 0.975}
COLUMNS = ("parameter", "unit", "mean", "sd", *QUANTILES, "ess", "r_hat", "truth", "truth_quantile")


@dataclass(frozen=True)
class Labels:
    """What the columns of theta are.

    Attributes:
        parameters: d names.
        units: d units, empty text where there is none.
        periods: d periods, None where a parameter is not periodic.
        truth: d true values of an injection, or None.
    """

    parameters: tuple[str, ...]
    units: tuple[str, ...] = ()
    periods: tuple[float | None, ...] = ()
    truth: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        d = len(self.parameters)
        object.__setattr__(self, "units", tuple(self.units) or ("",) * d)
        object.__setattr__(self, "periods", tuple(self.periods) or (None,) * d)
        for name in ("units", "periods", "truth"):
            value = getattr(self, name)
            if value is not None and len(value) != d:
                raise UsageError(
                    f"{name} has {len(value)} entries for {d} parameters", "give one for each"
                )


def summary_rows(samples: SampleSet, labels: Labels | None = None) -> list[dict[str, Any]]:
    """One row for each parameter, with the keys ``COLUMNS``: weighted moments and quantiles.

    A periodic parameter is first cut where it has least weight, so that its numbers may lie
    somewhat outside [0, period). ``ess`` is that of chains by autocorrelation, where they are
    known and equally weighted, else that of weighted independent draws for this very mean.
    ``truth_quantile`` is the weight below the truth.
    """
    labels = fitting_labels(samples, labels)
    theta = samples.x["theta"].detach().cpu().double().numpy()
    weight = samples.weight.cpu().numpy()
    chains = chain_rows(samples)
    found = []
    for column, name in enumerate(labels.parameters):
        values, period = theta[:, column], labels.periods[column]
        truth = None if labels.truth is None else float(labels.truth[column])
        if period is not None:
            cut = circular_cut(values, period, weight)
            values = unrolled(values, cut, period)
            truth = None if truth is None else float(unrolled(np.array([truth]), cut, period)[0])
        mean = float(weight @ values)
        variance = float(weight @ (values - mean) ** 2)
        row = {"parameter": name, "unit": labels.units[column], "mean": mean}
        row["sd"] = math.sqrt(variance)
        row.update(
            zip(QUANTILES, weighted_quantile(values, QUANTILES.values(), weight), strict=True)
        )
        row["ess"], row["r_hat"] = _effective(values, weight, mean, chains)
        row["truth"] = truth
        row["truth_quantile"] = None if truth is None else float(weight @ (values < truth))
        found.append(row)
    return found


def write_summary(path: Path, samples: SampleSet, labels: Labels | None = None) -> None:
    """Write ``summary_rows`` as CSV, seven significant digits; absent numbers are empty."""
    rows = summary_rows(samples, labels)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(COLUMNS)
            writer.writerows([[_text(row[name]) for name in COLUMNS] for row in rows])

    write_atomic(path, write)


def weighted_quantile(
    values: Array, probabilities: Iterable[float], weight: Array | None = None
) -> Array:
    """Quantiles of values (n,), linear between the middles of the rows' steps."""
    mass = np.full(len(values), 1.0 / len(values)) if weight is None else weight / weight.sum()
    order = np.argsort(values, kind="stable")
    order = order[mass[order] > 0]
    middle = mass[order].cumsum() - 0.5 * mass[order]
    return np.interp(np.asarray(list(probabilities)), middle, values[order])


def circular_cut(values: Array, period: float, weight: Array | None = None) -> float:
    """Where on [0, period) the values (n,) are rarest: the place to cut the circle open."""
    cells = 360
    cell = np.floor(values / period * cells).astype(np.int64) % cells
    density = np.bincount(cell, weight, minlength=cells).astype(np.float64)
    angle = 2 * math.pi * np.arange(cells) / cells
    kernel = np.exp(20.0 * (np.cos(angle) - 1.0))  # some 13 degrees wide, positive everywhere
    smooth = np.fft.irfft(np.fft.rfft(density) * np.fft.rfft(kernel), cells)
    return (float(np.argmin(smooth)) + 0.5) / cells * period


def unrolled(values: Array, cut: float, period: float) -> Array:
    """Values brought to the turn that starts at ``cut``, or one before if that is late.

    Most of a posterior about zero then lies about zero, not about one period.
    """
    start = cut - period if cut > 0.4 * period else cut
    return start + np.mod(values - start, period)


def chain_rows(samples: SampleSet) -> Array | None:
    """Row numbers (chains, draws) of equally long, equally weighted chains, or None."""
    if samples.chain is None or not equally_weighted(samples):
        return None
    number = samples.chain.cpu().numpy()
    names, counts = np.unique(number, return_counts=True)
    if counts.min() != counts.max():
        return None
    return np.stack([np.flatnonzero(number == name) for name in names])


def _effective(
    values: Array, weight: Array, mean: float, chains: Array | None
) -> tuple[float, float | None]:
    if chains is not None:
        draws = torch.from_numpy(values[chains].T.copy())
        ess, rhat = chain_ess(draws), split_rhat(draws)
        return ess, rhat if math.isfinite(rhat) else None
    square = (values - mean) ** 2
    noise = float(weight**2 @ square)
    return (float(weight @ square) / noise if noise > 0 else 1.0), None


def equally_weighted(samples: SampleSet) -> bool:
    """Whether all rows have the same weight."""
    logs = samples.log_weight
    return bool(torch.isfinite(logs).all()) and float(logs.max() - logs.min()) < 1e-9


def fitting_labels(samples: SampleSet, labels: Labels | None) -> Labels:
    """The labels, checked against the samples; those of ``meta`` where none are given.

    Raises:
        UsageError: the samples hold no ``theta``, or the labels have another number.
        GensciError: every weight is zero.
    """
    theta = samples.x.get("theta")
    if theta is None or theta.dim() != 2 or not len(theta):
        raise UsageError("the samples hold no theta (n, d)", "give samples of parameters")
    labels = labels or Labels(tuple(samples.meta.get("parameters") or ()))
    if len(labels.parameters) != theta.shape[1]:
        raise UsageError(
            f"{len(labels.parameters)} parameters are named but theta has {theta.shape[1]} columns",
            "name every column in labels or in meta['parameters']",
        )
    if samples.weight.sum() == 0:
        raise GensciError("every sample has zero weight", "check the proposal")
    return labels


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)
