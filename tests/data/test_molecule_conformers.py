import numpy as np
import pytest

from gensci.core.errors import UsageError
from gensci.data.molecule_conformers import conformer, conformers, drawn, relax
from gensci.data.molecule_perception import with_stereo
from gensci.systems.molecule_graph import graph_of

Chem = pytest.importorskip("rdkit.Chem")


def _energy(smiles, positions):
    """MMFF94s energy and largest force of the same atoms, by RDKit itself."""
    from rdkit.Chem import rdForceFieldHelpers as helpers
    from rdkit.Geometry import Point3D

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    shape = Chem.Conformer(molecule.GetNumAtoms())
    for atom, point in enumerate(positions.tolist()):
        shape.SetAtomPosition(atom, Point3D(*point))
    molecule.AddConformer(shape)
    properties = helpers.MMFFGetMoleculeProperties(molecule, mmffVariant="MMFF94s")
    field = helpers.MMFFGetMoleculeForceField(molecule, properties)
    return field.CalcEnergy(), np.abs(field.CalcGrad()).max()


@pytest.mark.parametrize("smiles", ["CCO", "c1ccccc1O", "C[C@H](N)C(=O)O", "F/C=C\\F", "CC#N"])
def test_a_conformer_is_a_minimum_of_the_force_field_and_keeps_its_stereo(smiles):
    numbers, positions = conformer(smiles, 3)
    np.testing.assert_array_equal(numbers, graph_of(smiles).numbers)
    assert np.abs(positions.mean(0)).max() < 1e-9
    assert _energy(smiles, positions)[1] < 0.05
    assert with_stereo(smiles, positions)[0] == Chem.CanonSmiles(smiles)


def test_conformers_come_by_rising_energy_and_differ():
    _, shapes = conformers("CCCCCO", 6, 4)
    energies = [_energy("CCCCCO", shape)[0] for shape in shapes]
    assert len(shapes) == 6 and (np.diff(energies) >= -1e-6).all()
    assert energies[-1] > energies[0] + 0.1


def test_relaxing_is_what_lies_between_drawing_and_conformers():
    numbers, rough = drawn("CC(O)CN", 4, 9)
    _, expected = conformers("CC(O)CN", 4, 9)
    smooth = relax("CC(O)CN", rough)
    assert len(numbers) == rough.shape[1] == smooth.shape[1]
    for before, after in zip(rough, smooth, strict=True):
        assert _energy("CC(O)CN", after)[0] < _energy("CC(O)CN", before)[0] - 1
    energies = sorted(_energy("CC(O)CN", shape)[0] for shape in smooth)
    np.testing.assert_allclose(
        energies, [_energy("CC(O)CN", shape)[0] for shape in expected], atol=1e-3
    )


def test_seeds_decide():
    first, again, other = (conformers("CCCCCO", 2, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_uff_takes_over_where_mmff_knows_no_parameters():
    numbers, positions = conformer("CB(C)C", 1)
    boron = positions[numbers == 5][0]
    carbon = positions[numbers == 6]
    np.testing.assert_allclose(np.linalg.norm(carbon - boron, axis=1), 1.57, atol=0.1)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match="SMILES"):
        conformer("CX", 0)
    with pytest.raises(ValueError, match="no conformer"):
        conformer("C1C2OCC3=C2N1C=C3", 0)
