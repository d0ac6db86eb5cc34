"""Sampling of the internal-coordinate flow: one pass over the atoms.

On a CPU in single precision a C kernel does it where one can be built; else torch does, with keys,
values and coordinates in preallocated tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from . import native_placing
from .internal_encoding import Tensors
from .internal_features import IC_FEATURES, ic_features, pair_features
from .internal_heads import Conditionals
from .mixtures import (
    mixture_normal_log_prob,
    mixture_von_mises_log_prob,
    sample_mixture_normal,
    sample_mixture_von_mises,
)
from .steric import steric_features
from .zmatrix import Frames, InternalCoordinates, closing_cosine, frames, log_volume, place

if TYPE_CHECKING:
    from .internal import InternalFlow

LOG_HAAR = math.log(8 * math.pi**2)


class Placing:
    """One pass over the atoms of n samples of one molecule, by the kernel where it can be had."""

    def __init__(self, flow: InternalFlow, cond: Tensors, n: int):
        self.flow, self.cond, self.n = flow, cond, n

    def run(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Positions (n, atoms, 3) in placing order, unrotated, and log q without the centroid.

        Rings that cannot be closed give rows of NaN: draws outside of space, to which no target
        gives weight. Leaving them out would make the density of the others wrong.
        """
        if not native_placing.fits(self.flow):
            return TorchPlacing(self.flow, self.cond, self.n).run(generator)
        variates = native_placing.draw_variates(self.n, len(self.cond["order"]), generator)
        x, log_prob = native_placing.NativePlacing(self.flow, self.cond)(variates)
        return x, (log_prob - LOG_HAAR).to(x.dtype)


class TorchPlacing:
    """The pass in torch, on any device and in any precision."""

    def __init__(self, flow: InternalFlow, cond: Tensors, n: int):
        self.flow, self.cond, self.n = flow, cond, n
        weight = flow.geometry.weight
        num_atoms, channels = len(cond["order"]), flow.norm.weight.shape[0]
        self.identity = flow.identities(cond)
        self.x = weight.new_zeros(n, num_atoms, 3)
        self.features = weight.new_zeros(n, num_atoms, IC_FEATURES)
        self.cache = [
            weight.new_zeros(2, n, block.num_heads, num_atoms, channels // block.num_heads)
            for block in flow.blocks
        ]

    def _hidden(self, i: int, frame: Frames) -> Tensor:
        flow, atom = self.flow, slice(i, i + 1)
        h = flow.first_hidden(self.identity, self.features, self.cond, atom)
        framed = self.x.new_full((1,), float(i > 2))
        seen = pair_features(self.x[:, :i], frame)
        pair = flow.pairs(seen, self.cond["hops"][atom, :i], framed)
        self.inputs = []
        for block, cache in zip(flow.blocks, self.cache, strict=True):
            self.inputs.append(h)
            h = block(h, cache[0, :, :, :i], cache[1, :, :, :i], pair, None)
        return flow.norm(h)

    def _remember(self, i: int, ic: InternalCoordinates) -> None:
        atom = slice(i, i + 1)
        self.features[:, atom] = ic_features(ic, self.cond, atom)
        for block, cache, h in zip(self.flow.blocks, self.cache, self.inputs, strict=True):
            key, value = block.keys_values(h, self.features[:, atom])
            cache[0, :, :, atom], cache[1, :, :, atom] = key, value

    def _torsion(self, i: int, h: Tensor, frame: Frames) -> Conditionals:
        cond, rows = self.cond, torch.tensor([i], device=self.x.device)
        steric = None
        if not bool(cond["rigid"][i]):
            grand = self.x[:, cond["grand"][i]][:, None]
            placed = torch.ones(1, i, dtype=torch.bool, device=self.x.device)
            steric = steric_features(self.x[:, :i], frame, grand, cond, rows, placed)
        return self.flow.heads.torsion_given(h, steric, cond, rows)

    def _draw(
        self, i: int, h: Tensor, frame: Frames, generator: Generator
    ) -> tuple[InternalCoordinates, Tensor]:
        heads, cond, atom = self.flow.heads, self.cond, slice(i, i + 1)
        log_prob = self.x.new_zeros(self.n)
        torsion, bend = self.x.new_zeros(self.n, 1), self.x.new_full((self.n, 1), math.pi / 2)
        distance = self.x.new_ones(self.n, 1)
        if i > 2:
            given = self._torsion(i, h, frame)
            torsion = sample_mixture_von_mises(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_von_mises_log_prob(torsion, *given)[:, 0]
        if i > 1:
            given = heads.bend_given(h, torsion, cond, atom)
            bend = sample_mixture_normal(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_normal_log_prob(bend, *given)[:, 0]
        if i > 0:
            given = heads.length_given(h, torsion, bend, cond, atom)
            distance = sample_mixture_normal(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_normal_log_prob(distance, *given)[:, 0]
        return InternalCoordinates(distance, bend, torsion), log_prob

    def _frame(self, i: int) -> Frames:
        if i > 2:
            p, g, s = (self.x[:, self.cond[key][i]] for key in ("parent", "grand", "side"))
            found = frames(p, g, s)
            return Frames(found.origin[:, None], found.axes[:, None])
        # The first three atoms fix the frame of the molecule: origin, x axis, xy plane.
        axes = torch.eye(3, device=self.x.device, dtype=self.x.dtype)
        if i == 2 and int(self.cond["parent"][2]) == 1:
            axes = axes * axes.new_tensor([[-1.0], [1.0], [-1.0]])
        parent = self.x[:, self.cond["parent"][i]]
        return Frames(parent[:, None], axes.expand(self.n, 1, 3, 3))

    def _cosine(self, i: int, ic: InternalCoordinates, between: Tensor) -> Tensor:
        """Cosine of the angle at the parent: (n, 1)."""
        if i == 1:
            return torch.ones_like(ic.bend)  # along the x axis, by choice of the frame
        if bool(self.cond["closing"][i]):
            return closing_cosine(ic.distance, ic.bend, between)
        return torch.cos(ic.bend)

    def _in_range(self, i: int, ic: InternalCoordinates, cosine: Tensor) -> Tensor:
        """Whether the draws are coordinates of a position at all: (n,) bool.

        A normal density has tails below zero distance and beyond an angle of pi; such a draw would
        fold back onto a position whose density is another one.
        """
        fine = (ic.distance > 0) & (cosine.abs() <= 1)
        if i > 1:
            fine &= ic.bend > 0
            fine &= self.cond["closing"][i] | (ic.bend < math.pi)
        return fine[:, 0]

    def run(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """What :meth:`Placing.run` returns."""
        possible = torch.ones(self.n, dtype=torch.bool, device=self.x.device)
        log_prob = self.x.new_full((self.n,), -LOG_HAAR)
        parent, grand = self.cond["parent"], self.cond["grand"]
        for i in range(self.x.shape[1]):
            frame = self._frame(i)
            ic, term = self._draw(i, self._hidden(i, frame), frame, generator)
            between = (self.x[:, parent[i]] - self.x[:, grand[i]]).norm(dim=-1, keepdim=True)
            closing = self.cond["closing"][i : i + 1]
            log_prob = log_prob + term - log_volume(ic, between.clamp_min(1e-6), closing)
            if i > 0:
                cosine = self._cosine(i, ic, between)
                possible &= self._in_range(i, ic, cosine)
                cosine = cosine.clamp(-1, 1)
                self.x[:, i] = place(frame, ic.distance, cosine, ic.torsion)[:, 0]
            self._remember(i, ic)
        return self.x.masked_fill(~possible[:, None, None], torch.nan), log_prob
