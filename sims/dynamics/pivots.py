"""Monte Carlo rotations about bonds: they cross barriers that dynamics would have to climb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .langevin import GAS_CONSTANT, DynamicsState

_MIN_HEAVY_MASS = 3.5  # Da: lighter atoms are hydrogens, also repartitioned ones

_FLIP = 0.3  # radian about pi, the width of an amide's wells


@dataclass(frozen=True, eq=False)
class Rotors:
    """Bonds to rotate about.

    Attributes:
        axis: (k, 2) int64, the atoms of each bond.
        moving: (k, atoms) bool, the atoms that turn: those of the smaller side.
    """

    axis: Tensor
    moving: Tensor

    def __len__(self) -> int:
        return len(self.axis)


def find_rotors(bonds: Sequence[tuple[int, int]], masses: Tensor) -> Rotors:
    """Bonds outside of rings whose rotation moves a heavy atom.

    Amide bonds are among them: their two forms are far apart for dynamics. Methyl, ammonium,
    hydroxyl and the like are not: dynamics turns them within picoseconds.

    Args:
        bonds: pairs of atom indices.
        masses: (atoms,) Da, physical ones.
    """
    atoms = len(masses)
    neighbours: list[set[int]] = [set() for _ in range(atoms)]
    for a, b in bonds:
        neighbours[a].add(b)
        neighbours[b].add(a)
    heavy = masses > _MIN_HEAVY_MASS
    axes, sides = [], []
    for a, b in bonds:
        side = _beyond(neighbours, a, b)
        if a in side:
            continue  # in a ring
        moving = torch.zeros(atoms, dtype=torch.bool)
        moving[list(side)] = True
        if 2 * int(moving.sum()) > atoms:
            moving, (a, b) = ~moving, (b, a)
        moving[[a, b]] = False
        others = ~moving
        others[[a, b]] = False
        if (moving & heavy).any() and (others & heavy).any():
            axes.append((a, b))
            sides.append(moving)
    axis = torch.tensor(axes, dtype=torch.int64).reshape(-1, 2)
    return Rotors(axis, torch.stack(sides) if sides else torch.zeros(0, atoms, dtype=torch.bool))


def _beyond(neighbours: Sequence[set[int]], a: int, b: int) -> set[int]:
    """Atoms that are reached from b without the bond from a to b."""
    seen, edge = {b}, [n for n in neighbours[b] if n != a]
    while edge:
        atom = edge.pop()
        if atom not in seen:
            seen.add(atom)
            edge.extend(neighbours[atom] - seen)
    return seen


def rotated(x: Tensor, rotors: Rotors, choice: Tensor, angle: Tensor) -> Tensor:
    """Conformations after one rotation each.

    Args:
        x: (n, atoms, 3) nm.
        rotors: the bonds.
        choice: (n,) int64, which of them.
        angle: (n,) radian.
    """
    rows = torch.arange(len(x), device=x.device)
    first, second = rotors.axis.to(x.device)[choice].unbind(-1)
    origin = x[rows, second][:, None]
    axis = torch.nn.functional.normalize(x[rows, second] - x[rows, first], dim=-1)[:, None]
    arm = x - origin
    along = (arm * axis).sum(-1, keepdim=True) * axis
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turned = along + cos * (arm - along) + sin * torch.linalg.cross(axis.expand_as(arm), arm)
    moving = rotors.moving.to(x.device)[choice][..., None]
    return torch.where(moving, origin + turned, x)


def turn(uniform: Tensor) -> Tensor:
    """Angles of proposed rotations from uniform numbers on [0, 1), both (n,).

    Half of them are uniform, half lie about pi: amides and rings have a second form there and
    nowhere else. An angle and its opposite are equally likely, as detailed balance wants.
    """
    anywhere = 4 * torch.pi * uniform
    across = torch.pi + _FLIP * (4 * uniform - 3)
    return torch.where(uniform < 0.5, anywhere, across)


def pivot(
    potential: Any,
    rotors: Rotors,
    state: DynamicsState,
    temperature: Tensor,
    tries: int,
    generator: torch.Generator,
) -> tuple[DynamicsState, Tensor]:
    """Metropolis rotations by random angles about random bonds; velocities stay as they are.

    Bonds, angles and the volume element do not change, so the acceptance is that of the energy
    difference alone. Ref: Madras and Sokal 1988, J. Stat. Phys. 50, 109 (the pivot algorithm);
    alternating with dynamics: Duane et al. 1987, Phys. Lett. B 195, 216.

    Args:
        potential: the force field.
        rotors: the bonds.
        state: where to start; it is left as it is.
        temperature: (n,) K.
        tries: rotations offered to each conformation.
        generator: source of the randomness, on its own device.

    Returns:
        The state with its energies and forces, and how many were accepted, (n,) int64.
    """
    x, energy = state.positions, state.energy
    accepted = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if not len(rotors) or not tries:
        return state, accepted
    beta = 1 / (GAS_CONSTANT * temperature.double().to(x.device))
    energies = getattr(potential, "energy", None) or (lambda y: potential.energy_and_forces(y)[0])
    for _ in range(tries):
        draw = torch.rand(
            (3, len(x)), generator=generator, dtype=torch.float64, device=generator.device
        ).to(x.device)
        choice = (draw[0] * len(rotors)).long()
        trial = rotated(x, rotors, choice, turn(draw[1]).to(x.dtype))
        offered = energies(trial)
        taken = draw[2].log() < beta * (energy.double() - offered.double())
        x = torch.where(taken[:, None, None], trial, x)
        energy = torch.where(taken, offered, energy)
        accepted += taken
    moved = accepted > 0
    forces = state.forces.clone()
    if moved.any():
        energy = energy.clone()
        energy[moved], forces[moved] = potential.energy_and_forces(x[moved])
    return replace(state, positions=x, energy=energy, forces=forces), accepted
