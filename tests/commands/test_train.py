"""`gensci train`: what its command line refuses gets one line, a remedy and status 2."""

import sys

import pytest

from gensci.__main__ import main
from gensci.commands.train import explain

pytest.importorskip("pytorch_lightning")
pytestmark = pytest.mark.filterwarnings(
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
)

INTERNAL = ["fit", "--config", "peptide-internal"]
BAD = {
    "nothing": ([], "subcommand"),
    "no such subcommand": (["fitt"], "'fitt' (choose from 'fit'"),
    "no data and no model": (["fit"], "--data and --model missing"),
    "unknown option": ([*INTERNAL, "--nope", "3"], "--nope 3"),
    "unknown setting": ([*INTERNAL, "--model.lerning_rate", "3"], "'lerning_rate' is not accepted"),
    "wrong type": ([*INTERNAL, "--model.learning_rate", "fast"], "--learning_rate: Expected"),
    "config without value": (["fit", "--config"], "--config: expected one argument"),
    "config that is none": (["fit", "--config", "bad.yaml"], "'nonsense'"),
    "config that is no YAML": (["fit", "--config", "broken.yaml"], "parsing config"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_get_one_line_and_write_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("nonsense: 3\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    arguments, part = BAD[case]
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("gensci: error: ")
    assert part in line
    assert "gensci train fit --help" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "broken.yaml"]


@pytest.mark.parametrize(
    ("package", "extra"), [("pytorch_lightning", "train"), ("torchmetrics", "train")]
)
def test_a_missing_package_is_named_with_what_installs_it(package, extra, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["train", *INTERNAL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"needs the package {package}; pip install 'gensci[{extra}]'")


def test_a_page_of_the_parser_becomes_its_telling_lines():
    page = """Parser key "model":
      Does not validate against any of the Union subtypes
      Subtypes: [<class 'A'>, <class 'NoneType'>]
      Errors:
        - Problem with given class_path 'a.B':
            Parser key "size":
              Expected a <class 'int'>. Got value: many
        - Expected a <class 'NoneType'>
      Given value type: <class 'str'>
      Given value: many"""
    assert explain(page) == "--model: --size: Expected a <class 'int'>. Got value: many"
