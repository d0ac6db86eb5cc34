"""What the wheel holds: every package, the simulators, the kernel, the configurations."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def expected_files():
    """Paths in the wheel of everything that must work from it, from those in the checkout."""
    for pattern in (
        "gensci/**/*.py",
        "gensci/**/*.c",
        "gensci/**/*.h",
        "gensci/configs/*.yaml",
        "gensci/data/*.json",
    ):
        for path in ROOT.glob(pattern):
            yield path.relative_to(ROOT).as_posix()
    for pattern in ("sims/**/*.py", "sims/**/*.c", "checkpoints/*/model.*"):
        for path in ROOT.glob(pattern):
            yield "gensci/" + path.relative_to(ROOT).as_posix()


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for top in ("gensci", "sims") for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_dependencies_have_lower_bounds_only_and_the_extras_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    families = {"peptides", "materials", "molecules", "posterior", "lisa", "lisa-test", "snl-test"}
    named = families | {"report", "metrics", "evaluation", "gpu", "cluster", "train", "dev"}
    assert named | {"all"} == extras.keys()
    rows = [*project["dependencies"], *(row for name in named for row in extras[name])]
    listed = [row.partition(";")[0] for row in rows]  # without markers of platforms
    capped = {"arviz>=0.20,<1"}  # ArviZ 1 has another data model and another interface
    assert {row for row in listed if ">=" not in row or "==" in row or "<" in row} == capped


def test_the_wheel_holds_everything(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    copy = tmp_path / "copy"
    copy_sources(copy)
    subprocess.run([*build, "-w", str(tmp_path), str(copy)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert set(expected_files()) - held == set()
    assert {name.split("/")[0].partition("-")[0] for name in held} == {"gensci"}


def copy_sources(folder):
    """The checkout without what git ignores, so that the build leaves no traces in it."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
