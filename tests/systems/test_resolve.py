"""`--system TEXT`: one reading is taken, several are refused with the spellings that decide."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensci.core.errors import SystemTextError
from gensci.systems.resolve import SystemChoice, readings, resolve, resolve_one

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
ALSO_ELEMENTS = set("CFHIKNPSVWY")  # one-letter symbols among the residue letters
ALSO_SMILES = set("CFINPS")  # those that SMILES writes without brackets


def families(text):
    return [choice.family for choice in readings(text)]


def test_which_dipeptides_are_ambiguous():
    for pair in itertools.product(RESIDUES, repeat=2):
        expected = ["peptide"]
        expected += ["crystal"] if set(pair) <= ALSO_ELEMENTS else []
        expected += ["smiles"] if set(pair) <= ALSO_SMILES else []
        assert families("".join(pair)) == expected, pair


@pytest.mark.parametrize("text", ["AA", "GS", "AAAA", "Ace-A-Nme", "ace-CN-nme", "WLALL"])
def test_peptides_without_prefix(text):
    choice = resolve(text).choices[0]
    assert choice.family == "peptide"
    assert choice.text.replace("-", "").lower() == text.replace("-", "").lower()


@pytest.mark.parametrize("text", ["CN", "CCN", "NCC", "CS", "PIN"])
def test_three_readings_are_refused_and_spelled(text):
    with pytest.raises(SystemTextError) as error:
        resolve(text)
    assert "ambiguous" in str(error.value)
    for family in ("peptide", "crystal", "smiles"):
        assert f"{family}:{text}" in str(error.value)
    assert resolve(f"peptide:{text}").choices == (SystemChoice("peptide", text),)


@given(st.text(alphabet=RESIDUES, min_size=1, max_size=12))
def test_a_prefix_always_decides(text):
    choice = resolve_one(f"peptide:{text}")
    assert (choice.family, choice.text) == ("peptide", text)
    assert resolve_one(choice.spelled) == choice


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_message(text):
    try:
        choice = resolve_one(text.strip())
    except SystemTextError as error:
        assert len(str(error)) > 10
    else:
        assert resolve_one(choice.spelled) == choice
        assert not set(choice.folder) & set('/\\:*?"<>| ')


@pytest.mark.parametrize(
    "text", ["toy:double-well", "double_well", "TOY:Double-Well", "toy: double-well"]
)
def test_toys_are_found_under_any_spelling(text):
    assert resolve(text).choices == (SystemChoice("toy", "double-well"),)


@pytest.mark.parametrize("text", ["lisa:mbhb", "mbhb", "LISA:MBHB"])
def test_black_holes_are_found_under_any_spelling(text):
    assert resolve(text).choices == (SystemChoice("lisa", "mbhb"),)


@pytest.mark.parametrize(
    ("text", "spelled", "folder"),
    [
        ("TiO2", "crystal:TiO2", "TiO2"),
        ("Ti4O8", "crystal:Ti4O8", "Ti4O8"),
        ("NaCl", "crystal:NaCl", "NaCl"),
        ("Ca5(PO4)3OH", "crystal:Ca5(PO4)3OH", None),
        ("crystal:[Co(NH3)6]Cl3", "crystal:[Co(NH3)6]Cl3", None),
        ("CRYSTAL: TiO2", "crystal:TiO2", "TiO2"),
        ("crystal:*", "crystal:*", "crystal-de-novo"),
        ("molecule:*", "molecule:*", "molecule-de-novo"),
        ("smiles:CCO", "smiles:CCO", "CCO"),
        ("c1ccccc1", "smiles:c1ccccc1", "c1ccccc1"),
        ("CC(C)O", "smiles:CC(C)O", None),
        ("N[C@@H](C)C(=O)O", "smiles:N[C@@H](C)C(=O)O", None),
    ],
)
def test_crystals_and_molecules_are_read(text, spelled, folder):
    (choice,) = resolve(text).choices
    assert choice.spelled == spelled
    assert folder in (None, choice.folder)
    assert resolve(choice.spelled).choices == (choice,)


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [("CCO", ("crystal", "smiles")), ("*", ("crystal", "molecule")), ("CO", ("crystal", "smiles"))],
)
def test_texts_of_two_families_are_refused_and_spelled(text, prefixes):
    with pytest.raises(SystemTextError, match="ambiguous") as error:
        resolve(text)
    assert all(f"{prefix}:{text}" in str(error.value) for prefix in prefixes)


def test_smiles_that_differ_in_signs_alone_get_folders_of_their_own(tmp_path):
    path = tmp_path / "many.smi"
    path.write_text("F/C=C/F\nF/C=C\\F\nN[C@H](C)O\nN[C@@H](C)O\n" + "C" * 300 + "\n")
    folders = [choice.folder for choice in resolve(str(path)).choices]
    assert len(set(folders)) == 5
    assert all(len(folder) < 120 for folder in folders)


def test_a_list_of_smiles_may_name_its_molecules(tmp_path):
    path = tmp_path / "many.smi"
    path.write_text("CCO ethyl alcohol\nCC\tethane\nC\n")
    choices = resolve(str(path)).choices
    assert [choice.spelled for choice in choices] == ["smiles:CCO", "smiles:CC", "smiles:C"]
    assert [choice.folder for choice in choices] == ["ethyl_alcohol", "ethane", "C"]


def test_compositions_of_a_table_are_crystals(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("name,Formula\nrutile,TiO2\nalloy,CN\n")
    choices = resolve(str(path)).choices
    assert [choice.spelled for choice in choices] == ["crystal:TiO2", "crystal:CN"]
    assert [choice.folder for choice in choices] == ["rutile", "alloy"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("AXB", "unknown residue 'B', 'X'"),
        ("aa", "write 'AA'"),
        ("peptide:", "no residues"),
        ("peptide:AXA", "unknown residue 'X'"),
        ("peptid:AA", "did you mean 'peptide'"),
        ("toy:duble-well", "did you mean 'double-well'"),
        ("duble-well", "did you mean 'double-well'"),
        ("crystal:AA", "crystal:TiO2"),
        ("crystal:TIO2", "did you mean TiO2"),
        ("TIO2", "did you mean TiO2"),
        ("tio2", "did you mean crystal:TiO2"),
        ("crystal:", "the composition is empty"),
        ("crystal:Fe2.5O4", "fractional"),
        ("crystal:Ti0O2", "the count '0'"),
        ("Ti2000", "more than 1000 atoms"),
        ("molecule:CCO", "smiles:CCO"),
        ("smiles:*", "smiles:CCO"),
        ("smiles:C(C", "smiles:CCO"),
        ("A A", "neither a system nor a file"),
        ("missing.fasta", "cannot read this file"),
        ("missing.prmtop", "missing.prmtop: no such file"),
        ("file:missing.xml", "missing.xml: no such file"),
        ("file:molecule.pdb", "write it like file:molecule.prmtop"),
        ("A" * 5000 + ".xml", "no such file"),
        ("A" * 5000 + "X", "unknown residue 'X'"),
    ],
)
def test_unreadable_text_names_fault_and_remedy(text, part):
    with pytest.raises(SystemTextError) as error:
        resolve(text)
    assert part in str(error.value)


def test_a_fasta_file_gives_every_record_under_its_name(tmp_path):
    path = tmp_path / "many.fasta"
    path.write_text(">one first peptide\nAA\nGS\n\n>two\nCN\n>odd/name\nW\n")
    found = resolve(str(path))
    assert found.source == path
    assert [choice.text for choice in found.choices] == ["AAGS", "CN", "W"]
    assert [choice.folder for choice in found.choices] == ["one", "two", "odd_name"]


def test_a_list_file_skips_comments(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("# peptides\nAA\n\npeptide:CN # prefix needed\ntoy:double-well\n")
    spelled = [choice.spelled for choice in resolve(str(path)).choices]
    assert spelled == ["peptide:AA", "peptide:CN", "toy:double-well"]


def test_a_csv_file_needs_a_known_column(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("Name,Sequence\nfirst,AA\nsecond,CN\n")
    assert [choice.folder for choice in resolve(str(path)).choices] == ["first", "second"]
    assert [choice.text for choice in resolve(str(path)).choices] == ["AA", "CN"]
    path.write_text("name,score\nfirst,1\n")
    with pytest.raises(SystemTextError, match="sequence"):
        resolve(str(path))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "no systems"),
        ("AA\nAXA\n", "line 2"),
        ("AA\nCN\n", "line 2"),
        ("AA\npeptide:AA\n", "both be written to the folder 'AA'"),
        (">a\nAA\n>A\nGG\n", "both be written to the folder 'A'"),
        (">a\n", "no residues"),
    ],
)
def test_a_bad_file_names_the_entry(tmp_path, content, part):
    path = tmp_path / "many.txt"
    path.write_text(content)
    with pytest.raises(SystemTextError) as error:
        resolve(str(path))
    assert part in str(error.value)


def test_a_file_named_like_a_system_is_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "AA").write_text("GG\n")
    with pytest.raises(SystemTextError, match=r"--system \./AA"):
        resolve("AA")
    assert resolve("./AA").choices[0].text == "GG"
    assert resolve("peptide:AA").source is None


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "many.txt"
    path.write_bytes(b"\xff\xfe\x00AA")
    with pytest.raises(SystemTextError, match="cannot read this file"):
        resolve(str(path))


@pytest.mark.parametrize("name", ["mol.xml", "mol.prmtop", "MOL.PARM7", "AA.xml", "two words.xml"])
def test_a_file_of_a_molecule_is_a_system(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("not looked into")
    for text in (name, f"file:{name}", f" {name} ", str(tmp_path / name)):
        (choice,) = resolve(text).choices
        assert choice.family == "file"
        assert (tmp_path / choice.text).is_file()
        assert choice.folder == name.rpartition(".")[0].replace(" ", "_")
        assert resolve(choice.spelled).choices == (choice,)


def test_files_in_lists_and_tables_are_found_beside_them(tmp_path):
    (tmp_path / "mol.xml").write_text("")
    (tmp_path / "many.txt").write_text("AA\nmol.xml\n")
    (tmp_path / "many.csv").write_text(f"name,system\na,mol.xml\nb,{tmp_path / 'mol.xml'}\n")
    for name, folders in (("many.txt", ["AA", "mol"]), ("many.csv", ["a", "b"])):
        choices = resolve(str(tmp_path / name)).choices
        assert [choice.folder for choice in choices] == folders
        assert choices[-1].text == str(tmp_path / "mol.xml")
    (tmp_path / "many.txt").write_text("mol.xml\nother.prmtop\n")
    with pytest.raises(SystemTextError, match=r"line 2: .*other.prmtop: no such file"):
        resolve(str(tmp_path / "many.txt"))
