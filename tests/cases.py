"""The one table that every sampler is tested against, and the doubles that the tests share."""

import math
from dataclasses import dataclass, field

import torch

from gensci.core.random import randn_like, uniform
from gensci.samplers import MemoryStore, make_sampler
from gensci.sims.toys import TOYS, Gaussian
from gensci.systems.toy import BroadGaussian, ToySystem, ToyTarget


@dataclass(frozen=True)
class Case:
    """One sampler with settings, and what may be asked of it.

    ``exact`` gives it a proposal that equals the target: `direct` promises no more.
    ``evidence`` says that it estimates log Z; ``multimodal`` names the toy for its mode weights.
    """

    id: str
    sampler: str
    settings: dict = field(default_factory=dict)
    exact: bool = False
    evidence: bool = True
    multimodal: str = "mixture"

    def make(self):
        return make_sampler(self.sampler, self.settings)

    def proposal(self, toy: str, dtype=torch.float64):
        if not self.exact:
            return ToySystem.parse(toy).proposal(dtype=dtype)
        return ExactGaussian(TOYS[toy], dtype) if toy == "gaussian" else ExactMixture(TOYS[toy])


class ExactGaussian(BroadGaussian):
    """The Gaussian toy itself as a proposal."""

    def __init__(self, toy: Gaussian, dtype):
        super().__init__(toy.truth.mean.to(dtype), toy.truth.std.to(dtype))


class ExactMixture:
    """The mixture toy itself as a proposal."""

    def __init__(self, toy):
        self.toy = toy

    def sample(self, n, generator):
        edges = self.toy.weights.cumsum(0)
        which = torch.searchsorted(edges, uniform(n, generator)).clamp(max=len(edges) - 1)
        noise = randn_like(self.toy.centres[which], generator)
        return {"x": self.toy.centres[which] + self.toy.spread[which, None] * noise}

    def log_prob(self, x):
        return self.toy.log_prob(x["x"]) - self.toy.shift

    def sample_and_log_prob(self, n, generator):
        x = self.sample(n, generator)
        return x, self.log_prob(x)


CASES = [
    Case("direct", "direct", exact=True, evidence=False),
    Case("importance", "importance"),
    Case("importance-psis", "importance", {"psis": True}),
    Case("importance-resampled", "importance", {"psis": True, "resample": "stratified"}),
    Case("smc-random-walk", "smc", {"move": "random_walk", "num_moves": 6}),
    Case("smc-mala", "smc", {"move": "mala", "num_moves": 4}),
    Case("smc-hmc", "smc", {"move": "hmc"}),
    Case(
        "smc-grid",
        "smc",
        {"move": "mala", "schedule": "linear", "num_steps": 12, "resampling": "residual"},
    ),
    Case("smc-waste-free", "smc", {"waste_free": True, "num_moves": 2, "ess_target": 0.75}),
    Case("smc-target-force", "smc", {"force": "target"}),
    Case(
        "mcmc-random-walk",
        "mcmc",
        {"move": "random_walk", "warmup": 100, "thinning": 12},
        evidence=False,
        multimodal="double-well",
    ),
    Case(
        "mcmc-mala",
        "mcmc",
        {"move": "mala", "warmup": 100},
        evidence=False,
        multimodal="double-well",
    ),
    Case(
        "mcmc-hmc",
        "mcmc",
        {"warmup": 100, "thinning": 3, "num_leapfrog": 3},
        evidence=False,
        multimodal="double-well",
    ),
    Case("hmc", "hmc", {"warmup": 100}, evidence=False, multimodal="double-well"),
    Case("nuts", "nuts", {"warmup": 100}, evidence=False, multimodal="double-well"),
    Case("slice", "slice", {"warmup": 30}, evidence=False, multimodal="double-well"),
    Case(
        "slice-coordinates",
        "slice",
        {"warmup": 30, "lines": "coordinates"},
        evidence=False,
        multimodal="double-well",
    ),
    Case("tempering", "tempering", {"num_walkers": 32, "warmup": 50}),
    Case("tempering-stretch", "tempering", {"num_walkers": 20, "move": "stretch", "thinning": 4}),
]


def target(toy: str) -> ToyTarget:
    return ToySystem.parse(toy).target()


class HalfSpace:
    """A Gaussian whose density is zero, told in several ways, where the first coordinate is low."""

    log_z = 0.5 * math.log(2 * math.pi) - math.log(2.0)

    def log_prob(self, x):
        first = x["x"][:, 0]
        value = -0.5 * first.square()
        value = torch.where(first < 0, -math.inf, value)
        value = torch.where(first < -0.5, math.nan, value)
        return torch.where(first < -1.0, math.inf, value)


class DrawsOnly:
    """A proposal without a density."""

    def sample(self, n, generator):
        return {"x": torch.randn(n, 3, generator=generator, dtype=torch.float64)}


class Killed(BaseException):
    """Stands for the end of the process."""


class MortalStore(MemoryStore):
    """A store, and a progress line, that end the process at a given call, before or after it."""

    def __init__(self):
        super().__init__()
        self.arm(math.inf, after=False)

    def arm(self, calls, after):
        self.calls, self.after = calls, after

    def _count(self, action):
        self.calls -= 1
        if self.calls <= 0 and not self.after:
            raise Killed
        result = action()
        if self.calls <= 0:
            raise Killed
        return result

    def save_shard(self, index, tensors):
        return self._count(lambda: super(MortalStore, self).save_shard(index, tensors))

    def save_state(self, name, tensors):
        return self._count(lambda: super(MortalStore, self).save_state(name, tensors))

    def drop_state(self, name):
        return self._count(lambda: super(MortalStore, self).drop_state(name))

    def progress(self, done, total, message):
        assert 0 <= done <= total
        self._count(lambda: None)
