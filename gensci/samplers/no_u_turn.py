"""Trees of leapfrog steps that stop where they turn back, grown for many chains in step.

All chains double their trees together, each in a direction of its own, and only those that still
grow are evaluated. A subtree is walked leaf by leaf; of the nodes that its turns are checked
against, one for each level is remembered.

Reference: Hoffman and Gelman (2014), arXiv:1111.4246; Betancourt (2017), arXiv:1701.02434, for the
weights; Phan, Pradhan and Jankowiak (2019), arXiv:1912.11554, for trees without recursion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gensci.samplers.free_chains import FLAT, FlatDensity
from gensci.samplers.moves import DIVERGENCE, GRADIENT_LIMIT


class Node(NamedTuple):
    """Points in phase space: places, momenta and gradients (n, d), log-densities (n,)."""

    place: torch.Tensor
    momentum: torch.Tensor
    grad: torch.Tensor
    log_density: torch.Tensor

    def rows(self, rows: torch.Tensor) -> Node:
        """Return some of the chains."""
        return Node(*(part[rows] for part in self))

    def put(self, rows: torch.Tensor, node: Node) -> None:
        """Overwrite some of the chains."""
        for mine, new in zip(self, node, strict=True):
            mine[rows] = new

    def copy(self) -> Node:
        """Return the same points in memory of their own."""
        return Node(*(part.clone() for part in self))

    def log_joint(self) -> torch.Tensor:
        """Return (n,) log-density minus kinetic energy."""
        return self.log_density - 0.5 * self.momentum.square().sum(1)


@dataclass(frozen=True)
class Flow:
    """Leapfrog steps in units of ``scale`` (d,), in which momenta are standard normal."""

    density: FlatDensity
    scale: torch.Tensor

    def leapfrog(self, node: Node, step: torch.Tensor) -> Node:
        """Return the nodes one step further; the step (n, 1) may be negative."""
        momentum = node.momentum + 0.5 * step * self._force(node.grad)
        place = node.place + step * self.scale * momentum
        value, grads = self.density.log_prob_and_grad({FLAT: place})
        grad = grads[FLAT]
        return Node(place, momentum + 0.5 * step * self._force(grad), grad, value)

    def _force(self, grad: torch.Tensor) -> torch.Tensor:
        # As in moves: a force of the place alone, so limiting it costs no exactness.
        return (self.scale * grad).clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)


class Grown(NamedTuple):
    """Where chains went, and by which trees.

    Attributes:
        node: the chosen points.
        acceptance: (n,) mean acceptance over the leaves.
        leaves: (n,) leapfrog steps taken.
        divergent: (n,) whether the tree went astray.
    """

    node: Node
    acceptance: torch.Tensor
    leaves: torch.Tensor
    divergent: torch.Tensor


class _Branch:
    """Leaves of one doubling, from an edge of the tree outwards.

    Args:
        edge: where it starts, which is no part of it.
        step: (n, 1) signed step sizes.
        start: (n,) log-joint of the trees' first points.
    """

    def __init__(self, edge: Node, step: torch.Tensor, start: torch.Tensor) -> None:
        count = len(start)
        self.edge, self.chosen, self.step, self.start = edge.copy(), edge.copy(), step, start
        self.log_weight = torch.full_like(start, -math.inf)
        self.momentum = torch.zeros_like(edge.momentum)
        self.whole = torch.ones(count, dtype=torch.bool)
        self.divergent = torch.zeros(count, dtype=torch.bool)
        self.acceptance = torch.zeros_like(start)
        self.leaves = torch.zeros_like(start)
        self._marks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def grow(self, depth: int, flow: Flow, generator: torch.Generator) -> None:
        """Add ``2 ** depth`` leaves, or fewer where it turns or goes astray before that."""
        for number in range(1 << depth):
            rows = self.whole.nonzero()[:, 0]
            if not rows.numel():
                return
            self._add_leaf(rows, flow, generator)
            self._look_back(number)

    def _add_leaf(self, rows: torch.Tensor, flow: Flow, generator: torch.Generator) -> None:
        node = flow.leapfrog(self.edge.rows(rows), self.step[rows])
        gain = torch.nan_to_num(node.log_joint() - self.start[rows], nan=-math.inf)
        total = torch.logaddexp(self.log_weight[rows], gain)
        dice = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        taken = dice.log() < gain - total
        self.edge.put(rows, node)
        self.chosen.put(rows[taken], node.rows(taken))
        self.log_weight[rows] = total
        self.momentum[rows] += node.momentum
        self.acceptance[rows] += gain.clamp(max=0.0).exp()
        self.leaves[rows] += 1
        astray = gain < -DIVERGENCE
        self.divergent[rows] = astray
        self.whole[rows] = ~astray

    def _look_back(self, number: int) -> None:
        """Check the turns of all complete subtrees that end with this leaf."""
        level = (number >> 1).bit_count()
        if number % 2 == 0:
            self._marks[level] = self.edge.momentum.clone(), self.momentum - self.edge.momentum
            return
        ended = (~number & (number + 1)).bit_length() - 1
        for mark in range(level, level - ended, -1):
            first, before = self._marks[mark]
            turns = turned(first, self.edge.momentum, self.momentum - before)
            self.whole &= ~turns


class _Tree:
    """The trees of all chains."""

    def __init__(self, root: Node) -> None:
        count = len(root.place)
        self.left, self.right, self.chosen = root.copy(), root.copy(), root.copy()
        self.start = root.log_joint()
        self.log_weight = torch.zeros_like(self.start)
        self.momentum = root.momentum.clone()
        self.growing = torch.ones(count, dtype=torch.bool)
        self.divergent = torch.zeros(count, dtype=torch.bool)
        self.acceptance = torch.zeros_like(self.start)
        self.leaves = torch.zeros_like(self.start)

    def double(self, depth: int, step_size: float, flow: Flow, generator: torch.Generator) -> None:
        """Double the trees that still grow, each to the left or to the right."""
        rows = self.growing.nonzero()[:, 0]
        right = torch.rand(len(rows), generator=generator) < 0.5
        edge = self.left.rows(rows)
        edge.put(right, self.right.rows(rows[right]))
        step = torch.where(right, step_size, -step_size).double()[:, None]
        branch = _Branch(edge, step, self.start[rows])
        branch.grow(depth, flow, generator)
        dice = torch.rand(len(rows), generator=generator, dtype=torch.float64)
        # The newer half is preferred, which leads further away.
        taken = branch.whole & (dice.log() < branch.log_weight - self.log_weight[rows])
        self.chosen.put(rows[taken], branch.chosen.rows(taken))
        self.right.put(rows[right], branch.edge.rows(right))
        self.left.put(rows[~right], branch.edge.rows(~right))
        self.log_weight[rows] = torch.logaddexp(self.log_weight[rows], branch.log_weight)
        self.momentum[rows] += branch.momentum
        self.acceptance[rows] += branch.acceptance
        self.leaves[rows] += branch.leaves
        self.divergent[rows] |= branch.divergent
        self.growing[rows] = branch.whole
        self.growing &= ~turned(self.left.momentum, self.right.momentum, self.momentum)


def turned(first: torch.Tensor, last: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """Return (n,) whether going on would bring the ends of trajectories nearer to each other.

    Args:
        first: (n, d) momenta at one end.
        last: (n, d) momenta at the other end.
        momentum: (n, d) sums of the momenta of all nodes, which point along the trajectory.
    """
    along = momentum - 0.5 * (first + last)
    return ((first * along).sum(1) <= 0) | ((last * along).sum(1) <= 0)


def grow_trees(
    root: Node, flow: Flow, step_size: float, max_depth: int, generator: torch.Generator
) -> Grown:
    """Return points drawn from the trees grown from the roots.

    Args:
        root: where chains are, with fresh momenta.
        flow: the density and the scale.
        step_size: in units of the scale.
        max_depth: trees hold at most ``2 ** max_depth`` nodes.
        generator: the source of randomness.
    """
    tree = _Tree(root)
    for depth in range(max_depth):
        if not tree.growing.any():
            break
        tree.double(depth, step_size, flow, generator)
    return Grown(
        tree.chosen, tree.acceptance / tree.leaves.clamp(min=1.0), tree.leaves, tree.divergent
    )
