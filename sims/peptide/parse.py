"""Text such as ``AA`` or ``Ace-A-Nme`` to a peptide specification."""

from __future__ import annotations

from dataclasses import dataclass

THREE_LETTER = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU",
    "G": "GLY", "H": "HIS", "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE",
    "P": "PRO", "S": "SER", "T": "THR", "W": "TRP", "Y": "TYR", "V": "VAL",
}  # fmt: skip
LETTERS = "".join(sorted(THREE_LETTER))
_FORM = "write one-letter codes with optional caps, e.g. AA, AAAA or Ace-A-Nme"


class PeptideTextError(ValueError):
    """The text does not spell a peptide; the message names the fault and the remedy."""


@dataclass(frozen=True)
class PeptideSpec:
    """A linear peptide of natural L residues.

    Attributes:
        sequence: One-letter codes from the N- to the C-terminus.
        n_cap: ``"ACE"`` or ``None`` for a charged NH3+ end.
        c_cap: ``"NME"`` or ``None`` for a charged COO- end.
    """

    sequence: str
    n_cap: str | None = None
    c_cap: str | None = None

    @property
    def name(self) -> str:
        """Canonical spelling, which ``parse_peptide`` reads back."""
        return ("Ace-" if self.n_cap else "") + self.sequence + ("-Nme" if self.c_cap else "")

    @property
    def num_residues(self) -> int:
        """Number of amino acids; caps do not count."""
        return len(self.sequence)

    @property
    def residue_names(self) -> tuple[str, ...]:
        """Three-letter names in order, caps included."""
        caps = (self.n_cap,) if self.n_cap else ()
        ends = (self.c_cap,) if self.c_cap else ()
        return caps + tuple(THREE_LETTER[letter] for letter in self.sequence) + ends


def parse_peptide(text: str) -> PeptideSpec:
    """Read a peptide from text.

    Args:
        text: One-letter codes in capitals, optionally ``Ace-`` before and ``-Nme`` after
            (the caps in any case). Surrounding blanks are ignored.

    Raises:
        PeptideTextError: Empty text, an unknown cap, or letters that are not residues.
    """
    sequence = text.strip()
    n_cap = c_cap = None
    # the end first: in ACE-Nme the dash belongs to Nme, and ACE are three residues
    if sequence.lower().endswith("-nme"):
        c_cap, sequence = "NME", sequence[:-4]
    if sequence.lower().startswith("ace-"):
        n_cap, sequence = "ACE", sequence[4:]
    _check_sequence(sequence, text)
    return PeptideSpec(sequence, n_cap, c_cap)


def _check_sequence(sequence: str, text: str) -> None:
    if not sequence:
        raise PeptideTextError(f"peptide text {text!r} has no residues: {_FORM}")
    if "-" in sequence:
        raise PeptideTextError(
            f"peptide text {text!r} has a dash that is neither 'Ace-' nor '-Nme': {_FORM}"
        )
    unknown = sorted({letter for letter in sequence if letter not in THREE_LETTER})
    if not unknown:
        return
    if sequence.upper() != sequence and not set(sequence.upper()) - set(THREE_LETTER):
        raise PeptideTextError(
            f"peptide text {text!r} has lower-case residues, which elsewhere mean D forms: "
            f"write {sequence.upper()!r} for the natural L peptide"
        )
    raise PeptideTextError(
        f"peptide text {text!r} has unknown residue {', '.join(map(repr, unknown))}: "
        f"the residues are {LETTERS}; {_FORM}"
    )
