"""Peptide conformations for the force-field tests, and OpenMM's answers for them."""

from functools import cache

import numpy as np
import openmm
import torch

from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide


@cache
def peptide_system(text):
    """The OpenMM System of a peptide and its unrelaxed geometry."""
    peptide = build_peptide(text, minimise=False)
    return peptide.system, torch.from_numpy(peptide.positions)


@cache
def conformations(text, count=4):
    """(count, atoms, 3) float64 nm: relaxed somewhat, then shaken as at room temperature."""
    system, x = peptide_system(text)
    field = ForceField.from_openmm(system)
    x = x[None]
    for _ in range(150):
        x = x + (2e-6 * field.energy_and_forces(x)[1]).clamp(-2e-3, 2e-3)
    noise = torch.randn(count, *x.shape[1:], generator=torch.Generator().manual_seed(5))
    return x + 0.004 * noise.double()


def reference(system, x):
    """Energies (n,) and forces (n, atoms, 3) of OpenMM's Reference platform."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies, forces = [], []
    for conformation in x.double().numpy():
        context.setPositions(conformation)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    return torch.tensor(energies, dtype=torch.float64), torch.from_numpy(np.array(forces))
