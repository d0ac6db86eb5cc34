"""Corpora by name: samples that grow, and published sequences that stay out."""

import json
from pathlib import Path

import pytest

from gensci.core.errors import GensciError, SystemTextError, UsageError
from gensci.data.corpora import LENGTHS, LONGER, Entry, select_entries
from gensci.data.exclusions import published_splits
from gensci.sims.peptide.parse import LETTERS


def names(system, **options):
    return [entry.name for entry in select_entries(system, **options)]


@pytest.mark.parametrize(("corpus", "length"), LENGTHS.items())
def test_a_corpus_is_all_sequences_of_a_length_but_the_published_ones(corpus, length):
    found = set(names(corpus))
    hidden = {name for name in published_splits() if len(name) == length}
    assert len(found) == 20**length - len(hidden)
    assert not found & hidden
    assert {len(name) for name in found} == {length}


def test_dipeptides_have_a_synonym():
    assert names("dipeptides-train") == names("dipeptides") == names("Dipeptides_Train")
    assert len(names("dipeptides")) == 360


def test_a_larger_sample_begins_with_the_smaller_one():
    small, large = names("tripeptides:20"), names("tripeptides:50")
    assert large[:20] == small
    assert len(set(large)) == 50
    assert names("tripeptides:20", corpus_seed=1) != small
    assert set(names("tripeptides:8000")) == set(names("tripeptides"))


def test_samples_are_the_same_everywhere_and_for_ever():
    expected = ["GTA", "WWY", "QLN", "VND", "PMLA", "QWCF"]
    assert names("tripeptides:4,tetrapeptides:2") == expected


@pytest.mark.parametrize(("corpus", "length"), LONGER.items())
def test_longer_peptides_are_drawn(corpus, length):
    sample = names(f"{corpus}:300")
    assert len(set(sample)) == 300
    assert {len(name) for name in sample} == {length}
    assert not set(sample) & published_splits().keys()
    assert names(f"{corpus}:40") == sample[:40]
    assert names(f"{corpus}:40", corpus_seed=1) != sample[:40]
    without = names(f"{corpus}:40", exclude=sample[3])
    assert without[:39] == sample[:3] + sample[4:40]
    for place in range(length):
        counts = [sum(name[place] == letter for name in sample) for letter in LETTERS]
        assert min(counts) > 2
        assert max(counts) < 35


def test_longer_samples_are_the_same_for_ever():
    assert names("pentapeptides:2,octapeptides:1") == ["TYAEI", "PKTWN", "LYQQDWMQ"]


def test_leaving_out_a_sequence_changes_no_other():
    first = names("tetrapeptides:30")
    without = names("tetrapeptides:30", exclude=first[3])
    assert without[:29] == first[:3] + first[4:]


def test_every_residue_stands_everywhere_about_equally_often():
    sample = names("tripeptides:2000")
    for place in range(3):
        counts = [
            sum(name[place] == letter for name in sample) for letter in "ACDEFGHIKLMNPQRSTVWY"
        ]
        assert min(counts) > 60
        assert max(counts) < 140


def test_published_sequences_come_only_where_they_are_named():
    assert names("AA,dipeptides:3")[0] == "AA"
    assert names("CAVQ") == ["CAVQ"]
    everything = names("dipeptides", include_published=True)
    assert len(everything) == 400
    assert "AA" not in names("dipeptides", include_published=True, exclude="AA,GG")
    assert len(names("dipeptides", exclude="GG")) == 359


def test_parts_are_joined_and_each_system_comes_once(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("GG\nAce-A-Nme  # capped\nAAA\n")
    fasta = tmp_path / "names.fasta"
    fasta.write_text(">first thing\nGG\n>second\nWW\n")
    assert names(f"GG, {path},ace-A-nme,{fasta}") == ["GG", "Ace-A-Nme", "AAA", "WW"]


def test_the_prefix_of_a_peptide_is_understood():
    assert [entry.name for entry in select_entries("peptide:AA,AA, peptide:GG")] == ["AA", "GG"]


def test_molecules_are_named_by_their_file(tmp_path):
    entries = select_entries(f"GG,{tmp_path / 'drug.prmtop'}")
    assert entries == [Entry("GG"), Entry("drug", tmp_path / "drug.prmtop")]
    with pytest.raises(SystemTextError, match="folder 'GG'"):
        select_entries(f"GG,{tmp_path / 'GG.xml'}")


@pytest.mark.parametrize(
    ("system", "part"),
    [
        ("tripeptides:0", "how many"),
        ("tripeptides:", "write for example tripeptides:200"),
        ("tripeptides:many", "how many"),
        ("octapeptides", "write octapeptides:100"),
        ("pentapeptides:1600001", "ask for fewer"),
        ("octapeptide:3", "did you mean 'octapeptides'"),
        ("dipeptides:361", "there are 360"),
        ("tripeptide:20", "did you mean 'tripeptides'"),
        ("GG,,AA", "no residues"),
        ("absent.txt", "cannot read"),
        ("toy:ring", "not a peptide"),
    ],
)
def test_other_texts_are_refused(system, part):
    with pytest.raises(GensciError) as caught:
        select_entries(system)
    assert part in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_file_may_hold_peptides_only(tmp_path):
    path = tmp_path / "mixed.txt"
    path.write_text("GG\ntoy:mixture\n")
    with pytest.raises(SystemTextError, match="not a peptide"):
        select_entries(str(path))


def test_nothing_left_is_refused(tmp_path):
    path = tmp_path / "banned.json"
    path.write_text(json.dumps({"test": ["GG"]}))
    with pytest.raises(UsageError, match="leaves nothing"):
        select_entries("GG", exclude=str(path))


def test_longer_chains_cost_more():
    assert Entry("GG").cost == 1.0
    assert 10 < Entry("GYDPETGTWG").cost < 13
    assert Entry("drug", Path("drug.xml")).cost == 1.0
