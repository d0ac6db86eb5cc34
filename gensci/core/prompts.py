"""What a model of structures is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class StructurePrompt:
    """A crystal or a molecule to be drawn; what is None is the model's to choose.

    Attributes:
        kind: crystal or molecule.
        numbers: atomic numbers of all atoms in their order, for a molecule hydrogens last; None
            for a new structure.
        smiles: of the molecule whose conformers are drawn, written so that its atoms, then their
            hydrogens, have the order of `numbers`; None for crystals and new molecules.
        conditions: values of properties by name, in the units of the training data: eV/atom for
            formation_energy, eV for band_gap.
        style: name of the training set to write like, or None.
        elements: the only atomic numbers that may be used, or None for all.
        num_atoms: how many atoms a new crystal has, or None.
        max_heavy_atoms: how many atoms but hydrogen a new molecule may have, or None.
        templates: whether the prompt may be led by a retrieved structure.
    """

    kind: Literal["crystal", "molecule"]
    numbers: tuple[int, ...] | None = None
    smiles: str | None = None
    conditions: Mapping[str, float] = field(default_factory=dict)
    style: str | None = None
    elements: tuple[int, ...] | None = None
    num_atoms: int | None = None
    max_heavy_atoms: int | None = None
    templates: bool = False
