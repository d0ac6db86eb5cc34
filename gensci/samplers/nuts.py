"""The no-U-turn sampler, batched over chains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gensci.core.random import randn_like
from gensci.core.registry import SAMPLERS
from gensci.samplers.base import Info
from gensci.samplers.free_chains import ChainSampler, FlatDensity
from gensci.samplers.no_u_turn import Flow, Node, grow_trees
from gensci.samplers.settings import check_share, check_whole
from gensci.samplers.warmup import FreeChains


@SAMPLERS.register("nuts")
@dataclass(frozen=True)
class Nuts(ChainSampler):
    """Chains of the no-U-turn sampler, which chooses the length of each trajectory itself.

    Bounded parameters are freed by a bijection and angles wrapped. Step size and scale are found
    in the warm-up and fixed after it. The verdict's R-hat and effective size are those of the
    slowest coordinate, by ranks; divergences are counted after the warm-up.

    Attributes:
        num_chains: chains side by side in a shard.
        warmup: moves that are thrown away while step size and scale adapt.
        thinning: moves between kept rows.
        target_acceptance: what the step size is adapted to.
        max_depth: trajectories are doubled at most this often.

    Reference: Hoffman and Gelman (2014), arXiv:1111.4246; Phan, Pradhan and Jankowiak (2019),
        arXiv:1912.11554, for the batched form.
    """

    target_acceptance: float = 0.8
    max_depth: int = 8

    name: ClassVar[str] = "nuts"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("target_acceptance", self.target_acceptance)
        check_whole("max_depth", self.max_depth, 1)

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
        """Return the chains after one tree."""
        momentum = randn_like(state.place, generator)
        root = Node(state.place, momentum, state.grad, state.log_density)
        flow = Flow(density, state.scale)
        grown = grow_trees(root, flow, state.step_size, self.max_depth, generator)
        node = grown.node
        state = replace(state, place=node.place, log_density=node.log_density, grad=node.grad)
        return state, {
            "acceptance": grown.acceptance.mean().item(),
            "divergent": float(grown.divergent.sum()),
            "leapfrog": grown.leaves.mean().item(),
        }
