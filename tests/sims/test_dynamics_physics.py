"""Dynamics of peptides against statistical mechanics and against OpenMM."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gensci.sims.dynamics import (
    GAS_CONSTANT,
    Langevin,
    ReplicaExchange,
    geometric_ladder,
    kinetic_energy,
    repartitioned_masses,
)
from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide

OPENMM = Path(__file__).parents[2] / "benchmarks" / "references" / "openmm-Ace-A-Nme.json"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def molecule(name, **build):
    peptide = build_peptide(name, **build)
    field = ForceField.from_openmm(peptide.system, num_threads=1)
    return peptide, field, torch.from_numpy(peptide.positions).float()[None]


def equilibrium(rows, snapshots, *, interval=25, seed=0, time_step=0.0005):
    """States of Ace-A-Nme with equal masses after 1 ps, ``interval`` steps apart."""
    _, field, x = molecule("Ace-A-Nme")
    masses = torch.full((field.num_atoms,), 12.0)
    langevin = Langevin(field, masses, time_step, friction=20.0)
    temperature = torch.full((rows,), 310.0)
    g = generator(seed)
    state = langevin.start(x.repeat(rows, 1, 1), temperature, g)
    state = langevin.run(state, temperature, round(1.0 / time_step), g)
    for _ in range(snapshots):
        state = langevin.run(state, temperature, interval, g)
        yield state, masses


def test_every_degree_of_freedom_has_half_kt():
    kt = GAS_CONSTANT * 310.0
    kinetic = [0.5 * 12.0 * s.velocities.square() for s, _ in equilibrium(256, 24)]
    by_row = torch.stack(kinetic).mean(0).reshape(256, -1).double() / (0.5 * kt)
    mean, error = by_row.mean(0), by_row.std(0) / math.sqrt(256)
    z = (mean - 1.0) / error
    assert error.max() < 0.06
    assert z.abs().max() < 4.5
    assert z.square().mean() < 1.6
    assert by_row.mean().item() == pytest.approx(1.0, abs=0.01)


def test_positions_fulfil_the_virial_theorem():
    # integrating by parts over all coordinates but the centroid: <x . dU/dx> = (3 N - 3) kT
    kt = GAS_CONSTANT * 310.0
    virials = []
    for state, _ in equilibrium(512, 60, interval=80, seed=1):
        inner = state.positions - state.positions.mean(1, keepdim=True)
        virials.append(-(inner * state.forces).sum((1, 2)).double() / kt)
    by_row = torch.stack(virials).mean(0)
    freedom = 3 * state.positions.shape[1] - 3
    error = (by_row.std() / math.sqrt(512)).item()
    assert error < 0.02 * freedom
    assert abs(by_row.mean().item() - freedom) < 4 * error


def slope_between(cold, hot):
    """Maximum-likelihood slope of the log ratio of two energy densities (Shirts 2013)."""
    energy = np.concatenate([cold, hot])
    centre, scale = energy.mean(), energy.std()
    u, label = (energy - centre) / scale, np.repeat([1.0, 0.0], [len(cold), len(hot)])
    design = np.column_stack([np.ones_like(u), u])
    theta = np.zeros(2)
    for _ in range(30):  # Newton's method of logistic regression
        p = 1 / (1 + np.exp(-design @ theta))
        hessian = (design * (p * (1 - p))[:, None]).T @ design
        theta += np.linalg.solve(hessian, design.T @ (label - p))
    return -theta[1] / scale


def test_replicas_and_their_exchanges_keep_the_ensembles():
    # Energies at two temperatures differ by the factor exp(-(beta - beta') U) and nothing else,
    # ref. Shirts 2013, doi:10.1021/ct300688p. Exchanges without detailed balance break it.
    _, field, x = molecule("GG")
    ladder, ladders = geometric_ladder(310.0, 450.0, 3), 32
    langevin = Langevin(field, torch.full((field.num_atoms,), 12.0), 0.002, friction=5.0)
    replicas = ReplicaExchange(langevin, ladder, exchange_interval=20)
    g = generator(3)
    state = replicas.start(x.repeat(3 * ladders, 1, 1), g)
    state = replicas.run(state, 2000, g)
    energies = []
    for _ in range(100):
        state = replicas.run(state, 100, g)
        energies.append(state.dynamics.energy.reshape(ladders, 3).double())
    energy = torch.stack(energies).numpy()
    assert (state.accepted > 0.2 * state.attempted).all()
    beta = 1 / (GAS_CONSTANT * np.array(ladder))
    for k in range(2):
        blocks = np.array_split(np.arange(ladders), 8)
        slopes = [
            slope_between(energy[:, b, k].ravel(), energy[:, b, k + 1].ravel()) for b in blocks
        ]
        error = np.std(slopes, ddof=1) / math.sqrt(8)
        truth = beta[k] - beta[k + 1]
        assert error < 0.06 * truth
        assert abs(np.mean(slopes) - truth) < 4 * error


def constant_energy(time_step, picoseconds, dtype=torch.float32, rows=16):
    """Total energies (records, rows) kJ/mol every 0.05 ps of velocity Verlet with AA at 310 K."""
    _, field, x = molecule("AA")
    x, masses, g = x.to(dtype), field.masses.to(dtype), generator(5)
    temperature = torch.full((rows,), 310.0)
    warm = Langevin(field, masses, 0.0005, friction=20.0)
    state = warm.start(x.repeat(rows, 1, 1), temperature, g)
    state = warm.run(state, temperature, 2000, g)
    newton = Langevin(field, masses, time_step, friction=0.0)
    records = []
    for _ in range(round(picoseconds / 0.05)):
        state = newton.run(state, temperature, round(0.05 / time_step), g)
        records.append((state.energy + kinetic_energy(state, masses)).double())
    return torch.stack(records)


@pytest.mark.parametrize(
    ("dtype", "picoseconds", "bound"), [(torch.float32, 40.0, 0.05), (torch.float64, 10.0, 0.03)]
)
def test_without_friction_energy_is_kept(dtype, picoseconds, bound):
    total = constant_energy(0.0005, picoseconds, dtype)
    change = total[-50:].mean(0) - total[:50].mean(0)
    drift = change / (picoseconds - 2.5) * 1000 / (69 * GAS_CONSTANT * 310.0)
    error = drift.std() / math.sqrt(drift.numel())
    # kT per nanosecond and degree of freedom; 0.1 is a usual bound in single precision
    assert abs(drift.mean()) < bound + 3 * error
    assert error < 0.03
    assert total.std(0).max() < 0.5


def test_the_error_of_the_energy_is_of_second_order():
    coarse, fine = (constant_energy(dt, 2.0).std(0).mean() for dt in (0.001, 0.0005))
    assert (coarse / fine).item() == pytest.approx(4.0, rel=0.25)


def openmm_reference():
    if not OPENMM.exists():
        pytest.skip("benchmarks/references is not here")
    return json.loads(OPENMM.read_text())


def torsion(x, atoms):
    a, b, c, d = (x[:, k] for k in atoms)
    axis = c - b
    u, v = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    sine = (torch.linalg.cross(u, v) * axis).sum(-1) / axis.norm(dim=-1)
    return torch.atan2(sine, (u * v).sum(-1))


def backbone(peptide):
    keys = zip(peptide.residue_index, peptide.atom_names, strict=True)
    at = {key: k for k, key in enumerate(keys)}
    phi = (at[0, "C"], at[1, "N"], at[1, "CA"], at[1, "C"])
    return phi, (at[1, "N"], at[1, "CA"], at[1, "C"], at[2, "N"])


def our_run(recipe, rows, picoseconds, seed):
    """Energies (frames, rows) and torus cells (frames, rows) by the recipe of the OpenMM run."""
    peptide, field, x = molecule("Ace-A-Nme", implicit_solvent="obc2")
    masses = repartitioned_masses(field.masses.float(), peptide.bonds, recipe["hydrogen_mass"])
    langevin = Langevin(field, masses, recipe["time_step_ps"], recipe["friction"])
    temperature = torch.full((rows,), recipe["temperature"])
    g, interval = generator(seed), round(recipe["frame_ps"] / recipe["time_step_ps"])
    state = langevin.start(x.repeat(rows, 1, 1), temperature, g)
    state = langevin.run(state, temperature, 100 * interval, g)
    energy, cells = [], []
    for _ in range(round(picoseconds / recipe["frame_ps"])):
        state = langevin.run(state, temperature, interval, g)
        energy.append(state.energy.double())
        angles = [torsion(state.positions, atoms) for atoms in backbone(peptide)]
        phi, psi = (((a + math.pi) / (2 * math.pi) * 12).long() % 12 for a in angles)
        cells.append(phi * 12 + psi)
    return torch.stack(energy).numpy(), torch.stack(cells).numpy()


def averages(energy, cell, counted):
    """Mean and error over the rows of the energy and the shares of the cells."""
    weight = counted / counted.sum(0)
    shares = [
        np.bincount(c, weights=w, minlength=144) for c, w in zip(cell.T, weight.T, strict=True)
    ]
    values = np.column_stack([(weight * energy).sum(0), shares])
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))


def check_agreement(ours, theirs, temperature):
    (mean, error), (true_mean, true_error) = ours, theirs
    assert error[0] < 0.5
    assert abs(mean[0] - true_mean[0]) < 4 * math.hypot(error[0], true_error[0])
    seen = (true_mean > 0.005) & (np.arange(145) > 0)
    kt = GAS_CONSTANT * temperature
    # the error of a free energy -kT log p is kT times the relative error of p
    difference = -kt * np.log(mean[seen] / true_mean[seen])
    joint = kt * np.hypot(error[seen] / mean[seen], true_error[seen] / true_mean[seen])
    z = difference / joint
    assert seen.sum() > 20
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 2.0


def test_ace_a_nme_agrees_with_openmm():
    # too short to cross to positive phi as often as in equilibrium, so both are held to phi < 0
    reference = openmm_reference()
    energy, cell = our_run(reference["recipe"], rows=64, picoseconds=120.0, seed=11)
    energy, cell = energy[200:], cell[200:]
    theirs = [np.array(reference["given_negative_phi"][k]) for k in ("mean", "error")]
    check_agreement(averages(energy, cell, cell < 72), theirs, reference["recipe"]["temperature"])


@pytest.mark.slow
def test_ace_a_nme_agrees_with_openmm_at_the_same_length():
    reference = openmm_reference()
    recipe = reference["recipe"]
    length = recipe["frames"] * recipe["frame_ps"]
    energy, cell = our_run(recipe, recipe["runs"], length, seed=12)
    theirs = [np.array(reference[k]) for k in ("mean", "error")]
    check_agreement(averages(energy, cell, cell >= 0), theirs, recipe["temperature"])
