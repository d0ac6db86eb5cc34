"""Frequencies as the simulator takes them, checked in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import LisaError


class FrequencyError(LisaError):
    """The frequencies are not positive and finite, or of a shape that does not fit theta."""


def positive(frequencies: Tensor, device: torch.device | None = None) -> Tensor:
    """Returns ``frequencies`` of any shape as float64 in Hz.

    Raises:
        FrequencyError: one is not positive and finite.
    """
    f = torch.as_tensor(frequencies, dtype=torch.float64, device=device)
    if not bool(((f > 0.0) & torch.isfinite(f)).all()):
        raise FrequencyError("frequencies must be positive and finite, in Hz; leave out 0 Hz")
    return f


def beside(frequencies: Tensor, theta: Tensor) -> Tensor:
    """Returns ``frequencies`` (m,) or (n, m) as float64 beside ``theta`` (n, 11).

    Raises:
        FrequencyError: another shape, or a frequency that is not positive and finite.
    """
    f = positive(frequencies, theta.device)
    if f.dim() not in (1, 2) or (f.dim() == 2 and len(f) != len(theta)):
        raise FrequencyError(
            f"frequencies have shape {tuple(f.shape)}; give (m,) or ({len(theta)}, m), one row per "
            "row of theta"
        )
    return f


def grid_beside(grid: Tensor, nodes: int, fewest: int, theta: Tensor) -> Tensor:
    """Returns an increasing ``grid`` (M,) that ``nodes`` frequencies can stand for.

    Raises:
        FrequencyError: the grid is not increasing or not one row, or the nodes are too few.
    """
    f = beside(grid, theta)
    if f.dim() != 1 or not bool((f.diff() > 0.0).all()):
        raise FrequencyError(
            f"grid has shape {tuple(f.shape)}; give (M,) increasing frequencies in Hz, for all rows"
        )
    if nodes < fewest:
        raise FrequencyError(f"nodes = {nodes}; cubics need {fewest} or more")
    return f
