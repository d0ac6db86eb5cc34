"""Reference ensembles of peptides: long simulations in small files, to hold samples against.

One file holds all torsions, energies and ladder numbers of about ten thousand frames, and the
positions of every fifth. Positions are whole multiples of 1e-4 nm and torsions of 2 pi / 4096; both
are far below what an ensemble resolves, but bonds are stiff: energies computed from the positions
differ from the stored true ones by some tenths of a kJ/mol.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gensci.core.errors import GensciError

Array = np.ndarray

FORMAT = 1
POSITION_STEP = 1e-4  # nm
TORSION_STEPS = 4096  # to the full turn
_GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
_FOLDER = Path(__file__).parents[2] / "benchmarks" / "references" / "ensembles"


class EnsembleError(GensciError):
    """A reference ensemble is absent, damaged or of another format."""


@dataclass(frozen=True, eq=False)
class ReferenceEnsemble:
    """Equilibrium frames of a peptide, all of equal weight.

    Attributes:
        name: of the peptide.
        topology: text of a PDB file whose atoms are in the order of ``positions``.
        temperature: K.
        torsion_names: ``psi1``, ``phi2``, ``omega1``, ``chi1_2`` (chi1 of residue 2), ...
        torsions: (frames, torsions) float32 radian in [-pi, pi).
        energy: (frames,) float32 kJ/mol, as simulated.
        ladder: (frames,) uint8, the independent replica-exchange ladder.
        snapshot: (frames,) int32, the time of a frame in its ladder, in frame intervals.
        positions: (kept, atoms, 3) float32 nm, superposed on the first.
        position_rows: (kept,) int64, the frames that ``positions`` belong to.
        meta: how it was made, and how well its halves agree.
    """

    name: str
    topology: str
    temperature: float
    torsion_names: tuple[str, ...]
    torsions: Array
    energy: Array
    ladder: Array
    snapshot: Array
    positions: Array
    position_rows: Array
    meta: dict[str, Any]

    def torsion(self, name: str) -> Array:
        """One torsion (frames,) by name.

        Raises:
            EnsembleError: there is no such torsion.
        """
        if name not in self.torsion_names:
            raise EnsembleError(
                f"{self.name} has no torsion {name!r}",
                f"use one of {', '.join(self.torsion_names)}",
            )
        return self.torsions[:, self.torsion_names.index(name)]

    @property
    def backbone_names(self) -> tuple[str, ...]:
        """Names of all phi and psi, in the order of ``torsion_names``."""
        return tuple(name for name in self.torsion_names if name[:3] in ("phi", "psi"))

    @property
    def backbone(self) -> Array:
        """All phi and psi (frames, k): what T-W2 compares."""
        return np.column_stack([self.torsion(name) for name in self.backbone_names])

    @property
    def reduced_energy(self) -> Array:
        """Energies in kT (frames,) float64: what E-W2 compares."""
        return self.energy.astype(np.float64) / (_GAS_CONSTANT * self.temperature)


def load_reference_ensemble(path_or_name: str | Path) -> ReferenceEnsemble:
    """Read a reference ensemble.

    Args:
        path_or_name: a file ending in ``.npz``, or the name of a peptide whose ensemble lies in
            benchmarks/references/ensembles of a checkout (they are not in the wheel).

    Raises:
        EnsembleError: there is none, or it is damaged or of another format.
    """
    path = _locate(path_or_name)
    try:
        # opened here, because numpy leaves a damaged file open
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            packed = {key: file[key] for key in file.files}
        meta = json.loads(str(packed.pop("meta")))
        version, expected = meta["format"], meta["sha256"]
    except _UNREADABLE as error:
        raise EnsembleError(f"{path} is no reference ensemble ({error})", _AGAIN) from error
    if version != FORMAT:
        raise EnsembleError(f"{path} has format {version}, not {FORMAT}", _AGAIN)
    if _digest(packed) != expected:
        raise EnsembleError(f"{path} is damaged: its contents do not fit their sha256", _AGAIN)
    return _unpacked(packed, meta)


_UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)
_AGAIN = "fetch it again, or make it with benchmarks/make_reference_ensembles.py"


def save_reference_ensemble(path: Path, ensemble: ReferenceEnsemble) -> None:
    """Write an ensemble as ``load_reference_ensemble`` reads it, rounded to the steps above.

    Raises:
        EnsembleError: positions are too far from the origin for two bytes (3.2 nm).
    """
    packed = _packed(ensemble)
    meta = {
        **ensemble.meta,
        "format": FORMAT,
        "name": ensemble.name,
        "temperature": ensemble.temperature,
        "torsions": list(ensemble.torsion_names),
        "sha256": _digest(packed),
    }
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **packed)


def superpose(positions: Array) -> Array:
    """Frames (n, atoms, 3) moved and turned onto the first, centred: float64.

    Smaller numbers change more slowly from frame to frame, so that files are smaller; energies and
    torsions do not notice. Ref: Kabsch 1976, Acta Cryst. A32, 922.
    """
    x = positions.astype(np.float64)
    x = x - x.mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("nai,aj->nij", x, x[0]))
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]  # no mirror images
    return x @ (u @ vt)


def _locate(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.suffix == ".npz":
        if not path.is_file():
            raise EnsembleError(f"there is no file {path}", "give a path to a reference ensemble")
        return path
    if not _FOLDER.is_dir():
        raise EnsembleError(
            f"the reference ensemble of {str(path_or_name)!r} cannot be found by name outside a "
            "checkout of gensci",
            "give the path of its .npz file",
        )
    path = _FOLDER / f"{path_or_name}.npz"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.npz"))) or "none"
        raise EnsembleError(
            f"there is no reference ensemble of {str(path_or_name)!r}", f"there are: {known}"
        )
    return path


def _packed(ensemble: ReferenceEnsemble) -> dict[str, Array]:
    steps = np.round(ensemble.positions.astype(np.float64) / POSITION_STEP)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        raise EnsembleError(f"positions of {ensemble.name} are too large", "superpose them first")
    turns = np.round(ensemble.torsions.astype(np.float64) / (2 * math.pi) * TORSION_STEPS)
    # From atom to atom coordinates change by a bond length only; differences wrap in two bytes.
    along = np.diff(steps.astype(np.int16), axis=1, prepend=np.int16(0))
    return {
        "topology": np.array(ensemble.topology),
        "energy": _byte_planes(ensemble.energy.astype(np.float32)),
        "ladder": ensemble.ladder.astype(np.uint8),
        "snapshot": ensemble.snapshot.astype(np.int32),
        "torsions": _byte_planes((turns.astype(np.int64) % TORSION_STEPS).astype(np.uint16)),
        "positions": _byte_planes(along),
        "position_rows": ensemble.position_rows.astype(np.int32),
    }


def _unpacked(packed: dict[str, Array], meta: dict[str, Any]) -> ReferenceEnsemble:
    turns = _from_byte_planes(packed["torsions"], np.uint16).astype(np.int64)
    turns = (turns + TORSION_STEPS // 2) % TORSION_STEPS - TORSION_STEPS // 2
    steps = np.cumsum(_from_byte_planes(packed["positions"], np.int16), axis=1, dtype=np.int16)
    return ReferenceEnsemble(
        name=meta["name"],
        topology=str(packed["topology"]),
        temperature=meta["temperature"],
        torsion_names=tuple(meta["torsions"]),
        torsions=(turns * (2 * math.pi / TORSION_STEPS)).astype(np.float32),
        energy=_from_byte_planes(packed["energy"], np.float32),
        ladder=packed["ladder"],
        snapshot=packed["snapshot"],
        positions=(steps * POSITION_STEP).astype(np.float32),
        position_rows=packed["position_rows"].astype(np.int64),
        meta=meta,
    )


def _byte_planes(values: Array) -> Array:
    """All first bytes, then all second bytes, ...: (bytes, *shape), which compresses better."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    planes = little.view(np.uint8).reshape(*values.shape, values.itemsize)
    return np.ascontiguousarray(np.moveaxis(planes, -1, 0))


def _from_byte_planes(planes: Array, dtype: type[np.generic]) -> Array:
    little = np.dtype(dtype).newbyteorder("<")
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(little)[..., 0].astype(dtype)


def _digest(packed: dict[str, Array]) -> str:
    total = hashlib.sha256()
    for key in sorted(packed):
        value = packed[key]
        total.update(f"{key}|{value.dtype.str}|{value.shape}|".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()
