"""The named sets of crystals and molecules: which files, which rows, which splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from gensci.core.registry import normalise_name
from gensci.data.structure_downloads import RawFile
from gensci.data.structure_readers import SPLITS, Record, read_records

DRAW = "draw"  # the split of rows that validation and test rows are drawn from
_RAW = "https://raw.githubusercontent.com"
_JARVIS = f"{_RAW}/usnistgov/jarvis_leaderboard"
_ATOMGEN = "jarvis_leaderboard/benchmarks/AI/AtomGen"
_CDVAE = f"{_RAW}/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
_WYCKOFF = f"{_RAW}/SymmetryAdvantage/WyckoffTransformer"
_HEAD = "507e8f147a0e87905c2574ebfbbfc9fa21c2fb09"
_PILOT = "85bd47b33a7b55d418b1de10dad297fcf73b9b44"
_WBM = "21ddfc5506213f41f4036eaa6c3423dbcef3cb50"
_SLICES = f"{_RAW}/xiaohang007/SLICES/b3719d74ad253fc9baadf2e875470f686d259694"
_SELFIES = f"{_RAW}/aspuru-guzik-group/selfies/eb6177e5f20cfd8787f2ac4423f5b38dce6eeeb8"


@dataclass(frozen=True)
class Part:
    """One file of a set.

    Attributes:
        file: the raw file.
        split: train, val or test; None takes what the records say.
        source: the set that its rows are said to be from, None for the set itself.
        held_out: rows of this part may be drawn for validation and test.
    """

    file: RawFile
    split: str | None = "train"
    source: str | None = None
    held_out: bool = False


@dataclass(frozen=True)
class NamedSet:
    """A set that `gensci data prepare NAME` knows.

    Attributes:
        parts: its files; of rows with equal ids the first stays.
        about: one line for the account of a preparation.
        official: the splits are the published ones and stay as they are, copies included.
        primitive: crystals are reduced to primitive cells; the published sets with a fixed number
            of atoms a row keep it, because that number is part of the question.
        max_atoms: larger rows are left out.
        properties: files with more properties by id.
        hold_out: rows of each split drawn at random from the parts that say so.
        rest: split of the rows that are not drawn.
        keep_out: sets, prepared before, whose validation and test rows may not be in train.
        recipe: function of `gensci.data.molecule_sets` that does it all, for molecules.
    """

    parts: tuple[Part, ...]
    about: str
    official: bool = False
    primitive: bool = True
    max_atoms: int | None = None
    properties: tuple[RawFile, ...] = ()
    hold_out: dict[str, int] = field(default_factory=dict)
    rest: str = "train"
    keep_out: tuple[str, ...] = ()
    recipe: str | None = None

    @property
    def files(self) -> tuple[RawFile, ...]:
        """All raw files."""
        return (*(part.file for part in self.parts), *self.properties)


def _cdvae(name: str, path: str, size: int, sha256: str) -> RawFile:
    return RawFile(f"{name}.csv", f"{_CDVAE}/{path}", size, sha256, (f"{name}.csv.gz",))


_PEROV = RawFile(
    "perov5_heat_ref.json.zip",
    f"{_JARVIS}/ca31657372d73f109ebb5e09bd0cf40463762201/{_ATOMGEN}/perov5_heat_ref.json.zip",
    1_373_554,
    "8528dc28a3cd282f2d6eff2ad027306e16b40a03c80b21b5f3eedd92b39d561e",
)
_CARBON = RawFile(
    "carbon24_energy_per_atom.json.zip",
    f"{_JARVIS}/a2ceaa3b3545a35f3b113df4a99b3e0b0725c869/{_ATOMGEN}/"
    "carbon24_energy_per_atom.json.zip",
    2_122_372,
    "c49ca9fa944b39008a56fa49b03f0d7c1f26775c253999b268e82d1677d09a6c",
)
_PEROV_PROPERTIES = (
    _cdvae(
        "perov_5_properties_val",
        "perov_5/val.csv",
        3_673_814,
        "326f401219901270374b71e2faff63df3a29a99fd26f469993b9f476b693daf2",
    ),
    _cdvae(
        "perov_5_properties_test",
        "perov_5/test.csv",
        3_671_842,
        "a85878c685037f0a578257f6d4fcdde00e968dbab73c5f1e90ecef65218513f6",
    ),
)
_CARBON_PROPERTIES = (
    _cdvae(
        "carbon_24_properties_val",
        "carbon_24/val.csv",
        2_321_923,
        "36c00689cd63073c954a58bc6ed6e2adb7aeed5a630c994970959a1babffd50e",
    ),
    _cdvae(
        "carbon_24_properties_test",
        "carbon_24/test.csv",
        2_319_350,
        "386b17c08816f434818d51e46687bf72ff3f92348f3ba24823e4758f1fe8a969",
    ),
)
_MP_FIRST = RawFile(
    "mp_20_train_first_2573.csv",
    f"{_SLICES}/MatterGPT/raw_mp20_dataset_mini.csv",
    3_310_051,
    "889dfda365876656d8782a560eacf703fafaec5182a3162d087cf6c914aa6d96",
    ("mp_20_train_first_2573.csv.gz",),
)
_MP_PILOT_TRAIN = RawFile(
    "mp_20_pilot_train.csv.gz",
    f"{_WYCKOFF}/{_PILOT}/data/mp_20_pilot/train.csv.gz",
    215_380,
    "a89a708d16d80401fe256d6742680f2e02ed5746f1a685cfea1b509754fe728e",
)
_MP_PILOT_VAL = RawFile(
    "mp_20_pilot_val.csv.gz",
    f"{_WYCKOFF}/{_PILOT}/data/mp_20_pilot/val.csv.gz",
    216_406,
    "b03d4aeb363a7ec3018cea66e2e69fce3ca3b518c900531a03a1266d5d392eb6",
)
_MP_VAL = RawFile(
    "mp_20_biternary_val.csv.gz",
    f"{_WYCKOFF}/{_HEAD}/data/mp_20_biternary/val.csv.gz",
    1_460_439,
    "f0a1743241ade50592ce24dd3efc8b5e4d4d84c6a72e827c16699e83ce254f07",
)
_MP_TEST = RawFile(
    "mp_20_biternary_test.csv.gz",
    f"{_WYCKOFF}/{_HEAD}/data/mp_20_biternary/test.csv.gz",
    1_452_762,
    "e96144ffbad7fc61b0012456ead22d2c8f6993282a4fef584fbf906581086e02",
)
_MPTS_VAL = RawFile(
    "mpts_52_val.csv.gz",
    f"{_WYCKOFF}/{_HEAD}/data/mpts_52/val.csv.gz",
    1_930_984,
    "af56fcaa2ed7f36e9ec0ce95ae409c73f4c909644153c3d441c76f87a4d1c11d",
)
_WBM_VAL = RawFile(
    "wbm_val.csv.gz",
    f"{_WYCKOFF}/{_WBM}/data/wbm/val.csv.gz",
    1_683_049,
    "5a2fe636cbac4759f600d0ecd1740289db9740eb90014f773dbe02cab9de0aa2",
)
_MP_FULL = tuple(
    RawFile(f"mp_20_{split}.csv", f"{_CDVAE}/mp_20/{split}.csv", git_blob=blob)
    for split, blob in {
        "train": "b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f",
        "val": "7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1",
        "test": "5dc643041df53f5ce4970a79930ad262b4f07acd",
    }.items()
)
_MPTS_FULL = tuple(
    RawFile(
        f"mpts_52_{split}.csv.gz",
        f"{_WYCKOFF}/{_HEAD}/data/mpts_52/{split}.csv.gz",
        git_blob=blob,
    )
    for split, blob in {
        "train": "1cbdeccff5767b963d75c8e07cf8bec40f764c94",
        "val": "9d6d985473ca03ddc85e183186a186693ad78002",
        "test": "d37baba33ecbdeac2bc7191ba3e15e48b315d3f4",
    }.items()
)
_QM7 = RawFile(
    "qm7.tar.gz",
    "https://codeload.github.com/qmlcode/qml/tar.gz/8bb833cdbbe69405384d6796920c5418dc53b6ba",
    aliases=("qm7.xyz.gz",),
)
_QM9 = RawFile(
    "qm9_smiles.csv",
    f"{_SELFIES}/examples/vae_example/datasets/0SelectedSMILES_QM9.txt",
    2_940_156,
    "60e0a0a152d8dc6169a34ca6f14593c921a1bd4a145db9480eedc116b1cbd311",
    aliases=("qm9_smiles.csv.gz",),
)

SETS: dict[str, NamedSet] = {
    "perov-5": NamedSet(
        (Part(_PEROV, split=None),),
        "perovskites ABX3, official split (Castelli 2012, CDVAE)",
        official=True,
        primitive=False,
        properties=_PEROV_PROPERTIES,
    ),
    "carbon-24": NamedSet(
        (Part(_CARBON, split=None),),
        "carbon with 6 to 24 atoms, official split (Pickard 2020, CDVAE)",
        official=True,
        primitive=False,
        properties=_CARBON_PROPERTIES,
    ),
    "mp-20": NamedSet(
        (
            Part(_MP_TEST, split="test"),
            Part(_MP_FIRST),
            Part(_MP_PILOT_TRAIN),
            Part(_MP_VAL, held_out=True),
            Part(_MP_PILOT_VAL, held_out=True),
            Part(_MPTS_VAL, source="mpts-52"),
        ),
        "parts of MP-20 that are freely to be had; test: its test rows of 2 or 3 elements",
        primitive=False,
        max_atoms=20,
        hold_out={"val": 500},
    ),
    "mpts-52": NamedSet(
        (Part(_MPTS_VAL),),
        "the published validation rows of MPTS-52, to train on",
        primitive=False,
        max_atoms=52,
        keep_out=("mp-20",),
    ),
    "mp-20-full": NamedSet(
        tuple(Part(f, split, source="mp-20") for f, split in zip(_MP_FULL, SPLITS, strict=True)),
        "all of MP-20, official split (Jain 2013, CDVAE); checkpoints here have not seen it",
        official=True,
        primitive=False,
    ),
    "mpts-52-full": NamedSet(
        tuple(
            Part(f, split, source="mpts-52") for f, split in zip(_MPTS_FULL, SPLITS, strict=True)
        ),
        "all of MPTS-52, official split by year; checkpoints here have not seen it",
        official=True,
        primitive=False,
    ),
    "wbm": NamedSet(
        (Part(_WBM_VAL),),
        "10,000 crystals by substitution of elements (Wang, Botti, Marques 2021)",
        primitive=False,
        max_atoms=20,
        keep_out=("mp-20",),
    ),
    "qm7": NamedSet(
        (Part(_QM7),),
        "molecules with up to 7 heavy atoms, with coordinates (Rupp 2012)",
        recipe="prepare_qm7",
    ),
    "qm9": NamedSet(
        (Part(_QM9),),
        "SMILES of QM9 (Ramakrishnan 2014) with MMFF94s conformers",
        recipe="prepare_qm9",
    ),
}


def set_name(text: str) -> str | None:
    """The named set that a text asks for, or None."""
    names = {normalise_name(name): name for name in SETS}
    names |= {normalise_name(name).replace("-", ""): name for name in SETS}
    return names.get(normalise_name(text))


def part_records(part: Part, path: Path, name: str) -> Iterator[Record]:
    """Records of one file of a set."""
    for record in read_records(path):
        split = DRAW if part.held_out else part.split or record.split
        yield replace(record, split=split, source=part.source or name)


def properties_by_id(paths: list[Path]) -> dict[str, dict[str, float]]:
    """Properties of the rows of other files."""
    return {record.id: record.properties for path in paths for record in read_records(path)}
