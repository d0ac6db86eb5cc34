"""Molecules as a file that other tools open: `samples.sdf`, with bond orders and charges."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gensci.core.results import SampleSet, finite_rows
from gensci.io.atomic import write_atomic

if TYPE_CHECKING:
    from rdkit import Chem

MOLECULES = "samples.sdf"
_ANGSTROM_PER_NM = 10.0


def write_molecules(folder: Path, samples: SampleSet, smiles: Sequence[str]) -> np.ndarray:
    """Write `samples.sdf`: one record for each sample, all hydrogens explicit, in Angstrom.

    Titles are the SMILES. The properties are `sample`, the row in `samples.npz`, and `weight`,
    which sums to one over all samples. Coordinates have four digits: numbers are to be taken from
    `samples.npz`. Left out are rows without weight, with infinite numbers, or whose SMILES is of
    other atoms than the row.

    Args:
        folder: the run folder.
        samples: with `positions` (n, N, 3) nm and `numbers` (n, N), 0 where there is no atom; the
            atoms of the SMILES, then their hydrogens.
        smiles: of every row, or one for all.

    Returns:
        The rows written.
    """
    from rdkit import Chem

    texts = list(smiles) * len(samples) if len(smiles) == 1 else smiles
    fit = finite_rows(samples.x) & samples.log_weight.isfinite().cpu()
    weight = samples.weight.cpu().tolist()
    records, rows = [], []
    for row in fit.nonzero()[:, 0].tolist():
        atoms = samples.x["numbers"][row]
        positions = samples.x["positions"][row][atoms > 0]
        molecule = _conformer(texts[row], atoms[atoms > 0].tolist(), positions)
        if molecule is None:
            continue
        for name, value in (("_Name", texts[row]), ("sample", str(row))):
            molecule.SetProp(name, value)
        molecule.SetDoubleProp("weight", weight[row])
        records.append(molecule)
        rows.append(row)

    def write(temporary: Path) -> None:
        with Chem.SDWriter(str(temporary)) as writer:
            for molecule in records:
                writer.write(molecule)

    write_atomic(folder / MOLECULES, write)
    return np.array(rows, dtype=np.int64)


def read_molecules(path: Path) -> tuple[list[Chem.Mol], Tensor]:
    """Molecules of an SDF file with their hydrogens, stereo from the coordinates, and weights.

    Args:
        path: written by ``write_molecules`` or another program; records that RDKit cannot read are
            left out.

    Returns:
        The molecules, each with one conformer in Angstrom, and (n,) float64 weights, equal where a
        record has none.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs(), Chem.SDMolSupplier(str(path), removeHs=False) as records:
        molecules = [molecule for molecule in records if molecule is not None]
    equal = 1.0 / max(1, len(molecules))
    weights = [float(m.GetProp("weight")) if m.HasProp("weight") else equal for m in molecules]
    return molecules, torch.tensor(weights, dtype=torch.float64)


def _conformer(smiles: str, numbers: list[int], positions: Tensor) -> Chem.Mol | None:
    """The molecule with these positions in nm, or None where they are of other atoms."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    template = _template(smiles)
    if template is None or [atom.GetAtomicNum() for atom in template.GetAtoms()] != numbers:
        return None
    molecule = Chem.Mol(template)
    conformer = Chem.Conformer(len(numbers))
    conformer.Set3D(True)
    for atom, place in enumerate((positions.detach().cpu().double() * _ANGSTROM_PER_NM).tolist()):
        conformer.SetAtomPosition(atom, Point3D(*place))
    molecule.AddConformer(conformer, assignId=True)
    return molecule


@functools.lru_cache(maxsize=1024)
def _template(smiles: str) -> Chem.Mol | None:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return None if molecule is None else Chem.AddHs(molecule)
