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


class _Mark(NamedTuple):
    """What is remembered of the first leaf of a subtree.

    ``momentum`` (n, d) is its own, ``before`` the sum over the leaves before it, and ``previous``
    that of the leaf before it.
    """

    momentum: torch.Tensor
    before: torch.Tensor
    previous: torch.Tensor


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
        self._marks: dict[int, _Mark] = {}

    @property
    def first(self) -> torch.Tensor:
        """(n, d) momenta of the first leaves."""
        return self._marks[0].momentum

    def grow(self, depth: int, flow: Flow, generator: torch.Generator) -> None:
        """Add ``2 ** depth`` leaves, or fewer where it turns or goes astray before that."""
        for number in range(1 << depth):
            rows = self.whole.nonzero()[:, 0]
            if not rows.numel():
                return
            previous = self.edge.momentum.clone()
            self._add_leaf(rows, flow, generator)
            self._look_back(number, previous)

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

    def _look_back(self, number: int, previous: torch.Tensor) -> None:
        """Check the turns of all complete subtrees that end with this leaf."""
        level = (number >> 1).bit_count()
        last = self.edge.momentum
        if number % 2 == 0:
            self._marks[level] = _Mark(last.clone(), self.momentum - last, previous)
            return
        ended = (~number & (number + 1)).bit_length() - 1
        middle = _Mark(last, self.momentum - last, previous)
        for at in range(level, level - ended, -1):
            start = self._marks[at]
            halves = middle.before - start.before, self.momentum - middle.before
            ends = (start.momentum, middle.previous), (middle.momentum, last)
            self.whole &= ~joined_turned(*halves, *ends)
            middle = start


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
        far = torch.where(right[:, None], self.left.momentum[rows], self.right.momentum[rows])
        turns = joined_turned(
            self.momentum[rows],
            branch.momentum,
            (far, edge.momentum),
            (branch.first, branch.edge.momentum),
        )
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
        self.growing[rows] = branch.whole & ~turns


def turned(first: torch.Tensor, last: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """Return (n,) whether going on would bring the ends of trajectories nearer to each other.

    Args:
        first: (n, d) momenta at one end.
        last: (n, d) momenta at the other end.
        momentum: (n, d) sums of the momenta of all nodes, which point along the trajectory.
    """
    along = momentum - 0.5 * (first + last)
    return ((first * along).sum(1) <= 0) | ((last * along).sum(1) <= 0)


def joined_turned(
    first_sum: torch.Tensor,
    last_sum: torch.Tensor,
    first_ends: tuple[torch.Tensor, torch.Tensor],
    last_ends: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Return (n,) whether two halves of a tree turn together, or either with the next node.

    The last two are what stops a tree whose halves are each just short of half a turn, and which
    as a whole comes back to where it began.

    Args:
        first_sum: (n, d) sums of the momenta of one half.
        last_sum: (n, d) those of the other half.
        first_ends: momenta at the outer and the inner end of the one half.
        last_ends: momenta at the inner and the outer end of the other half.
    """
    (start, before), (after, end) = first_ends, last_ends
    return (
        turned(start, end, first_sum + last_sum)
        | turned(start, after, first_sum + after)
        | turned(before, end, last_sum + before)
    )


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
