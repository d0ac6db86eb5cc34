"""Named random streams: every part of a run has its own generator, found from the seed alone."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator whose numbers depend on the seed and on the names, and on nothing else.

    A resumed run asks for the stream of a shard and step by name, so no generator state is saved.

    Args:
        seed: the seed of the run.
        *names: for example ``"smc", "shard", 3, "step", 12``.
        device: where the generator draws.
    """
    # The length of each part is written before it, so ("ab", "c") and ("a", "bc") differ.
    parts = [str(int(seed)), *(f"{type(name).__name__}:{name}" for name in names)]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode()).digest()
    # manual_seed takes a non-negative signed 64-bit integer.
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def randn_like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return standard normal noise of the shape, type and device of ``x``."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device)
    return noise.to(x.device)


def uniform(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return (n,) float64 uniforms on [0, 1), on the generator's device."""
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
