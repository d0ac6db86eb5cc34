"""The command line: a table from command name to function; imports only what the command needs."""

from __future__ import annotations

import difflib
import importlib
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

COMMANDS: dict[str, tuple[str, str]] = {
    "sample": ("gensci.commands.sample:run_sample", "draw weighted samples of a system"),
    "infer": ("gensci.commands.infer:run_infer", "posterior of a simulator or a LISA observation"),
    "simulate": ("gensci.commands.simulate:simulate", "molecular dynamics: makes training data"),
    "evaluate": (
        "gensci.commands.evaluate:evaluate",
        "measures of crystals and molecules, with their protocol",
    ),
    "finetune": ("gensci.commands.finetune:run_finetune", "adapt a flow of peptides to one system"),
    "train": ("gensci.commands.train:train", "train a model (Lightning command line)"),
    "data prepare": ("gensci.commands.data:prepare", "crystals and molecules to train on"),
    "data pair": ("gensci.commands.pair:pair", "known structures as templates of training rows"),
    "convert": ("gensci.commands.convert:convert", "turn released weights into a checkpoint"),
    "average": ("gensci.commands.average:average", "one checkpoint between several of a training"),
    "list": ("gensci.commands.list:list_names", "list what the options of the others accept"),
    "doctor": (
        "gensci.commands.doctor:doctor",
        "versions, device, force-field kernel, checkpoints",
    ),
}
RAW_ARGUMENTS = frozenset({"train"})  # these parse their own arguments
# of these required parameters may come without their option
POSITIONAL = frozenset({"list", "convert", "evaluate", "data prepare", "data pair"})
# option names that are keywords in Python, or that another command has by another name
RENAMED = {"from": "source_format"}
RENAMED_IN = {"data prepare": {"from": "origin"}}

_KINDS = {"int": "a whole number", "float": "a number"}

EPILOG = """\
`gensci COMMAND --help` lists the options of a command. Dashes and underscores are both accepted.
Exit status: 0 complete, 3 partial (some systems failed), 1 error, 2 usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; an expected error prints one line.

    Args:
        argv: Arguments without the program name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"gensci {importlib.import_module('gensci').__version__}")
        return 0
    try:
        return run_command(arguments[0], arguments[1:])
    except KeyboardInterrupt:
        return fail("interrupted; the same command again continues", 1)
    except BrokenPipeError:
        return 1
    except Exception as error:
        status = getattr(error, "exit_status", None)
        if status is None:
            raise
        return fail(str(error), status)


def overview(start: str = "") -> str:
    """The text of `gensci --help`, of the commands that begin with a text."""
    listed = [(name, row) for name, row in COMMANDS.items() if name.startswith(start)]
    rows = "\n".join(f"  {name:<13} {text}" for name, (_, text) in listed)
    return f"usage: gensci COMMAND [options]\n\ncommands:\n{rows}\n\n{EPILOG}"


def fail(line: str, status: int) -> int:
    """Print one line of error to stderr and return `status`."""
    print(f"gensci: error: {' '.join(line.split())}", file=sys.stderr)
    return status


def run_command(name: str, arguments: list[str]) -> int:
    """Look the command up, parse its arguments from the signature and call it."""
    key = name.lower().replace("_", "-")
    second = {command.split()[1] for command in COMMANDS if command.startswith(f"{key} ")}
    if second:
        word = arguments[0].lower() if arguments else ""
        if word in ("-h", "--help"):
            print(overview(f"{key} "))
            return 0
        if word not in second:
            return fail(f"'{key}' is followed by one of: {', '.join(sorted(second))}", 2)
        key, arguments = f"{key} {word}", arguments[1:]
    if key not in COMMANDS:
        close = difflib.get_close_matches(key, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return fail(f"no command {name!r}; {hint}choose from: {', '.join(COMMANDS)}", 2)
    function = load(COMMANDS[key][0])
    if key in RAW_ARGUMENTS:
        return int(function(arguments) or 0)
    settings = parse(key, function, arguments)
    if settings is None:
        return 0
    if isinstance(settings, str):
        return fail(f"{settings} (`gensci {key} --help` lists the options)", 2)
    return int(function(**settings) or 0)


def load(reference: str) -> Callable[..., Any]:
    """The function of a "module:function" text."""
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)


def parse(
    name: str, function: Callable[..., Any], arguments: list[str]
) -> dict[str, Any] | str | None:
    """Arguments for `function` from the command line.

    Returns:
        The keyword arguments; the reason as one text where they do not parse; None after `--help`.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    if not {"-h", "--help"}.isdisjoint(arguments):
        arguments = ["--help"]
    parser = ArgumentParser(prog=f"gensci {name}", exit_on_error=False)
    parser.add_function_arguments(function, as_positional=name in POSITIONAL)
    try:
        names = RENAMED | RENAMED_IN.get(name, {})
        plain, dotted = split_dotted([normalise(text, names) for text in arguments])
        for group, values in dotted.items():
            if f"{group}_settings" not in function.__annotations__:
                return f"no option --{group}.{next(iter(values))}"
        parsed = parser.parse_args(spell_flags(plain, function)).as_dict()
    except (ArgumentError, UsageText) as error:
        return explain(str(error), name)
    except SystemExit as stop:
        return None if not stop.code else "these arguments do not parse"
    for group, values in dotted.items():
        parsed[f"{group}_settings"] = {**(parsed[f"{group}_settings"] or {}), **values}
    return parsed


def spell_flags(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """`--flag` as `--flag=true` where the option is a yes or no and no value follows."""
    kinds = function.__annotations__
    spelled = []
    for text, following in itertools.pairwise([*arguments, "--"]):
        flag = text.startswith("--") and kinds.get(text[2:]) in (bool, "bool")
        spelled.append(f"{text}=true" if flag and following.startswith("--") else text)
    return spelled


class UsageText(ValueError):
    """A command line that cannot be split into options."""


def normalise(text: str, names: Mapping[str, str] = RENAMED) -> str:
    """`--num-samples=3` as `--num_samples=3`; values keep their dashes."""
    if not text.startswith("--") or text == "--":
        return text
    option, equals, value = text[2:].partition("=")
    option = option.replace("-", "_")
    return f"--{names.get(option, option)}{equals}{value}"


def split_dotted(arguments: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Separate `--sampler.num_steps 64` from the plain options.

    Such settings belong to whatever the registry finds under the name given by `--sampler`, so they
    are checked against that class later, without importing every class here.

    Returns:
        The plain arguments, and per group the settings as text.
    """
    plain: list[str] = []
    dotted: dict[str, dict[str, str]] = {}
    queue = iter(arguments)
    for text in queue:
        option, equals, value = text.partition("=")
        if not option.startswith("--") or "." not in option:
            plain.append(text)
            continue
        group, _, key = option[2:].partition(".")
        value = value if equals else next(queue, "")
        if not value or not key or value.startswith("--"):
            raise UsageText(f"{option} needs a value")
        dotted.setdefault(group, {})[key] = value
    return plain, dotted


def explain(message: str, command: str) -> str:
    """The parser's message as one line that names options as they are typed."""
    missing = message.partition("arguments are required: ")[2]
    if missing and command not in POSITIONAL:
        return f"--{missing.replace(', ', ' and --').replace('_', '-')} is required"
    if missing:
        return f"{missing.upper()} is required"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = " ".join(lines[:3])
    start = 'Parser key "'
    if text.startswith(start):
        key, _, reason = text[len(start) :].partition('":')
        kinds = [_KINDS[kind] for kind in re.findall(r"<class '(\w+)'>", reason) if kind in _KINDS]
        told = f"give {kinds[0]}" if kinds and "Union subtypes" in reason else reason.strip()
        return f"--{key.replace('_', '-')}: {told}"
    return text


if __name__ == "__main__":
    sys.exit(main())
