"""Crystals as systems: the structure of a composition, or new ones of chosen elements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gensci.core.errors import UsageError
from gensci.core.prompts import StructurePrompt
from gensci.core.registry import SYSTEMS, did_you_mean
from gensci.systems.composition import MAX_ATOMS, Composition, parse_elements, parse_formula
from gensci.systems.settings import typed_settings

DE_NOVO = "*"
TEMPERATURE = 1000.0  # K, for selection by energy
TARGETS = ("distance", "charge", "chgnet")
PROPERTIES = ("formation_energy", "band_gap")
_DE_NOVO_ONLY = ("elements",)
_COMPOSITION_ONLY = ("formula_units", "templates")


@SYSTEMS.register(
    "crystal",
    proposal="structures",
    example="crystal:TiO2",
    sampler="direct",
    checkpoint="crystals",
    num_samples=16,
)
@dataclass(frozen=True, eq=False)
class CrystalSystem:
    """Crystals of a composition (``TiO2``, ``Ti4O8``), or new ones (``*``).

    A composition is one cell as it is written: TiO2 has three atoms, Ti4O8 twelve.

    Attributes:
        name: the text.
        composition: of the cell, or None for new crystals.
        settings: all of them, checked.
    """

    name: str
    composition: Composition | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str, **settings: Any) -> CrystalSystem:
        """Read a composition, or ``*`` for new crystals.

        Args:
            text: without the prefix ``crystal:``.
            **settings: see ``crystal_settings``, as values or texts of the command line.

        Raises:
            SystemTextError: no composition.
            UsageError: a setting that is unknown, of the wrong kind, or at odds with the text.
        """
        chosen = crystal_settings(settings)
        composition = None if text == DE_NOVO else parse_formula(text)
        for name in _COMPOSITION_ONLY if composition is None else _DE_NOVO_ONLY:
            if chosen[name]:
                needed = "a composition" if composition is None else "new crystals, crystal:*"
                raise UsageError(f"--system.{name} is for {needed}", "leave it out")
        if composition is not None:
            composition = _scaled(text, composition, chosen)
        return cls(text, composition, chosen)

    @property
    def num_atoms(self) -> int | None:
        """How many atoms the cell has, or None where that is open."""
        return self.composition.num_atoms if self.composition else self.settings["num_atoms"]

    def prompt(self) -> StructurePrompt:
        """What the model is asked for."""
        chosen = self.settings
        return StructurePrompt(
            kind="crystal",
            numbers=self.composition.numbers if self.composition else None,
            conditions={name: chosen[name] for name in PROPERTIES if chosen[name] is not None},
            style=chosen["style"],
            elements=parse_elements(chosen["elements"]) if chosen["elements"] else None,
            num_atoms=self.num_atoms,
            templates=chosen["templates"],
        )

    def target(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """The product of the densities asked for, or None for none.

        Args:
            device: of the network of CHGNet; the others work where their samples are.
            dtype: not needed, the densities follow what they are given.
        """
        from gensci.systems.chgnet_target import ChgnetTarget
        from gensci.systems.crystal_targets import ChargeNeutralTarget, DistanceTarget, SumTarget

        parts = {
            "distance": DistanceTarget,
            "charge": ChargeNeutralTarget,
            "chgnet": lambda: ChgnetTarget(self.settings["temperature"], device),
        }
        made = [parts[name]() for name in _target_names(self.settings["target"])]
        return None if not made else made[0] if len(made) == 1 else SumTarget(made)

    def record(self) -> dict[str, Any]:
        """Everything that decides the numbers, for `run.json`."""
        return {f"system.{name}": value for name, value in self.settings.items()}

    def warnings(self) -> tuple[str, ...]:
        """What the user must know although the run goes on, a line each."""
        if self.composition is None and "chgnet" in _target_names(self.settings["target"]):
            return (
                "energies per cell favour large cells and strong bonds among new crystals of "
                "different compositions; weights mean something only within one composition",
            )
        return ()


def crystal_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a crystal, given ones checked.

    They are: ``formula_units``, how many a cell holds; ``elements``, the only ones of new crystals
    (``Ti,O``); ``num_atoms`` of the cell; ``formation_energy`` (eV/atom) and ``band_gap`` (eV) to
    have; ``style``, the training set to write like; ``target``, some of distance, charge and chgnet
    joined by ``+``, or none; ``temperature`` (K) for chgnet; ``templates``, whether a retrieved
    structure leads.

    Raises:
        UsageError: an unknown setting or a value that cannot be used.
    """
    chosen = typed_settings(_words(settings), "a crystal", _declare)
    for name in ("formula_units", "num_atoms"):
        value = chosen[name]
        if value is not None and not 1 <= value <= MAX_ATOMS:
            raise UsageError(f"--system.{name} {value}", f"give a number from 1 to {MAX_ATOMS}")
    for name in PROPERTIES:
        if chosen[name] is not None and not math.isfinite(chosen[name]):
            raise UsageError(f"--system.{name} {chosen[name]}", "give a finite number")
    if (chosen["band_gap"] or 0.0) < 0:
        raise UsageError(f"--system.band_gap {chosen['band_gap']}", "give 0 eV (a metal) or more")
    if chosen["elements"]:
        parse_elements(chosen["elements"])
    _target_names(chosen["target"])
    return chosen


def _declare(parser: Any) -> None:
    """Declare the settings, whole numbers first."""
    for name in ("formula_units", "num_atoms"):
        parser.add_argument(f"--{name}", type=int | None, default=None)
    for name in PROPERTIES:
        parser.add_argument(f"--{name}", type=float | None, default=None)
    for name in ("elements", "style"):
        parser.add_argument(f"--{name}", type=str | None, default=None)
    parser.add_argument("--target", type=str | None, default="distance")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--templates", type=bool, default=False)


def _words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Yes and no as true and false, and lists as texts."""
    plain = {}
    for text, value in settings.items():
        name, word = text.replace("-", "_"), str(value).strip().lower()
        if name == "templates":
            value = {"yes": "true", "no": "false"}.get(word, value)
        plain[text] = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return plain


def _target_names(text: str | None) -> tuple[str, ...]:
    """The parts of ``distance+charge``, each once."""
    parts = (text or "").replace(",", "+").split("+")
    names = [part.strip().lower() for part in parts if part.strip()]
    for name in names:
        if name not in TARGETS:
            hint = did_you_mean(name, list(TARGETS))
            raise UsageError(
                f"--system.target: unknown {name!r}",
                f"{hint}choose from: {', '.join(TARGETS)}, several with +, or none",
            )
    return tuple(dict.fromkeys(names))


def _scaled(text: str, written: Composition, chosen: Mapping[str, Any]) -> Composition:
    """The composition of the cell that text and settings ask for together."""
    units, atoms = chosen["formula_units"], chosen["num_atoms"]
    cell = written
    if units is not None and written.units == 1:
        cell = written.times(units)
    elif units not in (None, written.units):
        raise UsageError(
            f"--system.formula_units {units} and crystal:{text}, which has {written.units} "
            "formula units already, do not agree",
            f"say crystal:{written.reduced.formula} --system.formula_units {units}",
        )
    elif units is None and atoms is not None and written.units == 1:
        cell = written.times(max(1, atoms // written.num_atoms))
    if atoms not in (None, cell.num_atoms):
        raise UsageError(
            f"--system.num_atoms {atoms} does not fit crystal:{text}, whose cell has "
            f"{written.num_atoms if units is None else cell.num_atoms} atoms",
            "give a multiple of a formula unit, or leave it out",
        )
    if cell.num_atoms > MAX_ATOMS:
        raise UsageError(
            f"--system.formula_units {units} makes {cell.num_atoms} atoms",
            f"a cell may have {MAX_ATOMS}",
        )
    return cell
