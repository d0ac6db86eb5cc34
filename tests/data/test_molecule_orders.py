import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.data.molecule_conformers import conformer
from gensci.data.molecule_orders import rewritten
from gensci.data.molecule_perception import perceive
from gensci.systems.molecule_graph import graph_of

Chem = pytest.importorskip("rdkit.Chem")
SMILES = (
    "CCO", "C[C@@H](N)C(=O)O", "F/C=C\\CO", "c1ccc2[nH]ccc2c1", "[O-][N+](=O)C", "C", "[H][H]",
    "C[C@H]1[C@@H](O)C=C[C@H]1F", "O.[Na+].[Cl-]", "CC#CC",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(smiles=st.sampled_from(SMILES), seed=st.integers(-5, 2**40))
def test_another_order_is_the_same_molecule(smiles, seed):
    text, order = rewritten(smiles, seed)
    assert Chem.CanonSmiles(text) == Chem.CanonSmiles(smiles)
    before, after = graph_of(smiles), graph_of(text)
    assert sorted(order.tolist()) == list(range(len(before)))
    np.testing.assert_array_equal(after.numbers, before.numbers[order])
    np.testing.assert_array_equal(after.charges, before.charges[order])
    np.testing.assert_array_equal(after.distance, before.distance[np.ix_(order, order)])


@pytest.mark.parametrize("smiles", ["C[C@@H](N)C(=O)O", "F/C=C\\CO", "C[C@H]1[C@@H](O)C=C[C@H]1F"])
def test_stereo_holds_in_the_new_order(smiles):
    _, positions = conformer(smiles, 2)
    for seed in range(8):
        text, order = rewritten(smiles, seed)
        graph, x = graph_of(text), positions[order]
        assert perceive(graph.numbers, x)[0] == Chem.CanonSmiles(smiles)
        for i, (a, b, c) in enumerate(graph.references.tolist()):
            if graph.handedness[i]:
                triple = np.cross(x[b] - x[a], x[c] - x[a]) @ (x[i] - x[a])
                assert np.sign(triple) == graph.handedness[i]


def test_orders_vary_with_the_seed():
    assert len({rewritten("c1ccc2[nH]ccc2c1", seed)[0] for seed in range(20)}) > 5
    assert rewritten("CCCO", 4)[0] == rewritten("CCCO", 4)[0]
