"""The probability-flow equation as a continuous normalising flow with its density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch

from gensci.core.diffusion import Denoiser
from gensci.core.errors import GensciError
from gensci.core.registry import SOLVERS
from gensci.samplers.settings import check_choice
from gensci.samplers.solvers.base import GridSolver

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The derivative by sigma of a state (n, 3) or (n, 4) at levels (n,)."""


@SOLVERS.register("flow-ode")
@dataclass(frozen=True)
class FlowOde(GridSolver):
    """Deterministic and invertible, with an exact log-density by the divergence.

    What is sampled, and what the density is of, ends at the smallest noise level, not at zero: it
    is the law of the data convolved with that noise. The trace of the 3x3 Jacobian is exact, from
    three vector-Jacobian products; the error left is that of the steps.

    Attributes:
        method: rk4 (four calls of the head for each step) or heun (two).

    Reference: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole (2020), arXiv:2011.13456.
    """

    num_steps: int = 16
    method: str = "rk4"

    name: ClassVar[str] = "flow-ode"
    to_zero: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method", self.method, tuple(METHODS))

    def integrate(
        self, denoiser: Denoiser, x: torch.Tensor, sigmas: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return ``x`` carried along the levels; the generator is not used."""
        return self._follow(_velocity(denoiser), x, sigmas)

    def solve_with_log_prob(
        self, denoiser: Denoiser, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return draws (n, 3), wrapped, and the (n,) log-density in nats they were drawn with.

        Args:
            denoiser: the n distributions; ``denoise`` must be differentiable in ``x``.
            generator: the source of randomness.
            temperature: as for :meth:`solve`; the density is that of the sharpened law.

        Raises:
            UsageError: the temperature is negative or not finite.
            GensciError: the denoiser gives no gradient.
        """
        with torch.no_grad():
            x = denoiser.prior(generator)
            state = torch.cat([x, denoiser.prior_log_prob(x).to(x.dtype)[:, None]], 1)
            field = _velocity_and_rate(self.at_temperature(denoiser, temperature))
            state = self._follow(field, state, self.sigmas(denoiser).to(x.dtype))
            return denoiser.wrap(state[:, :3]), state[:, 3]

    def log_prob(
        self, denoiser: Denoiser, x: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """Return the (n,) log-density in nats of given points (n, 3), one in each row.

        Arguments and errors are those of :meth:`solve_with_log_prob`.
        """
        with torch.no_grad():
            state = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
            field = _velocity_and_rate(self.at_temperature(denoiser, temperature))
            state = self._follow(field, state, self.sigmas(denoiser).to(x.dtype).flip(0))
            return denoiser.prior_log_prob(denoiser.wrap(state[:, :3])).to(x.dtype) - state[:, 3]

    def encode(self, denoiser: Denoiser, x: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Return the points (n, 3) at the largest noise level that are carried to ``x``."""
        with torch.no_grad():
            field = _velocity(self.at_temperature(denoiser, temperature))
            return denoiser.wrap(self._follow(field, x, self.sigmas(denoiser).to(x.dtype).flip(0)))

    def _follow(self, field: Field, state: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        step = METHODS[self.method]
        for start, end in pairwise(sigmas.unbind(0)):
            state = step(field, state, start, end)
        return state


def heun_step(
    field: Field, state: torch.Tensor, start: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """Return the state (n, d) at levels ``end`` by the trapezoid of two slopes."""
    h = (end - start)[:, None]
    first = field(state, start)
    second = field(torch.addcmul(state, first, h), end)
    return torch.addcmul(state, first + second, 0.5 * h)


def rk4_step(
    field: Field, state: torch.Tensor, start: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """Return the state (n, d) at levels ``end`` by the classical Runge-Kutta method."""
    middle, h = 0.5 * (start + end), (end - start)[:, None]
    first = field(state, start)
    second = field(torch.addcmul(state, first, h, value=0.5), middle)
    third = field(torch.addcmul(state, second, h, value=0.5), middle)
    fourth = field(torch.addcmul(state, third, h), end)
    total = first.add_(fourth).add_(second.add_(third), alpha=2.0)
    return torch.addcmul(state, total, h, value=1.0 / 6.0)


METHODS = {"rk4": rk4_step, "heun": heun_step}


def _velocity(denoiser: Denoiser) -> Field:
    def field(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x - denoiser.denoise(x, sigma)) / sigma[:, None]

    return field


def _velocity_and_rate(denoiser: Denoiser) -> Field:
    """Return the field of (n, 4) states that carry their log-density in the last column."""

    def field(state: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        x = state[:, :3]
        denoised, trace = denoise_and_trace(denoiser, x, sigma)
        # Along the flow, d log p / d sigma is minus the divergence of the velocity.
        return torch.cat([x - denoised, (trace - 3.0)[:, None]], 1) / sigma[:, None]

    return field


def denoise_and_trace(
    denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the denoised points (n, 3) and the (n,) traces of their Jacobians.

    Raises:
        GensciError: the denoiser gives no gradient.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        denoised = denoiser.denoise(x, sigma)
        if not denoised.requires_grad:
            raise GensciError(
                "the denoiser gives no gradient, so flow-ode finds no density",
                "do not run its head under no_grad or inference_mode",
            )
        trace = torch.zeros_like(x[:, 0])
        for k in range(3):
            # Rows are independent, so the gradient of the sum holds that of each row.
            (row,) = torch.autograd.grad(denoised[:, k].sum(), x, retain_graph=k < 2)
            trace = trace + row[:, k]
    return denoised.detach(), trace
