"""Writes force fields, conformations and energies for the GPU, to be read without OpenMM.

The GPU benchmark reads the peptides and tests/sims/test_gpu_forcefield.py the amino acids too:
machines with a GPU need not have OpenMM.

    OMP_NUM_THREADS=1 python benchmarks/export_parameters.py [PEPTIDE ...]

Conformations are frames of the short simulation of bench_forcefield.py; energies and forces are
the CPU kernel's in float64.
"""

import sys
from pathlib import Path

import torch
from bench_forcefield import simulate_frames
from parameter_file import Example, save_example

from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide

FOLDER = Path(__file__).parent / "data"
PEPTIDES = ("G", "A", "AA", "AAAA", "GYDPETGTWG")
FRAMES = 64  # of the 512, so that the files stay below 1 MB


def make_example(name: str) -> Example:
    peptide = build_peptide(name)
    field = ForceField.from_openmm(peptide.system)
    x = simulate_frames(field, torch.from_numpy(peptide.positions))[:FRAMES].clone()
    energy, forces = field.energy_and_forces(x.double())
    return Example(field.parameters, x, energy, forces.float())


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PEPTIDES:
        path = FOLDER / f"forcefield_{name}.safetensors"
        save_example(path, make_example(name))
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
