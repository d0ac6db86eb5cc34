import csv
import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.core.errors import UsageError
from gensci.systems.molecule_graph import graph_of

Chem = pytest.importorskip("rdkit.Chem")
DATA = Path(__file__).parents[3] / "shared" / "data" / "molecules" / "qm9_smiles.csv.gz"

STEREO = (
    "C[C@H](O)F", "C[C@@H](O)F", "[C@](F)(Cl)(Br)I", "[C@@](F)(Cl)(Br)I", "F[C@@]1(Cl)CC1O",
    "C[C@@H](N)C(=O)O", "O[C@H]1CC[C@@H](C)C1", "F/C=C/F", "F/C=C\\F", "C/C=C(/C)CO", "CC/C=C\\C#N",
    "C/C=N/O", "C/C=N\\O", "N[C@@H](Cc1c[nH]c2ccccc12)C(=O)O", "C[C@H]1[C@@H](O)C=C[C@H]1F",
    "OC(=O)/C=C/C(=O)O", "C(/F)(\\Cl)=C(/Br)C", "C[C@]12CC[C@H](C1)C2", "C[N@+]1(CC)C[C@H]1C",
)  # fmt: skip
OTHERS = (
    "C", "[H][H]", "O", "CC", "C#C", "CC#CC#CC", "C=C=C", "N#CC#N", "O=C=O", "c1ccccc1", "CC#N",
    "C[N+](=O)[O-]", "c1cc[nH]c1", "C12C3C4C1C5C2C3C45", "CS(=O)(=O)C", "[2H]C([2H])O", "FC#CC(C)C",
    "O.O", "[Na+].[Cl-]", "CC(=O)[O-].[NH4+]", "[H+]", "[He]", "C1CC1C#CC1CC1",
)  # fmt: skip


def _sample():
    if not DATA.exists():
        return []
    with gzip.open(DATA, "rt") as file:
        return [row["smiles"] for row in islice(csv.DictReader(file), 5, None, 9000)]


ALL = (*STEREO, *OTHERS, *_sample())


@pytest.mark.parametrize("smiles", ALL)
def test_atoms_and_bonds_are_those_of_rdkit(smiles):
    graph, molecule = graph_of(smiles), Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert graph.numbers.tolist() == [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    assert graph.charges.sum() == Chem.GetFormalCharge(molecule)
    adjacency = Chem.GetAdjacencyMatrix(molecule, useBO=True)
    mine = np.zeros_like(adjacency)
    mine[graph.bonds[:, 0], graph.bonds[:, 1]] = graph.orders
    np.testing.assert_array_equal(mine + mine.T, adjacency)
    assert (np.diff(graph.bonds, axis=1) > 0).all()


@pytest.mark.parametrize("smiles", ALL)
def test_distances_count_bonds(smiles):
    graph = graph_of(smiles)
    reach = np.eye(len(graph), dtype=bool)
    expected = np.where(reach, 0, 255)
    adjacent = graph.distance == 1
    assert adjacent.sum() == 2 * len(graph.bonds)
    for step in range(1, len(graph)):
        grown = reach | (reach.astype(int) @ adjacent > 0)
        expected[grown & ~reach] = step
        reach = grown
    np.testing.assert_array_equal(graph.distance, expected)


@pytest.mark.parametrize("smiles", ALL)
def test_references_are_earlier_atoms_near_by(smiles):
    graph = graph_of(smiles)
    for i, row in enumerate(graph.references.tolist()):
        placed = [j for j in row if j >= 0]
        assert len(placed) == len(set(placed)) == min(i, 3) and all(j < i for j in placed)
        assert row[: len(placed)] == placed
        bonded = [j for j in range(i) if graph.distance[i, j] == 1]
        if bonded:
            assert row[0] in bonded
            near = [j for j in range(i) if graph.distance[row[0], j] == 1]
            assert not near or row[1] in near
        others = [j for j in bonded if j != row[0]]
        assert graph.ring_partner[i] == (min(others) if others else -1)


def _embedded(smiles, seed=7):
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) != 0:
        pytest.skip("RDKit embeds no conformer")
    return molecule.GetConformer().GetPositions()


@pytest.mark.parametrize("smiles", [s for s in ALL if "." not in s])
def test_frames_are_not_in_line_where_that_can_be(smiles):
    graph, x = graph_of(smiles), _embedded(smiles)
    for i, (a, b, c) in enumerate(graph.references.tolist()):
        if c < 0:
            continue
        free = [j for j in range(i) if j not in (a, b) and _bend(x[a], x[b], x[j]) > 0.25]
        assert not free or _bend(x[a], x[b], x[c]) > 0.08, (i, a, b, c)


def _bend(a, b, c):
    """Sine of the angle of c with the line a-b, at the nearer of the two."""
    height = np.linalg.norm(np.cross(b - a, c - a)) / np.linalg.norm(b - a)
    return height / min(np.linalg.norm(c - a), np.linalg.norm(c - b))


@pytest.mark.parametrize("smiles", STEREO)
def test_stereo_is_that_of_the_coordinates(smiles):
    graph, x = graph_of(smiles), _embedded(smiles)
    for i, (a, b, c) in enumerate(graph.references.tolist()):
        if graph.handedness[i]:
            triple = np.cross(x[b] - x[a], x[c] - x[a]) @ (x[i] - x[a])
            assert np.sign(triple) == graph.handedness[i]
        if graph.side[i]:
            left, right = np.cross(x[b] - x[a], x[i] - x[a]), np.cross(x[b] - x[a], x[c] - x[b])
            assert np.sign(left @ right) == graph.side[i]
    assert graph.handedness.any() or graph.side.any()


@pytest.mark.parametrize("smiles", OTHERS)
def test_no_stereo_where_none_is_written(smiles):
    assert not graph_of(smiles).handedness.any() and not graph_of(smiles).side.any()


@settings(max_examples=25, deadline=None)
@given(smiles=st.sampled_from(STEREO), seed=st.integers(0, 1000))
def test_stereo_does_not_depend_on_how_the_molecule_is_written(smiles, seed):
    """The same conformer has all signs right for any order of its atoms."""
    molecule = Chem.MolFromSmiles(smiles)
    (other,) = Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)
    graph, x = graph_of(other), _embedded(other, 11)
    for i, (a, b, c) in enumerate(graph.references.tolist()):
        if graph.handedness[i]:
            triple = np.cross(x[b] - x[a], x[c] - x[a]) @ (x[i] - x[a])
            assert np.sign(triple) == graph.handedness[i]


def test_atoms_of_a_further_fragment_refer_to_the_one_before():
    graph = graph_of("CC.O")
    assert graph.references[:3].tolist() == [[-1, -1, -1], [0, -1, -1], [1, 0, -1]]
    assert graph.distance[0, 2] == 255


@pytest.mark.parametrize("smiles", ["", "C(", "c1cccc1", "CX", "C*", "C1CC"])
def test_what_is_no_molecule_is_refused(smiles):
    with pytest.raises(UsageError, match="SMILES"):
        graph_of(smiles)
