"""Settings of systems, `--system.temperature 330`: texts or values, checked against their types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean


def typed_settings(
    settings: Mapping[str, Any], what: str, declare: Callable[[Any], Any]
) -> dict[str, Any]:
    """All settings of a system, with defaults for those not given.

    Args:
        settings: By name, with dashes or underscores, as text or values.
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
    typed = []
    for text, value in settings.items():
        name = text.replace("-", "_")
        if name not in names:
            raise UsageError(
                f"no setting --system.{text} of {what}",
                f"{did_you_mean(name, names)}choose from: {', '.join(names)}",
            )
        typed.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    try:
        chosen = parser.parse_args(typed).as_dict()
    except ArgumentError as error:
        raise UsageError(f"--system settings: {' '.join(str(error).split())}") from error
    if not chosen["temperature"] > 0:
        raise UsageError(
            f"--system.temperature {chosen['temperature']}", "give a positive one in K"
        )
    return chosen
