"""Force fields of every kind and conformations for the GPU kernels, small enough to interpret.

They are read from files, because machines with a GPU need not have OpenMM.
"""

import dataclasses
from functools import cache
from pathlib import Path

import torch

from benchmarks.parameter_file import load_example
from gensci.sims.forcefield import ForceField

DATA = Path(__file__).parents[2] / "benchmarks" / "data"

NAMES = ("plain", "vacuum", "cutoff", "switched", "hct", "necks", "salt", "everything")


@cache
def example(text):
    return load_example(DATA / f"forcefield_{text}.safetensors")


def parameters(text, name="plain", bonded=True):
    """The numbers of a peptide in OBC solvent, changed to those of another kind of force field."""
    p = example(text).parameters
    if not bonded:
        lists = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
        cut = {k: v[:0] for k, v in lists.items() if k.startswith(("bond_", "angle_", "torsion_"))}
        p = dataclasses.replace(p, **cut)
    cutoff = {"cutoff": 0.5, "krf": 1.3, "crf": 3.1}
    salt = {"kappa": 1.1, "screened": -1.8}
    changes = {
        "plain": (p, {}),
        "vacuum": (p, {"born": None}),
        "cutoff": (p, cutoff),
        "switched": (p, {**cutoff, "switch": 0.35}),
        "hct": (p, {"born": dataclasses.replace(p.born, tanh=False)}),
        "necks": (p, {"born": with_necks(p.born)}),
        "salt": (p, {"born": dataclasses.replace(p.born, **salt)}),
        "everything": (
            p,
            {**cutoff, "switch": 0.35, "born": dataclasses.replace(with_necks(p.born), **salt)},
        ),
    }
    base, change = changes[name]
    return dataclasses.replace(base, **change)


def with_necks(born):
    atoms = len(born.radius)
    generator = torch.Generator().manual_seed(2)
    value, distance = torch.rand(2, atoms, atoms, generator=generator, dtype=torch.float64)
    alpha = born.alpha * (0.9 + 0.2 * torch.rand(atoms, 1, generator=generator).double())
    return dataclasses.replace(
        born, alpha=alpha, neck_value=value, neck_distance=0.3 + 0.1 * distance, neck_cut=0.1
    )


def crowded_to_scattered(text, count):
    """Conformations shrunk and stretched, which takes pairs through every case."""
    x = example(text).x.double()
    x = x.repeat(-(-count // len(x)), 1, 1)[:count]
    scales = torch.linspace(0.6, 1.7, count, dtype=torch.float64)
    return (
        x * scales[torch.randperm(count, generator=torch.Generator().manual_seed(1))][:, None, None]
    )


def assert_agrees(p, x, energy, forces):
    """Energies and forces against float64 torch, in proportion to the precision of the kernel."""
    true_energy, true_forces = ForceField(p, fused=False).energy_and_forces(x.double())
    if energy.dtype == torch.float64:
        torch.testing.assert_close(energy, true_energy, rtol=1e-11, atol=1e-8)
        torch.testing.assert_close(forces, true_forces, rtol=1e-9, atol=1e-6)
        return
    torch.testing.assert_close(energy.double(), true_energy, rtol=1e-5, atol=2e-3)
    error = (forces.double() - true_forces).flatten(1).norm(dim=1)
    assert (error < 1e-4 * true_forces.flatten(1).norm(dim=1)).all()
