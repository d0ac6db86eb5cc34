"""Measures of molecules for `gensci evaluate`: of invented ones, and of conformers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from gensci.commands.evaluation_crystals import Report
from gensci.commands.evaluation_inputs import Group, Results, molecules_of, padded
from gensci.core.errors import UsageError
from gensci.metrics.conformers import DELTA_QM9, Conformers, conformer_score
from gensci.metrics.molecules import molecule_distances, stability, valid_molecules

if TYPE_CHECKING:
    from gensci.data.structure_table import StructureTable

Array = np.ndarray


def judge_new_molecules(
    results: Results,
    table: StructureTable | None,
    train: StructureTable | None,
    jobs: int | None,
) -> Report:
    """Stability, validity, uniqueness and novelty of molecules, as EDM measures them."""
    numbers, positions = _together(results.groups)
    report = Report(protocol={"bonds": "EDM tables, margins 10/5/3 pm", "validity": "RDKit"})
    report.lines.append("protocol: bonds by EDM's tables (margins 10/5/3 pm), sanitised by RDKit")
    report.metrics["samples"] = len(numbers)
    report.lines.append(f"  {len(numbers)} samples")
    stable = stability(numbers, positions)
    report.share("atom_stability", stable.atom_share)
    report.share("molecule_stability", stable.molecule_share)
    valid = valid_molecules(numbers, positions, jobs=jobs)
    report.share("validity", valid.validity)
    report.share("uniqueness", valid.uniqueness, "(of the valid)")
    report.share("validity_x_uniqueness", valid.validity * valid.uniqueness)
    report.share("connected", valid.connected.mean())
    if train is not None:
        known = valid.novelty(train.smiles)
        report.share("novelty", known, f"against {len(train)} training molecules (no stereo)")
    if table is not None:
        _distances(report, (numbers, positions), table)
    ids = [name for group in results.groups for name in group.ids]
    report.samples = [
        {"sample": name, "stable": bool(good), "smiles": smiles}
        for name, good, smiles in zip(ids, stable.molecules, valid.smiles, strict=True)
    ]
    return report


def _together(groups: list[Group]) -> tuple[Array, Array]:
    rows = [pair for group in groups for pair in zip(group.numbers, group.positions, strict=True)]
    return padded(rows)


def _distances(report: Report, generated: tuple[Array, Array], table: StructureTable) -> None:
    units = {"num_atoms": "atoms", "num_heavy_atoms": "atoms", "radius_of_gyration_nm": "nm"}
    for name, value in molecule_distances(generated, molecules_of(table)).items():
        label = f"w1_{name.removesuffix('_nm')}"
        report.number(label, value, units[name], f"{value:.4f} {units[name]}")


def judge_conformers(
    results: Results, table: StructureTable, delta: float | None, jobs: int | None
) -> Report:
    """COV and MAT of the conformers of every molecule that the reference has too.

    Raises:
        UsageError: the samples name no molecule, or the reference has none of them.
    """
    references: dict[str, list[int]] = defaultdict(list)
    for row, smiles in enumerate(table.smiles):
        references[_canonical(smiles)].append(row)
    if any(group.smiles is None for group in results.groups):
        raise UsageError(
            "conformers are compared by molecule, and these samples do not say which they are of",
            "evaluate run folders of `gensci sample --system smiles:...`, or use --task new",
        )
    pairs = [(g, references[_canonical(g.smiles or "")]) for g in results.groups]
    sets = [_conformers(group, table, rows) for group, rows in pairs if rows]
    if not sets:
        raise UsageError("the reference has none of these molecules", "is it the right table?")
    delta = delta or DELTA_QM9
    score = conformer_score(sets, delta, jobs=jobs)
    report = Report(protocol={"rms": "GetBestRMS of heavy atoms", "delta_nm": delta})
    report.lines.append(f"protocol: GetBestRMS of heavy atoms, delta {delta * 10:g} Angstrom")
    report.lines.append(f"  {len(sets)} of {len(results.groups)} molecules are in the reference")
    ratio = np.array([len(one.generated) / len(one.reference) for one in sets])
    if (ratio != 2).any():
        report.lines.append(
            f"  samples per reference conformer: {ratio.min():.3g} to {ratio.max():.3g} "
            "(published tables take 2)"
        )
    for name, value in score.record().items():
        if value is None or name in ("delta_nm", "timed_out"):
            continue
        if name.startswith("coverage"):
            report.share(name, value)
        else:
            report.number(name.removesuffix("_nm"), value, "nm", f"{value:.5f} nm")
    report.metrics |= {"molecules": len(sets), "timed_out": score.timed_out}
    names = ("coverage_recall", "matching_recall", "coverage_precision", "matching_precision")
    report.samples = [
        {"smiles": one.smiles, **{name: _plain(getattr(score, name)[row]) for name in names}}
        for row, one in enumerate(sets)
    ]
    return report


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _canonical(smiles: str) -> str:
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(smiles)
    return smiles if molecule is None else Chem.MolToSmiles(molecule)


def _conformers(group: Group, table: StructureTable, rows: list[int]) -> Conformers:
    smiles = table.row(rows[0]).smiles or ""
    present = group.numbers[0] > 0
    return Conformers(
        smiles=group.smiles or "",
        generated=group.positions[:, present],
        reference=np.stack([table.row(row).coordinates / 10.0 for row in rows]),
        reference_smiles=smiles,
    )
