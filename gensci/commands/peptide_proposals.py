"""How a flow of peptides draws: `--proposal.temperature`, `--proposal.rotations` and others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean
from gensci.models.proposal import FlowProposal, LowPrecisionProposal
from gensci.models.symmetrised_proposal import SymmetrisedProposal, fixed_rotations
from gensci.nn import native_inverse

MOST_ROTATIONS = 64  # each costs a density of every draw
ONE_HANDED = ("peptide-internal",)  # networks that place each stereocentre as the sequence has it
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
CHOICES = (
    "temperature (K, by default the system's), rotations (how many the flow is averaged over), "
    "mirror (true to average over the mirror image), precision (float32, tf32 or bfloat16)"
)


@dataclass(frozen=True)
class PeptideDrawing:
    """How a flow of peptides draws.

    Attributes:
        temperature: K, at which it draws where it can be steered.
        rotations: fixed orientations that it is averaged over, for flows that are not the same in
            all of them.
        mirror: whether draws of the wrong hand are mirrored, and their density counted.
        precision: of the conditioner's matrix products, from ``PRECISIONS``; a CPU without TF32
            keeps 16 bits of a number instead.
    """

    temperature: float
    rotations: int = 1
    mirror: bool = False
    precision: str = "float32"

    @classmethod
    def read(cls, given: Mapping[str, Any], temperature: float) -> PeptideDrawing:
        """The settings by name, as text or values.

        Args:
            given: With dashes or underscores.
            temperature: K, where none is given.

        Raises:
            UsageError: A setting is unknown, cannot be used, or not with another one.
        """
        kinds = {
            "temperature": _temperature,
            "rotations": _rotations,
            "mirror": _truth,
            "precision": _precision,
        }
        chosen = {}
        for text, value in given.items():
            name = text.replace("-", "_")
            if name not in kinds:
                raise UsageError(
                    f"no setting --proposal.{text} of a flow of peptides",
                    f"{did_you_mean(name, list(kinds))}choose from: {CHOICES}",
                )
            chosen[name] = kinds[name](value)
        drawing = cls(**{"temperature": temperature, **chosen})
        if drawing.precision != "float32" and (drawing.rotations > 1 or drawing.mirror):
            raise UsageError(
                f"--proposal.precision {drawing.precision}: an average over rotations or the "
                "mirror image needs densities of turned draws, which are in single precision",
                "leave one of them out",
            )
        return drawing

    def check(self, checkpoint: str, kind: str, network: type) -> None:
        """Refuse what a flow would not feel.

        Args:
            checkpoint: Its name, for messages.
            kind: Its name in the registry of models.
            network: Its class; those that are not invariant by construction have ``augment``.

        Raises:
            UsageError: The flow has that symmetry by construction, or only one precision.
        """
        if self.precision != "float32" and not _has_precisions(network):
            raise UsageError(
                f"--proposal.precision {self.precision}: the flow of {checkpoint} ({kind}) draws "
                "in single precision only",
                "leave it out",
            )
        if self.rotations > 1 and not hasattr(network, "augment"):
            raise UsageError(
                f"--proposal.rotations {self.rotations}: the flow of {checkpoint} ({kind}) is the "
                "same in all orientations",
                "leave it out",
            )
        if self.mirror and kind in ONE_HANDED:
            raise UsageError(
                f"--proposal.mirror: the flow of {checkpoint} ({kind}) makes natural hands only",
                "leave it out",
            )

    def applied(
        self, flow: FlowProposal, peptide: Any
    ) -> FlowProposal | LowPrecisionProposal | SymmetrisedProposal:
        """The flow itself, at lower precision, or averaged over rotations and the mirror image."""
        if self.precision != "float32":
            return LowPrecisionProposal(flow, PRECISIONS[self.precision])
        if self.rotations == 1 and not self.mirror:
            return flow
        natural = peptide.chirality if self.mirror else None
        return SymmetrisedProposal(flow, fixed_rotations(self.rotations), natural)

    def warnings(self, device: torch.device) -> tuple[str, ...]:
        """That a device does not lower the precision which is asked for, so that it helps not."""
        if self.precision == "float32" or device.type != "cpu":
            return ()
        by_torch = isinstance(native_inverse.library(), str)  # which rounds on any processor
        if by_torch or native_inverse.lowers(PRECISIONS[self.precision]):
            return ()
        return (
            f"this processor has no matrix products for --proposal.precision {self.precision}: the "
            "draws are in single precision",
        )

    def recorded(self) -> dict[str, Any]:
        """What is not left at its default, by its name in `run.json`.

        Records of runs without them stay as they were.
        """
        usual = PeptideDrawing(self.temperature)
        return {
            f"proposal.{name}": value
            for name, value in asdict(self).items()
            if value != getattr(usual, name)
        }


def _temperature(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"--proposal.temperature {value}", "give a positive one in K")
    return number


def _rotations(value: Any) -> int:
    text = str(value).strip()
    if not text.isdecimal() or not 1 <= int(text) <= MOST_ROTATIONS:
        raise UsageError(f"--proposal.rotations {value}", f"give 1 to {MOST_ROTATIONS}")
    return int(text)


def _truth(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise UsageError(f"--proposal.mirror {value}", "give true or false")
    return text == "true"


def _has_precisions(network: type) -> bool:
    drawing = getattr(network, "sample_and_log_prob", None)
    return drawing is not None and "precision" in inspect.signature(drawing).parameters


def _precision(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in PRECISIONS:
        raise UsageError(f"--proposal.precision {value}", f"give {', '.join(PRECISIONS)}")
    return text
