"""A long plain OpenMM run of Ace-A-Nme: what our own dynamics is held against.

    OMP_NUM_THREADS=1 python benchmarks/make_openmm_reference.py --out data/openmm/Ace-A-Nme.npz

Amber14 with OBC2, in OpenMM's own GBSAOBCForce on its Reference platform: double precision, and for
so few atoms twenty times faster than the CPU platform. LangevinMiddleIntegrator, no constraints,
hydrogens of 3 Da, 2 fs, 310 K, one thread; runs one after another from the same minimised
structure, each with velocities of its own and 20 ps to forget it. Energies and torsions are kept
every 0.2 ps; written again after every run, so a stopped job loses one run at most. `--summarise`
writes the averages with errors over the runs to benchmarks/references/openmm-Ace-A-Nme.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from gensci.sims.peptide import build_peptide

SYSTEM, SOLVENT = "Ace-A-Nme", "obc2"
TEMPERATURE, FRICTION, TIME_STEP, HYDROGEN = 310.0, 1.0, 0.002, 3.0
STEPS_PER_FRAME, DISCARDED = 100, 100
BINS = 12


def heavy_hydrogens(system: openmm.System, bonds: tuple[tuple[int, int], ...]) -> None:
    for pair in bonds:
        mass = [system.getParticleMass(atom)._value for atom in pair]
        light, heavy = pair if mass[0] < mass[1] else pair[::-1]
        if min(mass) < 1.5:
            system.setParticleMass(heavy, max(mass) + min(mass) - HYDROGEN)
            system.setParticleMass(light, HYDROGEN)


def native_solvent(system: openmm.System) -> None:
    """Replaces the OBC2 that openmm.app writes as text by OpenMM's own force; same energies."""
    forces = system.getForces()
    index = next(k for k, f in enumerate(forces) if isinstance(f, openmm.CustomGBForce))
    text = forces[index]
    names = [text.getPerParticleParameterName(k) for k in range(text.getNumPerParticleParameters())]
    native = openmm.GBSAOBCForce()
    native.setSoluteDielectric(1.0)
    native.setSolventDielectric(78.5)
    for k in range(text.getNumParticles()):
        value = dict(zip(names, text.getParticleParameters(k), strict=True))
        native.addParticle(value["charge"], value["or"] + 0.009, value["sr"] / value["or"])
    system.removeForce(index)
    system.addForce(native)


def torsion(x: np.ndarray, atoms: tuple[int, int, int, int]) -> np.ndarray:
    """Dihedral angles (n,) of positions (n, atoms, 3), IUPAC sign."""
    a, b, c, d = (x[:, k] for k in atoms)
    axis = c - b
    u, v = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = np.einsum("ni,ni->n", np.cross(u, v), axis) / np.linalg.norm(axis, axis=1)
    return np.arctan2(sine, np.einsum("ni,ni->n", u, v))


def backbone(peptide: object) -> dict[str, tuple[int, ...]]:
    """Atoms of phi and psi of the middle residue."""
    index = {
        key: k for k, key in enumerate(zip(peptide.residue_index, peptide.atom_names, strict=True))
    }
    phi = (index[0, "C"], index[1, "N"], index[1, "CA"], index[1, "C"])
    psi = (index[1, "N"], index[1, "CA"], index[1, "C"], index[2, "N"])
    return {"phi": phi, "psi": psi}


def one_run(peptide: object, frames: int, seed: int) -> dict[str, np.ndarray]:
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION, TIME_STEP)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(peptide.system, integrator, platform)
    context.setPositions(peptide.positions)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    positions, energy = [], []
    for frame in range(frames + DISCARDED):
        integrator.step(STEPS_PER_FRAME)
        if frame < DISCARDED:
            continue
        state = context.getState(getPositions=True, getEnergy=True)
        positions.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        energy.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    x = np.array(positions)
    angles = {name: torsion(x, atoms) for name, atoms in backbone(peptide).items()}
    return {"energy": np.array(energy), **angles}


def simulate(out: Path, runs: int, frames: int) -> None:
    peptide = build_peptide(SYSTEM, implicit_solvent=SOLVENT)
    native_solvent(peptide.system)
    heavy_hydrogens(peptide.system, peptide.bonds)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [] if not out.exists() else [dict(zip(("energy", "phi", "psi"), r, strict=True))
                                        for r in np.load(out)["rows"]]  # fmt: skip
    for k in range(len(rows), runs):
        rows.append(one_run(peptide, frames, seed=k + 1))
        stacked = np.array([[row[name] for name in ("energy", "phi", "psi")] for row in rows])
        part = out.with_suffix(".part.npz")
        np.savez(part, rows=stacked)
        part.replace(out)
        print(f"run {k + 1} of {runs}: mean energy {rows[-1]['energy'].mean():.2f}", flush=True)


def averages(values: np.ndarray) -> dict[str, list[float]]:
    """Mean over the runs (runs, k) and its error."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(0).tolist(), "error": error.tolist()}


def summarise(data: Path) -> dict:
    """Mean energy and cell populations of the phi/psi torus, with errors over the runs."""
    rows = np.load(data)["rows"]
    energy, phi, psi = rows[:, 0], rows[:, 1], rows[:, 2]
    cell = [((angle + np.pi) / (2 * np.pi) * BINS).astype(int) % BINS for angle in (phi, psi)]
    number = cell[0] * BINS + cell[1]
    shares = np.array([np.bincount(n, minlength=BINS**2) / len(n) for n in number])
    negative = shares * (np.arange(BINS**2) < BINS**2 // 2)
    given = [np.average(e, weights=p < 0) for e, p in zip(energy, phi, strict=True)]
    conditional = np.column_stack([given, negative / negative.sum(1, keepdims=True)])
    return {
        "system": SYSTEM, "implicit_solvent": SOLVENT,
        "recipe": {
            "runs": len(rows), "frames": rows.shape[2], "time_step_ps": TIME_STEP,
            "frame_ps": TIME_STEP * STEPS_PER_FRAME, "temperature": TEMPERATURE,
            "friction": FRICTION, "hydrogen_mass": HYDROGEN, "openmm": openmm.version.version,
        },
        "observables": f"energy kJ/mol, then {BINS}x{BINS} cells of (phi, psi) from -pi",
        **averages(np.column_stack([energy.mean(1), shares])),
        # what short runs can be held against: crossing to positive phi takes nanoseconds
        "given_negative_phi": averages(conditional),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/openmm/Ace-A-Nme.npz"))
    parser.add_argument("--runs", type=int, default=48)
    parser.add_argument("--frames", type=int, default=10_000, help="0.2 ps each")
    parser.add_argument("--summarise", action="store_true")
    arguments = parser.parse_args()
    if not arguments.summarise:
        simulate(arguments.out, arguments.runs, arguments.frames)
    record = summarise(arguments.out)
    path = Path(__file__).parent / "references" / "openmm-Ace-A-Nme.json"
    path.write_text(json.dumps(record) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
