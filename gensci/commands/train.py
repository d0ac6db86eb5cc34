"""``gensci train``: Lightning's command line over the YAML files shipped in ``gensci/configs``."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.memory import settle_memory
from gensci.core.registry import did_you_mean

CONFIGS = Path(__file__).parents[1] / "configs"
EXTRAS = {"openmm": "peptides", "mdtraj": "peptides", "rdkit": "molecules"}  # else `train`
REMEDY = "`gensci train fit --help` lists the options, --config NAME sets most of them"
NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Problem with given class_path|Given value"
    r"|Expected a <class 'NoneType'>"
)


def config_names() -> list[str]:
    """Names that ``--config`` takes besides paths."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_path(text: str) -> str:
    """Path of a shipped configuration by name, or of a file by path.

    Raises:
        UsageError: neither is there.
    """
    shipped = CONFIGS / f"{text.lower().replace('_', '-')}.yaml"
    if shipped.is_file():
        return str(shipped)
    if Path(text).is_file():
        return text
    hint = did_you_mean(text, config_names())
    choices = ", ".join(config_names())
    raise UsageError(f"no configuration {text!r}", f"{hint}give a YAML file or one of: {choices}")


def with_config_paths(arguments: list[str]) -> list[str]:
    """The arguments with the value of every ``--config`` (``-c``) turned into a path."""
    out: list[str] = []
    for text in arguments:
        name, equals, value = text.partition("=")
        if out and out[-1] in ("--config", "-c"):
            out.append(config_path(text))
        elif equals and name == "--config":
            out.append(f"--config={config_path(value)}")
        else:
            out.append(text)
    return out


def train(arguments: list[str]) -> int:
    """Run ``fit``, ``validate`` or another Lightning subcommand.

    Args:
        arguments: as typed after ``gensci train``, for example
            ``fit --config peptide-flow --data.root data/dipeptides``.

    Raises:
        UsageError: the arguments cannot be used, or a package is missing.
    """
    try:
        return _run(with_config_paths(arguments))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "gensci"):
            raise
        remedy = f"pip install 'gensci[{EXTRAS.get(package, 'train')}]'"
        raise UsageError(f"training needs the package {package}", remedy) from error


def _run(arguments: list[str]) -> int:
    settle_memory()
    import pytorch_lightning as pl
    import torch
    from jsonargparse import ArgumentError
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    class RaisingCLI(LightningCLI):
        """Raises what its parser refuses instead of printing a page of usage."""

        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            """A parser that raises ``ArgumentError``."""
            return super().init_parser(**{**kwargs, "exit_on_error": False})

    # It also sees the process's own arguments, which a distributed strategy starts again with.
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        RaisingCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )
    except (ArgumentError, MisconfigurationException) as error:
        raise UsageError(explain(str(error)), REMEDY) from error
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def explain(message: str) -> str:
    """What the parser says on a page, in one line that names options as they are typed."""
    missing = message.partition("arguments are required: ")[2]
    if missing:
        return " and ".join(f"--{name.split('.')[-1]}" for name in missing.split(", ")) + " missing"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not NOISE.match(line)] or lines
    text = re.sub(r'Parser key "([^"]+)":', r"--\1:", ", ".join(telling))
    return text.replace(":,", ":")[:300].rstrip(".!")
