"""Samples as files: `samples.npz` for numbers, `topology.pdb` and `samples.xtc` to look at."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gensci.core.errors import RunFolderError
from gensci.core.results import ROW_FIELDS, SampleSet
from gensci.io.atomic import write_atomic

if TYPE_CHECKING:
    import mdtraj

FRAMES_AT_ONCE = 2000
FRAME_ROWS = "xtc_row"


def write_arrays(path: Path, samples: SampleSet, **extra: np.ndarray) -> None:
    """Write `samples.npz`: the arrays of `x` under their own names, then the densities in nats.

    Args:
        path: The file, written atomically.
        samples: Row i of every array belongs to sample i; `info/...` has one entry per step.
        extra: Further arrays, for example `xtc_row`.
    """
    arrays = {name: value.detach().cpu().numpy() for name, value in samples.x.items()}
    for name in ROW_FIELDS:
        value = getattr(samples, name)
        if value is not None:
            arrays[name] = value.detach().cpu().numpy()
    arrays.update({f"info/{name}": value.cpu().numpy() for name, value in samples.info.items()})
    arrays.update(extra)
    write_atomic(path, lambda temporary: np.savez(temporary, **arrays))


def load_run(path: str | Path) -> SampleSet:
    """Samples of a run folder, in full precision and with their weights.

    Args:
        path: A folder written by `gensci sample` or `gensci infer`; what `run.json` says comes as
            `meta`.

    Raises:
        RunFolderError: No finished run is there.
    """
    folder = Path(path)
    try:
        meta = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with np.load(folder / "samples.npz", allow_pickle=False) as stored:
            plain = {name: stored[name] for name in stored.files}
        if "parameters" in plain:  # names of the columns of theta
            meta["parameters"] = [str(name) for name in plain.pop("parameters")]
        arrays = {name: torch.from_numpy(value) for name, value in plain.items()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunFolderError(
            f"{folder} holds no finished run",
            "let the command that began it finish it first",
        ) from error
    arrays.pop(FRAME_ROWS, None)
    info = {name[5:]: arrays.pop(name) for name in list(arrays) if name.startswith("info/")}
    rows = {name: arrays.pop(name, None) for name in ROW_FIELDS}
    return SampleSet(x=arrays, info=info, meta=meta, **rows)


def viewable_rows(samples: SampleSet) -> np.ndarray:
    """Rows of the samples that a viewer should show: positive weight and finite positions."""
    positions = samples.x["positions"]
    finite = positions.isfinite().all(dim=-1).all(dim=-1)
    return (finite & samples.log_weight.isfinite()).nonzero()[:, 0].cpu().numpy()


def write_trajectory(folder: Path, samples: SampleSet, topology: Any, reference: Any) -> np.ndarray:
    """Write `topology.pdb` and `samples.xtc`, superposed on the reference and centred.

    XTC rounds to 0.001 nm and knows no weights: for looking at, never for numbers.

    Args:
        folder: The run folder.
        samples: With `positions` (n, atoms, 3) in nm.
        topology: An `openmm.app.Topology`; both files hold exactly its atoms in its order.
        reference: Positions (atoms, 3) in nm of the structure in `topology.pdb`.

    Returns:
        For every frame of the trajectory its row in `samples`, shape (frames,).
    """
    import mdtraj

    start = mdtraj.Trajectory(np.asarray(reference, np.float32)[None], _topology(topology))
    start.center_coordinates()
    write_atomic(folder / "topology.pdb", lambda path: start.save_pdb(str(path)))
    rows = viewable_rows(samples)
    positions = samples.x["positions"]
    write_atomic(folder / "samples.xtc", lambda path: _write_frames(path, positions, rows, start))
    return rows


def _topology(topology: Any) -> mdtraj.Topology:
    import mdtraj

    return mdtraj.Topology.from_openmm(topology)


def _write_frames(path: Path, positions: Any, rows: np.ndarray, start: mdtraj.Trajectory) -> None:
    """Frames in pieces, so that memory does not grow with the number of samples."""
    import mdtraj
    from mdtraj.formats import XTCTrajectoryFile

    heavy = start.topology.select("not element H")
    with XTCTrajectoryFile(str(path), "w") as handle:
        for begin in range(0, len(rows), FRAMES_AT_ONCE):
            part = rows[begin : begin + FRAMES_AT_ONCE]
            xyz = positions[part].detach().cpu().numpy().astype(np.float32)
            frames = mdtraj.Trajectory(xyz, start.topology)
            frames.center_coordinates()
            frames.superpose(start, atom_indices=heavy)
            steps = np.arange(begin, begin + len(part))
            handle.write(frames.xyz, time=steps.astype(np.float32), step=steps)
