"""Builds a C kernel with the system's compiler, once for each user, source and processor."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

# Without the last two, square roots and comparisons could not run over many samples at once.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-w", "-fno-math-errno", "-fno-trapping-math")
TUNINGS = (("-march=native",), ())  # some compilers know no native processor
TIMEOUT = 120  # seconds; a build takes a few


class NoKernel(RuntimeError):
    """A C kernel cannot be had here; the message says why and what would help."""


def load_kernel(source: Path) -> ctypes.CDLL:
    """The compiled C source, built if it is not in the cache.

    Where the compiler refuses to tune for this processor it builds for any, and where nothing can
    be kept it builds for this process alone.

    Args:
        source: the file of the kernel; it may include headers that lie beside it.

    Raises:
        NoKernel: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    reasons = []
    for tuning in TUNINGS:
        try:
            return _load([*compiler, *FLAGS, *tuning], source)
        except (OSError, subprocess.SubprocessError, UnicodeError) as error:
            reasons.append(_reason(error))
    raise NoKernel("; ".join(dict.fromkeys(reasons)))


def find_compiler() -> list[str]:
    """The command of the C compiler: the variable CC, else cc, gcc or clang.

    Raises:
        NoKernel: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in (chosen, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise NoKernel("no C compiler found (install gcc or clang, or set CC)")


def _load(command: list[str], source: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(_cached(command, source)))
    except OSError:
        with tempfile.TemporaryDirectory(prefix="gensci-") as folder:
            return ctypes.CDLL(str(_build(command, source, Path(folder) / "kernel.so")))


def _cached(command: list[str], source: Path) -> Path:
    """Path of the built kernel in $XDG_CACHE_HOME/gensci/kernels, by default in ~/.cache."""
    # The predefined macros tell the compiler's version and the instructions of this processor, so
    # a home folder shared by different machines keeps a kernel for each.
    macros = _call([*command, "-E", "-dM", "-x", "c", os.devnull])
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    digest = hashlib.sha256("\0".join(command).encode() + macros + b"\0".join(texts))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = f"{source.stem}-{digest.hexdigest()[:32]}.so"
    target = Path(base) / "gensci" / "kernels" / name
    return target if target.exists() else _build(command, source, target)


def _build(command: list[str], source: Path, target: Path) -> Path:
    """Compile to a temporary name and rename, so that a reader never sees half a file."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        product = Path(scratch) / target.name
        _call([*command, str(source), "-o", str(product), "-lm"])
        product.replace(target)
    return target


def _call(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        return f"{error.cmd[0]} failed: {lines[0]}"
    return str(error)
