"""gensci: generative models of physical systems, with samples corrected by the physics.

The public names are imported when they are first used, so that `import gensci` costs nothing:

    samples = gensci.sample("AA", num_samples=2000, sampler="importance", seed=0)
    samples = gensci.load("results/AA")
    posterior = gensci.infer(simulate, prior, observation, rounds=4, simulations=1000, seed=0)
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "SampleSet": "gensci.core.results:SampleSet",
    "infer": "gensci.commands.inferring:infer",
    "load": "gensci.io.trajectories:load_run",
    "resolve": "gensci.systems.resolve:resolve",
    "sample": "gensci.commands.sampling:sample_system",
}
__all__ = ["SampleSet", "__version__", "infer", "load", "resolve", "sample"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gensci' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
