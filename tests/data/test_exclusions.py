"""Sequences that training must not see: how they are given, and that they are refused."""

import json
import subprocess
import sys

import pytest

from gensci.core.errors import SystemTextError, UsageError
from gensci.data.exclusions import published_splits, read_excluded, refuse_excluded


@pytest.mark.parametrize(
    "content",
    [
        ["AA", "GG"],
        {"test": ["AA"], "val": ["GG"], "source": "x", "seed": 3},
        {"test": {"2AA": ["peptide:AA"], "other": [["GG", 3]]}},
    ],
    ids=["list", "lists by name", "deeper, in other spellings"],
)
def test_a_file_may_hold_one_list_or_several(tmp_path, content):
    path = tmp_path / "banned.json"
    path.write_text(json.dumps(content))
    assert read_excluded(str(path)) == {"AA", "GG"}
    refuse_excluded(["AC", "GA"], str(path))
    with pytest.raises(UsageError, match="excluded sequences GG; remove"):
        refuse_excluded(["AC", "GG"], str(path))


def test_sequences_may_be_given_directly_or_not_at_all():
    assert read_excluded("AA, ace-A-nme") == {"AA", "Ace-A-Nme"}
    refuse_excluded(["AA"], None)
    with pytest.raises(SystemTextError, match=r"^--exclude: .*'X'"):
        read_excluded("AA,AX")


def test_what_a_file_misspells_is_not_passed_over(tmp_path):
    path = tmp_path / "banned.json"
    path.write_text('["AA", "gg"]')
    with pytest.raises(SystemTextError, match=r"^--exclude .*banned.json: .*write 'GG'"):
        read_excluded(str(path))


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "cannot be read"), ("[", "cannot be read"), ("3", "no list"), ("{}", "no list")],
)
def test_a_file_without_sequences_is_refused_by_the_name_of_its_option(tmp_path, content, part):
    path = tmp_path / "banned.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=f"^--data.exclude .*{part}"):
        refuse_excluded(["AA"], str(path), "--data.exclude")


def test_published_sequences_are_known_with_their_split():
    splits = published_splits()
    assert len(splits) == 120
    assert [list(splits.values()).count(split) for split in ("val", "test")] == [30, 90]
    assert (splits["AL"], splits["AA"], splits["TAPF"]) == ("val", "test", "test")


def test_published_sequences_are_refused_where_that_is_asked_for():
    refuse_excluded(["AA", "GG"], None)
    with pytest.raises(UsageError, match=r"test sequences AA, AL; .*include_published"):
        refuse_excluded(["AL", "GG", "AA"], None, published=True)
    refuse_excluded(["AC", "GG", "AAA"], None, published=True)


def test_the_simulator_imports_no_training_package():
    code = (
        "import sys, gensci.commands.simulate, gensci.data.corpora\n"
        "assert 'gensci.data.exclusions' in sys.modules\n"
        "assert not {'pytorch_lightning', 'openmm'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
