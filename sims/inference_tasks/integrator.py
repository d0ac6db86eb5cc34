"""Ordinary differential equations for many parameter rows at once, each with its own step."""

from __future__ import annotations

from collections.abc import Callable

import torch

Derivative = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Dormand & Prince 1980, doi:10.1016/0771-050X(80)90013-3: stages, and the error of the fifth order
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class IntegrationError(ArithmeticError):
    """A solution needs more steps than allowed: it is stiff, or it diverges."""


def _combine(rates: list[torch.Tensor], coefficients: tuple[float, ...]) -> torch.Tensor:
    total = coefficients[0] * rates[0]
    for rate, coefficient in zip(rates[1:], coefficients[1:], strict=True):
        if coefficient:
            total = total + coefficient * rate
    return total


def _step(
    derivative: Derivative, y: torch.Tensor, theta: torch.Tensor, rate: torch.Tensor,
    step: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """One trial step of every row: the new state, its derivative and the error estimate."""
    rates = [rate]
    for coefficients in STAGES:
        state = y + step[:, None] * _combine(rates, coefficients)
        rates.append(derivative(state, theta))
    return state, rates[-1], step[:, None] * _combine(rates, ERROR)


def integrate(
    derivative: Derivative, start: torch.Tensor, theta: torch.Tensor, times: torch.Tensor, *,
    tolerance: float = 1e-7, max_steps: int = 20_000,
) -> torch.Tensor:  # fmt: skip
    """Solve ``dy/dt = derivative(y, theta)`` for every row of theta.

    Rows that reached the next time of output leave the batch, so slow rows cost only themselves.

    Args:
        derivative: ``(y (m, k), theta (m, d)) -> (m, k)``, autonomous.
        start: (n, k) states at ``times[0]``.
        theta: (n, d) parameters.
        times: (T,) increasing times of output.
        tolerance: greatest error of a step, absolute and relative, in every coordinate.
        max_steps: trial steps allowed between two times of output.

    Returns:
        (n, T, k) states.

    Raises:
        IntegrationError: a row needs more steps; the message names the first such row.
    """
    y = start.clone()
    rate = derivative(y, theta)
    step = torch.full((len(y),), float(times[1] - times[0]) / 64, dtype=y.dtype)
    output = [y.clone()]
    for begin, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        _advance(derivative, y, rate, theta, step, end - begin, tolerance, max_steps)
        output.append(y.clone())
    return torch.stack(output, 1)


def _advance(
    derivative: Derivative, y: torch.Tensor, rate: torch.Tensor, theta: torch.Tensor,
    step: torch.Tensor, span: float, tolerance: float, max_steps: int,
) -> None:  # fmt: skip
    """Carry ``y``, ``rate`` and the proposed ``step`` over a span, in place."""
    rows = torch.arange(len(y))
    left = torch.full((len(y),), span, dtype=y.dtype)
    for _ in range(max_steps):
        trial = torch.minimum(step[rows], left)
        new, new_rate, error = _step(derivative, y[rows], theta[rows], rate[rows], trial)
        scale = tolerance * (1 + torch.maximum(y[rows].abs(), new.abs()))
        ratio = (error / scale).abs().amax(-1).nan_to_num(nan=torch.inf)
        accepted = ratio <= 1
        done = rows[accepted]
        y[done], rate[done] = new[accepted], new_rate[accepted]
        left = torch.where(accepted, left - trial, left)
        factor = (0.9 * ratio.clamp_min(1e-10) ** -0.2).clamp(0.2, 5.0)
        # a step cut short by the time of output says nothing against a longer one
        proposed = torch.where(accepted & (trial < step[rows]), step[rows], trial * factor)
        step[rows] = proposed
        unfinished = left > 1e-12 * span
        rows, left = rows[unfinished], left[unfinished]
        if not len(rows):
            return
    raise IntegrationError(
        f"row {int(rows[0])} needs more than {max_steps} steps between two outputs: "
        "raise max_steps or check its parameters"
    )
