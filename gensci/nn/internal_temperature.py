"""The internal-coordinate flow at another temperature than the one it was trained at.

Each conditional of the flow is taken to a power, ``q(u)^(T0 / T)``, as the Boltzmann density is.
For a bend, a distance and a torsion that bonding fixes that is a stretch of the mixture by
``sqrt(T / T0)`` about its mean, as of a spring; for a rotor the logits of its grid are the energies
and are divided by the ratio, while its free components widen. The result is again a mixture, which
is drawn from and whose density is told exactly, so what the power does not catch is left to the
weights. Ref: Dibak et al. 2022, arXiv:2108.01590 (flows steered by temperature); Noe et al. 2019,
doi:10.1126/science.aaw1147.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RATIO = "temperature_ratio"  # name among the conditioning tensors: T over that of the training


class Conditionals(NamedTuple):
    """Mixture parameters of one coordinate: logits, centres, log-scales or log-concentrations."""

    logits: Tensor
    centre: Tensor
    log_scale: Tensor


def stretched_normal(given: Conditionals, ratio: Tensor) -> Conditionals:
    """Normal components (..., K) of ``m + sqrt(ratio) (u - m)`` with m the mixture's mean."""
    return Conditionals(
        given.logits, _about_the_mean(given, ratio), given.log_scale + 0.5 * ratio.log()
    )


def stretched_von_mises(given: Conditionals, ratio: Tensor) -> Conditionals:
    """The same for narrow components on the circle, whose centres lie close together."""
    return Conditionals(given.logits, _about_the_mean(given, ratio), given.log_scale - ratio.log())


def tempered_rotor(given: Conditionals, ratio: Tensor, grid: int) -> Conditionals:
    """A torsion's mixture to the power of one over ``ratio``.

    Components are taken to the power one by one, as if they did not overlap. Those of the grid are
    cells of one width and one energy, and keep their width.

    Args:
        given: components (..., K), those of the grid first.
        ratio: scalar, T / T0.
        grid: how many they are.
    """
    power = 1 / ratio
    cell = (1 - power) * math.log(2 * math.pi / grid)
    kappa = given.log_scale[..., grid:].exp()
    free = (1 - power) * math.log(2 * math.pi) + _log_i0e(power * kappa) - power * _log_i0e(kappa)
    volume = torch.cat((torch.full_like(given.logits[..., :grid], 1.0) * cell, free), -1)
    concentration = torch.cat(
        (given.log_scale[..., :grid], given.log_scale[..., grid:] + power.log()), -1
    )
    return Conditionals(power * given.logits + volume, given.centre, concentration)


def _about_the_mean(given: Conditionals, ratio: Tensor) -> Tensor:
    weight = torch.softmax(given.logits, -1)
    mean = (weight * given.centre).sum(-1, keepdim=True)
    return mean + ratio.sqrt() * (given.centre - mean)


def _log_i0e(kappa: Tensor) -> Tensor:
    """Log of exp(-kappa) I0(kappa)."""
    return torch.special.i0e(kappa).log()
