"""Backbone torsions: which atoms, and their values against mdtraj."""

import math

import mdtraj
import pytest
import torch
from openmm import app

from gensci.sims.peptide import build_peptide
from gensci.sims.peptide.backbone import find_backbone, torsion_angles

MDTRAJ = {"phi": mdtraj.compute_phi, "psi": mdtraj.compute_psi, "omega": mdtraj.compute_omega}


@pytest.mark.parametrize("text", ["AA", "Ace-PG-Nme", "GWKP", "Ace-C"])
def test_atoms_and_values_are_those_of_mdtraj(text):
    peptide = build_peptide(text, minimise=False)
    torsions = find_backbone(peptide.topology)
    x = peptide.scattered(5, torch.Generator().manual_seed(1))
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(peptide.topology))
    for kind, compute in MDTRAJ.items():
        atoms, angles = compute(trajectory)
        own = [torsion for torsion in torsions if torsion.kind == kind]
        found = {torsion.atoms: k for k, torsion in enumerate(own)}
        if kind == "omega":  # mdtraj knows no omega of caps
            assert found.keys() >= {tuple(row) for row in atoms.tolist()}
        else:
            assert found.keys() == {tuple(row) for row in atoms.tolist()}
        rows = torch.tensor([torsion.atoms for torsion in own], dtype=torch.int64)
        values = torsion_angles(x, rows.reshape(-1, 4))
        expected = torch.from_numpy(angles).to(values)
        mine = values[:, [found[tuple(row)] for row in atoms.tolist()]]
        difference = (mine - expected + math.pi).remainder(2 * math.pi) - math.pi
        assert (difference.abs() < 1e-5).all()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("G", []),
        ("AP", ["psi1", "omega2", "phi2"]),
        ("Ace-A-Nme", ["omega2", "phi2", "psi2", "omega3"]),
    ],
)
def test_names_count_residues_from_one_with_the_caps(text, names):
    topology = build_peptide(text, minimise=False).topology
    assert [torsion.name for torsion in find_backbone(topology)] == names


def test_anything_but_a_peptide_has_no_backbone():
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(2):  # two molecules: atoms of these names, and no bond between them
        residue = topology.addResidue("XXX", chain)
        for name in ("N", "CA", "C"):
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
    assert find_backbone(topology) == ()
