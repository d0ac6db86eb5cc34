"""Stability by hand and by loops over the tables; conformers against RDKit called directly."""

import gzip
import itertools
import math

import numpy as np
import pytest
from named_peptides import shared_root
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign

from gensci.core.elements import NUMBERS, SYMBOLS
from gensci.core.errors import UsageError
from gensci.metrics.bond_tables import allowed_valences, bond_limits
from gensci.metrics.conformers import Conformers, conformer_score, heavy_atom_rms
from gensci.metrics.molecules import (
    bond_orders,
    molecule_distances,
    molecule_properties,
    stability,
    valid_molecules,
)

CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)


def methane(hydrogens=4, length=0.109):
    numbers = np.array([6] + [1] * hydrogens)
    return numbers, np.concatenate([np.zeros((1, 3)), length * CORNERS[:hydrogens]])


def line(symbols, places):
    """Atoms on a line, places in nm."""
    positions = np.zeros((len(symbols), 3))
    positions[:, 0] = places
    return np.array([NUMBERS[symbol] for symbol in symbols]), positions


def batch(*molecules):
    most = max(len(numbers) for numbers, _ in molecules)
    numbers = np.zeros((len(molecules), most), dtype=np.int64)
    positions = np.zeros((len(molecules), most, 3))
    for row, (kinds, places) in enumerate(molecules):
        numbers[row, : len(kinds)], positions[row, : len(kinds)] = kinds, places
    return numbers, positions


def test_counts_by_hand():
    acetylene = line("HCCH", [0, 0.106, 0.226, 0.332])
    carbon_dioxide = line("OCO", [0, 0.1163, 0.2326])
    nitrogen = line("NN", [0, 0.11])
    found = stability(*batch(methane(), methane(3), acetylene, carbon_dioxide, nitrogen))
    assert found.atoms.sum(1).tolist() == [5, 3, 4, 3, 2]
    assert found.molecules.tolist() == [True, False, True, True, True]
    assert found.atom_share == pytest.approx(17 / 18)
    assert found.molecule_share == pytest.approx(4 / 5)


def test_orders_by_hand():
    orders = bond_orders(*batch(line("HCCH", [0, 0.106, 0.226, 0.332])))[0]
    assert orders.tolist() == [[0, 1, 0, 0], [1, 0, 3, 0], [0, 3, 0, 1], [0, 0, 1, 0]]
    for length, order in ((0.122, 3), (0.124, 2), (0.138, 2), (0.140, 1), (0.163, 1), (0.165, 0)):
        assert bond_orders(*batch(line("CC", [0, length])))[0, 0, 1] == order, length


def test_neither_order_nor_place_nor_padding_matter():
    rng = np.random.default_rng(0)
    numbers, positions = methane()
    order = rng.permutation(5)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    other = (numbers[order], (positions @ turn + rng.normal(size=3))[order])
    big = (np.concatenate([numbers, [2] * 3]), np.concatenate([positions, 5 + rng.random((3, 3))]))
    found = stability(*batch((numbers, positions), other, big))
    assert found.atoms.sum(1).tolist() == [5, 5, 5]
    assert found.molecules.tolist() == [True, True, False]  # helium has no valence in the table
    valences = [set(bond_orders(*batch(one))[0].sum(1)) for one in ((numbers, positions), other)]
    assert valences[0] == valences[1] == {1, 4}


def test_atoms_at_no_place_are_unstable():
    numbers, positions = batch(methane())
    positions[0, 2] = np.nan
    found = stability(numbers, positions)
    assert found.atoms[0].tolist() == [False, True, False, True, True]
    assert not valid_molecules(numbers, positions, jobs=1).valid[0]
    with pytest.raises(UsageError, match=r"positions have shape \(1, 5, 2\)"):
        stability(numbers, positions[..., :2])


def test_orders_are_those_of_loops_over_the_tables():
    rng = np.random.default_rng(1)
    symbols = ["H", "C", "N", "O", "F", "S", "P", "Cl", "Br", "I", "Si", "B", "As", "Al"]
    numbers = np.array([[NUMBERS[s] for s in rng.choice(symbols, 12)] for _ in range(20)])
    positions = rng.random((20, 12, 3)) * 0.35
    limits, found = bond_limits(), bond_orders(numbers, positions)
    for row, (i, j) in itertools.product(range(20), itertools.combinations(range(12), 2)):
        distance = 1000 * math.dist(positions[row, i], positions[row, j])
        order = 0
        while order < 3 and distance < limits[order][numbers[row, i], numbers[row, j]]:
            order += 1
        assert found[row, i, j] == found[row, j, i] == order


def test_tables_are_the_published_ones():
    limits, c, n, o, h = bond_limits(), 6, 7, 8, 1
    np.testing.assert_array_equal(limits, limits.transpose(0, 2, 1))
    assert limits[0, c, c] == 154 + 10 and limits[0, h, o] == 96 + 10
    assert limits[1, c, n] == 129 + 5 and limits[2, n, n] == 110 + 3
    # the published file has C=S for one order of the two atoms only, which makes 14 of the 15
    assert (limits > 0).sum((1, 2)).tolist() == [117, 15, 6]
    valences = {SYMBOLS[z - 1]: np.flatnonzero(row).tolist() for z, row in
                enumerate(allowed_valences()) if row.any()}  # fmt: skip
    assert valences["P"] == [3, 5] and valences["S"] == [4] and valences["H"] == [1]
    assert len(valences) == 16


def test_qm7_is_as_stable_as_was_measured():
    molecules = []
    with gzip.open(shared_root() / "data" / "molecules" / "qm7.xyz.gz", "rt") as file:
        while head := file.readline().strip():
            file.readline()
            rows = [file.readline().split() for _ in range(int(head))]
            places = np.array([[float(value) for value in row[1:4]] for row in rows]) / 10
            molecules.append((np.array([NUMBERS[row[0]] for row in rows]), places))
    found = stability(*batch(*molecules))
    assert len(molecules) == 7101
    assert found.atom_share == pytest.approx(0.993, abs=0.001)
    assert found.molecule_share == pytest.approx(0.941, abs=0.001)


def test_validity_uniqueness_and_novelty_by_hand():
    far = (np.tile(methane()[0], 2), np.concatenate([methane()[1], methane()[1] + 2.0]))
    five = (np.array([6] + [1] * 6), np.concatenate([np.zeros((1, 3)), 0.109 * np.vstack(
        [np.eye(3), -np.eye(3)])]))  # fmt: skip
    acetylene = line("HCCH", [0, 0.106, 0.226, 0.332])
    found = valid_molecules(*batch(methane(), methane(), five, far, acetylene), jobs=1)
    assert found.valid.tolist() == [True, True, False, True, True]
    assert found.connected.tolist() == [True, True, False, False, True]
    assert found.validity == pytest.approx(4 / 5)
    assert found.uniqueness == pytest.approx(2 / 4)  # the largest fragment of two is one of them
    assert found.novelty(["C", "CC"]) == pytest.approx(1 / 2)
    assert found.novelty(["[H]C#C[H]", "[CH4]"]) == 0.0


def test_properties_by_hand():
    numbers, positions = batch(methane(), line("HH", [1.0, 1.074]))
    found = molecule_properties(numbers, positions)
    assert found["num_atoms"].tolist() == [5, 2]
    assert found["num_heavy_atoms"].tolist() == [1, 0]
    expected = [math.sqrt(4 / 5) * 0.109, 0.037]
    np.testing.assert_allclose(found["radius_of_gyration_nm"], expected)
    distances = molecule_distances((numbers, positions), batch(methane()))
    assert distances["num_atoms"] == pytest.approx(1.5)


def embedded(smiles, count, seed=7):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(molecule, count, randomSeed=seed)
    places = np.stack([c.GetPositions() / 10 for c in molecule.GetConformers()])
    return molecule, places


def test_conformers_against_rdkit_called_directly():
    smiles = "CCC(C)CO"
    molecule, places = embedded(smiles, 7)
    generated, reference = places[:4], places[4:]
    heavy = Chem.RemoveHs(molecule)
    matrix = np.array(
        [[rdMolAlign.GetBestRMS(Chem.Mol(heavy), heavy, i, 4 + j) / 10 for j in range(3)]
         for i in range(4)]
    )  # fmt: skip
    for row in range(4):
        found = heavy_atom_rms((smiles, generated[row], smiles, reference))
        np.testing.assert_allclose(found, matrix[row], atol=1e-6)
    delta = float(np.median(matrix))
    score = conformer_score([Conformers(smiles, generated, reference)], delta, jobs=1)
    assert score.coverage_recall[0] == pytest.approx((matrix.min(0) <= delta).mean())
    assert score.matching_recall[0] == pytest.approx(matrix.min(0).mean(), abs=1e-6)
    assert score.coverage_precision[0] == pytest.approx((matrix.min(1) <= delta).mean())
    assert score.matching_precision[0] == pytest.approx(matrix.min(1).mean(), abs=1e-6)
    assert score.record()["timed_out"] == 0


def test_the_same_conformers_in_any_guise_are_matched():
    rng = np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    _, places = embedded("CC(C)O", 2)
    # the other methyl group first, and its hydrogens in another order
    written = Chem.AddHs(Chem.MolFromSmiles("OC(C)C"))
    order = written.GetSubstructMatch(Chem.AddHs(Chem.MolFromSmiles("CC(C)O")))
    other = np.empty_like(places)
    other[:, list(order)] = places @ turn + 3.0
    sets = [
        Conformers("CC(C)O", places, other, reference_smiles="OC(C)C"),
        Conformers("CC(C)O", places[:1], places),
    ]
    score = conformer_score(sets, 1e-4, jobs=1)
    np.testing.assert_allclose(score.coverage_recall, [1.0, 0.5])
    np.testing.assert_allclose(score.coverage_precision, [1.0, 1.0])
    assert score.matching_recall[0] == pytest.approx(0, abs=1e-5)
    assert score.record()["coverage_recall_mean"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("smiles", "atoms", "references", "named"),
    [("C1CC", 9, 1, "does not parse"), ("CO", 5, 1, "has 6 atoms"), ("CO", 6, 0, "no reference")],
)
def test_conformers_that_do_not_fit_are_refused(smiles, atoms, references, named):
    one = Conformers(smiles, np.zeros((2, atoms, 3)), np.zeros((references, atoms, 3)))
    with pytest.raises(UsageError, match=named):
        conformer_score([one])
