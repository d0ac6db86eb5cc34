"""A flow averaged over rotations and over the mirror image, with its exact density.

The Boltzmann density of a molecule does not change when the molecule is turned; a flow that works
on Cartesian coordinates only learns not to. What it learned unevenly spreads the weights. Its
average over several orientations is flatter and just as easy to draw from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from gensci.core.protocols import Tensors
from gensci.core.random import stream, uniform
from gensci.nn.rotations import uniform_rotations


class SymmetrisedProposal:
    """The mixture ``(1/K) sum_j q(T_j x)`` over orthogonal maps about the origin.

    A draw is ``T_k^-1 y`` with y from q and k uniform; its density is the whole average, whichever
    k made it (a deterministic mixture), so its chi-squared distance to a target with the symmetry
    is never above that of q. With ``natural`` the mirror image takes part: of a molecule and its
    mirror image the one of natural handedness is kept, and its density is the sum of both. Where
    both or neither are natural, one of them is taken at random. Centroids are as q draws them up
    to the maps, which keep their length.

    References: Owen and Zhou (2000), doi:10.1080/01621459.2000.10473909, for mixtures as
    proposals; Koehler, Klein and Noe (2020), arXiv:2006.02425, for symmetric targets.

    Args:
        flow: draws ``{"positions": (n, atoms, 3)}`` with a normalised density.
        rotations: (K, 3, 3); see ``fixed_rotations``.
        natural: (n, atoms, 3) -> (n,) bool, which conformations have natural handedness; None to
            leave the mirror image out.
    """

    def __init__(
        self, flow: Any, rotations: Tensor, natural: Callable[[Tensor], Tensor] | None = None
    ):
        self.flow, self.natural, self.num_rotations = flow, natural, len(rotations)
        self.maps = rotations if natural is None else torch.cat((rotations, -rotations))

    def __getattr__(self, name: str) -> Any:
        """What else the flow knows: its checkpoint, its trained range, its centroid scale."""
        if name == "flow":  # not there yet, as while it is copied
            raise AttributeError(name)
        return getattr(self.flow, name)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"positions": (n, atoms, 3) nm}."""
        return {"positions": self._draw(n, generator)[0]}

    def sample_and_log_prob(self, n: int, generator: Generator) -> tuple[Tensors, Tensor]:
        """Draws {"positions": (n, atoms, 3) nm} and their log-density (n,), float64."""
        x, which, known = self._draw(n, generator)
        terms = known.double().new_empty(len(self.maps), n)
        for index in range(len(self.maps)):
            # The term that made a draw comes from the drawing pass itself.
            terms[index] = known.double()
            rows = (which != index).nonzero()[:, 0]
            if len(rows):
                turned = {"positions": self._turned(x[rows], index)}
                terms[index, rows] = self.flow.log_prob(turned).double()
        return {"positions": x}, self._mixed(x, terms)

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density (n,) float64 of given conformations, -inf for the wrong-handed."""
        positions = x["positions"]
        terms = [
            self.flow.log_prob({"positions": self._turned(positions, index)}).double()
            for index in range(len(self.maps))
        ]
        return self._mixed(positions, torch.stack(terms))

    def log_prob_and_grad(self, x: Tensors) -> tuple[Tensor, Tensors]:
        """Log-density (n,) and its gradient with respect to the positions (n, atoms, 3)."""
        positions = x["positions"].detach()
        terms, slopes = [], []
        for index in range(len(self.maps)):
            turned = {"positions": self._turned(positions, index)}
            value, grad = self.flow.log_prob_and_grad(turned)
            terms.append(value.double())
            slopes.append(grad["positions"] @ self._map(index, grad["positions"]))
        log_prob = self._mixed(positions, torch.stack(terms))
        share = torch.softmax(_known(torch.stack(terms)), dim=0)
        # A term of no weight may have no slope either, and zero times NaN is NaN.
        parts = [
            torch.where((part > 0)[:, None, None], part.to(slope)[:, None, None] * slope, 0.0)
            for part, slope in zip(share, slopes, strict=True)
        ]
        usable = torch.isfinite(log_prob)[:, None, None]
        return log_prob, {"positions": torch.where(usable, torch.stack(parts).sum(0), 0.0)}

    def _draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws (n, atoms, 3), the number of the map that made each, and log q (n,) of that one."""
        drawn, log_q = self.flow.sample_and_log_prob(n, generator)
        y = drawn["positions"]
        count = self.num_rotations
        which = (uniform(n, generator) * count).long().clamp(max=count - 1).to(y.device)
        x = torch.bmm(y, self.maps.to(y)[which])
        if self.natural is None:
            return x, which, log_q
        keep = uniform(n, generator).to(y.device) < self._chance(x)
        x = torch.where(keep[:, None, None], x, -x)
        return x, torch.where(keep, which, which + count), log_q

    def _chance(self, x: Tensor) -> Tensor:
        """(n,) float64 chance that x rather than its mirror image is kept."""
        own, other = (self.natural(part).to(x.device) for part in (x, -x))
        return 0.5 + 0.5 * (own.double() - other.double())

    def _mixed(self, x: Tensor, terms: Tensor) -> Tensor:
        """(n,) log-density from (maps, n) log-densities of the turned x."""
        mixed = torch.logsumexp(_known(terms), dim=0) - math.log(self.num_rotations)
        return mixed if self.natural is None else mixed + self._chance(x).log().to(mixed)

    def _map(self, index: int, like: Tensor) -> Tensor:
        return self.maps[index].to(like)

    def _turned(self, x: Tensor, index: int) -> Tensor:
        """T x for each atom: (n, atoms, 3)."""
        return x @ self._map(index, x).T


def fixed_rotations(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 3) float64 rotations, the same for the same seed; the first changes nothing."""
    like = torch.zeros((), dtype=torch.float64)
    rotations = uniform_rotations(count, stream(seed, "symmetrised", "rotations"), like)
    return torch.cat((torch.eye(3, dtype=torch.float64)[None], rotations[1:]))


def _known(terms: Tensor) -> Tensor:
    """Log-densities in which NaN, of positions where a flow overflows, counts as zero density."""
    return torch.where(torch.isnan(terms), -math.inf, terms)
