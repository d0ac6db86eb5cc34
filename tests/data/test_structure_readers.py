"""Files of every known kind, split into records."""

import gzip
import io
import tarfile

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from rdkit import Chem
from rdkit.Chem import AllChem
from structure_files import cif, cif_table, extxyz, jarvis_zip, random_crystal

from gensci.core.errors import UsageError
from gensci.data.structure_building import kind_of
from gensci.data.structure_readers import read_records

A, B = random_crystal(1), random_crystal(2, ("K", "Br"))


def records(path):
    return list(read_records(path))


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
def test_tables_give_text_id_numbers_and_split(tmp_path, name):
    columns = ("formation_energy_per_atom", "e_above_hull", "label", "split")
    rows = [("a", cif(A), -1.5, 0.25, "x", "valid"), ("b", cif(B), "", "nan", "3", "")]
    first, second = records(cif_table(tmp_path / name, rows, columns))
    assert (first.id, first.format, first.split) == ("a", "cif", "val")
    assert first.text == cif(A)
    assert first.properties == {"formation_energy": -1.5, "energy_above_hull": 0.25}
    assert second.properties == {"label": 3.0} and second.split is None
    assert second.where == f"{name} row 2"


def test_tables_of_smiles_need_no_ids(tmp_path):
    (tmp_path / "m.csv").write_text("SMILES,gap\nCCO,1.5\nC,\n")
    first, second = records(tmp_path / "m.csv")
    assert (first.id, first.text, first.format) == ("m-1", "CCO", "smiles")
    assert first.properties == {"gap": 1.5} and second.id == "m-2"


def test_jarvis_files_name_the_split(tmp_path):
    path = jarvis_zip(tmp_path / "x.json.zip", {"train": {"1": A}, "test": {"7": B}})
    first, second = records(path)
    assert (first.id, first.split, second.id, second.split) == ("1", "train", "7", "test")
    assert "\\n" in first.text and first.format == "poscar"


def test_cifs_of_several_blocks(tmp_path):
    (tmp_path / "x.cif").write_text(cif(A) + "\n" + cif(B))
    first, second = records(tmp_path / "x.cif")
    assert first.text.startswith("data_NaClO") and second.text.startswith("data_KBr")
    (tmp_path / "one.cif").write_text(cif(A))
    assert [r.id for r in records(tmp_path / "one.cif")] == ["one"]


def test_extended_xyz_frames_are_crystals_or_molecules(tmp_path):
    salt, water = bulk("NaCl", "rocksalt", a=5.6), Atoms("H2O", np.eye(3))
    salt.info = {"name": "salt", "energy": -3.5}
    with gzip.open(tmp_path / "x.extxyz.gz", "wt") as file:
        file.write(extxyz([salt]) + extxyz([water]))
    first, second = records(tmp_path / "x.extxyz.gz")
    assert (first.id, second.id) == ("salt", "x-2")
    assert first.properties["energy"] == -3.5
    assert (kind_of(first), kind_of(second)) == ("crystal", "molecule")


def test_a_frame_without_a_count_is_one_broken_record(tmp_path):
    (tmp_path / "x.xyz").write_text("1\n\nH 0 0 0\nnonsense\nH 0 0 0\n")
    first, second = records(tmp_path / "x.xyz")
    assert first.text.endswith("H 0 0 0\n") and second.where == "x.xyz frame 2"


def test_sdf_records_carry_their_data(tmp_path):
    molecule = Chem.AddHs(Chem.MolFromSmiles("CO"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    molecule.SetProp("_Name", "methanol")
    molecule.SetProp("gap", "2.5")
    with Chem.SDWriter(str(tmp_path / "x.sdf")) as writer:
        writer.write(molecule)
        writer.write(molecule)
    first, second = records(tmp_path / "x.sdf")
    assert (first.id, first.format, first.properties) == ("methanol", "mol", {"gap": 2.5})
    assert Chem.MolFromMolBlock(second.text, removeHs=False).GetNumAtoms() == 6


def test_lists_of_smiles_may_carry_names(tmp_path):
    (tmp_path / "x.smi").write_text("# a comment\nCCO ethanol\n\nC\n")
    first, second = records(tmp_path / "x.smi")
    assert (first.text, first.id, second.text, second.id) == ("CCO", "ethanol", "C", "x-4")


def test_names_of_files_in_a_folder_are_splits(tmp_path):
    for name in ("train.csv", "valid.csv", "test_1.csv", "more.csv"):
        cif_table(tmp_path / name, [(name, cif(A))])
    (tmp_path / "README.md").write_text("not data")
    found = {record.id: record.split for record in records(tmp_path)}
    assert found == {"train.csv": "train", "valid.csv": "val", "test_1.csv": "test",
                     "more.csv": None}  # fmt: skip


def test_the_archive_of_qm7_gives_energies_by_file(tmp_path):
    files = {
        "qml-8bb/tests/qm7/0002.xyz": "2\ncharge = 0\n H 0 0 0\n H 0 0 0.74\n",
        "qml-8bb/tests/qm7/0001.xyz": "1\ncharge = 0\n C 1.0 2 3\n",
        "qml-8bb/tests/data/hof_qm7.txt": "0001.xyz -417.0 -431.7\n0002.xyz -100.5 -1\n",
        "qml-8bb/README.md": "more",
    }
    with tarfile.open(tmp_path / "qm7.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    first, second = records(tmp_path / "qm7.tar.gz")
    assert (first.id, second.id) == ("0001", "0002")
    assert second.properties == {"atomization_energy": -100.5}
    atoms = read(io.StringIO(first.text), format="extxyz")
    np.testing.assert_allclose(atoms.positions, [[1, 2, 3]])
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz"):
        pass
    with pytest.raises(UsageError, match="holds no tests/qm7"):
        records(tmp_path / "other.tar.gz")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "x.csv").write_text("smile\nC\n")
    (tmp_path / "x.json.zip").write_bytes(b"no zip")
    whole = cif_table(tmp_path / "w.csv.gz", [("a", cif(A))]).read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "absent.csv": "there is no file",
        "x.txt": "no known kind",
        "x.csv": "did you mean 'smile'",
        "x.json.zip": "cannot be read",
        "cut.csv.gz": "cannot be read",
        "empty": "no file of structures",
    }.items():
        with pytest.raises(UsageError, match=reason):
            records(tmp_path / name)
