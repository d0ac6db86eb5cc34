"""Samplers: importing this package registers all of them in ``gensci.core.registry.SAMPLERS``."""

from gensci.samplers import direct, importance, mcmc, smc
from gensci.samplers.base import MemoryStore, Sampler
from gensci.samplers.settings import make_sampler

__all__ = ["MemoryStore", "Sampler", "direct", "importance", "make_sampler", "mcmc", "smc"]
