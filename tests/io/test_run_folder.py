"""Run folders: what is saved comes back bit for bit, damage is noticed, foreign folders refused."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch

from gensci.core.errors import RunFolderError
from gensci.io.run_folder import RunFolder, check_same, read_record

SETTINGS = {"system": "toy:double-well", "num_samples": 10, "grid": [0.0, 1.0]}


def make_run(path, **changes):
    record = {
        "format": 1, "command": "sample", "settings": SETTINGS, "seed": 3, "outcome": "running",
    }  # fmt: skip
    folder = RunFolder(path, {**record, **changes})
    folder.claim()
    return folder


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "x/positions": torch.randn(5, 4, 3, generator=generator),
        "log_weight": torch.tensor([0.0, -1.5, float("-inf"), float("nan"), 2.0]).double(),
        "chain": torch.arange(5),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
    }


def same_bits(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype
        assert value.shape == right[name].shape
        assert value.numpy().tobytes() == right[name].numpy().tobytes()


def test_a_shard_comes_back_bit_for_bit(tmp_path):
    make_run(tmp_path / "run").save_shard(7, tensors())
    again = RunFolder(tmp_path / "run", read_record(tmp_path / "run", "sample"))
    same_bits(again.load_shard(7), tensors())
    assert again.load_shard(6) is None
    assert again.repaired == []


def test_a_shard_can_be_read_by_all_who_can_read_the_record(tmp_path):
    make_run(tmp_path / "run").save_shard(0, tensors())
    (shard,) = (tmp_path / "run").glob("shards/*.safetensors")
    assert shard.stat().st_mode == (tmp_path / "run" / "run.json").stat().st_mode


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    folder = make_run(tmp_path / "run")
    base = torch.arange(6.0)
    folder.save_shard(0, {"a": base[::2], "b": base, "c": base})
    same_bits(folder.load_shard(0), {"a": base[::2].clone(), "b": base, "c": base})


@pytest.mark.parametrize("position", [5, 40, -1, "truncate", "empty"])
def test_a_damaged_shard_is_drawn_again(tmp_path, position):
    folder = make_run(tmp_path / "run")
    folder.save_shard(0, tensors())
    path = tmp_path / "run" / "shards" / "000000.safetensors"
    content = bytearray(path.read_bytes())
    if position == "truncate":
        content = content[: len(content) // 2]
    elif position == "empty":
        content = b""
    else:
        content[position] ^= 0x10
    path.write_bytes(content)
    assert folder.load_shard(0) is None
    assert folder.repaired == [0]


@pytest.mark.parametrize("change", [{"seed": 4}, {"settings": {**SETTINGS, "num_samples": 11}}])
def test_a_shard_of_another_run_is_not_taken(tmp_path, change):
    make_run(tmp_path / "run").save_shard(0, tensors())
    assert make_run(tmp_path / "run", **change).load_shard(0) is None


def test_states_are_replaced_and_dropped(tmp_path):
    folder = make_run(tmp_path / "run")
    for step in range(3):
        folder.save_state("shard/0", {"step": torch.tensor(step)})
    assert folder.load_state("shard/0")["step"] == 2
    folder.drop_state("shard/0")
    folder.drop_state("shard/0")
    assert folder.load_state("shard/0") is None
    folder.clear_states()
    assert not (tmp_path / "run" / "state").exists()


def test_half_written_files_are_removed_by_the_next_run(tmp_path):
    make_run(tmp_path / "run").save_shard(0, tensors())
    leftover = tmp_path / "run" / "shards" / ".000001.77.partial.safetensors"
    leftover.write_bytes(b"half")
    folder = make_run(tmp_path / "run")
    assert not leftover.exists()
    same_bits(folder.load_shard(0), tensors())


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    folder.save_shard(0, tensors())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        folder.save_shard(0, {"x": torch.zeros(1)})
    same_bits(folder.load_shard(0), tensors())
    assert [path.name for path in (tmp_path / "run" / "shards").iterdir()] == ["000000.safetensors"]


def test_a_free_folder_has_no_record_and_reading_writes_nothing(tmp_path):
    assert read_record(tmp_path / "new" / "run", "sample") is None
    assert read_record(tmp_path, "sample") is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_during_the_start_leaves_is_free(tmp_path):
    (tmp_path / ".run.99.partial.json").write_text("{")
    assert read_record(tmp_path, "sample") is None


def test_foreign_folders_and_files_are_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunFolderError, match=r"thesis\.tex.*another --out"):
        read_record(tmp_path, "sample")
    with pytest.raises(RunFolderError, match="is not a folder"):
        read_record(tmp_path / "thesis.tex", "sample")
    with pytest.raises(RunFolderError, match="not a folder"):
        read_record(tmp_path / "thesis.tex" / "run", "sample")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


WRONG_SETTINGS = json.dumps(
    {"command": "sample", "format": 1, "settings": [], "seed": 1, "outcome": "complete"}
)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"command": "sample", "format": 1}', WRONG_SETTINGS]
)
def test_a_strange_run_json_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match="not a record of gensci"):
        read_record(tmp_path, "sample")


def test_the_run_of_another_command_or_format_is_refused(tmp_path):
    make_run(tmp_path / "run", command="simulate")
    with pytest.raises(RunFolderError, match="`gensci simulate`, not of `gensci sample`"):
        read_record(tmp_path / "run", "sample")
    make_run(tmp_path / "other", format=2)
    with pytest.raises(RunFolderError, match="format 2"):
        read_record(tmp_path / "other", "sample")


def test_other_settings_are_refused_by_name_and_equal_ones_pass(tmp_path):
    make_run(tmp_path / "run")
    old = read_record(tmp_path / "run", "sample")["settings"]
    check_same(tmp_path, old, {**SETTINGS, "grid": (0.0, 1.0)})
    with pytest.raises(RunFolderError, match=r"num_samples 10 \(now 20\)"):
        check_same(tmp_path, old, {**SETTINGS, "num_samples": 20})


def test_the_record_is_strict_json(tmp_path):
    folder = make_run(tmp_path / "run")
    folder.save(outcome="complete", khat=float("nan"), path=tmp_path, pair=(1, 2.5))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["khat"] is None
    assert record["pair"] == [1, 2.5]
    assert record["outcome"] == "complete"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RunFolderError, match="Permission denied"):
        read_record(tmp_path / "run", "sample")


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a file system that refuses files"
)
def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(RunFolderError, match=r"cannot write in /proc .*with --out"):
        read_record(Path("/proc/gensci-run"), "sample")
