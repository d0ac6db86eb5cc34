"""Who may import whom: every import of every module is checked against the architecture."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "core": set(),
    "samplers": {"core"},
    "nn": {"core"},
    "models": {"nn", "core"},
    "systems": {"sims", "core"},
    "data": {"systems", "sims", "core"},
    "io": {"core"},
    "metrics": {"core"},
    "loops": {"models", "samplers", "systems", "data", "nn", "core"},
    "sims": set(),
}
LIGHT = {"core", "samplers", "nn", "gensci"}  # torch and numpy only, so that starting is quick
HEAVY = {
    "openmm", "mdtraj", "rdkit", "pymatgen", "ase", "pytorch_lightning", "lightning",
    "matplotlib", "scipy", "jsonargparse", "arviz", "dask",
}  # fmt: skip


def modules():
    for path in sorted((ROOT / "gensci").rglob("*.py")):
        yield path, ("gensci", *path.relative_to(ROOT / "gensci").with_suffix("").parts)
    for path in sorted((ROOT / "sims").rglob("*.py")):
        yield path, ("gensci", "sims", *path.relative_to(ROOT / "sims").with_suffix("").parts)


def imports(tree, name):
    """Absolute dotted names of all imports, wherever in the file they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(name[: -node.level]) if node.level else []
            base += (node.module or "").split(".") if node.module else []
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def top_level_imports(tree, name):
    """Imports that run when the module is imported; those under TYPE_CHECKING do not."""
    later = (ast.If, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    body = [node for node in tree.body if not isinstance(node, later)]
    return set(imports(ast.Module(body=body, type_ignores=[]), name))


def layer(name):
    """`core` for gensci.core.weights; `gensci` for the files at the top."""
    parts = name.split(".") if isinstance(name, str) else list(name)
    inside = len(parts) > 1 and (parts[1] in ALLOWED or parts[1] == "commands")
    return parts[1] if inside else "gensci"


def breaches(name, text):
    """What in this module's imports breaks a rule."""
    tree, own = ast.parse(text), layer(name)
    targets = {target for target in imports(tree, name) if target.split(".")[0] == "gensci"}
    if own == "sims":
        return sorted(target for target in targets if layer(target) != "sims")
    if own in ALLOWED:
        allowed = ALLOWED[own] | {own}
        reached = {target for target in targets if layer(target) not in allowed | {"gensci"}}
        return sorted(reached | _heavy(tree, name, own))
    return sorted(_heavy(tree, name, own))


def _heavy(tree, name, own):
    if own not in LIGHT:
        return set()
    return {target for target in top_level_imports(tree, name) if target.split(".")[0] in HEAVY}


@pytest.mark.parametrize(
    ("path", "name"), [pytest.param(*row, id=".".join(row[1])) for row in modules()]
)
def test_imports_follow_the_architecture(path, name):
    assert breaches(name, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("gensci.core.weights", "from gensci.samplers import smc", "gensci.samplers"),
        ("gensci.samplers.smc", "from gensci import models", "gensci.models"),
        ("gensci.samplers.smc", "def f():\n    from ..models import flow", "gensci.models"),
        ("gensci.models.flow", "import gensci.systems.peptide", "gensci.systems.peptide"),
        ("gensci.sims.dynamics", "from gensci.core import random", "gensci.core"),
        ("gensci.nn.flow", "import openmm.app", "openmm.app"),
        ("gensci", "def f(): ...\nfrom scipy import stats", "scipy"),
        ("gensci.io.run_folder", "from gensci.commands.sample import sample", "gensci.commands"),
    ],
)
def test_breaches_are_found(name, text, found):
    assert any(item.startswith(found) for item in breaches(tuple(name.split(".")), text))


def test_every_package_has_a_rule():
    packages = {path.name for path in (ROOT / "gensci").iterdir() if any(path.glob("*.py"))}
    assert packages <= {*ALLOWED, "commands", "configs"}
