"""The densities between a base and a target, evaluated for whole ensembles in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gensci.core.errors import IncompatibleSampler
from gensci.core.protocols import Tensors
from gensci.samplers.evaluate import Density, Draws
from gensci.samplers.flat import Layout


class _Part:
    """One method of a target in the place of its log-density."""

    def __init__(self, subject: Any, method: str) -> None:
        self.subject, self.method = subject, method

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return what the method gives."""
        return getattr(self.subject, self.method)(x)


@dataclass(frozen=True)
class TemperedPath:
    """``log base + beta * log ratio``: the base at beta = 0 and the target at beta = 1.

    Attributes:
        layout: how points lie in a matrix.
        base: the normalised density at beta = 0, or None for the target alone.
        growth: what ``log ratio`` is, or where ``minus_base`` holds, what it is plus the base.
        minus_base: whether the base is to be taken from ``growth``.
    """

    layout: Layout
    base: Density | None
    growth: Density
    minus_base: bool

    @classmethod
    def from_proposal(cls, target: Density, proposal: Draws, layout: Layout) -> TemperedPath:
        """Return the path from a proposal with a density to the target."""
        return cls(layout, proposal, target, True)

    @classmethod
    def from_prior(cls, target: Density, layout: Layout) -> TemperedPath:
        """Return the path from the prior of a target to the target."""
        prior = Density(_Part(target.subject, "log_prior"), target.batch)
        likelihood = Density(_Part(target.subject, "log_likelihood"), target.batch)
        return cls(layout, prior, likelihood, False)

    @classmethod
    def at_target(cls, target: Density, layout: Layout) -> TemperedPath:
        """Return the path that is the target at beta = 1, with a base of zero."""
        return cls(layout, None, target, False)

    def log_base(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the (n,) log-density of the base at (n, d) points."""
        if self.base is None:
            return torch.zeros(len(theta), dtype=torch.float64)
        return self.base.log_prob(self.layout.rows(theta))

    def log_ratio(self, theta: torch.Tensor, log_base: torch.Tensor) -> torch.Tensor:
        """Return the (n,) ratio; -inf where the base or the target is zero."""
        alive = torch.isfinite(log_base)
        rows = alive.nonzero()[:, 0]
        if rows.numel() == 0:
            return torch.full_like(log_base, -math.inf)
        if rows.numel() == len(theta):
            value = self.growth.log_prob(self.layout.rows(theta))
        else:
            inside = self.growth.log_prob(self.layout.rows(theta[rows]))
            value = torch.full_like(log_base, -math.inf).index_copy(0, rows, inside)
        return torch.where(alive, value - log_base, -math.inf) if self.minus_base else value


def path_density(
    beta: torch.Tensor, log_base: torch.Tensor, log_ratio: torch.Tensor
) -> torch.Tensor:
    """Return the (T, m) log-density at the temperature of each row of the first dimension."""
    beta = beta[:, None]
    return torch.where(beta > 0, log_base + beta * log_ratio, log_base)


def has_density(proposal: Any) -> bool:
    """Tell whether a proposal gives the density of its draws and of other points."""
    names = ("sample_and_log_prob", "log_prob")
    return all(callable(getattr(proposal, name, None)) for name in names)


def splits(target: Any) -> bool:
    """Tell whether a target gives prior and likelihood apart."""
    return all(callable(getattr(target, name, None)) for name in ("log_prior", "log_likelihood"))


def check_path(path: str | None, target: Any, proposal: Any, sampler: str) -> None:
    """Raise an IncompatibleSampler if the path that is asked for cannot be had."""
    if path == "proposal" and not has_density(proposal):
        raise IncompatibleSampler(
            f"sampler {sampler!r} with path='proposal' needs a proposal with a density, which "
            f"{type(proposal).__name__} lacks",
            "give path=prior, or a proposal with sample_and_log_prob() and log_prob()",
        )
    if path == "prior" and not splits(target):
        raise IncompatibleSampler(
            f"sampler {sampler!r} with path='prior' needs log_prior() and log_likelihood(), which "
            f"{type(target).__name__} lacks",
            "give path=proposal, or a PosteriorTarget",
        )
