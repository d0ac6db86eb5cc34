"""What a user brings to `gensci infer`: functions, a prior, an observation, settings."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.core.priors import Prior, read_prior
from gensci.core.registry import did_you_mean
from gensci.core.worker_pool import one_line

T = TypeVar("T")

_ARRAYS = ("x", "observation", "data")
"""Names under which an `.npz` of several arrays may hold the observation."""


def load_function(option: str, reference: str) -> Callable[..., Any]:
    """The function of `package.module:function` or `folder/file.py:function`.

    Args:
        option: Its name on the command line, for messages.
        reference: Modules are looked for in the working directory too.

    Raises:
        UsageError: No such module, file or function, or the module fails as it is imported.
    """
    found = load_object(option, reference)
    if not callable(found):
        raise UsageError(
            f"{option} {reference} is a {type(found).__name__}, no function", "name a function"
        )
    return found


def load_object(option: str, reference: str) -> Any:
    """What `package.module:name` or `folder/file.py:name` stands for; see `load_function`."""
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(
            f"{option} {reference} names no module and function",
            f"write it like {option} package.module:function or {option} file.py:function",
        )
    module = _module(option, reference, place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(module) if not key.startswith("_")]
            raise UsageError(
                f"{option} {reference}: {place} has no {name!r}",
                f"{did_you_mean(name, known)}check the name",
            )
        found = getattr(found, part)
    return found


def _module(option: str, reference: str, place: str) -> Any:
    """Import the module of a name or a file; its folder stays on the path for worker processes."""
    folder, name = os.getcwd(), place
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"{option} {reference}: no such file {place}", "check the path")
        folder, name = str(path.parent.resolve()), path.stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise UsageError(
                f"{option} {reference}: no module {error.name!r} here",
                "check the name and the working directory, or give file.py:function",
            ) from error
        raise UsageError(
            f"{option} {reference}: {place} needs {error.name!r}, which is not installed",
            "install it",
        ) from error
    except Exception as error:
        raise UsageError(
            f"{option} {reference}: importing {place} fails ({one_line(error)})", "mend the module"
        ) from error


def source_of(function: Callable[..., Any]) -> Path | None:
    """The file that a function was written in, if there is one."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        return None
    return Path(path) if path and os.path.isfile(path) else None


def load_prior(text: str) -> Prior:
    """The prior of `prior.json`, or of `package.module:prior`, a `Prior` or what makes one.

    Raises:
        UsageError: The file or the module holds none.
    """
    if text.endswith(".json") or Path(text).is_file():
        if not Path(text).is_file():
            raise UsageError(f"--prior {text}: no such file", "check the path")
        return read_prior(text)
    found = load_object("--prior", text)
    if not isinstance(found, Prior) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise UsageError(f"--prior {text} fails ({one_line(error)})", "mend it") from error
    return as_prior(found, f"--prior {text}")


def as_prior(found: Any, what: str = "prior") -> Prior:
    """A prior from a `Prior`, its JSON, or the path of a file of it.

    Raises:
        UsageError: It is none of them.
    """
    if isinstance(found, Prior):
        return found
    if isinstance(found, Mapping):
        return Prior.from_json(dict(found))
    if isinstance(found, str | Path):
        return load_prior(str(found))
    raise UsageError(
        f"{what} is a {type(found).__name__}, no prior",
        "give a gensci.core.priors.Prior or a JSON file such as "
        '{"kind": "box", "names": ["a"], "low": [0], "high": [1]}',
    )


def load_observation(text: str | Path) -> np.ndarray:
    """The observation of a `.npy`, `.npz`, `.csv` or `.txt` file, float64 of any shape.

    Raises:
        UsageError: The file is absent, unreadable, empty, not of real numbers, or not finite.
    """
    path = Path(text)
    option = f"--observation {text}"
    if not path.is_file():
        raise UsageError(f"{option}: no such file", "check the path")
    suffix = path.suffix.lower()
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_text, ".txt": _read_text}
    if suffix not in readers:
        raise UsageError(f"{option}: unknown kind of file", "give .npy, .npz, .csv or .txt")
    try:
        values = readers[suffix](path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{option} cannot be read ({one_line(error)})", "write it anew") from error
    return check_observation(values, option)


def check_observation(values: Any, what: str = "observation") -> np.ndarray:
    """The observation as a float64 array, without axes of one entry beside others.

    Raises:
        UsageError: It is empty, not of real numbers, or not finite; the first entry is named.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        kind = "complex numbers" if array.dtype.kind == "c" else f"values of type {array.dtype}"
        raise UsageError(f"{what} holds {kind}", "give real numbers")
    if array.size == 0:
        raise UsageError(f"{what} is empty", "give at least one number")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        raise UsageError(
            f"{what} holds NaN or infinity ({len(bad)} of {array.size} values, first at [{place}])",
            "cut or repair them",
        )
    return array


def _read_npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as stored:
            names = stored.files
            chosen = names[0] if len(names) == 1 else next((n for n in _ARRAYS if n in names), None)
            if chosen is None:
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}, but no array 'x'")
            return stored[chosen]
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def _read_text(path: Path) -> np.ndarray:
    """A table of numbers; a first line of names is left out, a single row or column is flat."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    delimiter = "," if any("," in line for line in lines) else None
    if lines and not _is_row(lines[0], delimiter):
        lines = lines[1:]
    if not lines:
        return np.empty(0)
    table = np.loadtxt(lines, delimiter=delimiter, ndmin=2, dtype=np.float64)
    return table.reshape(-1) if 1 in table.shape else table


def _is_row(line: str, delimiter: str | None) -> bool:
    try:
        [float(cell) for cell in line.split(delimiter)]
    except ValueError:
        return False
    return True


def parse_simulations(text: str | int) -> int | tuple[int, ...]:
    """Simulations per round: `1000`, or `2000,1000,1000`, one for each round.

    Raises:
        UsageError: No whole numbers.
    """
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--simulations {text}", "give a whole number, or one for each round")
    numbers = tuple(int(part) for part in parts)
    return numbers[0] if len(numbers) == 1 else numbers


def settings_of(usual: T, group: str, values: Mapping[str, Any]) -> T:
    """Settings with those changed that `--group.name value` options name.

    Args:
        usual: A dataclass of settings, some of which may be dataclasses themselves: theirs are
            named `--group.part.name`.
        group: Of the options, for messages.
        values: By name, with dashes or underscores, as text or values.

    Raises:
        UsageError: An unknown setting, or a value that cannot be used.
    """
    known = {f.name: getattr(usual, f.name) for f in dataclasses.fields(usual)}  # type: ignore[arg-type]
    plain = {name: value for name, value in known.items() if not dataclasses.is_dataclass(value)}
    chosen: dict[str, Any] = {}
    for text, value in values.items():
        first, dot, rest = text.replace("-", "_").lower().partition(".")
        if dot and first in known and first not in plain:
            part = chosen.get(first, known[first])
            chosen[first] = settings_of(part, f"{group}.{first}", {rest: value})
            continue
        if first not in plain or dot:
            hint = did_you_mean(text, list(plain))
            raise UsageError(
                f"no setting --{group}.{text}", f"{hint}choose from: {', '.join(plain)}"
            )
        chosen[first] = _typed(value, plain[first], f"--{group}.{first}")
    return dataclasses.replace(usual, **chosen)  # type: ignore[type-var]


def _typed(value: Any, default: Any, option: str) -> Any:
    """The value, or that of a text, checked against the type of the usual one."""
    value = _parsed(value) if isinstance(value, str) else value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is None or isinstance(default, tuple) or type(value) is type(default):
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    raise UsageError(
        f"{option} {value!r} is not usable", f"give {wanted.get(type(default), 'another')}"
    )


def _parsed(text: str) -> Any:
    word = text.strip()
    known = {"true": True, "false": False, "none": None, "null": None}
    if word.lower() in known:
        return known[word.lower()]
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


class UserLogLikelihood:
    """A user's log-likelihood as (n, d) points to (n,) nats, with the calls counted.

    Args:
        function: Of one point (d,), or of (n, d) where `batched`.
        batched: See above.
        array: What it is given: "numpy" or "torch".

    Attributes:
        calls: Points asked for so far.
    """

    def __init__(self, function: Callable[..., Any], batched: bool, array: str) -> None:
        self.function, self.batched, self.array = function, batched, array
        self.calls = 0

    def __call__(self, theta: Tensor) -> Tensor:
        """The (n,) float64 log-likelihoods.

        Raises:
            GensciError: The function raises or returns another shape; it and the point are named.
        """
        theta = theta.detach().to(torch.float64)
        self.calls += len(theta)
        if self.batched:
            return self._of(theta, (len(theta),))
        rows = [self._of(row, ()).reshape(1) for row in theta]
        return torch.cat(rows) if rows else theta.new_zeros(0)

    def _of(self, theta: Tensor, shape: tuple[int, ...]) -> Tensor:
        given = theta.clone() if self.array == "torch" else theta.numpy().copy()
        try:
            value = self.function(given)
            value = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value)
            found = torch.as_tensor(value, dtype=torch.float64)
        except Exception as error:
            at = f" at theta = {theta.tolist()}" if theta.ndim == 1 else ""
            raise GensciError(
                f"the log-likelihood fails ({one_line(error)}){at}",
                "mend it and run the same command again; all simulations are kept",
            ) from error
        if found.numel() == 1 and shape in ((), (1,)):
            return found.reshape(shape)
        if found.shape != shape:
            raise GensciError(
                f"the log-likelihood returned shape {tuple(found.shape)}, expected {shape}",
                "return one number for each point",
            )
        return found
