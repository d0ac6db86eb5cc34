"""Losses on log q + U / kT of a flow, which is constant where it is the Boltzmann density."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clipped_square(x: Tensor, clip: float) -> Tensor:
    """Square of x, growing linearly with the same slope beyond ``clip``."""
    near = x.clamp(-clip, clip)
    return near.square() + 2 * clip * (x - near).abs()


def dispersion(residual: Tensor, clip: float) -> Tensor:
    """Variance of residuals (frames,) about their median, growing linearly beyond ``clip``."""
    centred = residual - residual.detach().median()
    return clipped_square(centred, clip).mean() - centred.clamp(-clip, clip).mean().square()


def renyi(residual: Tensor, excess: float, clip: float) -> Tensor:
    """Renyi divergence of the flow from the Boltzmann density, from frames of the latter (nats).

    Up to a constant, and of the order ``1 + excess``: log of the mean of ``(p / q)^excess`` over
    the frames, divided by ``excess``. Its gradient is that of likelihood with the frames weighted
    by this power, so what the flow makes too seldom counts most; towards ``excess`` 0 it is
    likelihood itself, at 1 minus the log of the effective share of the flow's draws.
    Ref: Midgley et al. 2022, arXiv 2208.01893 (flows trained on the divergence of order 2);
    Li and Turner 2016, arXiv 1602.02311.

    Args:
        residual: (frames,) of frames drawn from the Boltzmann density.
        excess: over 0.
        clip: residuals further than this below their median (nats) weigh no more than there, so
            that a frame that cannot be learned does not take all of the weight.
    """
    below = residual.detach().median() - residual
    known = below.detach()
    share = torch.softmax(excess * known.clamp(max=clip), 0)
    value = (torch.logsumexp(excess * known, 0) - math.log(len(known))) / excess
    return value + (share * (below - known)).sum()
