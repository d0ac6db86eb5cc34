"""From entries of a corpus to systems that can be simulated, and what decides their energies."""

from __future__ import annotations

from functools import cache
from typing import Any

from gensci.core.errors import UsageError
from gensci.data.corpora import Entry
from gensci.systems.simulation import Simulable


def build(entry: Entry, temperature: float, settings: dict[str, Any]) -> Simulable:
    """The system of an entry.

    Args:
        entry: What to build.
        temperature: Of the frames, K.
        settings: `--system.` settings, as text or values.

    Raises:
        GensciError: It cannot be built.
    """
    try:
        return _built(entry, temperature, settings)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"simulations need the package {error.name}", "pip install 'gensci[peptides]'"
        ) from error


def _built(entry: Entry, temperature: float, settings: dict[str, Any]) -> Simulable:
    if entry.path is not None:
        from gensci.systems.molecule import molecule_system

        return molecule_system(entry.path, temperature=temperature, **settings)
    from gensci.systems.peptide import PeptideSystem

    chosen = _peptide_settings(tuple(settings.items()))
    return PeptideSystem.from_text(entry.name, temperature=temperature, **chosen)


def energy_facts(entry: Entry, temperature: float, settings: dict[str, Any]) -> dict[str, Any]:
    """What decides the energies of an entry, for the record: settings with their defaults.

    Raises:
        GensciError: A setting cannot be used, or the files of a molecule.
    """
    if "temperature" in settings:
        raise UsageError("--system.temperature is no option here", "give --coldest, in K")
    if entry.path is not None:
        facts = build(entry, temperature, settings).record()
        return {name: value for name, value in facts.items() if name != "system.temperature"}
    chosen = _peptide_settings(tuple(settings.items()))
    return {f"system.{name}": value for name, value in chosen.items()}


@cache
def _peptide_settings(settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    from gensci.commands.prepare import peptide_settings

    chosen = peptide_settings(dict(settings))
    return {name: value for name, value in chosen.items() if name != "temperature"}


def notices(system: Simulable) -> tuple[str, ...]:
    """What the user must know although the run goes on, a line each."""
    warnings = getattr(system, "warnings", None)
    return warnings() if warnings is not None else ()
