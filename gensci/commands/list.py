"""`gensci list samplers|systems|checkpoints`."""

from __future__ import annotations

import dataclasses
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean


def list_names(kind: str) -> int:
    """List what can be given to --sampler, --system or --checkpoint.

    Args:
        kind: samplers, systems or checkpoints.
    """
    listings = {
        "samplers": list_samplers,
        "systems": list_systems,
        "checkpoints": list_checkpoints,
    }
    key = kind.lower() if kind.lower().endswith("s") else f"{kind.lower()}s"
    if key not in listings:
        names = list(listings)
        raise UsageError(
            f"cannot list {kind!r}", f"{did_you_mean(key, names)}choose from: {', '.join(names)}"
        )
    for line in listings[key]():
        print(line)
    return 0


def list_samplers() -> list[str]:
    """Every sampler with its settings and their defaults."""
    import gensci.samplers  # noqa: F401  (registers them)
    from gensci.core.registry import SAMPLERS

    lines = []
    for name in SAMPLERS:
        cls = SAMPLERS.get(name)
        lines.append(f"{name:<12} {first_line(cls)}")
        lines += [f"    --sampler.{setting}" for setting in _settings(cls)]
    return lines


def list_systems() -> list[str]:
    """The ways to write a system, then the toys by name."""
    from gensci.sims.toys import TOYS

    lines = [
        "peptide:AA   one-letter codes, zwitterionic ends; peptide:Ace-A-Nme with caps",
        "FILE.prmtop  Amber prmtop or parm7, coordinates beside it (FILE.inpcrd .rst7 .pdb ...)",
        "FILE.xml     OpenMM System, coordinates beside it (FILE.pdb .cif .state.xml ...)",
        "FILE         a FASTA file, a CSV with a column `sequence`, or one system per line",
    ]
    return lines + [f"toy:{name:<20} {first_line(toy)}" for name, toy in TOYS.items()]


def list_checkpoints() -> list[str]:
    """Every checkpoint that is shipped or lies in the checkout, with where it is."""
    from gensci.models.checkpoint import list_checkpoints as found

    lines = [f"{name:<20} {folder}" for name, folder in found().items()]
    return lines or ["no checkpoints: `gensci train` makes one, `gensci convert` imports one"]


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _settings(cls: type) -> list[str]:
    return [
        f"{field.name} {field.default!r}"
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    ]
