"""Readers of crystals against pymatgen and ASE."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser
from structure_files import cif, extxyz, poscar, random_crystal

from gensci.data.crystal_cells import cell_rows
from gensci.data.crystal_texts import (
    crystal,
    read_cif,
    read_extxyz_crystal,
    read_p1_cif,
    read_poscar,
)

TIGHT = StructureMatcher(0.01, 0.01, 0.5, primitive_cell=False, scale=False)


def same(cell, structure):
    lattice, points, numbers = cell
    assert numbers.tolist() == list(structure.atomic_numbers)
    found = Lattice(lattice)
    np.testing.assert_allclose(found.parameters, structure.lattice.parameters, atol=1e-6)
    difference = points - structure.frac_coords
    np.testing.assert_allclose(difference, np.round(difference), atol=1e-6)
    return True


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_plain_cifs_are_read_as_pymatgen_reads_them(seed):
    text = cif(random_crystal(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = CifParser.from_str(text, frac_tolerance=0).parse_structures(primitive=False)
    assert same(read_p1_cif(text), expected)


def test_cifs_with_symmetry_are_left_to_pymatgen():
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )
    text = cif(salt, symprec=0.01)
    assert "'x, y, z'" in text and "-x" in text
    assert read_p1_cif(text) is None
    lattice, points, numbers = read_cif(text)
    assert len(numbers) == 8
    assert TIGHT.fit(Structure(Lattice(lattice), numbers, points), salt)


def test_symmetry_named_without_operations_is_not_taken_for_none():
    text = cif(random_crystal(1)).replace("_symmetry_Int_Tables_number   1", "")
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if "_symmetry_equiv" in line) - 1
    bare = "\n".join([*lines[:start], *lines[start + 4 :]])
    assert read_p1_cif(bare) is not None
    named = bare.replace("'P 1'", "'P -1'").replace(
        "data_", "data_x\n_symmetry_Int_Tables_number 2\n#"
    )
    assert read_p1_cif(named) is None


def test_uncertainties_in_brackets_are_dropped():
    text = cif(random_crystal(2))
    lines = [f"{line}(3)" if "_cell_length_a" in line else line for line in text.splitlines()]
    assert same(read_cif("\n".join(lines)), Structure.from_str(text, fmt="cif"))


@pytest.mark.parametrize("settings", [{}, {"direct": False}, {"significant_figures": 12}])
@pytest.mark.parametrize("literal", [True, False])
def test_poscars_are_read_as_pymatgen_wrote_them(settings, literal):
    structure = random_crystal(4, ("Na", "Na", "Cl"))
    text = poscar(structure, **settings)
    assert same(read_poscar(text.replace("\n", "\\n") if literal else text), structure)


def test_poscar_scales():
    structure = random_crystal(4)
    lines = poscar(structure).split("\n")
    lines[1] = "2.0"
    lattice, *_ = read_poscar("\n".join(lines))
    np.testing.assert_allclose(lattice, 2 * structure.lattice.matrix, atol=1e-5)
    lines[1] = "-77.0"
    assert abs(np.linalg.det(read_poscar("\n".join(lines))[0])) == pytest.approx(77)


def test_extended_xyz_is_read_as_ase_wrote_it():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    lattice, points, numbers = read_extxyz_crystal(extxyz(atoms))
    np.testing.assert_allclose(lattice, atoms.cell.array)
    np.testing.assert_allclose(points % 1, atoms.get_scaled_positions(), atol=1e-7)
    assert numbers.tolist() == [11, 17]
    with pytest.raises(ValueError, match="no lattice"):
        read_extxyz_crystal(extxyz(Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])))


GOOD = cif(random_crystal(9))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid|No structures|no structure|0 structures|Invalid"),
        (GOOD[: len(GOOD) // 2], "."),
        (GOOD.replace("  Na  ", "  Xx  "), "unknown element Xx"),
        (GOOD.replace("_cell_length_a", "_cell_length_x"), "."),
        ("".join(f"{line[:-1]}0.5\n" if line.startswith("  Na") else line for line in
                 GOOD.splitlines(keepends=True)), "partly occupied"),
    ],
)  # fmt: skip
def test_broken_cifs_say_why(text, reason):
    with pytest.raises(Exception, match=reason):
        read_cif(text)


@pytest.mark.parametrize(
    "text", ["", "a\n1.0\n1 0 0\n", poscar(random_crystal(1)).rsplit("\n", 2)[0], "x\n" * 12]
)
def test_broken_poscars_are_refused(text):
    with pytest.raises(ValueError, match="no POSCAR"):
        read_poscar(text)


def cell(lattice=None, points=((0, 0, 0), (0.5, 0.5, 0.5)), numbers=(11, 17)):
    lattice = np.eye(3) * 4 if lattice is None else lattice
    return np.array(lattice, dtype=float), np.array(points, dtype=float), np.array(numbers)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (cell(lattice=np.eye(3) * np.nan), "no finite number"),
        (cell(points=[[0, 0, 0], [0, np.inf, 0]]), "no finite number"),
        (cell(lattice=np.diag([4, 4, 0.01])), "cubic A for 2 atoms"),
        (cell(lattice=np.ones((3, 3))), "cubic A for 2 atoms"),
        (cell(lattice=np.diag([4, 4, 900])), "longer than"),
        (cell(points=[[0, 0, 0], [0.99, 0, 0]]), "0.04 A apart"),
        (cell(points=[[0, 0, 0]]), "differ in number"),
        (cell(points=np.zeros((0, 3)), numbers=()), "no atoms"),
    ],
)
def test_crystals_that_cannot_be_are_refused(broken, reason):
    with pytest.raises(ValueError, match=reason):
        crystal(broken, "x", "mine")


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_row_is_the_crystal_with_its_atoms_by_element(seed):
    structure = random_crystal(seed, ("O", "Na", "O", "Cl"))
    row = crystal(read_cif(cif(structure)), "x", "mine", {"band_gap": 1.5})
    assert row.numbers.tolist() == [8, 8, 11, 17]
    assert row.numbers.dtype == np.uint8 and row.coordinates.dtype == np.float32
    assert row.properties == {"band_gap": 1.5}
    found = Structure(Lattice(cell_rows(row.lattice)), row.numbers, row.coordinates)
    assert found.volume == pytest.approx(structure.volume, rel=1e-5)
    assert TIGHT.fit(found, structure)


def test_cells_are_kept_where_asked():
    large = random_crystal(8) * (2, 1, 1)
    assert len(crystal(read_cif(cif(large)), "x", "mine", primitive=False)) == 6
    assert len(crystal(read_cif(cif(large)), "x", "mine")) == 3
