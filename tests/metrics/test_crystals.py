"""Validity, uniqueness, novelty and distances of crystals against pymatgen, smact and counts."""

import numpy as np
import pytest
from crystal_cases import (
    NO_CELL,
    caesium_chloride,
    crystal,
    disguises,
    disturbed,
    perovskite,
    random_structure,
    rock_salt,
)
from pymatgen.core import Composition, Lattice, Structure

from gensci.core.errors import GensciError, UsageError
from gensci.metrics.composition_scale import MAGPIE_MEAN, MAGPIE_SPREAD
from gensci.metrics.crystal_arrays import Crystal, densities, from_pymatgen, to_pymatgen
from gensci.metrics.crystal_coverage import CUTOFFS, Fingerprint, compare, fingerprint
from gensci.metrics.crystal_validity import (
    crystal_validity,
    is_composition_valid,
    is_structure_valid,
    min_distance,
)
from gensci.metrics.crystals import (
    chgnet_energies,
    novelty,
    num_elements,
    property_distances,
    uniqueness,
    validity,
    wasserstein,
)


def key(formula):
    reduced = Composition(formula).reduced_composition
    return tuple(sorted((element.Z, int(count)) for element, count in reduced.items()))


def test_least_distances_are_those_of_pymatgen_in_skew_cells_too():
    rng = np.random.default_rng(0)
    for _ in range(30):
        lattice = Lattice.from_parameters(*rng.uniform(2, 9, 3), *rng.uniform(50, 130, 3))
        if not lattice.volume > 1:
            continue
        structure = Structure(lattice, ["Na", "Cl", "O", "O"], rng.random((4, 3)))
        far = structure.distance_matrix + 1e9 * np.eye(4)
        assert min_distance(from_pymatgen(structure)) == pytest.approx(far.min(), abs=1e-8)


@pytest.mark.parametrize(("gap", "valid"), [(0.49, False), (0.51, True)])
def test_atoms_keep_half_an_angstrom(gap, valid):
    pair = crystal(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [gap / 4, 0, 0]])
    assert is_structure_valid(pair) is valid


@pytest.mark.parametrize(
    ("lattice", "valid"),
    [
        ((0.45, 0.45, 0.45, 90, 90, 90), False),  # 0.09 cubic Angstrom
        ((0.47, 0.47, 0.47, 90, 90, 90), True),
        ((3, 3, 3, 120, 120, 150), False),
        ((3, 3, np.inf, 90, 90, 90), False),
        ((3, -3, 3, 90, 90, 90), False),
    ],
)
def test_cells_need_a_volume(lattice, valid):
    assert is_structure_valid(Crystal(np.array([6]), np.zeros((1, 3)), np.array(lattice))) is valid


def test_no_atoms_and_no_numbers_are_invalid():
    nothing = Crystal(np.zeros(0, int), np.zeros((0, 3)), np.array([3.0, 3, 3, 90, 90, 90]))
    assert not crystal_validity(nothing).valid
    assert not crystal_validity(NO_CELL).structural
    assert crystal_validity(NO_CELL).compositional


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True),
        ("LiF", True),
        ("LiF2", False),  # one Li+ for two F-
        ("TiO2", True),
        ("SrTiO3", True),
        ("C", True),  # a single element
        ("CuZn", True),  # an alloy
        ("Al3Ni", True),
        ("HeO", False),  # helium has no oxidation states
    ],
)
@pytest.mark.filterwarnings("ignore:No Pauling")
def test_compositions_by_hand(formula, valid):
    assert is_composition_valid(key(formula)) is valid


def test_compositions_are_judged_as_by_smact():
    from smact.screening import smact_validity

    formulas = """
        MgO2 Fe2O3 Fe3O4 CaF3 KBr2 BaTiO3 Na2SO4 H2O CaC2 Si3N4 SiC GaAs2 MoS2 CsPbI3 LaMnO3 BN
        Li7La3Zr2O12 AlN2 ZnSe PbTe3 KMnF3 RbSrF2 TlCl3 SnO2 NbO2F HgO2 PdS3 BiI3 CdCl
    """.split()
    for formula in formulas:
        expected = smact_validity(Composition(formula), oxidation_states_set="smact14")
        assert is_composition_valid(key(formula)) == expected, formula


def test_validity_of_many_in_order():
    crystals = [rock_salt(), NO_CELL, perovskite(), rock_salt(cation="Li", anion="O")]
    checks = validity(crystals, jobs=1)
    assert [check.structural for check in checks] == [True, False, True, True]
    assert [check.valid for check in checks] == [True, False, True, True]


def test_unique_are_those_that_match_none_before():
    rng = np.random.default_rng(1)
    structure = random_structure(rng)
    guises = [from_pymatgen(one) for one in disguises(structure, rng).values()]
    crystals = [
        rock_salt(), from_pymatgen(structure), *guises, caesium_chloride(), rock_salt(6.0), NO_CELL
    ]  # fmt: skip
    found = uniqueness(crystals, jobs=2)
    expected = [True, True, *[False] * len(guises), True, False, False]
    assert found.rows.tolist() == expected
    assert found.value == pytest.approx(sum(expected) / len(expected))
    assert found.undecided == 0


def test_novel_are_those_that_match_no_known_one():
    rng = np.random.default_rng(2)
    known = [random_structure(rng) for _ in range(6)]
    crystals = [from_pymatgen(disturbed(s, rng, 0.01, 0.001)) for s in known[:3]]
    found = novelty(
        [*crystals, rock_salt(), caesium_chloride()],
        [*(from_pymatgen(s) for s in known), caesium_chloride()],
        jobs=1,
    )
    assert found.rows.tolist() == [False, False, False, True, False]


def test_distances_of_shifted_and_of_known_samples():
    rng = np.random.default_rng(3)
    values = rng.normal(size=500)
    assert wasserstein(values, rng.permutation(values) + 0.7) == pytest.approx(0.7)
    assert wasserstein(np.array([0.0, 1.0]), np.array([0.0, 3.0])) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="generated"):
        wasserstein(np.array([np.nan]), values)


def test_densities_and_elements_are_those_of_pymatgen():
    rng = np.random.default_rng(4)
    structures = [random_structure(rng) for _ in range(5)] + [to_pymatgen(perovskite())]
    crystals = [from_pymatgen(structure) for structure in structures]
    expected = [float(structure.density) for structure in structures]
    np.testing.assert_allclose(densities(crystals), expected, rtol=1e-6)
    assert num_elements(crystals).tolist() == [3.0] * 6
    found = property_distances(crystals, [rock_salt()])
    assert found["num_elements"] == pytest.approx(1.0)
    gaps = np.abs(np.array(expected) - to_pymatgen(rock_salt()).density)
    assert found["density_g_per_cm3"] == pytest.approx(gaps.mean(), rel=1e-6)


def test_coverage_by_hand():
    def at(x, y):
        return Fingerprint(np.array([x, 0.0]), np.array([y]))

    generated = [at(0.0, 0.0), at(5.0, 0.0), None]
    reference = [at(0.1, 1.0), at(0.1, 9.0), at(5.3, 0.5), None]
    found = compare(generated, reference, (0.2, 4.0))
    # the second reference is far in composition, the third in structure
    assert found.recall == pytest.approx(1 / 3)
    assert found.precision == pytest.approx(1 / 3)  # one of three, the one without counts
    assert found.structure_recall_distance == pytest.approx((0.1 + 0.1 + 0.3) / 3)
    assert found.structure_precision_distance == pytest.approx((0.1 + 0.3) / 2)
    assert found.composition_recall_distance == pytest.approx((1 + 9 + 0.5) / 3)
    assert found.without_fingerprint == (1, 1)
    assert compare(reference, reference, CUTOFFS["mp-20"]).recall == 1.0
    with pytest.raises(GensciError, match="no crystal has a fingerprint"):
        compare([None], reference, (1, 1))


def test_fingerprints_are_those_of_matminer():
    pytest.importorskip("matminer")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.composition.composite import ElementProperty
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        structure = to_pymatgen(perovskite())
        sites = CrystalNNFingerprint.from_preset("ops")
        rows = [sites.featurize(structure, i) for i in range(5)]
        magpie = np.array(ElementProperty.from_preset("magpie").featurize(structure.composition))
    found = fingerprint(perovskite())
    np.testing.assert_allclose(found.structure, np.mean(rows, 0))
    expected = (magpie - MAGPIE_MEAN) / MAGPIE_SPREAD
    np.testing.assert_allclose(found.composition, expected)
    assert fingerprint(NO_CELL) is None
    assert len(MAGPIE_MEAN) == len(MAGPIE_SPREAD) == 132 and min(MAGPIE_SPREAD) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_energies_are_those_of_chgnet():
    chgnet = pytest.importorskip("chgnet.model")
    model = chgnet.CHGNet.load(verbose=False, use_device="cpu")
    crystals = [rock_salt(), perovskite(rattle=0.01)]
    expected = [float(model.predict_structure(to_pymatgen(c), task="e")["e"]) for c in crystals]
    np.testing.assert_allclose(chgnet_energies(crystals, model=model), expected, atol=1e-5)
