"""Coverage and matching of conformers: COV and MAT, as recall and as precision.

Ref: Xu et al. 2021, arXiv:2102.10240 (recall); Ganea et al. 2021, arXiv:2106.07802 (precision, and
twice as many samples as references).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensci.core.errors import UsageError
from gensci.core.worker_pool import timed_map

Array = np.ndarray

DELTA_QM9, DELTA_DRUGS = 0.05, 0.125
"""Published thresholds in nm (0.5 and 1.25 Angstrom)."""
_ANGSTROM = 10.0


@dataclass(frozen=True)
class Conformers:
    """Generated and reference conformers of one molecule.

    Attributes:
        smiles: of the molecule; atoms are in the order of RDKit's AddHs(MolFromSmiles(smiles)).
        generated: (k, atoms, 3) nm; published protocols take k = 2 m.
        reference: (m, atoms, 3) nm.
        reference_smiles: of the same molecule, where the atoms of the reference follow another one.
    """

    smiles: str
    generated: Array
    reference: Array
    reference_smiles: str | None = None


@dataclass(frozen=True)
class ConformerScore:
    """COV and MAT over molecules.

    Attributes:
        coverage_recall: per molecule, share of references within delta of a generated one.
        matching_recall: per molecule, mean distance of a reference to the nearest, nm.
        coverage_precision: the same with both sides exchanged.
        matching_precision: the same with both sides exchanged, nm.
        delta: threshold, nm.
        timed_out: generated conformers that took too long; they cover nothing.
    """

    coverage_recall: Array
    matching_recall: Array
    coverage_precision: Array
    matching_precision: Array
    delta: float
    timed_out: int

    def record(self) -> dict[str, Any]:
        """Means and medians over molecules for JSON; distances in nm."""
        names = ("coverage_recall", "matching_recall", "coverage_precision", "matching_precision")
        found: dict[str, Any] = {}
        for name in names:
            values = getattr(self, name)
            finite = values[np.isfinite(values)]
            unit = "_nm" if name.startswith("matching") else ""
            for how, measure in (("mean", np.mean), ("median", np.median)):
                found[f"{name}_{how}{unit}"] = float(measure(finite)) if len(finite) else None
        return {**found, "delta_nm": self.delta, "timed_out": self.timed_out}


def conformer_score(
    molecules: Sequence[Conformers],
    delta: float = DELTA_QM9,
    *,
    time_limit: float = 20.0,
    jobs: int | None = None,
) -> ConformerScore:
    """COV and MAT of heavy atoms after the best superposition over all symmetries (GetBestRMS).

    Args:
        molecules: the conformers.
        delta: threshold in nm.
        time_limit: wall-clock seconds for one generated conformer against all references.
        jobs: worker processes.

    Raises:
        UsageError: a SMILES does not parse, or has another number of atoms than its conformers.
    """
    for molecule in molecules:
        _check(molecule)
    items = [
        (m.smiles, m.generated[row], m.reference_smiles or m.smiles, m.reference)
        for m in molecules
        for row in range(len(m.generated))
    ]
    outcomes = timed_map(heavy_atom_rms, items, time_limit=time_limit, jobs=jobs)
    late = sum(outcome.status != "done" for outcome in outcomes)
    rows = iter(outcomes)
    columns: list[tuple[float, float, float, float]] = []
    for molecule in molecules:
        far = np.full(len(molecule.reference), np.inf)
        found = [next(rows).value for _ in range(len(molecule.generated))]
        matrix = np.array([far if row is None else row for row in found])
        columns.append(_cover(matrix.reshape(-1, len(far)), delta))
    table = np.array(columns).reshape(-1, 4).T
    return ConformerScore(*table, delta=delta, timed_out=late)


def _cover(matrix: Array, delta: float) -> tuple[float, float, float, float]:
    """COV-R, MAT-R, COV-P, MAT-P of distances (generated, references)."""
    recall = matrix.min(0, initial=np.inf)
    precision = matrix.min(1, initial=np.inf)
    finite = precision[np.isfinite(precision)]
    return (
        float((recall <= delta).mean()),
        float(recall.mean()),
        float((precision <= delta).mean()) if len(precision) else 0.0,
        float(finite.mean()) if len(finite) else float("inf"),
    )


def heavy_atom_rms(item: tuple[str, Array, str, Array]) -> Array:
    """Distances (m,) in nm of one conformer to references, without hydrogens.

    Args:
        item: SMILES, one conformer (atoms, 3) nm; SMILES, references (m, atoms, 3) nm.
    """
    from rdkit.Chem import rdMolAlign

    smiles, conformer, reference_smiles, references = item
    probe = _heavy_molecule(smiles, conformer)
    distances = [
        rdMolAlign.GetBestRMS(probe, _heavy_molecule(reference_smiles, reference))
        for reference in references
    ]
    return np.array(distances) / _ANGSTROM


@functools.lru_cache(maxsize=4096)
def _template(smiles: str) -> Any:
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(smiles)
    return None if molecule is None else Chem.AddHs(molecule)


def _heavy_molecule(smiles: str, positions: Array) -> Any:
    from rdkit import Chem

    molecule = Chem.Mol(_template(smiles))
    conformer = Chem.Conformer(molecule.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64) * _ANGSTROM)
    molecule.AddConformer(conformer)
    return Chem.RemoveHs(molecule)


def _check(molecule: Conformers) -> None:
    written = (molecule.smiles, molecule.reference_smiles or molecule.smiles)
    for name, smiles in zip(("generated", "reference"), written, strict=True):
        template = _template(smiles)
        if template is None:
            raise UsageError(f"SMILES {smiles!r} does not parse", "correct it")
        shape = getattr(molecule, name).shape
        if len(shape) != 3 or shape[1:] != (template.GetNumAtoms(), 3):
            raise UsageError(
                f"{name} conformers of {smiles} have shape {shape}, but the molecule has "
                f"{template.GetNumAtoms()} atoms with its hydrogens",
                "give (conformers, atoms, 3)",
            )
    if not len(molecule.reference):
        raise UsageError(f"{molecule.smiles} has no reference conformer", "leave it out")
