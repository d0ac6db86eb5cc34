"""Molecules as systems: conformers of a SMILES, or new molecules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gensci.core.elements import SYMBOLS
from gensci.core.errors import SystemTextError, UsageError
from gensci.core.prompts import StructurePrompt
from gensci.core.registry import SYSTEMS, did_you_mean
from gensci.systems.composition import parse_elements
from gensci.systems.molecule_targets import MmffTarget, has_parameters
from gensci.systems.settings import typed_settings
from gensci.systems.stereo import Stereochemistry, stereochemistry

if TYPE_CHECKING:
    from rdkit import Chem

DE_NOVO = "*"
TEMPERATURE = 300.0  # K
TARGETS = ("auto", "mmff", "none")
_LIKE = "write it like smiles:CCO"


@SYSTEMS.register(
    "smiles", proposal="structures", example="smiles:CCO", sampler="direct",
    checkpoint="molecules", num_samples=16,
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class SmilesSystem:
    """Conformers of one molecule with all its hydrogens, by MMFF94 in vacuum.

    Attributes:
        name: the SMILES as given.
        smiles: the SMILES whose atoms, then their hydrogens, have the order of everything here.
        settings: all of them, checked.
    """

    name: str
    smiles: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str, **settings: Any) -> SmilesSystem:
        """Read a SMILES: aromatic or Kekule, with charges, isotopes and stereochemistry.

        Args:
            text: without the prefix ``smiles:``.
            **settings: ``target`` (mmff, none, or auto: mmff where it knows the molecule) and
                ``temperature`` in K, as values or texts of the command line.

        Raises:
            SystemTextError: no molecule, or several.
            UsageError: a setting that is unknown or cannot be used.
        """
        chosen = typed_settings(settings, "a molecule by SMILES", _declare_smiles)
        chosen["target"] = chosen["target"] or "none"
        if chosen["target"] not in TARGETS:
            hint = did_you_mean(chosen["target"], list(TARGETS))
            raise UsageError(
                f"--system.target: unknown {chosen['target']!r}",
                f"{hint}choose from: {', '.join(TARGETS)}",
            )
        system = cls(text, _plain_smiles(text), chosen)
        if len(system.numbers) == 1:
            raise SystemTextError(f"SMILES {text!r} is a single atom", "give one with a bond")
        if chosen["target"] == "mmff":
            system.target()  # what it lacks is told before anything is drawn
        return system

    @cached_property
    def mol(self) -> Chem.Mol:
        """The molecule with explicit hydrogens behind the atoms of the SMILES."""
        from rdkit import Chem

        return Chem.AddHs(Chem.MolFromSmiles(self.smiles))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic numbers of all atoms."""
        return tuple(atom.GetAtomicNum() for atom in self.mol.GetAtoms())

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Pairs of atom indices."""
        return tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in self.mol.GetBonds())

    @cached_property
    def stereochemistry(self) -> Stereochemistry:
        """What the SMILES says of centres and double bonds."""
        return stereochemistry(self.mol)

    def natural(self, x: Tensor) -> Tensor:
        """(n,) bool: x (n, atoms, 3) has the stereochemistry of the SMILES."""
        return self.stereochemistry.agrees(x)

    def prompt(self) -> StructurePrompt:
        """What the model is asked for."""
        return StructurePrompt(kind="molecule", numbers=self.numbers, smiles=self.smiles)

    def target(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MmffTarget | None:
        """The Boltzmann density of MMFF94, or None; it answers where and as it is asked.

        Raises:
            UsageError: ``target`` is mmff, which has no parameters for this molecule.
        """
        wanted = self.settings["target"]
        if wanted == "none" or (wanted == "auto" and not has_parameters(self.mol)):
            return None
        return MmffTarget(self.mol, self.settings["temperature"], self.natural)

    def record(self) -> dict[str, Any]:
        """Everything that decides the numbers, for `run.json`."""
        return {f"system.{name}": value for name, value in self.settings.items()}

    def warnings(self) -> tuple[str, ...]:
        """What the user must know although the run goes on, a line each."""
        if self.settings["target"] == "auto" and not has_parameters(self.mol):
            return (f"MMFF94 has no parameters for {self.name}: no energies are worked out",)
        return ()


@SYSTEMS.register(
    "molecule", proposal="structures", example="molecule:*", sampler="direct",
    checkpoint="molecules", num_samples=16,
)  # fmt: skip
@dataclass(frozen=True, eq=False)
class NewMolecules:
    """New molecules with their conformers.

    Attributes:
        name: the text, ``*``.
        settings: all of them, checked.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str, **settings: Any) -> NewMolecules:
        """Read ``*`` and the settings.

        Args:
            text: ``*``.
            **settings: ``elements`` (``C,N,O``), the only ones besides hydrogen;
                ``num_heavy_atoms``, how many atoms but hydrogen at most; ``style``, the training
                set to write like; ``conditions``, properties to have, as ``name=value,name=value``.

        Raises:
            SystemTextError: the text is not ``*``.
            UsageError: a setting that is unknown or cannot be used.
        """
        if text != DE_NOVO:
            raise SystemTextError(
                f"--system molecule:{text}: new molecules are molecule:*",
                f"conformers of a molecule are smiles:{text}",
            )
        chosen = typed_settings(settings, "new molecules", _declare_new)
        count = chosen["num_heavy_atoms"]
        if count is not None and count < 1:
            raise UsageError(f"--system.num_heavy_atoms {count}", "give 1 or more")
        _elements(chosen["elements"])
        _conditions(chosen["conditions"])
        return cls(text, chosen)

    def prompt(self) -> StructurePrompt:
        """What the model is asked for."""
        return StructurePrompt(
            kind="molecule",
            conditions=_conditions(self.settings["conditions"]),
            style=self.settings["style"],
            elements=_elements(self.settings["elements"]),
            max_heavy_atoms=self.settings["num_heavy_atoms"],
        )

    def target(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """None: energies of different molecules cannot be compared."""
        return None

    def record(self) -> dict[str, Any]:
        """Everything that decides the numbers, for `run.json`."""
        return {f"system.{name}": value for name, value in self.settings.items()}

    def warnings(self) -> tuple[str, ...]:
        """No warnings."""
        return ()


def _declare_smiles(parser: Any) -> None:
    parser.add_argument("--target", type=str | None, default="auto")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)


def _declare_new(parser: Any) -> None:
    parser.add_argument("--num_heavy_atoms", type=int | None, default=None)
    for name in ("elements", "style", "conditions"):
        parser.add_argument(f"--{name}", type=str | None, default=None)


def _elements(text: str | None) -> tuple[int, ...] | None:
    """The elements allowed; hydrogen always is.

    Raises:
        UsageError: they are unknown, or hydrogen alone.
    """
    found = tuple(sorted({1, *parse_elements(text)})) if text else None
    if found == (1,):
        raise UsageError(f"--system.elements {text} has no heavy atom", "add one, such as C,H")
    return found


def _conditions(text: str | None) -> dict[str, float]:
    """Values by name of ``dipole=1.5,gap=0.2``."""
    found: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            raise UsageError(
                f"--system.conditions {part.strip()!r} cannot be used", "give name=number, ..."
            )
        found[name] = number
    return found


def _plain_smiles(text: str) -> str:
    """The text, or where it spells hydrogens out, one of the same molecule that does not.

    Raises:
        SystemTextError: RDKit cannot make one molecule of it.
    """
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise UsageError(
            f"molecules need the package {error.name}", "pip install 'gensci[molecules]'"
        ) from error
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        written = Chem.MolFromSmiles(text, sanitize=False) if text else None
    if mol is None or not mol.GetNumAtoms():
        raise SystemTextError(f"SMILES {text!r} cannot be read{_fault(text)}", _LIKE)
    if len(Chem.GetMolFrags(mol)) > 1:
        raise SystemTextError(f"SMILES {text!r} has several molecules", "give one at a time")
    if any(not 1 <= atom.GetAtomicNum() <= len(SYMBOLS) for atom in mol.GetAtoms()):
        raise SystemTextError(f"SMILES {text!r} has a wildcard", "name every atom")
    return text if written.GetNumAtoms() == mol.GetNumAtoms() else Chem.MolToSmiles(mol)


def _fault(text: str) -> str:
    """What RDKit finds wrong with the chemistry of a SMILES of sound grammar, or nothing."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text, sanitize=False)
        problems = Chem.DetectChemistryProblems(mol) if mol is not None else ()
    return f" ({problems[0].Message()})" if problems else ""
