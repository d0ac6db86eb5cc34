"""Errors of molecules from files."""


class MoleculeFileError(ValueError):
    """A file of a molecule is absent, damaged, of another kind, or does not fit the others.

    The message names the file and says what to change.
    """
