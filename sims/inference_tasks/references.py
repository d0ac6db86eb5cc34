"""Observations and reference posteriors of the benchmark, read from sbibm's wheel by path.

sbibm 1.1.0 (Apache-2.0) is not imported: its import needs packages of 2021. Install it by
``pip install --no-deps sbibm``.
"""

from __future__ import annotations

import bz2
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch

from .definition import InferenceTask, TaskError

OBSERVATIONS = 10


def benchmark_folder() -> Path | None:
    """The folder of sbibm's tasks, or None where the package is not installed."""
    found = importlib.util.find_spec("sbibm")  # finds, and does not import, a top-level package
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / "tasks"


def _read(task: InferenceTask, observation: int, name: str) -> torch.Tensor:
    folder = benchmark_folder()
    if folder is None:
        raise TaskError("the benchmark's files are missing: pip install --no-deps sbibm")
    if observation not in range(1, OBSERVATIONS + 1):
        raise TaskError(f"observation {observation} is not one of 1 to {OBSERVATIONS}")
    path = folder / task.folder / "files" / f"num_observation_{observation}" / name
    data = path.read_bytes()
    text = (bz2.decompress(data) if path.suffix == ".bz2" else data).decode()
    rows = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1, ndmin=2)
    return torch.from_numpy(rows)


def load_observation(task: InferenceTask, observation: int) -> torch.Tensor:
    """Return the (dim_x,) data of observation 1 to 10.

    Raises:
        TaskError: sbibm is not installed, or there is no such observation.
    """
    return _read(task, observation, task.observation_file)[0]


def load_truth(task: InferenceTask, observation: int) -> torch.Tensor:
    """Return the (d,) parameters that made observation 1 to 10.

    Raises:
        TaskError: sbibm is not installed, or there is no such observation.
    """
    return _read(task, observation, "true_parameters.csv")[0]


def load_reference(task: InferenceTask, observation: int) -> torch.Tensor:
    """Return (10,000, d) draws of the exact posterior of observation 1 to 10.

    Raises:
        TaskError: sbibm is not installed, or there is no such observation.
    """
    return _read(task, observation, "reference_posterior_samples.csv.bz2")
