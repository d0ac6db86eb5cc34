"""Named things (samplers, systems, models, ...) that are found by forgiving text."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from gensci.core.errors import UsageError

T = TypeVar("T")


def normalise_name(text: str) -> str:
    """Return the spelling under which names are compared: lower case, dashes, no outer blanks."""
    return text.strip().lower().replace("_", "-")


def did_you_mean(text: str, names: list[str]) -> str:
    """Return ``"did you mean 'x'? "`` for the nearest name, or an empty string."""
    near = difflib.get_close_matches(normalise_name(text), [normalise_name(n) for n in names], 1)
    spelled = {normalise_name(name): name for name in names}
    return f"did you mean {spelled[near[0]]!r}? " if near else ""


class Registry(Generic[T]):
    """A table from names to classes or functions of one kind.

    Names are compared without regard to case, and dashes equal underscores.

    Args:
        kind: what the entries are, in the singular, for messages ("sampler").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._metadata: dict[str, dict[str, Any]] = {}

    def register(self, name: str, **metadata: Any) -> Callable[[T], T]:
        """Return a decorator that stores its subject under ``name``.

        Args:
            name: the public name.
            **metadata: facts about the entry, given back by :meth:`metadata`.

        Raises:
            ValueError: the name is taken by another entry.
        """
        key = normalise_name(name)
        if key in self._entries:
            raise ValueError(f"the {self.kind} name {key!r} is registered twice")

        def store(entry: T) -> T:
            self._entries[key] = entry
            self._metadata[key] = metadata
            return entry

        return store

    def get(self, text: str) -> T:
        """Return the entry named by ``text``.

        Raises:
            UsageError: no entry has this name; the message offers the nearest one.
        """
        return self._entries[self.resolve(text)]

    def resolve(self, text: str) -> str:
        """Return the registered spelling of ``text``, or raise as :meth:`get` does."""
        key = normalise_name(text)
        if key in self._entries:
            return key
        choices = ", ".join(self.names()) or "none is registered"
        hint = did_you_mean(text, self.names())
        raise UsageError(f"unknown {self.kind} {text!r}", f"{hint}choose from: {choices}")

    def metadata(self, text: str) -> dict[str, Any]:
        """Return the facts that were given when the entry was registered."""
        return dict(self._metadata[self.resolve(text)])

    def name_of(self, entry: T) -> str:
        """Return the name under which ``entry`` is registered.

        Raises:
            KeyError: it is not registered.
        """
        for name, known in self._entries.items():
            if known is entry:
                return name
        raise KeyError(f"{entry!r} is no registered {self.kind}")

    def names(self) -> list[str]:
        """Return the registered names in order of registration."""
        return list(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and normalise_name(text) in self._entries


SAMPLERS: Registry[Any] = Registry("sampler")
SYSTEMS: Registry[Any] = Registry("system")
MODELS: Registry[Any] = Registry("model")
DECODERS: Registry[Any] = Registry("decoder")
SOLVERS: Registry[Any] = Registry("solver")
