"""Checks of settings, and samplers from the text of a command line."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.registry import SAMPLERS, Registry, did_you_mean, normalise_name


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise a UsageError unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        remedy = f"give a whole number of at least {low}"
        raise UsageError(f"{name}={value!r} is not usable", remedy)


def check_share(name: str, value: Any, *, zero: bool = False, one: bool = False) -> None:
    """Raise a UsageError unless ``value`` lies between 0 and 1 (ends included only if asked)."""
    ends = (zero and value == 0) or (one and value == 1)
    if not _is_number(value) or not (0 < value < 1 or ends):
        low, high = "<=" if zero else "<", "<=" if one else "<"
        raise UsageError(f"{name}={value!r} is not usable", f"give 0 {low} {name} {high} 1")


def check_positive(name: str, value: Any) -> None:
    """Raise a UsageError unless ``value`` is a finite number above zero."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise UsageError(f"{name}={value!r} is not usable", "give a positive number")


def check_flag(name: str, value: Any) -> None:
    """Raise a UsageError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is not usable", "give true or false")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a UsageError unless ``value`` is one of the given words."""
    if value not in choices:
        hint = did_you_mean(str(value), list(choices))
        raise UsageError(f"unknown {name} {value!r}", f"{hint}choose from: {', '.join(choices)}")


def make_sampler(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the sampler of this name with these settings.

    Args:
        name: a registered sampler; case does not matter, dashes equal underscores.
        settings: values by field name, under either spelling. Text is read as a number, true,
            false or none where it looks like one.

    Raises:
        UsageError: the sampler or a setting is unknown, or a value cannot be used.
    """
    return make_registered(SAMPLERS, name, settings)


def make_registered(
    registry: Registry[Any], name: str, settings: Mapping[str, Any] | None = None
) -> Any:
    """Return the entry of a registry of dataclasses; as :func:`make_sampler`."""
    cls = registry.get(name)
    spelled = {normalise_name(field.name): field.name for field in fields(cls)}
    chosen = {}
    for text, value in (settings or {}).items():
        key = normalise_name(text)
        if key not in spelled:
            hint = did_you_mean(text, list(spelled.values()))
            known = ", ".join(spelled.values()) or "it has none"
            raise UsageError(
                f"{registry.kind} {registry.resolve(name)!r} has no setting {text!r}",
                f"{hint}choose from: {known}",
            )
        chosen[spelled[key]] = _parse(value) if isinstance(value, str) else value
    return cls(**chosen)


def _parse(text: str) -> Any:
    word = text.strip().lower()
    if word in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(word)
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float) else text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
