"""Builds the C kernel with the system's compiler, once for each user, source and processor."""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

_FOLDER = Path(__file__).parent
_SOURCES = (
    "kernel.c", "forces.c", "pairs.c", "bonded.c", "lanes.c", "rows.c", "stepper.c", "noise.c",
)  # fmt: skip
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-w")
# Not -ffast-math: infinities and NaN must be noticed, and the bits must not depend on the mood
# of the optimiser.
_TUNINGS = (("-march=native",), ())
_TIMEOUT = 120  # seconds; the build takes one


class NoKernel(RuntimeError):
    """The C kernel cannot be had here; the message says why and what would help."""


@functools.cache
def load_library(double: bool) -> ctypes.CDLL:
    """The compiled kernel in double or single precision, built if it is not in the cache.

    Raises:
        NoKernel: no compiler, a failing build, or no folder to keep the result.
    """
    reasons = []
    for tuning in _TUNINGS:
        try:
            return _load(double, tuning)
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


def cache_folder() -> Path:
    """Where built kernels are kept: $XDG_CACHE_HOME/gensci/kernels, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "gensci" / "kernels"


def _load(double: bool, tuning: tuple[str, ...]) -> ctypes.CDLL:
    command = [*find_compiler(), *_FLAGS, *tuning, *(["-DGENSCI_DOUBLE"] if double else [])]
    try:
        return ctypes.CDLL(str(_cached(command)))
    except OSError:
        # Nowhere to keep it: a second of building for each process, in a private folder.
        with tempfile.TemporaryDirectory(prefix="gensci-") as folder:
            return ctypes.CDLL(str(_build(command, Path(folder) / "kernel.so")))


def _cached(command: list[str]) -> Path:
    # The predefined macros tell the compiler's version and the instructions of this processor,
    # so a home folder shared by different machines keeps a kernel for each.
    macros = subprocess.run(
        [*command, "-E", "-dM", "-x", "c", os.devnull],
        capture_output=True, check=True, timeout=_TIMEOUT,
    ).stdout  # fmt: skip
    digest = hashlib.sha256("\0".join(command).encode() + macros)
    for name in _SOURCES:
        digest.update((_FOLDER / name).read_bytes())
    target = cache_folder() / f"{digest.hexdigest()[:32]}.so"
    return target if target.exists() else _build(command, target)


def _build(command: list[str], target: Path) -> Path:
    """Compiles to a temporary name and renames, so that a reader never sees half a file."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        product = Path(scratch) / target.name
        subprocess.run(
            [*command, str(_FOLDER / _SOURCES[0]), "-o", str(product), "-lm"],
            capture_output=True, check=True, timeout=_TIMEOUT,
        )  # fmt: skip
        product.replace(target)
    return target


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        telling = next((line for line in lines if " error: " in line), lines[0])
        return f"{error.cmd[0]} failed: {telling}"
    return str(error)
