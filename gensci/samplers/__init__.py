"""Samplers: importing this package registers them, the decoders and the solvers by name."""

from gensci.samplers import decoders, direct, importance, mcmc, smc, solvers, steering, tempering
from gensci.samplers.base import MemoryStore, Sampler
from gensci.samplers.settings import make_sampler

__all__ = [
    "MemoryStore",
    "Sampler",
    "decoders",
    "direct",
    "importance",
    "make_sampler",
    "mcmc",
    "smc",
    "solvers",
    "steering",
    "tempering",
]
