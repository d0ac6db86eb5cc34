"""What the slots of a sequence hold: kinds of slots, units, and the choices that a model can make.

The defaults are those of the improved model. The others are those of Zhang et al. 2025
(arXiv:2503.06687), against which `benchmarks/bench_ablations.py` measures them: three lattice
vectors as they lie in space, atoms in sorted order with no origin of their own, and Cartesian
coordinates of molecules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.lattice import lattice_matrix, lattice_parameters
from gensci.nn.structure_frames import local_coordinates

TOKEN, LENGTHS, ANGLES, FRACTION, LOCAL, PROPERTY, VECTOR_A, VECTOR_B, VECTOR_C = range(9)
LOG_LENGTH = (1.1, 0.3)  # mean and width of log(length / atoms^(1/3)), length in Angstrom
ANGLE = (90.0, 20.0)  # degrees
CHOICES = {
    "lattice": ("niggli", "vectors"),
    "origin": ("first", "random"),
    "atom_order": ("shuffled", "sorted"),
    "frames": ("local", "global"),
}


@dataclass(frozen=True)
class Layout:
    """How structures are written as slots, and read back.

    Attributes:
        lattice: ``niggli``, lengths and angles in two slots, or ``vectors``, the three rows in
            Angstrom, turned at random in training.
        origin: where the first atom of a crystal lies: ``first``, at the origin, or ``random``,
            anywhere in the cell, which the model then has to say.
        atom_order: of a crystal's atoms of one element: ``shuffled``, or ``sorted`` by their
            coordinates.
        frames: of a molecule's atoms: ``local``, those of atoms placed before, or ``global``, that
            of space with the centre at the origin, turned at random in training.

    Raises:
        UsageError: there is no such choice.
    """

    lattice: str = "niggli"
    origin: str = "first"
    atom_order: str = "shuffled"
    frames: str = "local"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name}={getattr(self, name)!r} is unknown", f"choose {' or '.join(known)}"
                )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Layout:
        """That of a model."""
        return cls(**{f.name: settings[f.name] for f in fields(cls)})

    @property
    def cell_kinds(self) -> tuple[int, ...]:
        """Kinds of the slots of the lattice, in order."""
        vectors = (VECTOR_A, VECTOR_B, VECTOR_C)
        return vectors if self.lattice == "vectors" else (LENGTHS, ANGLES)

    @property
    def num_kinds(self) -> int:
        """How many kinds a model has to tell apart."""
        return max(PROPERTY, *self.cell_kinds) + 1

    @property
    def fixed_atoms(self) -> dict[str, int]:
        """Atoms whose slots are no property of the structure, by family."""
        return {"crystal": int(self.origin == "first"), "molecule": int(self.frames == "local")}

    def cell(
        self, lattice: np.ndarray, atoms: int, rotation: np.ndarray | None = None
    ) -> np.ndarray:
        """Slots (2, 3) or (3, 3) of a cell.

        Args:
            lattice: (6,) Angstrom and degrees.
            atoms: in it.
            rotation: (3, 3) for vectors; they lie as `lattice_matrix` has them without it.
        """
        if self.lattice == "niggli":
            return normal_lattice(lattice, atoms)
        vectors = lattice_matrix(torch.from_numpy(np.asarray(lattice, np.float64))).numpy()
        turned = vectors if rotation is None else vectors @ rotation.T
        return turned.astype(np.float32)

    def cell_vectors(self, slots: Tensor, atoms: Tensor) -> Tensor:
        """Lattice vectors (..., 3, 3) as rows in Angstrom of slots (..., 2 or 3, 3)."""
        if self.lattice == "vectors":
            return slots
        return lattice_matrix(physical_lattice(slots, atoms).double()).float()

    def cell_slots(self, vectors: Tensor, atoms: int) -> Tensor:
        """Slots (n, 2 or 3, 3) of lattice vectors (n, 3, 3); reverse of :meth:`cell_vectors`."""
        if self.lattice == "vectors":
            return vectors
        cells = lattice_parameters(vectors.double()).cpu().numpy()
        slots = np.stack([normal_lattice(cell, atoms) for cell in cells])
        return torch.from_numpy(slots).to(vectors.device)

    def atoms_inside(self, fractional: Tensor) -> Tensor:
        """Values (n, N or N - 1, 3) of the learned slots of crystals (n, N, 3)."""
        if self.origin == "random":
            return fractional
        return (fractional - fractional[:, :1])[:, 1:]

    def centre(self, positions: np.ndarray) -> np.ndarray:
        """The point (3,) of a molecule that is put at the origin: its first atom, or its middle."""
        return positions[0] if self.frames == "local" else positions.mean(0)

    def atoms_in_space(self, positions: Tensor, references: Tensor) -> Tensor:
        """Slots (B, N, 3) of molecules at positions (B, N, 3) in Angstrom."""
        if self.frames == "global":
            return positions
        return local_coordinates(positions, references)


def normal_lattice(lattice: np.ndarray, atoms: int) -> np.ndarray:
    """Lattice (6,) in Angstrom and degrees as the network's two slots (2, 3)."""
    lengths = (np.log(lattice[:3] / atoms ** (1 / 3)) - LOG_LENGTH[0]) / LOG_LENGTH[1]
    return np.stack((lengths, (lattice[3:] - ANGLE[0]) / ANGLE[1])).astype(np.float32)


def physical_lattice(slots: Tensor, atoms: Tensor) -> Tensor:
    """The reverse of :func:`normal_lattice`: (..., 2, 3) slots and (...) counts to (..., 6)."""
    scale = atoms.to(slots.dtype).unsqueeze(-1) ** (1 / 3)
    lengths = (slots[..., 0, :] * LOG_LENGTH[1] + LOG_LENGTH[0]).exp() * scale
    return torch.cat((lengths, slots[..., 1, :] * ANGLE[1] + ANGLE[0]), -1)
