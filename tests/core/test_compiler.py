"""C kernels: built, kept, tuned for the processor or not, and done without."""

import ctypes

import pytest

from gensci.core import compiler
from gensci.core.compiler import NoKernel, find_compiler, load_kernel

SOURCE = "double gensci_twice(double x) { return 2.0 * x; }\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small kernel and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "twice.c"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def with_compiler():
    try:
        find_compiler()
    except NoKernel as reason:
        pytest.skip(str(reason))


def twice(library, x):
    library.gensci_twice.restype = ctypes.c_double
    return library.gensci_twice(ctypes.c_double(x))


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.so"))


def test_a_kernel_is_built_once_and_again_when_its_source_changes(with_compiler, source, tmp_path):
    assert twice(load_kernel(source), 3.5) == 7.0
    (built,) = kept(tmp_path)
    stamp = built.stat().st_mtime_ns
    load_kernel(source)
    assert kept(tmp_path) == [built]
    assert built.stat().st_mtime_ns == stamp
    source.write_text(SOURCE.replace("2.0", "3.0"))
    assert twice(load_kernel(source), 1.0) == 3.0
    assert len(kept(tmp_path)) == 2


def test_a_kernel_is_built_again_when_a_header_beside_it_changes(with_compiler, source, tmp_path):
    header = tmp_path / "factor.h"
    header.write_text("#define FACTOR 2.0\n")
    source.write_text('#include "factor.h"\n' + SOURCE.replace("2.0", "FACTOR"))
    assert twice(load_kernel(source), 1.0) == 2.0
    header.write_text("#define FACTOR 5.0\n")
    assert twice(load_kernel(source), 1.0) == 5.0


def test_a_compiler_that_cannot_tune_builds_for_any_processor(
    with_compiler, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(compiler, "TUNINGS", (("-march=no-such-processor",), ()))
    assert twice(load_kernel(source), 2.0) == 4.0
    assert len(kept(tmp_path)) == 1


def test_it_is_built_for_the_process_where_nothing_can_be_kept(
    with_compiler, source, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert twice(load_kernel(source), 4.0) == 8.0
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"PATH": "", "CC": ""}, "no C compiler found"), ({"CC": "false"}, "false failed")],
)
def test_the_reason_is_told_where_there_is_none(source, monkeypatch, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoKernel, match=reason):
        load_kernel(source)


def test_what_the_compiler_says_is_told(with_compiler, source):
    source.write_text("this is no C;\n")
    with pytest.raises(NoKernel, match=r"failed: .*twice"):
        load_kernel(source)
