"""Files of small crystals and molecules for tests, written by other packages."""

import csv
import gzip
import io
import json
import warnings
import zipfile

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

PAIRS = [("Na", "Cl"), ("K", "Br"), ("Cs", "I"), ("Li", "F"), ("Mg", "O"), ("Ca", "S"), ("Ba", "O")]


def random_crystal(seed, symbols=("Na", "Cl", "O"), length=5.0):
    """A triclinic crystal of given atoms, no two of them near."""
    rng = np.random.default_rng(seed)
    while True:
        parameters = [*(length * rng.uniform(0.9, 1.4, 3)), *rng.uniform(70, 110, 3)]
        crystal = Structure(
            Lattice.from_parameters(*parameters), list(symbols), rng.random((len(symbols), 3))
        )
        if np.isfinite(crystal.volume) and crystal.is_valid(1.0):
            return crystal


def binaries(count, seed=0):
    """Crystals of different pairs of elements, cell by cell different."""
    return [random_crystal(seed + k, PAIRS[k % len(PAIRS)]) for k in range(count)]


def cif(crystal, symprec=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(CifWriter(crystal, symprec=symprec))


def poscar(crystal, **settings):
    return Poscar(crystal).get_str(**settings)


def cif_table(path, rows, columns=()):
    """CSV of (id, CIF text, *values of columns)."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("material_id", "cif", *columns))
        writer.writerows(rows)
    return path


def jarvis_zip(path, splits):
    """{split: {id: crystal}} as the JARVIS leaderboard writes it."""
    content = {
        split: {name: poscar(crystal).replace("\n", "\\n") for name, crystal in rows.items()}
        for split, rows in splits.items()
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.name.removesuffix(".zip"), json.dumps(content))
    return path


def extxyz(atoms):
    """Frames of ase.Atoms as text."""
    from ase.io import write

    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()
