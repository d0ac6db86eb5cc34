"""`gensci list samplers|decoders|solvers|systems|checkpoints`."""

from __future__ import annotations

import dataclasses
from typing import Any

from gensci.core.errors import UsageError
from gensci.core.registry import Registry, did_you_mean


def list_names(kind: str) -> int:
    """List what --sampler, --proposal.decoder, --proposal.solver, --system, --checkpoint accept.

    Args:
        kind: samplers, decoders, solvers, systems or checkpoints.
    """
    listings = {
        "samplers": list_samplers,
        "decoders": list_decoders,
        "solvers": list_solvers,
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

    return list_registry(SAMPLERS, "sampler")


def list_decoders() -> list[str]:
    """Every decoder of tokens with its settings and their defaults."""
    import gensci.samplers.decoders  # noqa: F401  (registers them)
    from gensci.core.registry import DECODERS

    return list_registry(DECODERS, "proposal.decoder")


def list_solvers() -> list[str]:
    """Every solver of diffusion heads with its settings and their defaults."""
    import gensci.samplers.solvers  # noqa: F401  (registers them)
    from gensci.core.registry import SOLVERS

    return list_registry(SOLVERS, "proposal.solver")


def list_registry(registry: Registry[Any], option: str) -> list[str]:
    """Every entry with the first line of its docstring, then its settings under an option."""
    width = max(12, *(len(name) for name in registry))
    lines = []
    for name in registry:
        cls = registry.get(name)
        lines.append(f"{name:<{width}} {first_line(cls)}")
        lines += [f"    --{option}.{setting}" for setting in _settings(cls)]
    return lines


def list_systems() -> list[str]:
    """The ways to write a system, then the toys by name."""
    from gensci.sims.toys import TOYS

    lines = [
        "peptide:AA   one-letter codes, zwitterionic ends; peptide:Ace-A-Nme with caps",
        "crystal:TiO2 crystals of a composition; crystal:Ti4O8 that cell; crystal:* new ones",
        "smiles:CCO   conformers of a molecule with all its hydrogens",
        "molecule:*   new molecules",
        "lisa:mbhb    a massive black-hole binary in LISA's data (also for `gensci infer`)",
        "FILE.prmtop  Amber prmtop or parm7, coordinates beside it (FILE.inpcrd .rst7 .pdb ...)",
        "FILE.xml     OpenMM System, coordinates beside it (FILE.pdb .cif .state.xml ...)",
        "FILE         FASTA, CSV (column sequence, smiles, formula or system), .smi, or one a line",
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
