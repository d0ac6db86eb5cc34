"""Frames for training: shards of this and of the first version, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gensci.core.errors import UsageError
from gensci.sims.dynamics import GAS_CONSTANT

pytest.importorskip("pytorch_lightning")

from gensci.data.peptides import (
    PeptideData,
    canonically_named,
    read_frames,
    refuse_other_energies,
)
from gensci.sims.peptide import build_peptide


def write(folder, shards, **facts):
    (folder / "shards").mkdir(parents=True)
    for index, shard in enumerate(shards):
        save_file(shard, folder / "shards" / f"{index:06d}.safetensors")
    (folder / "run.json").write_text(json.dumps({"temperature": 310.0, **facts}))


def first_version(frames):
    x = torch.randn(frames, 5, 3, generator=torch.Generator().manual_seed(frames))
    return {"positions": x, "energy": x[:, 0, 0].clone(), "dropped": torch.tensor(0)}


def this_version(frames):
    old = first_version(frames)
    rows = torch.arange(frames, dtype=torch.int32)
    return {**old, "forces": old["positions"] + 1, "ladder": rows % 2, "snapshot": rows // 2}


@pytest.mark.parametrize("make", [first_version, this_version])
def test_shards_of_both_versions_are_read(tmp_path, make):
    shards = [make(4), make(3)]
    write(tmp_path / "GG", shards)
    half_written = tmp_path / "GG" / "shards" / ".000002.77.partial.safetensors"
    half_written.write_bytes(b"torn")
    x, energy, temperature = read_frames(tmp_path / "GG")
    assert torch.equal(x, torch.cat([shard["positions"] for shard in shards]))
    expected = torch.cat([shard["energy"] for shard in shards]) / (GAS_CONSTANT * 310.0)
    assert torch.allclose(energy, expected)
    assert temperature == 310.0
    assert torch.equal(read_frames(tmp_path / "GG", limit=2)[0], x[[0, 6]])


@pytest.mark.parametrize(("sequence", "pair"), [("GA", ("HB2", "HB3")), ("GN", ("HD21", "HD22"))])
def test_equal_atoms_are_named_as_the_target_counts_them(sequence, pair):
    """A methyl that the relaxation of a start inverted; an amide that a pivot turned."""
    peptide = build_peptide(sequence)
    x = torch.as_tensor(peptide.positions).float().repeat(3, 1, 1)
    named = x.clone()
    a, b = (peptide.atom_names.index(name) for name in pair)
    x[1, [a, b]] = named[1, [b, a]]
    assert peptide.counted(x).tolist() == [True, False, True]
    assert torch.equal(canonically_named(sequence, x), named)


def test_published_sequences_are_not_trained_on_unless_that_is_said(tmp_path):
    write(tmp_path / "AA", [this_version(4)])
    with pytest.raises(UsageError, match=r"published validation or test sequences AA; .*remove"):
        PeptideData(str(tmp_path)).setup("fit")
    data = PeptideData(str(tmp_path), include_published=True)
    with pytest.raises(AttributeError):  # it goes on, to what only a trainer gives
        data.setup("fit")


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"force_field": ["amber14-all.xml"]}, "those of amber14-all.xml;"),
        ({"force_field": ["amber14-all.xml", "implicit/obc2.xml"]}, "obc2"),
        ({"settings": {"system.cutoff": 1.5}}, "cutoff 1.5 nm"),
    ],
)
def test_frames_of_another_force_field_are_refused(tmp_path, facts, part):
    write(tmp_path / "GG", [this_version(2)], **facts)
    with pytest.raises(UsageError, match=part):
        refuse_other_energies(tmp_path / "GG")


def test_frames_of_the_models_force_field_are_taken(tmp_path):
    names = ["amber14-all.xml", "implicit/obc1.xml"]
    write(tmp_path / "GG", [this_version(2)], force_field=names, settings={"system.cutoff": None})
    refuse_other_energies(tmp_path / "GG")
    write(tmp_path / "AG", [first_version(2)])
    refuse_other_energies(tmp_path / "AG")
    # the same with one fact changed is not
    write(tmp_path / "AA", [this_version(2)], force_field=names, settings={"system.cutoff": 1.0})
    with pytest.raises(UsageError, match=r"cutoff 1\.0 nm"):
        refuse_other_energies(tmp_path / "AA")
