"""What every solver is: settings, and one call from noise to data.

Temperature has one meaning for all of them. It scales the width of the noise, as in MAR (Li et al.
2024, arXiv:2406.11838): normal data of width s come out with width ``temperature * s``, so that the
density is sharpened to the power ``1 / temperature^2``. Solvers that draw noise at each step scale
it; those that do not scale the score (:mod:`gensci.samplers.solvers.temperature`). The first draw
is never scaled: on the torus it is uniform, and scaled it would be uniform no more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from gensci.core.diffusion import Denoiser, karras_sigmas, log_uniform_sigmas
from gensci.core.errors import UsageError
from gensci.core.registry import SOLVERS
from gensci.samplers.settings import check_choice, check_positive, check_whole, make_registered
from gensci.samplers.solvers.temperature import tempered

SCHEDULES = ("karras", "log-snr")


@dataclass(frozen=True)
class Solver(ABC):
    """Settings of a solver.

    Attributes:
        name: the registered name.
    """

    name: ClassVar[str]

    @abstractmethod
    def solve(
        self, denoiser: Denoiser, generator: torch.Generator, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return one draw (n, 3) from each row's distribution, wrapped.

        Args:
            denoiser: the n distributions.
            generator: the source of randomness.
            temperature: what the width of the noise is multiplied by; 0 for a mode.

        Raises:
            UsageError: the temperature is negative or not finite.
        """


@dataclass(frozen=True)
class GridSolver(Solver):
    """A solver that walks down a grid of noise levels, each row on its own.

    Attributes:
        num_steps: how many steps; the last one goes from the smallest level to zero.
        schedule: karras, or log-snr for equal steps of ``log sigma``.
        rho: how far the levels of karras crowd near the smallest.
    """

    num_steps: int = 20
    schedule: str = "karras"
    rho: float = 7.0

    to_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("num_steps", self.num_steps, 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_positive("rho", self.rho)

    def sigmas(self, denoiser: Denoiser) -> torch.Tensor:
        """Return the falling levels (num_steps + 1, n)."""
        low, high = denoiser.sigma_range
        if self.schedule == "karras":
            return karras_sigmas(low, high, self.num_steps, self.rho, to_zero=self.to_zero)
        return log_uniform_sigmas(low, high, self.num_steps, to_zero=self.to_zero)

    def solve(
        self, denoiser: Denoiser, generator: torch.Generator, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return one draw (n, 3) from each row's distribution, wrapped."""
        with torch.no_grad():
            x = denoiser.prior(generator)
            colder = self.at_temperature(denoiser, temperature)
            sigmas = self.sigmas(denoiser).to(x.dtype)
            return denoiser.wrap(self.integrate(colder, x, sigmas, generator))

    def at_temperature(self, denoiser: Denoiser, temperature: float) -> Denoiser:
        """Return the denoiser whose score is scaled for this temperature."""
        check_temperature(temperature)
        return tempered(denoiser, temperature)

    @abstractmethod
    def integrate(
        self,
        denoiser: Denoiser,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Return ``x`` (n, 3) carried along the levels (steps + 1, n), not wrapped."""


def check_temperature(temperature: float) -> None:
    """Raise a UsageError unless the temperature is a number that is not negative."""
    if not 0.0 <= temperature < math.inf:
        raise UsageError(f"temperature={temperature!r} is not usable", "give 0 or more")


def make_solver(name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the solver of this name with these settings.

    Args:
        name: a registered solver; case does not matter, dashes equal underscores.
        settings: values by field name, under either spelling. Text is read as a number where it
            looks like one.

    Raises:
        UsageError: the solver or a setting is unknown, or a value cannot be used.
    """
    return make_registered(SOLVERS, name, settings)
