"""Conformers of a molecule by distance geometry and a classical force field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gensci.systems.molecule_graph import explicit_molecule

if TYPE_CHECKING:
    from rdkit import Chem

Array = np.ndarray
_DRAWS = 2
_STEPS = 2000
_SEEDS = 2**31 - 1


def conformer(smiles: str, seed: int) -> tuple[Array, Array]:
    """The conformer of lower energy of two.

    ETKDGv3 (Wang et al. 2020, doi:10.1021/acs.jcim.0c00025) relaxed by MMFF94s (Halgren 1999),
    or by UFF (Rappé et al. 1992) where MMFF lacks parameters.

    Args:
        smiles: of the molecule.
        seed: of the draws; any integer.

    Returns:
        (N,) int64 atomic numbers and (N, 3) float64 positions in Angstrom, centred, in the order of
        RDKit's ``AddHs(MolFromSmiles(smiles))``.

    Raises:
        UsageError: RDKit cannot read the SMILES.
        ValueError: no conformer was found.
    """
    numbers, positions = _relaxed(smiles, _DRAWS, seed)
    return numbers, positions[0]


def conformers(smiles: str, n: int, seed: int) -> tuple[Array, Array]:
    """Several conformers, relaxed, by rising energy; fewer than n where embedding fails.

    Args:
        smiles: of the molecule.
        n: how many to draw; equal ones are kept.
        seed: of the draws.

    Returns:
        (N,) int64 atomic numbers and (at most n, N, 3) float64 positions in Angstrom, centred.

    Raises:
        UsageError: RDKit cannot read the SMILES.
        ValueError: no conformer was found.
    """
    return _relaxed(smiles, n, seed)


def drawn(smiles: str, n: int, seed: int) -> tuple[Array, Array]:
    """Conformers by ETKDGv3 alone, not relaxed, in the order drawn.

    Args:
        smiles: of the molecule.
        n: how many to draw.
        seed: of the draws.

    Returns:
        (N,) int64 atomic numbers and (at most n, N, 3) float64 positions in Angstrom, centred.

    Raises:
        UsageError: RDKit cannot read the SMILES.
        ValueError: no conformer was found.
    """
    molecule = _embedded(smiles, n, seed)
    return _numbers(molecule), _positions(molecule)


def relax(smiles: str, positions: Array) -> Array:
    """Relax conformers by MMFF94s, or UFF where it lacks parameters, in their order.

    Args:
        smiles: of the molecule.
        positions: (n, N, 3) Angstrom in the order of RDKit's ``AddHs(MolFromSmiles(smiles))``.

    Returns:
        (n, N, 3) float64 positions in Angstrom, centred.

    Raises:
        UsageError: RDKit cannot read the SMILES.
    """
    from rdkit import Chem

    molecule = explicit_molecule(smiles)
    for points in np.asarray(positions, np.float64):
        shape = Chem.Conformer(molecule.GetNumAtoms())
        shape.SetPositions(np.ascontiguousarray(points))
        molecule.AddConformer(shape, assignId=True)
    _relax(molecule)
    return _positions(molecule)


def _relaxed(smiles: str, n: int, seed: int) -> tuple[Array, Array]:
    """Atomic numbers and centred positions by rising energy."""
    molecule = _embedded(smiles, n, seed)
    energies = _relax(molecule)
    return _numbers(molecule), _positions(molecule)[np.argsort(energies, kind="stable")]


def _embedded(smiles: str, n: int, seed: int) -> Chem.Mol:
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom

    molecule = explicit_molecule(smiles)
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed % _SEEDS
    settings.numThreads = 1
    with rdBase.BlockLogs():
        found = list(rdDistGeom.EmbedMultipleConfs(molecule, n, settings))
        if not found:
            # Cages and strained rings need starts that distance bounds alone do not give.
            settings.useRandomCoords = True
            found = list(rdDistGeom.EmbedMultipleConfs(molecule, n, settings))
    if not found:
        raise ValueError(f"distance geometry found no conformer of {smiles}")
    return molecule


def _relax(molecule: Chem.Mol) -> Array:
    """Energies in kcal/mol after relaxing every conformer in place; infinite where it failed."""
    from rdkit import rdBase
    from rdkit.Chem import rdForceFieldHelpers as helpers

    how = {"numThreads": 1, "maxIters": _STEPS}
    with rdBase.BlockLogs():
        if helpers.MMFFHasAllMoleculeParams(molecule):
            results = helpers.MMFFOptimizeMoleculeConfs(molecule, mmffVariant="MMFF94s", **how)
        elif helpers.UFFHasAllMoleculeParams(molecule):
            results = helpers.UFFOptimizeMoleculeConfs(molecule, **how)
        else:
            results = [(0, 0.0)] * molecule.GetNumConformers()
    return np.array([energy if status >= 0 else np.inf for status, energy in results])


def _positions(molecule: Chem.Mol) -> Array:
    """(conformers, N, 3) Angstrom, centred."""
    shapes = np.stack([shape.GetPositions() for shape in molecule.GetConformers()])
    return shapes - shapes.mean(1, keepdims=True)


def _numbers(molecule: Chem.Mol) -> Array:
    return np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
