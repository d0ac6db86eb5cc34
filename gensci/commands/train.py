"""``gensci train``: Lightning's command line over the YAML files shipped in ``gensci/configs``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean

CONFIGS = Path(__file__).parents[1] / "configs"


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
    """
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.cli import LightningCLI

    arguments = with_config_paths(arguments)
    # It also sees the process's own arguments, which a distributed strategy starts again with.
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        LightningCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
