"""Steric features against energies summed pair by pair, and against OpenMM's Lennard-Jones."""

import math

import numpy as np
import openmm
import pytest
import torch

from gensci.nn.internal import InternalFlow
from gensci.nn.internal_features import zmatrix_of
from gensci.nn.steric import COULOMB, GRID, KT, LARGEST, steric_features, torsion_grid
from gensci.nn.zmatrix import Frames, frames, place
from gensci.sims.peptide import build_peptide


def case(text):
    peptide = build_peptide(text)
    cond = InternalFlow.encode(peptide)
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    x = torch.as_tensor(peptide.positions)[None, cond["order"]]
    rotors = [k for k in range(3, x.shape[1]) if not cond["rigid"][k]]
    return peptide, cond, x, rotors


def features_of(cond, x, rotor):
    z = zmatrix_of(cond)
    p, g, s = (x[:, index[rotor]][:, None] for index in (z.parent, z.grand, z.side))
    rows = torch.tensor([rotor])
    placed = torch.ones(1, rotor, dtype=torch.bool)
    return frames(p, g, s), steric_features(x[:, :rotor], frames(p, g, s), g, cond, rows, placed)


def pair_by_pair(cond, x, rotor, frame, phi):
    """Lennard-Jones and Coulomb (kT) of the rotor and its followers at torsion phi, by loops."""
    lennard_jones = coulomb = 0.0
    for member in (m for m in cond["group"][rotor].tolist() if m >= 0):
        offset = 0.0 if member == rotor else float(cond["torsion0"][member])
        where = place(
            Frames(frame.origin[0, 0], frame.axes[0, 0]),
            cond["length0"][member],
            torch.cos(cond["bend0"][member]),
            torch.tensor(phi + offset, dtype=x.dtype),
        )
        for other in range(rotor):
            hops = int(cond["hops"][member, other])
            if hops < 3:
                continue
            r = float((where - x[0, other]).norm())
            sigma = 0.5 * float(cond["sigma"][member] + cond["sigma"][other])
            depth = math.sqrt(float(cond["epsilon"][member] * cond["epsilon"][other]))
            six = min(sigma**2 / r**2, 4.0) ** 3
            lennard_jones += 4 * depth * (six**2 - six) * (0.5 if hops == 3 else 1.0) / KT
            charges = float(cond["charge"][member] * cond["charge"][other])
            coulomb += COULOMB * charges / r / (1.2 if hops == 3 else 1.0) / KT
    return lennard_jones, coulomb


@pytest.mark.parametrize("text", ["AL", "WS"])
def test_features_are_the_energies_of_the_rotor_and_its_followers(text):
    _, cond, x, rotors = case(text)
    grid = torsion_grid(x)
    for rotor in (r for r in rotors if not cond["closing"][r]):
        frame, features = features_of(cond, x, rotor)
        assert features.shape == (1, 1, GRID, 3)
        for k in (0, 11, 29):
            expected = pair_by_pair(cond, x, rotor, frame, float(grid[k]))
            scaled = np.array([expected[0], expected[1] / 10])
            got = -features[0, 0, k, [0, 2]].numpy()
            np.testing.assert_allclose(got, LARGEST * np.tanh(scaled / LARGEST), atol=1e-9)


def test_followers_turn_with_their_rotor():
    """In leucine both methyl carbons hang on one torsion; in alanine three hydrogens do."""
    peptide, cond, _, rotors = case("AL")
    names = [peptide.atom_names[a] for a in cond["order"].tolist()]
    groups = {names[r]: {names[m] for m in cond["group"][r].tolist() if m >= 0} for r in rotors}
    assert {"CD1", "CD2", "HG"} in groups.values()
    assert {"HB1", "HB2", "HB3"} in groups.values()
    assert {"O", "OXT"} in groups.values()


def test_parameters_and_exceptions_are_those_of_the_force_field():
    """Charges, widths and the 1-4 factors, read as the features use them, against OpenMM's own."""
    peptide, cond, _, _ = case("AL")
    rank = {atom: k for k, atom in enumerate(cond["order"].tolist())}
    force = next(f for f in peptide.system.getForces() if isinstance(f, openmm.NonbondedForce))
    fourth = 0
    for i in range(force.getNumExceptions()):
        a, b, charge, _, depth = force.getExceptionParameters(i)
        hops = int(cond["hops"][rank[a], rank[b]])
        if hops < 3:
            assert charge._value == 0
            assert depth._value == 0
            continue
        fourth += 1
        q = float(cond["charge"][rank[a]] * cond["charge"][rank[b]]) / 1.2
        e = 0.5 * math.sqrt(float(cond["epsilon"][rank[a]] * cond["epsilon"][rank[b]]))
        assert charge._value == pytest.approx(q, abs=1e-6)
        assert depth._value == pytest.approx(e, abs=1e-6)
    assert fourth > 20
