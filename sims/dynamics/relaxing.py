"""Relaxing clashing conformations, every one on its own."""

import torch
from torch import Tensor

from .langevin import Potential


def relax(
    potential: Potential, x: Tensor, steps: int, largest_move: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Downhill steps of every conformation on its own, safe where atoms overlap.

    The atom with the largest force moves by a length that grows after a success and is halved
    after a failure, so huge forces do no harm.

    Args:
        potential: the force field.
        x: (n, atoms, 3) nm.
        steps: number of evaluations.
        largest_move: bound on the move of any atom in one step, nm.

    Returns:
        Positions (n, atoms, 3) and energies (n,) that are not above those at the start.
    """
    energy, forces = potential.energy_and_forces(x)
    length = torch.full_like(energy, 0.1 * largest_move)
    for _ in range(steps):
        strongest = forces.norm(dim=-1).amax(dim=-1).clamp_min(1e-6)
        trial = x + (length / strongest)[:, None, None] * forces
        trial_energy, trial_forces = potential.energy_and_forces(trial)
        better = (trial_energy < energy) | ~energy.isfinite()
        row = better[:, None, None]
        x, forces = torch.where(row, trial, x), torch.where(row, trial_forces, forces)
        energy = torch.where(better, trial_energy, energy)
        length = torch.where(better, 1.3 * length, 0.5 * length).clamp_max(largest_move)
    return x, energy
