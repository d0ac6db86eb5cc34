"""Peptides from a sequence: parser, geometry, parameters, handedness."""

from .build import MAX_RESIDUES, Peptide, build_peptide, minimise
from .chirality import chiral_centres, is_natural
from .parameters import DEFAULT_FORCE_FIELD, IMPLICIT_SOLVENTS, PeptideBuildError, create_system
from .parse import LETTERS, THREE_LETTER, PeptideSpec, PeptideTextError, parse_peptide

__all__ = [
    "DEFAULT_FORCE_FIELD",
    "IMPLICIT_SOLVENTS",
    "LETTERS",
    "MAX_RESIDUES",
    "THREE_LETTER",
    "Peptide",
    "PeptideBuildError",
    "PeptideSpec",
    "PeptideTextError",
    "build_peptide",
    "chiral_centres",
    "create_system",
    "is_natural",
    "minimise",
    "parse_peptide",
]
