"""Hamiltonian Monte Carlo in free coordinates, tuned in a warm-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gensci.core.registry import SAMPLERS
from gensci.samplers.base import Info
from gensci.samplers.free_chains import FLAT, ChainSampler, FlatDensity
from gensci.samplers.moves import Point, hamiltonian
from gensci.samplers.path import path_evaluator
from gensci.samplers.settings import check_share, check_whole
from gensci.samplers.warmup import FreeChains


@SAMPLERS.register("hmc")
@dataclass(frozen=True)
class Hmc(ChainSampler):
    """Chains of Hamiltonian Monte Carlo with trajectories of random length, batched over chains.

    Bounded parameters are freed by a bijection and angles wrapped. Step size and scale are found
    in the warm-up and fixed after it. The verdict's R-hat and effective size are those of the
    slowest coordinate, by ranks.

    Attributes:
        num_chains: chains side by side in a shard.
        warmup: moves that are thrown away while step size and scale adapt.
        thinning: moves between kept rows.
        num_leapfrog: the most leapfrog steps of a move; each move takes between one and that many.
        target_acceptance: what the step size is adapted to.

    Reference: Neal (2011), arXiv:1206.1901; Hoffman and Gelman (2014), arXiv:1111.4246, for the
        step size.
    """

    num_leapfrog: int = 16
    target_acceptance: float = 0.8

    name: ClassVar[str] = "hmc"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_leapfrog", self.num_leapfrog, 1)
        check_share("target_acceptance", self.target_acceptance)

    @property
    def aim(self) -> float:
        """The acceptance that the step size is adapted to."""
        return self.target_acceptance

    def first_step(self, dim: int) -> float:
        """Return the step that suits a Gaussian of independent coordinates."""
        return dim**-0.25

    def moved(
        self, state: FreeChains, density: FlatDensity, generator: torch.Generator
    ) -> tuple[FreeChains, Info]:
        """Return the chains after one trajectory."""
        # Lengths that vary keep trajectories from closing on themselves.
        length = int(torch.randint(1, self.num_leapfrog + 1, (), generator=generator))
        log_density = state.log_density
        point = Point(
            {FLAT: state.place}, log_density, {FLAT: state.grad}, log_density, log_density
        )
        moved, acceptance, divergent = hamiltonian(
            point,
            path_evaluator(density, None, 1.0, True),
            {FLAT: state.scale},
            state.step_size,
            length,
            generator,
        )
        state = replace(
            state,
            place=moved.x[FLAT],
            log_density=moved.log_target,
            grad=moved.grad[FLAT],
        )
        return state, {"acceptance": acceptance, "divergent": float(divergent)}
