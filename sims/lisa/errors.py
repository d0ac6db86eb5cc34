"""What the errors of LISA's simulator have in common."""

from __future__ import annotations


class LisaError(ValueError):
    """An argument of the simulator cannot be used; the message names it and what to give.

    Attributes:
        exit_status: the status with which a command line that meets the error should end.
    """

    exit_status = 2
