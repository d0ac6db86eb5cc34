"""Errors of the force field."""


class UnsupportedForce(ValueError):
    """An OpenMM System holds a term that this force field would have to ignore.

    Raised before any energy is computed, because an energy that silently lacks a term is wrong.
    The message names the force and says what to change.
    """
