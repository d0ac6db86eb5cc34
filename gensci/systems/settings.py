"""Settings of systems, `--system.temperature 330`: texts or values, checked against their types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean

_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "NoneType": "none"}
_LISTS = ("forcefield",)


def typed_settings(
    settings: Mapping[str, Any], what: str, declare: Callable[[Any], Any]
) -> dict[str, Any]:
    """All settings of a system, with defaults for those not given.

    Args:
        settings: By name, with dashes or underscores, as values or as text: `none` for None, and
            a list as one name, several with commas between, or JSON.
        what: The kind of system, for messages: `a peptide`.
        declare: Adds the settings to a `jsonargparse.ArgumentParser`.

    Raises:
        UsageError: An unknown setting, a value of the wrong type, or a temperature that is not
            positive.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    declare(parser)
    names = list(parser.get_defaults().as_dict())
    chosen = parser.get_defaults().as_dict()
    for text, value in settings.items():
        name = text.replace("-", "_")
        if name not in names:
            raise UsageError(
                f"no setting --system.{text} of {what}",
                f"{did_you_mean(name, names)}choose from: {', '.join(names)}",
            )
        try:
            typed = parser.parse_args([f"--{name}={_spelled(name, value)}"]).as_dict()
        except ArgumentError as error:
            raise UsageError(f"--system.{text} {value!r} cannot be used", _wanted(error)) from error
        chosen[name] = typed[name]
    if not chosen.get("temperature", 1.0) > 0:
        raise UsageError(
            f"--system.temperature {chosen['temperature']}", "give a positive one in K"
        )
    return chosen


def _spelled(name: str, value: Any) -> str:
    """A value as the parser reads it."""
    if not isinstance(value, str):
        return json.dumps(value)
    if value.strip().lower() == "none":
        return "null"
    if name in _LISTS and not value.lstrip().startswith("["):
        return json.dumps([part.strip() for part in value.split(",") if part.strip()])
    return value


def _wanted(error: Exception) -> str:
    """What a setting takes, from the message of the parser."""
    kinds = dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", str(error)))
    known = [_KINDS[kind] for kind in kinds if kind in _KINDS]
    return f"give {' or '.join(known)}" if known else " ".join(str(error).split())
