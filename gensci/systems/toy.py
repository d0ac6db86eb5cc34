"""Toy systems: densities with known answers, for tests, benchmarks and first steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gensci.core.errors import SystemTextError
from gensci.core.protocols import Tensors
from gensci.core.random import randn_like
from gensci.core.registry import SYSTEMS, did_you_mean, normalise_name
from gensci.sims.toys import TOYS, Toy, Truth


class ToyTarget:
    """A toy density over ``{"x": (n, d)}``."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return (n,) unnormalised log-densities in nats."""
        return self.toy.log_prob(x["x"])


class BroadGaussian:
    """A normalised Gaussian proposal over ``{"x": (n, d)}``.

    Args:
        mean: (d,) centre.
        std: (d,) standard deviations.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean = mean
        self.std = std

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Return ``n`` draws."""
        noise = randn_like(self.mean.expand(n, -1), generator)
        return {"x": self.mean + self.std * noise}

    def sample_and_log_prob(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return ``n`` draws and their (n,) log-density."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density in nats."""
        z = (x["x"] - self.mean) / self.std
        norm = self.std.log().sum() + 0.5 * self.mean.numel() * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - norm


@SYSTEMS.register("toy", proposal="own", example="toy:double-well")
@dataclass(frozen=True)
class ToySystem:
    """One toy.

    Attributes:
        name: its name, a key of ``gensci.sims.toys.TOYS``.
        toy: the density.
    """

    name: str
    toy: Toy

    @classmethod
    def parse(cls, text: str) -> ToySystem:
        """Return the toy named by ``text``, without the prefix ``toy:``.

        Raises:
            SystemTextError: there is no such toy.
        """
        key = normalise_name(text)
        if key not in TOYS:
            hint = did_you_mean(text, list(TOYS))
            raise SystemTextError(
                f"unknown toy system {text!r}", f"{hint}choose from: {', '.join(TOYS)}"
            )
        return cls(key, TOYS[key])

    @property
    def truth(self) -> Truth:
        """Moments, mode weights and log Z."""
        return self.toy.truth

    def target(
        self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> ToyTarget:
        """Return the density; it works on the device and in the type of what it is given."""
        return ToyTarget(self.toy)

    def proposal(
        self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> BroadGaussian:
        """Return a Gaussian about the mean, one and a half times as wide as the toy."""
        truth = self.truth
        return BroadGaussian(
            truth.mean.to(device=device, dtype=dtype), (1.5 * truth.std).to(device, dtype)
        )
