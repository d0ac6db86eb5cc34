"""Downloads from a local server that misbehaves."""

import hashlib
import subprocess

import numpy as np
import pytest
from file_server import FileServer, serving

from gensci.core.errors import GensciError, UsageError
from gensci.data import structure_downloads
from gensci.data.structure_downloads import RawFile, git_blob, obtain

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(structure_downloads, "_PAUSE", 0.0)


def raw(address, size=300_000, sha256=DIGEST, name="x.csv"):
    return RawFile("x.csv", f"{address}/{name}", size, sha256, ("x.csv.gz",))


def test_a_file_is_downloaded_once(tmp_path):
    server, told = FileServer({"x.csv": CONTENT}), []
    with serving(server) as address:
        path = obtain(raw(address), tmp_path / "d", progress=told.append)
        assert obtain(raw(address), tmp_path / "d") == path
    assert path.read_bytes() == CONTENT
    assert server.requests == [("x.csv", None)] and address in told[0]


def test_a_broken_connection_is_continued_where_it_broke(tmp_path):
    server = FileServer({"x.csv": CONTENT}, break_after=[100_000, 70_000])
    with serving(server) as address:
        path = obtain(raw(address), tmp_path)
    assert path.read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=170000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


def test_what_a_killed_run_left_is_continued(tmp_path):
    (tmp_path / "x.csv.part").write_bytes(CONTENT[:1234])
    server = FileServer({"x.csv": CONTENT})
    with serving(server) as address:
        assert obtain(raw(address), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("x.csv", "bytes=1234-")]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_complete_part_is_kept(tmp_path, size):
    (tmp_path / "x.csv.part").write_bytes(CONTENT)
    with serving(FileServer({"x.csv": CONTENT})) as address:
        assert obtain(raw(address, size=size), tmp_path).read_bytes() == CONTENT


def test_servers_without_ranges_send_it_all_again(tmp_path):
    server = FileServer({"x.csv": CONTENT}, break_after=[100_000], ranges=False)
    with serving(server) as address:
        assert obtain(raw(address), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"\0", CONTENT[:1000]])
def test_other_bytes_are_refused_and_removed(tmp_path, wrong):
    with serving(FileServer({"x.csv": wrong})) as address:
        with pytest.raises(GensciError, match=r"sent \d+ bytes of (SHA-256|size) .*expected is"):
            obtain(raw(address), tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_git_names_are_those_of_git(tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    named = subprocess.run(
        ["git", "hash-object", "x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert git_blob(tmp_path / "x") == named.stdout.strip()
    with serving(FileServer({"x.csv": CONTENT})) as address:
        obtain(RawFile("x.csv", f"{address}/x.csv", git_blob=git_blob(tmp_path / "x")), tmp_path)
        with pytest.raises(GensciError, match="git blob"):
            obtain(RawFile("y", f"{address}/x.csv", git_blob="0" * 40), tmp_path)


def test_an_absent_file_fails_at_once(tmp_path):
    server = FileServer({})
    with (
        serving(server) as address,
        pytest.raises(GensciError, match=r"answers 404.*--from FOLDER"),
    ):
        obtain(raw(address), tmp_path)
    assert len(server.requests) == 1


def test_a_connection_that_keeps_breaking_fails_and_keeps_what_came(tmp_path):
    server = FileServer({"x.csv": CONTENT}, break_after=[10, 10, 10, 10])
    with serving(server) as address, pytest.raises(GensciError, match="broke after 40 bytes"):
        obtain(raw(address), tmp_path)
    assert (tmp_path / "x.csv.part").read_bytes() == CONTENT[:40]


def test_a_mirror_has_files_under_their_names(tmp_path):
    server = FileServer({"x.csv": CONTENT})
    with serving(server) as address:
        file = raw("http://127.0.0.1:1", name="elsewhere/y.csv")
        assert obtain(file, tmp_path, origin=f"{address}/mirror/").read_bytes() == CONTENT
    assert server.requests == [("x.csv", None)]


@pytest.mark.parametrize("place", ["x.csv", "crystals/x.csv", "crystals/x.csv.gz"])
def test_folders_are_searched_one_level_deep(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"any")
    assert obtain(raw("http://127.0.0.1:1"), tmp_path / "d", origin=str(tmp_path)) == path


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"has no file x\.csv; it is published at http"):
        obtain(raw("http://127.0.0.1:1"), tmp_path, origin=str(tmp_path))
