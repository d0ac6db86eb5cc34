"""Errors that a user may meet: one clear line that says what is wrong and what to do next."""

from __future__ import annotations


class GensciError(Exception):
    """A problem that a user can act on.

    Args:
        problem: what is wrong, naming the argument.
        remedy: what to do next; joined to the problem by a semicolon.

    Attributes:
        exit_status: the status the command line ends with.
    """

    exit_status = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class UsageError(GensciError):
    """An argument or setting has a value that cannot be used (exit status 2)."""

    exit_status = 2


class IncompatibleSampler(UsageError):
    """A sampler needs a capability that the target or the proposal lacks."""


class SystemTextError(UsageError):
    """The text of ``--system`` has no reading, or more than one."""


class CheckpointError(GensciError):
    """A checkpoint is absent, truncated, tampered with or of another shape."""


class RunFolderError(GensciError):
    """A run folder cannot be written, or belongs to another command."""
