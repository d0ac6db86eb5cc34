from pathlib import Path

import numpy as np
import pytest

from gensci.core.elements import NUMBERS
from gensci.data.molecule_perception import flat, perceive, with_stereo
from gensci.systems.molecule_graph import graph_of

Chem = pytest.importorskip("rdkit.Chem")
QM7 = Path(__file__).parents[3] / "shared" / "data" / "molecules" / "qm7.xyz.gz"


def _qm7(n):
    import gzip

    if not QM7.exists():
        pytest.skip("the data of the project are not here")
    with gzip.open(QM7, "rt") as file:
        for _ in range(n):
            atoms = int(file.readline())
            file.readline()
            rows = [file.readline().split() for _ in range(atoms)]
            yield (
                np.array([NUMBERS[row[0]] for row in rows]),
                np.array([r[1:] for r in rows], float),
            )


def test_all_of_the_first_300_of_qm7_are_found():
    for numbers, positions in _qm7(300):
        smiles, order = perceive(numbers, positions)
        graph = graph_of(smiles)
        assert sorted(order.tolist()) == list(range(len(numbers)))
        np.testing.assert_array_equal(graph.numbers, numbers[order])
        assert "." not in smiles and graph.charges.sum() == 0
        x = positions[order]
        distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
        first, second = graph.bonds.T
        assert (distance[first, second] < 2.0).all()
        hydrogen = (graph.numbers[first] == 1) | (graph.numbers[second] == 1)
        assert (distance[first, second][hydrogen] < 1.5).all()
        apart = (graph.distance > 1) & (graph.distance < 255)
        assert distance[apart].min() > 1.2


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](O)F", "C[C@@H](O)F", "F/C=C/F", "F/C=C\\F", "C/C=N/O", "c1ccncc1", "[H][H]", "C#N",
        "C[N+](=O)[O-]", "C[S@](=O)CC", "O=C=O", "[C-]#[O+]", "[NH3+]CC(=O)[O-]", "Cn1cnnc1",
        "C[C@@H](N)C(=O)O", "O=S(=O)(C)C", "C1[C@@H]2C[C@H]1C2",
    ],
)  # fmt: skip
def test_what_is_embedded_is_perceived_again(smiles):
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=3) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    positions = molecule.GetConformer().GetPositions()
    shuffle = np.random.default_rng(5).permutation(len(numbers))
    found, order = perceive(numbers[shuffle], positions[shuffle])
    assert found == Chem.CanonSmiles(smiles)
    np.testing.assert_array_equal(graph_of(found).numbers, numbers[shuffle][order])


def test_heavy_atoms_come_first_in_imines_too():
    numbers = np.array([6, 6, 7, 1, 1, 1, 1, 1])
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC=N"))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=3) == 0
    smiles, order = perceive(numbers, molecule.GetConformer().GetPositions())
    assert smiles == "CC=N"
    assert numbers[order].tolist() == numbers.tolist()


def test_a_mirror_image_is_the_other_enantiomer():
    numbers, positions = _alanine()
    left, _ = perceive(numbers, positions)
    right, _ = perceive(numbers, positions * [1, 1, -1])
    assert {left, right} == {"C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"}


def _alanine():
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(N)C(=O)O"))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    return numbers, molecule.GetConformer().GetPositions()


def test_open_stereo_is_read_from_the_positions():
    numbers, positions = _alanine()
    smiles, order = with_stereo("CC(N)C(=O)O", positions)
    expected, _ = perceive(numbers, positions)
    assert smiles == expected
    found, _ = perceive(numbers[order], positions[order])
    np.testing.assert_array_equal(graph_of(smiles).numbers, numbers[order])
    assert found == smiles


@pytest.mark.parametrize(
    ("numbers", "positions"),
    [([], np.zeros((0, 3))), ([6, 1], [[0, 0, 0], [0, 0, 1.09]]), ([8], [[0.0, 0, 0]])],
)
def test_what_is_no_molecule_is_a_value_error(numbers, positions):
    with pytest.raises(ValueError, match="no molecule"):
        perceive(np.array(numbers, dtype=int), np.array(positions, dtype=float))


@pytest.mark.parametrize(
    "spellings",
    [("C[C@H](O)F", "CC(F)O", "FC(C)O"), ("F/C=C/F", "FC=CF"), ("C1=CC=CC=C1", "c1ccccc1")],
)
def test_flat_smiles_are_equal_for_one_graph(spellings):
    assert len({flat(smiles) for smiles in spellings}) == 1


def test_flat_refuses_what_is_no_smiles():
    with pytest.raises(ValueError, match="CX"):
        flat("CX")
