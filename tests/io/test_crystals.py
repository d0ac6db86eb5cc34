"""Crystals on disk, read back by ase and pymatgen."""

import numpy as np
import pytest
import torch
from crystal_batches import batch

from gensci.core.elements import symbol_of
from gensci.core.results import SampleSet
from gensci.io.crystals import read_crystals, write_crystals

pytest.importorskip("ase")
pytest.importorskip("pymatgen")


def some(seed=0):
    """Five crystals of which one is not finite and one has no weight."""
    generator = torch.Generator().manual_seed(seed)
    strange = ([16, 1, 16, 94], torch.rand(4, 3, generator=generator), 0)
    lattice = 4 * torch.eye(3) + torch.randn(3, 3, generator=generator)
    strange = (strange[0], strange[1] + torch.tensor([1.5, -0.7, 0.0]), lattice)
    nowhere = ([8], [[torch.nan, 0, 0]], torch.eye(3))
    x = batch("rutile", strange, nowhere, "salt", "diamond")
    x = {name: v.float() if v.is_floating_point() else v for name, v in x.items()}
    return SampleSet(x, torch.tensor([0.5, -1.0, 0.0, -torch.inf, 0.1]).double())


def atoms_of(samples, row):
    present = samples.x["numbers"][row] > 0
    numbers = samples.x["numbers"][row][present].numpy()
    fractional = samples.x["fractional"][row][present].double().numpy()
    return numbers, fractional, samples.x["lattice"][row].double().numpy()


def test_both_files_hold_the_same_atoms_in_the_order_of_the_arrays(tmp_path):
    from ase.io import read
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifFile

    samples = some()
    rows = write_crystals(tmp_path, samples)
    assert rows.tolist() == [0, 1, 4]
    frames = read(tmp_path / "samples.extxyz", index=":")
    assert sorted(path.name for path in (tmp_path / "cif").iterdir()) == [
        "000000.cif",
        "000001.cif",
        "000004.cif",
    ]
    assert len(frames) == 3
    for frame, row in zip(frames, rows, strict=True):
        numbers, fractional, lattice = atoms_of(samples, row)
        assert frame.info["sample"] == row
        assert frame.info["weight"] == pytest.approx(float(samples.weight[row]), rel=1e-12)
        assert frame.pbc.all()
        np.testing.assert_array_equal(frame.numbers, numbers)
        np.testing.assert_allclose(frame.cell.array, lattice, atol=1e-11)
        np.testing.assert_allclose(frame.positions, fractional @ lattice, atol=1e-11)
        path = tmp_path / "cif" / f"{row:06d}.cif"
        (block,) = CifFile.from_file(path).data.values()
        labels = [f"{symbol_of(z)}{k}" for k, z in enumerate(numbers.tolist(), start=1)]
        assert block["_atom_site_label"] == labels
        # pymatgen sorts what it reads by element; the labels tell where each atom stood
        found = Structure.from_file(path)
        structure = Structure.from_sites(sorted(found, key=lambda site: labels.index(site.label)))
        assert [site.specie.Z for site in structure] == numbers.tolist()
        difference = structure.frac_coords - fractional
        np.testing.assert_allclose(difference - difference.round(), 0, atol=1e-11)
        # a CIF knows no orientation: lengths between atoms must agree
        here = structure.lattice.get_all_distances(structure.frac_coords, structure.frac_coords)
        there = frame.get_all_distances(mic=True)
        np.testing.assert_allclose(here, there, atol=1e-9)
        assert structure.volume == pytest.approx(abs(np.linalg.det(lattice)), rel=1e-10)


def test_a_cif_is_read_by_ase_in_the_same_order_too(tmp_path):
    from ase.io import read

    samples = some()
    write_crystals(tmp_path, samples)
    atoms = read(tmp_path / "cif" / "000001.cif")
    numbers, fractional, _ = atoms_of(samples, 1)
    assert atoms.numbers.tolist() == numbers.tolist()
    difference = atoms.get_scaled_positions() - fractional
    np.testing.assert_allclose(difference - difference.round(), 0, atol=1e-9)


def test_what_is_written_reads_back_with_its_weights(tmp_path):
    samples = some()
    rows = write_crystals(tmp_path, samples)
    x, weight = read_crystals(tmp_path / "samples.extxyz")
    assert torch.equal(x["numbers"], samples.x["numbers"][rows])
    torch.testing.assert_close(
        x["fractional"], samples.x["fractional"][rows].double(), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(x["lattice"], samples.x["lattice"][rows].double())
    torch.testing.assert_close(weight, samples.weight[rows])


def test_crystals_of_other_programs_weigh_the_same(tmp_path):
    from ase.build import bulk
    from ase.io import write

    write(tmp_path / "other.extxyz", [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)])
    x, weight = read_crystals(tmp_path / "other.extxyz")
    assert x["numbers"].tolist() == [[29, 0], [11, 17]]
    assert weight.tolist() == [0.5, 0.5]


def test_writing_again_replaces_what_was_there(tmp_path):
    write_crystals(tmp_path, some())
    before = (tmp_path / "cif" / "000001.cif").read_text()
    write_crystals(tmp_path, some(1))
    assert (tmp_path / "cif" / "000001.cif").read_text() != before
    assert {path.suffix for path in (tmp_path / "cif").iterdir()} == {".cif"}
