"""The named sets, made from small files with the names of the real ones."""

import csv
import json

import numpy as np
import pytest
from file_server import FileServer, serving
from structure_files import binaries, cif, cif_table, jarvis_zip, random_crystal

from gensci.data import structure_downloads
from gensci.data.structure_downloads import RawFile
from gensci.data.structure_preparing import Job, prepare_named
from gensci.data.structure_selection import matching_rows
from gensci.data.structure_sets import SETS, set_name
from gensci.data.structure_table import StructureTable

COLUMNS = ("formation_energy_per_atom",)
CRYSTALS = binaries(20)
SPLITS = ("train", "val", "test")


def moved(crystal):
    copy = crystal.copy()
    copy.translate_sites(range(len(copy)), [0.3, 0.2, 0.1])
    return copy


def rows(*numbers, prefix="mp-"):
    return [(f"{prefix}{k}", cif(CRYSTALS[k]), -0.1 * k) for k in numbers]


@pytest.fixture
def raw(tmp_path):
    """Files of MP-20, MPTS-52 and WBM: the test rows are 0 to 3, and come again in all others."""
    folder = tmp_path / "raw" / "crystals"
    folder.mkdir(parents=True)
    copy = ("mp-900", cif(moved(CRYSTALS[1])), 0.0)
    large = ("mp-901", cif(random_crystal(50, ["Na"] * 11 + ["Cl"] * 10, length=9.0)), 0.0)
    tables = {
        "mp_20_biternary_test": rows(0, 1, 2, 3),
        "mp_20_train_first_2573": [*rows(4, 5, 0), copy],
        "mp_20_pilot_train": rows(4, 6),
        "mp_20_biternary_val": rows(7, 8, 9, 2),
        "mp_20_pilot_val": rows(9, 10),
        "mpts_52_val": [*rows(11, 3, 5), large],
        "wbm_val": [*rows(12, 13, prefix="w-"), ("w-1", cif(moved(CRYSTALS[0])), 0.0),
                    ("w-2", "broken", 0.0)],
    }  # fmt: skip
    for name, content in tables.items():
        cif_table(folder / f"{name}.csv.gz", content, COLUMNS)
    return tmp_path / "raw"


def load(folder):
    return {split: StructureTable.load(folder / split) for split in SPLITS}


def rejections(folder):
    with (folder / "rejected.csv").open() as file:
        return {(row["id"], row["kind"]) for row in csv.DictReader(file)}


def test_mp_20_never_trains_on_test_rows(tmp_path, raw):
    account = prepare_named("mp-20", Job(tmp_path / "mp-20", origin=str(raw)))
    sets = load(tmp_path / "mp-20")
    assert sets["test"].ids == ("mp-0", "mp-1", "mp-2", "mp-3")
    # fewer than 500 rows of the validation files: all of them are validation rows
    assert set(sets["val"].ids) == {"mp-7", "mp-8", "mp-9", "mp-10"}
    assert set(sets["train"].ids) == {"mp-4", "mp-5", "mp-6", "mp-11"}
    assert matching_rows(sets["train"], sets["test"]) == {}
    source = dict(zip(sets["train"].ids, sets["train"].source, strict=True))
    assert source["mp-11"] == "mpts-52" and source["mp-4"] == "mp-20"
    energy = sets["test"].properties["formation_energy"]
    np.testing.assert_allclose(energy, [0, -0.1, -0.2, -0.3], atol=1e-6)
    found = rejections(tmp_path / "mp-20")
    assert ("mp-900", "duplicate") in found and ("mp-901", "large") in found
    assert account.rows == {"train": 4, "val": 4, "test": 4}
    account = json.loads((tmp_path / "mp-20" / "prepared.json").read_text())
    assert account["rows"]["test"] == 4 and len(account["files"]) == 6


def test_held_out_rows_are_drawn_by_the_seed(tmp_path, raw, monkeypatch):
    monkeypatch.setitem(SETS["mp-20"].hold_out, "val", 2)
    drawn = []
    for seed in (0, 1, 2, 0):
        prepare_named("mp-20", Job(tmp_path / "mp-20", seed=seed, origin=str(raw)))
        drawn.append(load(tmp_path / "mp-20")["val"].ids)
    assert drawn[0] == drawn[3] and len(set(drawn)) > 1
    assert {len(ids) for ids in drawn} == {2}


@pytest.mark.parametrize("name", ["wbm", "mpts-52"])
def test_other_sets_keep_out_the_rows_that_mp_20_is_judged_by(tmp_path, raw, name):
    told = []
    prepare_named(name, Job(tmp_path / name, origin=str(raw), tell=told.append))
    assert told == ["mp-20 comes first: its test rows must stay out"]
    judged, own = load(tmp_path / "mp-20"), load(tmp_path / name)
    for split in ("val", "test"):
        assert matching_rows(own["train"], judged[split]) == {}
    expected = {"wbm": {"w-12", "w-13"}, "mpts-52": {"mp-11", "mp-5", "mp-901"}}
    assert set(own["train"].ids) == expected[name]
    kept_out = {"wbm": {("w-1", "held out"), ("w-2", "broken")}, "mpts-52": {("mp-3", "held out")}}
    assert rejections(tmp_path / name) == kept_out[name]


def test_official_splits_stay_as_they_are(tmp_path):
    """Also where one crystal is in two of them; properties come from the other files by id."""
    raw = tmp_path / "raw"
    raw.mkdir()
    double = CRYSTALS[3] * (2, 1, 1)
    splits = {"train": {"1": CRYSTALS[1], "2": double}, "val": {"3": CRYSTALS[2]},
              "test": {"4": moved(CRYSTALS[1])}}  # fmt: skip
    jarvis_zip(raw / "perov5_heat_ref.json.zip", splits)
    for split, row in (("val", ("3", "", 1.5)), ("test", ("4", "", 2.5))):
        cif_table(raw / f"perov_5_properties_{split}.csv", [row], ("heat_ref",))
    prepare_named("perov-5", Job(tmp_path / "perov-5", origin=str(raw)))
    sets = load(tmp_path / "perov-5")
    assert [sets[split].ids for split in SPLITS] == [("1", "2"), ("3",), ("4",)]
    assert sets["train"].num_atoms.tolist() == [2, 4]
    assert sets["test"].properties["heat_ref"].tolist() == [2.5]
    assert np.isnan(sets["train"].properties["heat_ref"]).all()


def test_full_sets_count_as_the_sets_that_models_know(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for k, split in enumerate(SPLITS):
        cif_table(raw / f"mp_20_{split}.csv", rows(k), COLUMNS)
    prepare_named("mp-20-full", Job(tmp_path / "m", origin=str(raw)))
    sets = load(tmp_path / "m")
    assert [(sets[s].ids, sets[s].source) for s in SPLITS] == [
        ((f"mp-{k}",), ("mp-20",)) for k in range(3)
    ]


def test_a_limit_counts_each_split(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    splits = {s: {f"{s}{k}": CRYSTALS[k] for k in range(3)} for s in SPLITS}
    jarvis_zip(raw / "carbon24_energy_per_atom.json.zip", splits)
    for split in ("val", "test"):
        cif_table(raw / f"carbon_24_properties_{split}.csv", [], ())
    account = prepare_named("carbon-24", Job(tmp_path / "c", origin=str(raw), limit=2))
    assert account.rows == {"train": 2, "val": 2, "test": 2}


def test_files_come_from_a_mirror_too(tmp_path, raw, monkeypatch):
    monkeypatch.setattr(structure_downloads, "verify", lambda *_: None)  # these are not the real
    names = {file.name: file for file in SETS["mp-20"].files}
    files = {name: (raw / "crystals" / f"{name.removesuffix('.gz')}.gz") for name in names}
    monkeypatch.setattr(structure_downloads, "_fetch", _without_size(structure_downloads._fetch))
    content = {n: p.read_bytes() if n.endswith(".gz") else _plain(p) for n, p in files.items()}
    with serving(FileServer(content)) as address:
        account = prepare_named("mp-20", Job(tmp_path / "mp-20", origin=address))
    assert account.rows == {"train": 4, "val": 4, "test": 4}


def _without_size(fetch):
    return lambda url, part, size: fetch(url, part, None)


def _plain(path):
    import gzip

    return gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("text", ["mp-20", "MP_20", "mp20", " Mp-20 "])
def test_spellings_of_names(text):
    assert set_name(text) == "mp-20"
    assert set_name("mp-2000") is None


def test_every_file_says_where_it_is_published_and_most_what_is_in_it():
    files: set[RawFile] = {file for named in SETS.values() for file in named.files}
    assert all(file.url.startswith("https://") for file in files)
    unknown = {file.name for file in files if not (file.sha256 or file.git_blob)}
    assert unknown == {"qm7.tar.gz"}
    assert all(len(file.sha256) == 64 and file.size for file in files if file.sha256)
    assert all(len(file.git_blob) == 40 for file in files if file.git_blob)
