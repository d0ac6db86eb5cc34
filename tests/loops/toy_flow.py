"""A flow with a handful of parameters whose density, and fit to a Gaussian target, are known."""

import math

import torch
from torch import nn

from gensci.models.proposal import FlowProposal
from gensci.samplers.base import MemoryStore

ATOMS = 3


class ToyFlow(nn.Module):
    """Independent normals of 3 atoms' coordinates: mean and log of the scale are the weights."""

    centroid_scale = 0.35

    def __init__(self, shift=0.0, stretch=0.0):
        super().__init__()
        self.mean = nn.Parameter(torch.full((ATOMS, 3), shift, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((ATOMS, 3), stretch, dtype=torch.float64))

    def log_prob(self, x, cond):
        z = (x - self.mean) * torch.exp(-self.log_scale)
        constant = 0.5 * math.log(2 * math.pi)
        return (-0.5 * z.square() - self.log_scale - constant).sum((-2, -1))

    @torch.no_grad()
    def sample_and_log_prob(self, n, cond, generator):
        noise = torch.randn(n, ATOMS, 3, generator=generator, dtype=torch.float64)
        x = self.mean + noise * self.log_scale.exp()
        return x, self.log_prob(x, cond)


class ToyTarget:
    """exp(LOG_Z) times the standard normal density of the coordinates, zero where x > ``edge``."""

    LOG_Z = 2.5

    def __init__(self, edge=math.inf):
        self.edge, self.rows = edge, 0

    def log_prob(self, x):
        positions = x["positions"]
        self.rows += len(positions)
        value = (-0.5 * positions.square() - 0.5 * math.log(2 * math.pi)).sum((-2, -1)) + self.LOG_Z
        return torch.where((positions < self.edge).flatten(1).all(1), value, -math.inf)

    def log_prob_and_grad(self, x):
        return self.log_prob(x), {"positions": -x["positions"]}


def proposal(shift=0.35, stretch=-0.15):
    """A flow that is off by a shift and too narrow or too wide."""
    return FlowProposal(ToyFlow(shift, stretch), {})


class Killed(Exception):
    """The end of a process."""


class Fragile(MemoryStore):
    """Keeps everything, and dies at the `life`-th save."""

    life = -1

    def save_state(self, name, tensors):
        super().save_state(name, {k: v.clone() for k, v in tensors.items()})
        self.life -= 1
        if self.life == 0:
            raise Killed
