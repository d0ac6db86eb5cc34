"""Samplers: importing this package registers them, the decoders and the solvers by name."""

from gensci.samplers import (
    decoders,
    direct,
    hmc,
    importance,
    mcmc,
    nuts,
    slice_sampling,
    smc,
    solvers,
    steering,
    tempering,
)
from gensci.samplers.base import MemoryStore, Sampler
from gensci.samplers.settings import make_sampler

__all__ = [
    "MemoryStore",
    "Sampler",
    "decoders",
    "direct",
    "hmc",
    "importance",
    "make_sampler",
    "mcmc",
    "nuts",
    "slice_sampling",
    "smc",
    "solvers",
    "steering",
    "tempering",
]
