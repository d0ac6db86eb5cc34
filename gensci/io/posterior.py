"""Posteriors as files: `posterior.nc` for ArviZ, `summary.csv` to read, `samples.npz` for numbers.

`samples.npz` keeps every row with its weight. ArviZ knows no weights, so `posterior.nc` holds rows
drawn in proportion to them, about as many as the weighted rows are worth; a second group,
`weighted_posterior`, has all rows again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.core.resampling import resample
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.io.atomic import write_atomic
from gensci.io.posterior_summary import (
    Labels,
    chain_rows,
    equally_weighted,
    fitting_labels,
    write_summary,
)
from gensci.io.trajectories import write_arrays

if TYPE_CHECKING:
    import arviz
    import xarray

Array = np.ndarray

FILES = ("posterior.nc", "summary.csv", "samples.npz")


@dataclass(frozen=True)
class PosteriorExtras:
    """What a run knows of its posterior besides the samples; all of it may be absent.

    Attributes:
        log_likelihood: (n,) nats.
        log_prior: (n,) nats.
        khat: shape of the tail of the importance weights.
        evidence: ln Z and its error, nats.
        observed: named arrays of the observation.
        attributes: further entries for the header: system, problem, counts of calls, ...
    """

    log_likelihood: torch.Tensor | None = None
    log_prior: torch.Tensor | None = None
    khat: float | None = None
    evidence: LogZ | None = None
    observed: Mapping[str, ArrayLike] | None = None
    attributes: Mapping[str, Any] | None = None


def write_posterior(
    folder: Path,
    samples: SampleSet,
    labels: Labels | None = None,
    extras: PosteriorExtras | None = None,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> list[str]:
    """Write `posterior.nc`, `summary.csv` and `samples.npz`, each complete or not at all.

    Args:
        folder: exists already.
        samples: with ``theta`` (n, d) and, without labels, the names in ``meta["parameters"]``.
        labels: of the columns.
        extras: densities, evidence, observation.
        draws: rows of equal weight in `posterior.nc` where samples are weighted; default their
            effective number, at least 100.
        seed: of drawing them.

    Returns:
        The names of the files.

    Raises:
        UsageError: labels that do not fit the samples, or extras that do not fit its rows.
        GensciError: every weight is zero, or ArviZ is not installed.
    """
    labels, extras = fitting_labels(samples, labels), extras or PosteriorExtras()
    rows = _row_extras(samples, extras)
    write_tables(folder, samples, labels, extras, draws=draws, seed=seed)
    own = {name: value for name, value in rows.items() if name in ("log_likelihood", "log_prior")}
    write_arrays(folder / FILES[2], samples, parameters=np.array(labels.parameters), **own)
    return list(FILES)


def write_tables(
    folder: Path,
    samples: SampleSet,
    labels: Labels | None = None,
    extras: PosteriorExtras | None = None,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> None:
    """Write `posterior.nc` and `summary.csv` only; all else as for ``write_posterior``."""
    data = inference_data(samples, labels, extras, draws=draws, seed=seed)
    write_atomic(folder / FILES[0], lambda path: data.to_netcdf(str(path), engine="h5netcdf"))
    write_summary(folder / FILES[1], samples, labels)


def inference_data(
    samples: SampleSet,
    labels: Labels | None = None,
    extras: PosteriorExtras | None = None,
    *,
    draws: int | None = None,
    seed: int = 0,
) -> arviz.InferenceData:
    """The posterior as ArviZ has it; arguments and errors as for ``write_posterior``.

    Groups: ``posterior``, ``sample_stats`` (``lp``, ``log_likelihood``, ``log_prior``,
    ``log_weight``, ``row`` in `samples.npz`, ``khat``), ``constant_data`` (the truth),
    ``observed_data``, and ``weighted_posterior`` where rows are weighted.
    """
    arviz, labels, extras = _arviz(), fitting_labels(samples, labels), extras or PosteriorExtras()
    theta = samples.x["theta"].detach().cpu().double().numpy()
    rows = _equal_rows(samples, draws, seed)
    stats = {name: value[rows] for name, value in _row_extras(samples, extras).items()}
    stats["row"] = rows
    header = _header(samples, labels, extras)
    groups: dict[str, xarray.Dataset] = {
        "posterior": _dataset(_columns(theta[rows], labels), ("chain", "draw"), header, labels),
        "sample_stats": _dataset(stats, ("chain", "draw"), header),
    }
    if extras.khat is not None:
        groups["sample_stats"]["khat"] = ((), float(extras.khat))
    if labels.truth is not None:
        truth = dict(zip(labels.parameters, np.asarray(labels.truth, np.float64), strict=True))
        groups["constant_data"] = _dataset(truth, (), header, labels)
    if extras.observed:
        groups["observed_data"] = _observed(extras.observed)
    if not equally_weighted(samples):
        every = {**_columns(theta, labels), **_row_extras(samples, extras)}
        groups["weighted_posterior"] = _dataset(every, ("row",), header, labels)
    return arviz.InferenceData(**groups)


def load_posterior(folder: Path) -> SampleSet:
    """Read `samples.npz` of ``write_posterior`` back, weights included.

    ``log_likelihood`` and ``log_prior`` stand in ``x`` where they were written.

    Raises:
        UsageError: there is no such file, or it is damaged.
    """
    path = Path(folder) / FILES[2]
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        parameters = [str(name) for name in arrays.pop("parameters")]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageError(f"{path} holds no posterior ({error})", "write it again") from error
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    known = {"log_weight", "log_target", "log_proposal", "ancestor", "chain"}
    packed = {n if n in known or "/" in n else f"x/{n}": value for n, value in tensors.items()}
    return SampleSet.from_tensors(packed, {"parameters": parameters})


def _equal_rows(samples: SampleSet, draws: int | None, seed: int) -> Array:
    """Rows (chains, draws) of equal weight."""
    if equally_weighted(samples):
        chains = chain_rows(samples)
        return np.arange(len(samples))[None] if chains is None else chains
    worth = min(len(samples), max(100, int(samples.ess.count)))
    generator = stream(seed, "posterior.nc")
    rows = resample("systematic", samples.log_weight, draws or worth, generator)
    return rows.cpu().numpy()[None]


def _row_extras(samples: SampleSet, extras: PosteriorExtras) -> dict[str, Array]:
    """Named (n,) arrays that go with every row."""
    given = {
        "lp": samples.log_target,
        "log_likelihood": extras.log_likelihood,
        "log_prior": extras.log_prior,
        "log_weight": samples.log_weight,
    }
    rows = {n: v.detach().cpu().double().numpy() for n, v in given.items() if v is not None}
    for name, value in rows.items():
        if value.shape != (len(samples),):
            raise UsageError(
                f"{name} has shape {value.shape} for {len(samples)} samples", "give one per row"
            )
    return rows


def _header(samples: SampleSet, labels: Labels, extras: PosteriorExtras) -> dict[str, Any]:
    """Attributes of every group; netCDF holds text and numbers only."""
    header: dict[str, Any] = {
        "inference_library": "gensci",
        "parameters": list(labels.parameters),
        "rows": len(samples),
        "ess": samples.ess.count,
        "weighted": int(not equally_weighted(samples)),
    }
    if extras.khat is not None:
        header["khat"] = float(extras.khat)
    if extras.evidence is not None:
        header["log_z"], header["log_z_error"] = map(float, extras.evidence)
    for name, value in (extras.attributes or {}).items():
        plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        header[name] = value if plain else json.dumps(value, default=str)
    return header


def _columns(theta: Array, labels: Labels) -> dict[str, Array]:
    return {name: theta[..., column] for column, name in enumerate(labels.parameters)}


def _dataset(
    arrays: Mapping[str, Array],
    dims: tuple[str, ...],
    header: Mapping[str, Any],
    labels: Labels | None = None,
) -> xarray.Dataset:
    import xarray

    shape = next(iter(arrays.values())).shape
    coordinates = {name: np.arange(size) for name, size in zip(dims, shape, strict=True)}
    data = xarray.Dataset(
        {name: (dims, value) for name, value in arrays.items()}, coordinates, dict(header)
    )
    if labels is not None:
        for name, unit, period in zip(labels.parameters, labels.units, labels.periods, strict=True):
            data[name].attrs.update({"units": unit} | ({"period": period} if period else {}))
    return data


def _observed(observed: Mapping[str, ArrayLike]) -> xarray.Dataset:
    """Complex arrays become two of real numbers: netCDF knows no complex ones."""
    import xarray

    variables = {}
    for name, value in observed.items():
        array = np.asarray(value)
        parts = {f"{name}_real": array.real, f"{name}_imag": array.imag}
        for key, part in (parts if np.iscomplexobj(array) else {name: array}).items():
            variables[key] = (tuple(f"{name}_dim_{axis}" for axis in range(part.ndim)), part)
    return xarray.Dataset(variables)


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            # told once a day that a later ArviZ will be another
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
    except ImportError as error:
        raise GensciError(
            "posterior.nc needs ArviZ, which is not installed", "pip install 'gensci[posterior]'"
        ) from error
    return arviz
