"""Texts of crystals (POSCAR, CIF, extended XYZ) as checked, Niggli-reduced structures."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable

import numpy as np

from gensci.core.elements import NUMBERS
from gensci.data.crystal_cells import (
    cell_parameters,
    cell_rows,
    nearest_distances,
    niggli_cell,
    primitive_cell,
)
from gensci.data.structure_table import Structure

Array = np.ndarray
Cell = tuple[Array, Array, Array]  # lattice rows (3, 3) Angstrom, fractional (n, 3), numbers (n,)
CLOSEST, LEAST_VOLUME, LONGEST = 0.5, 1.0, 200.0  # Angstrom; cubic Angstrom an atom; Angstrom
_LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")
_SITE = {
    "_atom_site_type_symbol": 0,
    "_atom_site_fract_x": 1,
    "_atom_site_fract_y": 2,
    "_atom_site_fract_z": 3,
    "_atom_site_occupancy": 4,
}
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_OPERATION = re.compile(r"^\s*(?:\d+\s+)?['\"]?\s*x\s*,\s*y\s*,\s*z\s*['\"]?\s*$", re.IGNORECASE)


def read_poscar(text: str) -> Cell:
    """The cell of a POSCAR text; line ends may be written as a backslash and an n.

    Raises:
        ValueError: it is none.
    """
    lines = text.replace("\\n", "\n").split("\n")
    try:
        scale = float(lines[1])
        lattice = np.array([[float(v) for v in line.split()] for line in lines[2:5]])
        counts = [int(v) for v in lines[6].split()]
        numbers = _numbers(
            symbol
            for symbol, count in zip(lines[5].split(), counts, strict=True)
            for _ in range(count)
        )
        rows = lines[8 : 8 + len(numbers)]
        points = np.array([[float(v) for v in row.split()[:3]] for row in rows])
    except (IndexError, ValueError) as error:
        raise ValueError(f"no POSCAR: {error}") from error
    if lattice.shape != (3, 3) or points.shape != (len(numbers), 3):
        raise ValueError("no POSCAR: it is cut short")
    # a negative scale gives the volume
    factor = scale if scale > 0 else (abs(scale) / abs(np.linalg.det(lattice))) ** (1 / 3)
    lattice = lattice * factor
    if lines[7].strip().lower()[:1] in ("c", "k"):
        points = points * factor @ np.linalg.inv(lattice)
    return lattice, points, numbers


def read_cif(text: str) -> Cell:
    """The cell of the first block of a CIF.

    Those that list every atom (P1, as pymatgen writes them) are read here, sixty times faster;
    the rest, with symmetry operations, by pymatgen.

    Raises:
        ValueError: it is none, has several data blocks, or sites that are partly occupied.
    """
    cell = read_p1_cif(text)
    return _by_pymatgen(text) if cell is None else cell


def read_p1_cif(text: str) -> Cell | None:
    """The cell of a CIF without symmetry; None where it is not of that plain form.

    Raises:
        ValueError: the numbers do not parse, or sites are partly occupied.
    """
    values: dict[str, str] = {}
    loops: list[tuple[list[str], list[str]]] = []
    open_loop = False
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith(";"):  # text over several lines
            return None
        if line == "loop_":
            loops.append(([], []))
            open_loop = True
        elif line.startswith("_") and open_loop and not loops[-1][1]:
            loops[-1][0].append(line.split()[0])
        elif line.startswith("_"):
            open_loop = False
            name, _, value = line.partition(" ")
            values[name] = value.strip()
        elif line.startswith("data_"):
            open_loop = False
            if values or loops:  # a second block
                return None
        elif open_loop:
            loops[-1][1].append(line)
        else:
            return None
    return _p1_cell(values, loops)


def _p1_cell(values: dict[str, str], loops: list[tuple[list[str], list[str]]]) -> Cell | None:
    operations = [rows for names, rows in loops if any("_as_xyz" in name for name in names)]
    if any(len(rows) != 1 or not _OPERATION.match(rows[0]) for rows in operations):
        return None
    group = values.get("_symmetry_Int_Tables_number", values.get("_space_group_IT_number", "1"))
    if not operations and group != "1":  # symmetry by name alone
        return None
    sites = [table for table in loops if set(_SITE) <= set(table[0])]
    if len(sites) != 1 or not all(key in values for key in (*_LENGTHS, *_ANGLES)):
        return None
    names, rows = sites[0]
    columns = [names.index(name) for name in _SITE]
    fields = [row.split() for row in rows]
    if any(len(row) != len(names) for row in fields):
        return None
    parameters = [_number(values[key]) for key in (*_LENGTHS, *_ANGLES)]
    picked = [[row[column] for column in columns] for row in fields]
    if any(abs(_number(row[4]) - 1) > 1e-3 for row in picked):
        raise ValueError("sites are partly occupied")
    points = np.array([[_number(value) for value in row[1:4]] for row in picked])
    lattice = cell_rows(np.array(parameters))
    return lattice, points.reshape(-1, 3), _numbers(row[0] for row in picked)


def _by_pymatgen(text: str) -> Cell:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it repairs; what it cannot, it raises
        found = CifParser.from_str(text).parse_structures(primitive=False)
    if len(found) != 1:
        raise ValueError(f"the CIF holds {len(found)} structures instead of one")
    if not found[0].is_ordered:
        raise ValueError("sites are partly occupied")
    numbers = np.array(found[0].atomic_numbers, dtype=np.int64)
    return found[0].lattice.matrix, found[0].frac_coords, numbers


def read_extxyz_crystal(text: str) -> Cell:
    """The cell of one frame of extended XYZ.

    Raises:
        ValueError: it has no lattice.
    """
    from ase.io import read

    atoms = read(io.StringIO(text), format="extxyz")
    if atoms.cell.rank != 3:
        raise ValueError("the frame has no lattice")
    lattice = np.asarray(atoms.cell.array)
    return lattice, atoms.positions @ np.linalg.inv(lattice), np.asarray(atoms.numbers)


def crystal(
    cell: Cell,
    name: str,
    source: str,
    properties: dict[str, float] | None = None,
    primitive: bool = True,
) -> Structure:
    """A cell as a row of a table: checked, reduced, atoms by atomic number.

    Args:
        cell: lattice rows (Angstrom), fractional coordinates, atomic numbers.
        name: of the row.
        source: of the set.
        properties: numbers by name.
        primitive: reduce to the primitive cell, instead of keeping the number of atoms.

    Raises:
        ValueError: the crystal cannot be: no volume, atoms upon each other, unknown elements.
    """
    lattice, fractional, numbers = (np.asarray(part) for part in cell)
    check_cell(lattice, fractional, numbers)
    lattice, fractional = niggli_cell(lattice, fractional)
    closest = nearest_distances(lattice, fractional).min()
    if closest < CLOSEST:
        raise ValueError(f"two atoms are {closest:.2f} A apart")
    if primitive:
        lattice, fractional, numbers = primitive_cell(lattice, fractional, numbers)
        lattice, fractional = niggli_cell(lattice, fractional)
    order = np.argsort(numbers, kind="stable")
    return Structure(
        kind="crystal",
        id=name,
        source=source,
        numbers=numbers[order].astype(np.uint8),
        coordinates=fractional[order].astype(np.float32),
        lattice=cell_parameters(lattice).astype(np.float32),
        properties=properties or {},
    )


def check_cell(lattice: Array, fractional: Array, numbers: Array) -> None:
    """Refuse what is no crystal, before anything is computed with it.

    Raises:
        ValueError: says why.
    """
    if len(numbers) == 0:
        raise ValueError("there are no atoms")
    if lattice.shape != (3, 3) or fractional.shape != (len(numbers), 3):
        raise ValueError("coordinates and elements differ in number")
    if not (np.isfinite(lattice).all() and np.isfinite(fractional).all()):
        raise ValueError("a coordinate is no finite number")
    volume = abs(float(np.linalg.det(lattice)))
    if volume < LEAST_VOLUME * len(numbers):
        raise ValueError(f"the cell has only {volume:.2f} cubic A for {len(numbers)} atoms")
    if np.linalg.norm(lattice, axis=1).max() > LONGEST:
        raise ValueError(f"the cell is longer than {LONGEST:g} A")


def _number(text: str) -> float:
    """A number of a CIF, without the uncertainty in brackets that may follow it."""
    return float(text.partition("(")[0])


def _numbers(symbols: Iterable[str]) -> Array:
    """Atomic numbers of symbols, which may carry an oxidation state, as in Fe3+."""
    found = [(symbol, _SYMBOL.match(symbol)) for symbol in symbols]
    unknown = {symbol for symbol, match in found if not match or match[0] not in NUMBERS}
    if unknown:
        raise ValueError(f"unknown element {', '.join(sorted(unknown))}")
    return np.array([NUMBERS[match[0]] for _, match in found], dtype=np.int64)
