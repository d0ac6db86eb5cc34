"""Copies, held-out rows and splits."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from structure_files import binaries, cif, random_crystal

from gensci.data.crystal_texts import crystal, read_cif
from gensci.data.structure_selection import (
    duplicates,
    fingerprint,
    formula_key,
    hold_out,
    matching_rows,
)
from gensci.data.structure_table import Structure, StructureTable


def row(structure, name):
    return crystal(read_cif(cif(structure)), name, "mine")


def moved(structure, seed=0):
    """The same crystal with other origin, order and cell."""
    rng = np.random.default_rng(seed)
    copy = structure.copy()
    copy.translate_sites(range(len(copy)), rng.random(3))
    copy.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    return type(copy).from_sites([copy[int(k)] for k in rng.permutation(len(copy))])


def table(*rows):
    return StructureTable.from_structures(rows)


A, B, C = binaries(3)


def test_copies_are_found_in_any_cell_and_the_first_stays():
    rows = [row(A, "a"), row(B, "b"), row(moved(A, 1), "a1"), row(moved(A, 2), "a2"), row(C, "c")]
    assert duplicates(table(*rows)) == {2: 0, 3: 0}


def test_a_small_change_is_no_copy():
    other = A.copy()
    other.translate_sites([0], [0.05, 0, 0], frac_coords=False)
    assert duplicates(table(row(A, "a"), row(other, "b"))) == {}


def test_conformers_differ_and_their_copies_do_not():
    def molecule(x):
        return Structure("molecule", "m", "mine", np.array([8, 1], np.uint8),
                         np.array([[0, 0, 0], [x, 0, 0]], np.float32), smiles="[OH]")  # fmt: skip

    rows = StructureTable.from_structures([molecule(1.0), molecule(1.2), molecule(1.0)])
    assert duplicates(rows) == {2: 0}


@given(st.integers(0, 10**6))
def test_fingerprints_do_not_depend_on_the_description(seed):
    structure = random_crystal(seed)
    first, second = (fingerprint(row(s, "x")) for s in (structure, moved(structure, seed)))
    np.testing.assert_allclose(first, second, atol=2e-3)


def test_test_rows_are_found_by_id_and_by_structure():
    reference = table(row(A, "test-1"), row(B, "test-2"))
    same_id = B.copy()
    same_id.perturb(0.05)
    polymorph = random_crystal(99, ("Na", "Cl"))
    polymorph.scale_lattice(A.volume)
    candidates = table(
        row(moved(A), "other"), row(same_id, "test-2"), row(C, "test-1"), row(polymorph, "p")
    )
    assert matching_rows(candidates, reference) == {0: 0, 1: 1}


def test_molecules_match_by_smiles():
    def molecules(*smiles):
        point = {"numbers": np.array([6], np.uint8), "coordinates": np.zeros((1, 3), np.float32)}
        return StructureTable.from_structures(
            Structure("molecule", s, "mine", smiles=s, **point) for s in smiles
        )

    assert matching_rows(molecules("C", "CC", "N"), molecules("N", "C")) == {0: 1, 2: 0}


def test_formulas_are_ratios():
    assert formula_key(np.array([8, 22, 8])) == formula_key(np.array([22, 22, 8, 8, 8, 8]))
    assert formula_key(np.array([8, 22])) != formula_key(np.array([8, 22, 8]))


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 3),
)
def test_splits_have_their_size_and_never_cut_a_group(labels, val, test, seed):
    groups = [str(label) for label in labels]
    splits = hold_out(groups, {"val": val, "test": test}, "train", seed)
    counts = Counter(splits)
    assert counts["val"] <= val and counts["test"] <= test
    where = {}
    assert all(where.setdefault(g, s) == s for g, s in zip(groups, splits, strict=True))
    if len(set(groups)) == len(groups):
        assert counts["val"] == min(val, len(groups))
        assert counts["test"] == min(test, max(0, len(groups) - val))
    assert splits == hold_out(groups, {"val": val, "test": test}, "train", seed)
