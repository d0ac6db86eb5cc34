"""Tempering schedules: inverse temperatures that start at 0 and end at exactly 1."""

from __future__ import annotations

import math

import torch

from gensci.core.errors import UsageError
from gensci.core.weights import clean


def linear_grid(num_steps: int) -> torch.Tensor:
    """Return ``num_steps + 1`` equally spaced values, 0 and 1 included, float64."""
    return power_grid(num_steps, 1.0)


def power_grid(num_steps: int, power: float = 3.0) -> torch.Tensor:
    """Return ``(k / num_steps) ** power`` for k = 0 ... num_steps, float64.

    A power above one takes small steps near 0, where the proposal still meets the target's walls.

    Raises:
        UsageError: ``num_steps`` is below one or ``power`` is not positive.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps={num_steps} leaves no schedule", "give at least 1")
    if not power > 0.0:
        raise UsageError(f"power={power} does not rise from 0 to 1", "give a positive power")
    return (torch.arange(num_steps + 1, dtype=torch.float64) / num_steps) ** power


def conditional_ess(log_weight: torch.Tensor, log_increment: torch.Tensor) -> float:
    """Return the conditional effective sample size as a fraction between 0 and 1.

    ``(sum W v)^2 / sum W v^2`` with normalised current weights W and incremental weights v: what
    one step of tempering costs, whatever the weights before it.

    Reference: Zhou, Johansen and Aston (2016), arXiv:1303.3123.
    """
    log_weight, log_increment = clean(log_weight), clean(log_increment)
    log_weight = log_weight - torch.logsumexp(log_weight, 0)
    first = torch.logsumexp(log_weight + log_increment, 0)
    second = torch.logsumexp(log_weight + 2.0 * log_increment, 0)
    value = (2.0 * first - second).exp().item()
    return value if value == value else 0.0


def next_temperature(
    log_weight: torch.Tensor,
    log_ratio: torch.Tensor,
    temperature: float,
    ess_target: float,
    tolerance: float = 1e-6,
) -> float:
    """Return the largest inverse temperature whose conditional ESS stays at the target.

    Args:
        log_weight: (n,) current log-weights.
        log_ratio: (n,) ``log p - log q``, the rate at which log-weights grow with temperature.
        temperature: the current inverse temperature in [0, 1).
        ess_target: the conditional ESS fraction to keep, in (0, 1).
        tolerance: relative width at which bisection ends.

    Returns:
        A value in (temperature, 1]; exactly 1.0 when the rest of the way costs no more.

    Reference: Zhou, Johansen and Aston (2016), arXiv:1303.3123.
    """
    live = torch.isfinite(log_ratio) & torch.isfinite(log_weight)
    if not live.any():
        return 1.0
    # Zero-density rows would cap the conditional ESS at any step, so they are left out of it.
    weight, ratio = log_weight[live], log_ratio[live].to(torch.float64)
    if conditional_ess(weight, (1.0 - temperature) * ratio) >= ess_target:
        return 1.0
    # Bisect in log space: walls of 1e12 nats and differences of 1e-1 both occur at temperature 0.
    low, high = -40.0, 0.0
    while high - low > tolerance:
        middle = 0.5 * (low + high)
        increment = (1.0 - temperature) * math.exp(middle)
        low, high = (
            (middle, high)
            if conditional_ess(weight, increment * ratio) >= ess_target
            else (low, middle)
        )
    return min(temperature + (1.0 - temperature) * math.exp(low), 1.0)
